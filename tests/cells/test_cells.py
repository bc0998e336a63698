"""Cells: constructors, sizes, first values, masks that are never trained, lazy building, errors."""

import copy
import inspect
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import CfC
from mlx_ncps.cells import (
    BackboneLTCCell,
    CfCCell,
    LiquidCell,
    LTCCell,
    NCPRNNCell,
    WiredCfCCell,
)
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Wiring

from tests.support.cases import assert_close, tolerance

B, I = 3, 4
SAME = tolerance("float32", "forward")
CELLS = {
    "cfc": lambda: CfCCell(I, 6),
    "cfc_pure": lambda: CfCCell(I, 6, "pure", backbone_layers=0),
    "cfc_wired": lambda: WiredCfCCell(I, AutoNCP(10, 2)),
    "cfc_wired_backbone": lambda: WiredCfCCell(I, AutoNCP(10, 2), backbone_units=[7, 5]),
    "ltc": lambda: LTCCell(6, I),
    "ltc_wired": lambda: LTCCell(AutoNCP(10, 2), I),
}
all_cells = pytest.mark.parametrize("name", CELLS)


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def step(cell, ts=1.0):
    inputs = mx.random.normal((B, I), key=mx.random.key(1))
    state = mx.random.normal((B, cell.state_size), key=mx.random.key(2))
    return cell(inputs, state, ts)


def names(parameters):
    return {name for name, _ in tree_flatten(parameters)}


def fixed(cell):
    return {n for n in names(cell.parameters()) if "mask" in n or "wiring" in n}


# --- sizes and parameters ----------------------------------------------------------------------


def test_cfc_parameters_have_torch_shapes():
    shapes = {n: a.shape for n, a in tree_flatten(CfCCell(I, 6, backbone_layers=2).parameters())}
    heads = {f"{head}.weight": (6, 128) for head in ("ff1", "ff2", "time_a", "time_b")}
    heads |= {f"{head}.bias": (6,) for head in ("ff1", "ff2", "time_a", "time_b")}
    backbone = {"backbone.0.weight": (128, I + 6), "backbone.1.weight": (128, 128)}
    backbone |= {"backbone.0.bias": (128,), "backbone.1.bias": (128,)}
    assert shapes == heads | backbone
    shapes = {n: a.shape for n, a in tree_flatten(CELLS["cfc_pure"]().parameters())}
    assert shapes == {
        "ff1.weight": (6, I + 6), "ff1.bias": (6,), "w_tau": (1, 6), "A": (1, 6),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (128,)),
        ({"backbone_units": 9}, (9,)),
        ({"backbone_layers": 0}, ()),
        ({"backbone_units": 9, "backbone_layers": 3}, (9, 9, 9)),
        ({"backbone_units": [9, 7]}, (9, 7)),
        ({"backbone_units": (9, 7), "backbone_layers": 2}, (9, 7)),
        ({"backbone_units": []}, ()),
    ],
)
def test_backbone_has_the_sizes_asked_for(options, sizes):
    cell = CfCCell(I, 6, **options)
    assert tuple(layer.weight.shape[0] for layer in cell.backbone) == sizes
    assert cell.ff1.weight.shape == (6, (I + 6, *sizes)[-1])
    assert step(cell)[0].shape == (B, 6)


def test_cfc_starts_as_xavier_uniform_and_torch_biases():
    cell = CfCCell(100, 60)
    for layer in (*cell.backbone, cell.ff1, cell.ff2, cell.time_a, cell.time_b):
        rows, columns = layer.weight.shape
        bound = np.sqrt(6 / (rows + columns))
        assert 0.9 * bound < mx.abs(layer.weight).max().item() <= bound
        assert abs(layer.weight.mean().item()) < 0.05 * bound
        assert 0.8 * columns**-0.5 < mx.abs(layer.bias).max().item() <= columns**-0.5
    pure = CfCCell(I, 60, "pure")
    for name in ("w_tau", "A"):  # ncps.torch draws every trainable matrix, these [1, H] too
        bound = np.sqrt(6 / 61)
        assert 0.8 * bound < mx.abs(pure[name]).max().item() <= bound


@pytest.mark.parametrize(
    ("name", "low", "high", "shape"),
    [
        ("gleak", 0.001, 1.0, (40,)),
        ("vleak", -0.2, 0.2, (40,)),
        ("cm", 0.4, 0.6, (40,)),
        ("w", 0.001, 1.0, (40, 40)),
        ("sigma", 3.0, 8.0, (40, 40)),
        ("mu", 0.3, 0.8, (40, 40)),
        ("sensory_w", 0.001, 1.0, (30, 40)),
        ("sensory_sigma", 3.0, 8.0, (30, 40)),
        ("sensory_mu", 0.3, 0.8, (30, 40)),
    ],
)
def test_ltc_starts_uniform_in_the_ranges_of_ncps(name, low, high, shape):
    value = np.array(LTCCell(40, 30)[name])
    assert value.shape == shape
    assert low <= value.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < value.max() <= high


def test_ltc_takes_erev_and_masks_from_its_wiring():
    wiring = AutoNCP(10, 2)
    cell = LTCCell(wiring, I)
    wiring.build(I)
    for side, matrix in (("", wiring.adjacency), ("sensory_", wiring.sensory_adjacency)):
        assert_close("erev", cell[f"{side}erev"], matrix, 0.0)
        assert_close("mask", cell[f"{side}sparsity_mask"], np.abs(matrix), 0.0)
        assert cell[f"{side}erev"].dtype == cell[f"{side}sparsity_mask"].dtype == mx.float32
    assert "erev" in cell.trainable_parameters()
    assert mx.all(cell.input_w == 1)
    assert mx.all(cell.output_w == 1)
    assert mx.all(cell.input_b == 0)
    assert mx.all(cell.output_b == 0)


@pytest.mark.parametrize("mapping", ["affine", "linear", "identity", None])
def test_an_ltc_has_the_parameters_of_its_mappings(mapping):
    cell = LTCCell(AutoNCP(10, 2), I, mapping, mapping)
    sides = {n[-1] for n in ("input_w", "input_b", "output_w", "output_b") if n in cell}
    assert sides == {"affine": {"w", "b"}, "linear": {"w"}}.get(mapping, set())
    assert cell.params().input_w is cell.get("input_w")
    state = mx.random.normal((B, 10))
    want = state[:, :2]
    for name, value in (("output_w", 3.0), ("output_b", 0.5)):
        if name in cell:
            cell[name] = mx.full((2,), value)
            want = want * value if name == "output_w" else want + value
    assert_close("output", cell.readout(state), want, SAME)


@pytest.mark.parametrize(
    ("cell", "sizes"),
    [  # state, sensory, motor, synapses, sensory synapses, layers
        (lambda: CfCCell(I, 6), (6, I, 6, 36, 24, [6])),
        (lambda: WiredCfCCell(20, AutoNCP(28, 4)), (28, 20, 4, 84, 140, [15, 9, 4])),
        (lambda: LTCCell(AutoNCP(28, 4), 20), (28, 20, 4, 84, 140, [15, 9, 4])),
        (lambda: LTCCell(NCP(10, 10, 8, 6, 6, 4, 6), 8), (28, 8, 8, 112, 48, [10, 10, 8])),
        (lambda: WiredCfCCell(2, Random(32, 1, 0.5)), (32, 2, 1, 512, 32, [32])),
        (lambda: LTCCell(8, 3), (8, 3, 8, 64, 24, [8])),
    ],
)
def test_cells_tell_their_sizes(cell, sizes):
    cell = cell()
    state, sensory, motor, synapses, sensory_synapses, layers = sizes
    assert (cell.state_size, cell.sensory_size) == (state, sensory)
    assert cell.motor_size == cell.output_size == motor
    assert (cell.synapse_count, cell.sensory_synapse_count) == (synapses, sensory_synapses)
    assert cell.layer_sizes == layers
    for name in ("state_size", "sensory_size", "motor_size", "synapse_count"):
        assert type(getattr(cell, name)) is int
    assert isinstance(cell, LiquidCell)


def test_ltc_of_a_number_is_fully_connected():
    assert isinstance(LTCCell(8, 3).wiring, FullyConnected)


# --- wired CfC ---------------------------------------------------------------------------------


def test_wired_cfc_equals_ncps_masks():
    """MATHS 2: sources are the inputs or the layer before, then the layer itself, dense."""
    wiring = AutoNCP(10, 2)
    wiring.build(I)
    cell = WiredCfCCell(I, wiring)
    inter, command, motor = (wiring.get_neurons_of_layer(n) for n in range(3))
    blocks = [
        (wiring.sensory_adjacency[:, inter], cell.layer_0),
        (wiring.adjacency[np.ix_(inter, command)], cell.layer_1),
        (wiring.adjacency[np.ix_(command, motor)], cell.layer_2),
    ]
    for incoming, layer in blocks:
        own = np.ones((incoming.shape[1],) * 2)
        assert_close("mask", layer.sparsity_mask, np.abs(np.concatenate([incoming, own])).T, 0.0)


def test_wired_cfc_can_mask_its_recurrence():
    wiring = AutoNCP(10, 2)
    cell = WiredCfCCell(I, wiring, fully_recurrent=False)
    command = wiring.get_neurons_of_layer(1)
    own = np.abs(cell.wiring.adjacency[np.ix_(command, command)])
    assert_close("mask", cell.layer_1.sparsity_mask[:, -len(command) :], own.T, 0.0)
    assert 0 < own.sum() < own.size
    with pytest.raises(ValueError, match=r"\[cfc\] fully_recurrent=False wants no backbone"):
        WiredCfCCell(I, wiring, backbone_units=8, fully_recurrent=False)


def test_wired_cfc_without_layers_gives_the_first_neurons():
    cell = WiredCfCCell(I, Random(8, 3, 0.4))
    output, state = step(cell)
    assert_close("output", output, state[:, :3], 0.0)


def test_masked_weights_of_a_wired_cfc_do_not_count():
    cell = CELLS["cfc_wired"]()
    output, state = step(cell)
    for layer in (cell.layer_0, cell.layer_1, cell.layer_2):
        for head in (layer.ff1, layer.ff2):
            head.weight = mx.where(layer.sparsity_mask == 0, 1e3, head.weight)
    same_output, same_state = step(cell)
    assert_close("output", same_output, output, 0.0)
    assert_close("state", same_state, state, 0.0)
    cell.layer_0.time_a.weight = cell.layer_0.time_a.weight + 1.0  # never masked
    assert np.abs(np.array(step(cell)[1] - state)).max() > 1e-3


def test_wired_cfc_with_a_backbone_masks_the_sources_of_a_layer():
    wiring = Wiring(3, output_dim=3)
    wiring.build(2)
    wiring.add_sensory_synapse(1, 0, 1)
    cell = WiredCfCCell(2, wiring, backbone_units=[5])
    assert_close("mask", cell.source_mask_0, np.array([0.0, 1.0]), 0.0)
    assert "sparsity_mask" not in cell.layer_0
    assert len(cell.layer_0.backbone) == 1
    state = mx.zeros((1, 3))
    one, other, third = (
        cell(mx.array([x]), state)[0] for x in ([0.0, 1.0], [5.0, 1.0], [0.0, 2.0])
    )
    assert_close("output", other, one, 0.0)
    assert np.abs(np.array(third - one)).max() > 1e-3


def test_cfc_cell_of_a_wiring_is_wired():
    cell = CfCCell(AutoNCP(10, 2), mode="pure", activation="tanh", backbone_units=[8])
    assert isinstance(cell, WiredCfCCell)
    assert cell.mode == "pure"
    cell.build(I)
    for layer in (cell.layer_0, cell.layer_1, cell.layer_2):
        assert layer.backbone_options == ((8,), "tanh", 0.0)
    assert CfCCell(AutoNCP(10, 2)).backbone_options.sizes == ()
    assert CfCCell(AutoNCP(10, 2), backbone_layers=2).backbone_options.sizes == (128, 128)
    with pytest.raises(ValueError, match=r"\[cfc\] hidden_size must be None with a wiring"):
        CfCCell(AutoNCP(10, 2), 10)


# --- building ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell_class", [WiredCfCCell, LTCCell, CfCCell])
def test_cell_of_an_unbuilt_wiring_makes_its_weights_at_the_first_call(cell_class):
    cell = cell_class(AutoNCP(10, 2))
    assert not cell.built
    assert cell.sensory_size is None
    assert cell.state_size == 10
    with pytest.raises(ValueError, match="the weights must exist before they are trained"):
        cell.trainable_parameters()
    output, state = step(cell)
    assert (output.shape, state.shape) == ((B, 2), (B, 10))
    assert cell.sensory_size == I
    before = dict(tree_flatten(cell.trainable_parameters()))
    assert before
    step(cell)
    after = dict(tree_flatten(cell.trainable_parameters()))
    assert all(after[name] is before[name] for name in before)
    with pytest.raises(ValueError, match=f"inputs must have {I} features, got 3"):
        cell(mx.zeros((B, 3)), state)


def test_cell_of_a_built_wiring_is_built():
    wiring = AutoNCP(10, 2)
    wiring.build(I)
    assert LTCCell(wiring).built
    assert WiredCfCCell(None, wiring).built


def test_cells_do_not_share_their_wiring():
    """ncps draws again when a wiring is used twice: AutoNCP(40, 5, 0.7) grows from 114 synapses."""
    wiring = AutoNCP(40, 5, 0.7)
    first, second = LTCCell(wiring, I), LTCCell(wiring, I)
    assert first.synapse_count == second.synapse_count == 114
    first.wiring.add_synapse(39, 39, 1)
    assert second.wiring.synapse_count == wiring.synapse_count == 114


def test_get_initial_state():
    cell = LTCCell(6, I)
    assert_close("state", cell.get_initial_state(batch_size=2), np.zeros((2, 6)), 0.0)
    state = cell.get_initial_state(mx.zeros((5, I), mx.float16))
    assert (state.shape, state.dtype) == ((5, 6), mx.float16)
    with pytest.raises(ValueError, match="needs inputs or batch_size"):
        cell.get_initial_state()


# --- what is never trained ---------------------------------------------------------------------


@all_cells
def test_masks_and_wirings_are_saved_and_never_trained(name):
    cell = CELLS[name]()
    model = nn.Sequential(cell)
    masks = fixed(cell)
    assert bool(masks) == ("wired" in name or "ltc" in name)
    assert masks <= names(cell.parameters())
    trained = names(cell.parameters()) - masks
    assert names(cell.trainable_parameters()) == trained
    model.unfreeze()
    assert names(cell.trainable_parameters()) == trained
    cell.freeze()
    assert names(cell.trainable_parameters()) == set()
    cell.unfreeze()
    assert names(cell.trainable_parameters()) == trained
    for key in ("sparsity_mask", "sensory_sparsity_mask", "source_mask_0"):
        model.unfreeze(keys=key)
    assert names(cell.trainable_parameters()) == trained
    assert names(copy.deepcopy(model).unfreeze().layers[0].trainable_parameters()) == trained


@all_cells
def test_frozen_parameters_can_be_unfrozen(name):
    cell = CELLS[name]()
    key = "gleak" if "ltc" in name else "bias"
    trained = names(cell.trainable_parameters())
    cell.freeze(keys=key)
    assert names(cell.trainable_parameters()) == {n for n in trained if not n.endswith(key)}
    cell.unfreeze(keys=key)
    assert names(cell.trainable_parameters()) == trained


@all_cells
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_equal_and_independent(name, copier):
    cell = CELLS[name]()
    output, state = step(cell)
    twin = copier(cell)
    for parameter, _ in tree_flatten(twin.trainable_parameters()):
        assert parameter in names(cell.trainable_parameters())
    same_output, same_state = step(twin)
    assert_close("output", same_output, output, 0.0)
    assert_close("state", same_state, state, 0.0)
    twin.apply(lambda a: a * 1.5, filter_fn=nn.Module.trainable_parameter_filter)
    assert_close("output", step(cell)[0], output, 0.0)
    assert np.abs(np.array(step(twin)[0] - output)).max() > 1e-3


def test_sparsity_mask_of_a_cfc_multiplies_ff1_and_ff2():
    mask = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (I + 6, 6))
    cell = CfCCell(I, 6, backbone_layers=0, sparsity_mask=mask)
    weights = {}
    for name in ("ff1", "ff2", "time_a", "time_b"):
        factor = np.abs(mask).T if name.startswith("ff") else 1.0
        weights[name] = (np.array(cell[name].weight) * factor, np.array(cell[name].bias))
    inputs, state = np.ones((B, I)), np.ones((B, 6))
    want = truth.cfc_step(inputs, state, 0.7, truth.CfCParams((), **weights))
    got, _ = cell(mx.ones((B, I)), mx.ones((B, 6)), 0.7)
    assert_close("output", got, want, SAME)
    assert "sparsity_mask" not in cell.trainable_parameters()
    with pytest.raises(ValueError, match=r"\[cfc\] sparsity_mask must be \[K, H\] = \(128, 6\)"):
        CfCCell(I, 6, sparsity_mask=mask)


# --- constraints -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["apply_weight_constraints", "apply_constraints"])
def test_weight_constraints_clip_explicit_parameters_alone(method):
    constrained = ("w", "sensory_w", "cm", "gleak")
    for implicit in (False, True):
        cell = LTCCell(6, I, implicit_param_constraints=implicit)
        for key, _ in tree_flatten(cell.trainable_parameters()):
            cell[key] = cell[key] - 0.5
        before = {key: np.array(a) for key, a in tree_flatten(cell.trainable_parameters())}
        getattr(cell, method)()
        for key, value in before.items():
            clipped = key in constrained and not implicit
            assert_close(key, cell[key], np.maximum(value, 0) if clipped else value, 0.0)
        assert before["w"].min() < 0


def test_weight_constraints_into_ranges():
    cell = LTCCell(6, I)
    sigma = np.array(cell.sigma)
    cell.apply_constraints({"w": (0.2, 0.5), "mu": (None, 0.6)})
    assert cell.w.min().item() >= np.float32(0.2)
    assert cell.w.max().item() == np.float32(0.5)
    assert cell.mu.max().item() == np.float32(0.6)
    assert cell.mu.min().item() < 0.4
    assert_close("sigma", cell.sigma, sigma, 0.0)
    with pytest.raises(ValueError, match=r"\[ltc\] ranges must name parameters .*, got 'weight'"):
        cell.apply_constraints({"weight": (0, 1)})


# --- calls -------------------------------------------------------------------------------------


@all_cells
def test_timespans_of_a_step(name):
    cell = CELLS[name]()
    want, _ = step(cell, mx.full((B, 1), 0.5))
    for ts in (0.5, np.float32(0.5), mx.array(0.5), mx.full((B,), 0.5), np.full((B, 1), 0.5)):
        assert_close(f"ts {ts!r}", step(cell, ts)[0], want, SAME)
    for ts in (mx.ones((B + 1,)), mx.ones((1, B)), mx.ones((B, 1, 1))):
        with pytest.raises(ValueError, match=rf"\[{cell.op}\] ts must be \[B\] = \(3,\), got"):
            step(cell, ts)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] timespans must be >= 0, got -1"):
        step(cell, -1.0)


@all_cells
def test_wrong_arguments_of_a_step_raise(name):
    cell = CELLS[name]()
    H = cell.state_size
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] inputs must be \[B, I\], got"):
        cell(mx.zeros((I,)), mx.zeros((B, H)))
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] inputs must have {I} features, got 3"):
        cell(mx.zeros((B, 3)), mx.zeros((B, H)))
    for state in (mx.zeros((B, H + 1)), mx.zeros((H,)), mx.zeros((B + 1, H))):
        with pytest.raises(ValueError, match=rf"\[{cell.op}\] state must be \[B, H\] = \(3, {H}\)"):
            cell(mx.zeros((B, I)), state)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] state must be an mx.array, got NoneType"):
        cell(mx.zeros((B, I)), None)
    x = mx.zeros((B, I))
    mx.eval(x, cell(x, mx.zeros((B, H))))
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] state must be an mx.array, got NoneType"):
        cell(x, None)  # nor where a step can be computed at once


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CfCCell(0, 6), r"\[cfc\] input_size must be an integer >= 1, got 0"),
        (lambda: CfCCell(I), r"\[cfc\] hidden_size must be an integer >= 1, got None"),
        (lambda: CfCCell(I, 6, "fast"), r"\[cfc\] mode must be one of .*, got 'fast'"),
        (lambda: CfCCell(I, 6, backbone_activation="swish"), "activation must be one of"),
        (lambda: CfCCell(I, 6, "pure", "relu", activation="tanh"), "'tanh' and 'relu'"),
        (lambda: CfCCell(I, 6, backbone_layers=-1), r"\[cfc\] backbone_layers must be .*, got -1"),
        (lambda: CfCCell(I, 6, backbone_units=0), r"\[cfc\] backbone_units must be .*, got 0"),
        (lambda: CfCCell(I, 6, backbone_units=[8], backbone_layers=2), r"must be 2 sizes"),
        (lambda: CfCCell(I, 6, backbone_dropout=1.0), r"\[cfc\] backbone_dropout must be in \[0"),
        (lambda: WiredCfCCell(I, 6), r"\[cfc\] wiring must be a Wiring, got int"),
        (lambda: WiredCfCCell(I, AutoNCP(10, 2), "fast"), r"\[cfc\] mode must be one of"),
        (lambda: LTCCell("AutoNCP", I), r"\[ltc\] wiring must be a Wiring or an integer >= 1"),
        (lambda: LTCCell(0, I), r"\[ltc\] wiring must be a Wiring or an integer >= 1, got 0"),
        (lambda: LTCCell(6, 0), r"\[ltc\] in_features must be an integer >= 1, got 0"),
        (lambda: LTCCell(6, I, output_mapping="quad"), r"\[ltc\] output_mapping must be one of"),
    ],
)
def test_wrong_constructor_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bases_leave_the_rest_to_subclasses():
    class Leaky(LiquidCell):
        """h' = h / 2 + sum(x): a user's own cell needs the sizes, _create, sequence, readout."""

        op, state_size, sensory_size, output_size = "leaky", 1, 2, 1

        def _create(self, width):
            self.gain = mx.ones((width,))

        def sequence(self, inputs, state, ts):
            states = []
            for t in range(inputs.shape[1]):
                state = state / 2 + (inputs[:, t] * self.gain).sum(-1, keepdims=True)
                states.append(state)
            return mx.stack(states, axis=1)

        def readout(self, states):
            return -states

    output, state = Leaky()(mx.ones((B, 2)), mx.ones((B, 1)))
    assert_close("state", state, np.full((B, 1), 2.5), 0.0)
    assert_close("output", output, np.full((B, 1), -2.5), 0.0)
    assert issubclass(LTCCell, NCPRNNCell)


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda cell: cell.state_size, "state_size"),
        (lambda cell: cell.sensory_size, "sensory_size"),
        (lambda cell: cell.output_size, "output_size"),
        (lambda cell: cell.motor_size, "output_size"),
        (lambda cell: cell.build(3), "_create(width) or build(input_shape)"),
        (lambda cell: cell.sequence(mx.ones((B, 1, 2)), mx.ones((B, 1)), None), "sequence()"),
        (lambda cell: cell.readout(mx.ones((B, 1))), "readout()"),
    ],
)
def test_a_cell_says_what_is_missing(use, name):
    class Empty(LiquidCell):
        op = "empty"

    with pytest.raises(NotImplementedError) as error:
        use(Empty())
    assert str(error.value) == f"[empty] Empty must define {name}."


# --- what a reader and a tool see of a cell -------------------------------------------------------


@pytest.mark.parametrize("kind", [CfCCell, LTCCell, BackboneLTCCell, WiredCfCCell])
def test_the_signature_of_a_cell_is_that_of_its_constructor(kind):
    parameters = list(inspect.signature(kind).parameters.values())
    assert parameters == list(inspect.signature(kind.__init__).parameters.values())[1:]
    assert all(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    assert all(p.annotation is not p.empty for p in parameters)


def test_the_signature_of_a_users_subclass_is_its_own():
    class Own(CfCCell):
        def __init__(self, size):
            super().__init__(size, size)

    assert list(inspect.signature(Own).parameters) == ["size"]
    assert list(inspect.signature(Own(3)).parameters) == ["inputs", "state", "ts"]


def test_pickles_made_before_find_their_step_cell():
    """They name it by the module that it was in."""
    old = b"\x80\x04cmlx_ncps.ops.stepping\nStepCell\n)R."
    assert pickle.loads(old).made is None


def test_tab_completion_shows_no_internals():
    layer = CfC(3, AutoNCP(8, 2))
    names = {*dir(layer), *dir(layer.rnn_cell), *dir(CfCCell(3, 4)), *dir(LTCCell(4, 3))}
    internal = ("directions", "run", "fused_steps", "step_arrays", "pack_step", "sync_wiring")
    assert names.isdisjoint(internal)
