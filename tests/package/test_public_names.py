"""Tab completion of the package, its modules and its objects shows what is public, and no more."""

import importlib

import mlx.nn as nn
import mlx_ncps
import pytest
from mlx_ncps.wirings import AutoNCP

from tests.support.public import public_modules

MODULES = [importlib.import_module(name) for name in public_modules()]

LAYER = """
    build compute_output_shape from_config from_pretrained get_config op push_to_hub redraw
    save_pretrained
"""
LAZY = f"{LAYER} built built_width call fixed_keys"
CELL = f"""
    {LAZY} calls get_initial_state motor_size output_size readout sensory_size sequence state_size
    stepwise state_names
"""
WIRED = "draw_graph get_graph sensory_synapse_count synapse_count synapse_weights units wiring"
CONSTRAINED = "apply_constraints apply_weight_constraints"
RECURRENT = f"""
    {LAYER} batch_first bidirectional cell explain go_backwards merge_mode merged_size mixed_memory
    motor_size output_size proj_size reset_states return_sequences return_state sensory_size
    sensory_synapse_count state_names state_size stateful states step synapse_count
"""
STACKED = f"{LAYER} explain reset_states return_state state_names states step"
GATED, CONDUCTING = "gates time_constants", "conductances time_constants"
DENSE = f"{CELL} hidden_size input_size"
# Class: an object of it, and the names that it has beside those of mlx.nn.Module.
OBJECTS = {
    "CfC": (lambda: mlx_ncps.CfC(3, 4), f"{RECURRENT} {GATED}"),
    "LTC": (lambda: mlx_ncps.LTC(3, 4), f"{RECURRENT} {CONSTRAINED} {CONDUCTING}"),
    "LiquidRNN": (lambda: mlx_ncps.LiquidRNN(mlx_ncps.CTRNNCell(3, 4)), RECURRENT),
    "MMRNN": (lambda: mlx_ncps.MMRNN(mlx_ncps.CTRNNCell(3, 4)), RECURRENT),
    "CfCRNN": (lambda: mlx_ncps.CfCRNN(3, 4), f"{STACKED} {GATED}"),
    "LTCRNN": (lambda: mlx_ncps.LTCRNN(3, 4), f"{STACKED} {CONSTRAINED} {CONDUCTING}"),
    "CfCCell": (
        lambda: mlx_ncps.CfCCell(3, 4),
        f"""{DENSE} layer_sizes mixed_sequence mode params sensory_synapse_count synapse_count units
        variant""",
    ),
    "WiredCfCCell": (
        lambda: mlx_ncps.WiredCfCCell(3, AutoNCP(8, 2)),
        f"{CELL} {WIRED} fully_recurrent layer_sizes mode num_layers synapses_into variant",
    ),
    "LTCCell": (
        lambda: mlx_ncps.LTCCell(4, 3),
        f"""{CELL} {WIRED} {CONSTRAINED} epsilon implicit_param_constraints input_mapping
        layer_sizes mixed_sequence ode_solver ode_unfolds output_mapping params stable_unfolds
        synapses""",
    ),
    "CTRNNCell": (
        lambda: mlx_ncps.CTRNNCell(3, 4),
        f"{DENSE} learn_tau ode_solver ode_unfolds tau",
    ),
    "NeuralODECell": (lambda: mlx_ncps.NeuralODECell(3, 4), f"{DENSE} ode_solver ode_unfolds"),
    "ELTCCell": (
        lambda: mlx_ncps.ELTCCell(4, 3),
        f"{CELL} {WIRED} activation ode_solver ode_unfolds",
    ),
    "CTGRUCell": (lambda: mlx_ncps.CTGRUCell(3, 4), f"{DENSE} scales tau"),
    "ODERNNCell": (lambda: mlx_ncps.ODERNNCell(3, 4), f"{DENSE} ode_solver ode_unfolds"),
    "ODELSTMCell": (lambda: mlx_ncps.ODELSTMCell(3, 4), f"{DENSE} ode_solver ode_unfolds"),
    "LSTMCell": (
        lambda: mlx_ncps.LSTMCell(3, 4),
        f"""{LAZY} get_initial_state hidden_size output_size sensory_size state_size stepwise
        weights""",
    ),
    "NCPDense": (lambda: mlx_ncps.NCPDense(4), f"{LAZY} activation mask units use_bias"),
}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_a_module_shows_its_public_names_alone(module):
    shown = set(dir(module))
    assert shown - {"numpy"} == set(module.__all__)
    assert all(hasattr(module, name) for name in shown)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_shows_its_public_names_alone(name):
    make, wanted = OBJECTS[name]
    made = make()
    shown = {word for word in set(dir(made)) - set(dir(nn.Module())) if not word.startswith("_")}
    assert shown == set(wanted.split())
    assert type(made).__name__ == name


def test_every_public_layer_and_cell_is_looked_at():
    bases = {"LiquidCell", "NCPLayer", "NCPRNNCell", "StreamingSession"}
    classes = {name for name in mlx_ncps.__all__ if isinstance(getattr(mlx_ncps, name), type)}
    assert classes - bases - {"use_backend"} == set(OBJECTS)
