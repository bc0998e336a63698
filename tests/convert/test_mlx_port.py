"""`from_mlx_port`: arrays of the earlier MLX port of ncps give layers that compute what it did."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, available_backends, dispatch
from mlx_ncps.convert import from_mlx_port
from mlx_ncps.wirings import AutoNCP, Wiring

from tests.support import ROOT
from tests.support.cases import assert_close
from tests.support.rnn_layers import SAME

GOLDEN = dict(np.load(ROOT / "tests" / "golden" / "mlx_port.npz"))
CASES = sorted({key.split("/")[0] for key in GOLDEN})
OURS = ("mode", "activation", "ode_unfolds", "input_mapping", "implicit_param_constraints")
all_cases = pytest.mark.parametrize("name", CASES)


class PortWiring:
    """A wiring of the port: its attributes and its layers."""

    def __init__(self, adjacency, sensory, outputs, layers):
        self.adjacency_matrix = mx.array(adjacency)
        self.sensory_adjacency_matrix = mx.array(sensory)
        self.input_dim, self.units = sensory.shape
        self.output_dim = outputs
        self._layers = layers
        self.num_layers = len(layers)

    def get_neurons_of_layer(self, layer):
        return self._layers[layer]


PortWiring.__name__ = "Wiring"
PortWiring.__module__ = "ncps.wirings.wirings"


class Case:
    def __init__(self, name):
        own = {k.partition("/")[2]: a for k, a in GOLDEN.items() if k.split("/")[0] == name}
        self.config = json.loads(str(own.pop("config")))
        start = "parameters/"
        self.parameters = {
            k.removeprefix(start): mx.array(a) for k, a in own.items() if k.startswith(start)
        }
        self.arrays = {k: mx.array(a) for k, a in own.items() if not k.startswith(start)}
        self.wiring = None
        if self.config["wiring"] is not None:
            matrices = own["adjacency"], own["sensory_adjacency"]
            units, options = len(matrices[0]), self.config["wiring"]
            layers = [list(range(units))]
            if options["class"] == "AutoNCP":
                ours = AutoNCP(options["units"], options["output_size"])
                layers = [ours.get_neurons_of_layer(n) for n in range(3)]
            outputs = options.get("output_size", options.get("output_dim"))
            self.wiring = PortWiring(*matrices, outputs, layers)

    @property
    def options(self):
        """What the arrays don't tell."""
        told = {k: v for k, v in self.config["arguments"].items() if k in OURS}
        if "solver" in self.config["arguments"]:
            told["ode_solver"] = self.config["arguments"]["solver"]
        if self.config["class"] == "ELTC":
            told["return_state"] = True
        return told

    def check(self, layer):
        a = self.arrays
        output, state = layer.eval()(a["inputs"], a["state"], a["timespans"])
        assert_close("outputs", output, a["outputs"], SAME)
        assert_close("state", state, a["last"], SAME)


@all_cases
@pytest.mark.parametrize("backend", available_backends())
def test_arrays_become_a_layer_that_computes_the_same(name, backend):
    case = Case(name)
    with dispatch.use_backend(backend):
        case.check(from_mlx_port(case.parameters, wiring=case.wiring, **case.options))


@all_cases
def test_a_file_becomes_the_same_layer(name, tmp_path):
    case = Case(name)
    path = tmp_path / "model.npz"
    mx.savez(str(path), **case.parameters)
    case.check(from_mlx_port(path, wiring=case.wiring, **case.options))


@all_cases
def test_arrays_load_into_a_layer_and_from_a_larger_model(name):
    case = Case(name)
    layer = from_mlx_port(case.parameters, wiring=case.wiring, **case.options)
    layer.redraw()
    larger = {f"policy.rnn.{key}": array for key, array in case.parameters.items()}
    larger["policy.head.weight"] = mx.zeros((3, 4))
    assert from_mlx_port(larger, layer, prefix="policy.rnn.") is layer
    case.check(layer)


@all_cases
def test_a_missing_an_unknown_and_a_misshapen_array_are_refused_and_change_nothing(name):
    case = Case(name)
    layer = from_mlx_port(case.parameters, wiring=case.wiring, **case.options)
    before = dict(nn.utils.tree_flatten(layer.parameters()))
    for key in case.parameters:
        rest = {k: a + 1 for k, a in case.parameters.items() if k != key}
        for wrong in (rest, rest | {key: mx.zeros((9, 9, 9))}):
            with pytest.raises(ValueError, match=r"\[from_mlx_port\] "):
                from_mlx_port(wrong, layer)
    with pytest.raises(ValueError, match=r"\[from_mlx_port\] the layer must have rnn_cell.extra"):
        from_mlx_port(case.parameters | {"rnn_cell.extra": mx.zeros(3)}, layer)
    after = dict(nn.utils.tree_flatten(layer.parameters()))
    assert all(mx.array_equal(before[key], after[key]) for key in before)


def test_dropout_stands_behind_every_layer_of_the_backbone():
    case = Case("cfc_dropout")
    layer = from_mlx_port(case.parameters, backbone_dropout=0.2, **case.options)
    assert layer.rnn_cell.backbone_options == ((5, 5), "tanh", 0.2)
    x = mx.ones((4, 3, 3))
    assert not mx.allclose(layer.train()(x)[0], layer.eval()(x)[0])


def test_a_wiring_of_the_port_is_taken_by_every_layer():
    case = Case("cfc_wired")
    for layer in (CfC(3, case.wiring), LTC(3, case.wiring), CfC(wiring=case.wiring)):
        ours = layer.rnn_cell.wiring
        assert isinstance(ours, Wiring)
        assert ours.num_layers == 3
        assert np.array_equal(ours.adjacency, np.array(case.wiring.adjacency_matrix))
        assert np.array_equal(ours.sensory_adjacency, case.arrays["sensory_adjacency"])
        twin = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        assert np.array_equal(twin.rnn_cell.wiring.adjacency, ours.adjacency)


class PortCfC(nn.Module):
    """As far as `from_mlx_port` looks at the port's layer."""

    def __init__(self, case):
        super().__init__()
        self.batch_first, self.return_sequences = True, True
        self.rnn_cell = nn.Module()
        self.rnn_cell.mode = case.options.get("mode", "default")
        self.rnn_cell._wiring = case.wiring
        numbers = {int(k.split(".")[3]) for k in case.parameters if "backbone" in k}
        modules = []
        for _ in range(len(numbers)):
            modules += [nn.Linear(1, 1), nn.GELU(), *[nn.Dropout(0.2)] * (3 in numbers)]
        self.rnn_cell.backbone = nn.Sequential(*modules) if modules else None
        for head in ("ff1", "ff2", "time_a", "time_b"):
            self.rnn_cell[head] = nn.Linear(1, 1)
        self.update(nn.utils.tree_unflatten(list(case.parameters.items())), strict=False)
        self._fc = nn.Linear(case.arrays["outputs"].shape[-1], 7)


@pytest.mark.parametrize("name", ["cfc_two", "cfc_dropout", "cfc_no_gate"])
def test_a_module_tells_its_options_and_the_map_that_it_does_not_save(name):
    case = Case(name)
    module = PortCfC(case)
    layer = from_mlx_port(module)
    assert layer.rnn_cell.mode == case.options.get("mode", "default")
    if name != "cfc_no_gate":
        activation = layer.rnn_cell.backbone_options.activation
        assert activation == "gelu"
    assert layer.rnn_cell.backbone_options.dropout == pytest.approx(0.2 * (name == "cfc_dropout"))
    output, _ = layer.eval()(case.arrays["inputs"])
    assert mx.array_equal(layer.fc.weight, module._fc.weight)
    assert output.shape[-1] == 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: from_mlx_port(c.parameters), "wiring must be given, as the port saves no masks"),
        (lambda c: from_mlx_port(c.parameters, wiring=AutoNCP(8, 2)), "wiring must be built"),
        (lambda c: from_mlx_port(c.parameters, wiring=3), "wiring must be a Wiring or None, got i"),
        (lambda c: from_mlx_port({}, wiring=c.wiring), "prefix must start some name"),
        (lambda c: from_mlx_port(3), "source must be a module, a state dict or a path, got int"),
        (
            lambda c: from_mlx_port({"weight": mx.zeros(3)}),
            r"source must have rnn_cell.ff1.weight \(CfC\), .*, got weight",
        ),
        (
            lambda c: from_mlx_port(c.parameters, CfC(3, AutoNCP(8, 2))),
            "layer must be a CfC of variant='keras'",
        ),
        (
            lambda c: from_mlx_port(c.parameters, CfC(3, AutoNCP(8, 2)), mode="pure"),
            "layer has its own options, got mode too",
        ),
        (
            lambda c: from_mlx_port(c.parameters, CfC(None, AutoNCP(8, 2), variant="keras")),
            "must be a layer or cell that is bu",
        ),
    ],
)
def test_what_can_not_be_converted_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Case("cfc_wired"))
