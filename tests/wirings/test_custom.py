"""A user's own wirings: several inter layers, what cells make of them, configurations; queries."""

import copy
import itertools
import json
import pickle

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, CfCRNN, LTCCell, WiredCfCCell, config
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Synapse, Wiring

from tests.support.cases import assert_close, tolerance

FORWARD = tolerance("float32", "forward")
B, T, I = 3, 4, 5


class Deep(Wiring):
    """Layers of these sizes, the last one the motor neurons, which come first in number; each
    neuron reads two of the layer before, signs alternate; neurons of a layer form a ring.
    """

    def __init__(self, layer_sizes, rings=True, *, offset=1):
        super().__init__(sum(layer_sizes), output_dim=layer_sizes[-1])
        self.offset = offset
        ends = np.cumsum([0, *layer_sizes[::-1]])
        self.groups = [list(range(a, b)) for a, b in itertools.pairwise(ends)][::-1]
        for before, after in zip(self.groups[:-1], self.groups[1:], strict=True):
            for n, target in enumerate(after):
                self.add_synapse(before[n % len(before)], target, 1)
                self.add_synapse(before[(n + offset) % len(before)], target, -1)
        if rings:
            for group in self.groups:
                for n, target in enumerate(group):
                    self.add_synapse(group[n - 1], target, 1)

    @property
    def num_layers(self):
        return len(self.groups)

    def get_neurons_of_layer(self, layer_id):
        return self.groups[layer_id]

    def get_type_of_neuron(self, neuron_id):
        return "motor" if neuron_id in self.groups[-1] else "inter"

    def build(self, input_dim):
        super().build(input_dim)
        for source in range(input_dim):
            self.add_sensory_synapse(source, self.groups[0][source % len(self.groups[0])], 1)


class Half(AutoNCP):
    """A subclass of a drawn wiring, with another constructor."""

    def __init__(self, outputs):
        super().__init__(4 * outputs, outputs, seed=7)


SIZES = [4, 3, 5, 2]


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(11)


def same(a, b):
    assert type(a) is type(b)
    np.testing.assert_array_equal(a.adjacency, b.adjacency)
    np.testing.assert_array_equal(a.sensory_adjacency, b.sensory_adjacency)


def chain(cell, inputs, state, ts):
    """A wired CfC layer after layer in float64: masks from the wiring's matrices alone."""
    wiring, start, states = cell.wiring, 0, []
    before = None
    for n in range(wiring.num_layers):
        neurons = wiring.get_neurons_of_layer(n)
        incoming = wiring.sensory_adjacency if before is None else wiring.adjacency[before]
        mask = np.concatenate([np.abs(incoming[:, neurons]), np.ones((len(neurons),) * 2)])
        heads = {}
        for name in ("ff1", "ff2", "time_a", "time_b"):
            linear = cell[f"layer_{n}"][name]
            weight = np.array(linear.weight, np.float64)
            heads[name] = (weight * mask.T if name in ("ff1", "ff2") else weight, linear.bias)
        params = truth.CfCParams((), **heads)
        part = state[:, start : start + len(neurons)]
        inputs = truth.cfc_sequence(inputs, part, ts, params)
        states.append(inputs)
        start, before = start + len(neurons), neurons
    return inputs, np.concatenate([s[:, -1] for s in states], axis=1)


@pytest.mark.parametrize("sizes", [SIZES, [3, 2], [6]])
def test_wired_cfc_follows_a_wiring_of_any_layers(sizes):
    layer = CfC(I, Deep(sizes))
    assert layer.rnn_cell.layer_sizes == sizes
    x, ts = mx.random.normal((B, T, I)), mx.random.uniform(0.1, 2.0, (B, T))
    state = mx.random.normal((B, sum(sizes)))
    output, last = layer(x, state, ts)
    wanted, wanted_last = chain(layer.rnn_cell, np.array(x), np.array(state), np.array(ts))
    assert_close("output", output, wanted, FORWARD)
    assert_close("state", last, wanted_last, FORWARD)


def test_ltc_takes_the_synapses_of_a_custom_wiring():
    wiring = Deep(SIZES)
    layer = LTC(I, wiring, ode_unfolds=3)
    cell, wiring = layer.rnn_cell, layer.rnn_cell.wiring
    assert_close("mask", cell.sparsity_mask, np.abs(wiring.adjacency), 0.0)
    assert_close("erev", cell.erev, wiring.adjacency, 0.0)
    assert_close("sensory_erev", cell.sensory_erev, wiring.sensory_adjacency, 0.0)
    x, ts = mx.random.normal((B, T, I)), mx.random.uniform(0.1, 2.0, (B, T))
    state = mx.zeros((B, sum(SIZES)))
    states = truth.ltc_sequence(
        x, state, ts, cell.params(), ode_unfolds=3, implicit_param_constraints=True
    )
    output, last = layer(x, timespans=ts)
    assert_close("state", last, states[:, -1], FORWARD)
    assert_close("output", output, states[..., :2], FORWARD)


def test_a_custom_wiring_in_a_stack_is_built_for_each_layer():
    stack = CfCRNN(I, Deep(SIZES), num_layers=2)
    widths = [layer.rnn_cell.wiring.input_dim for layer in stack.layers]
    assert widths == [I, 2]
    assert stack(mx.zeros((B, T, I)))[0].shape == (B, T, 2)


@pytest.mark.parametrize("make", [lambda: Deep([4, 3, 2], rings=False, offset=2), lambda: Half(3)])
@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("edited", [False, True])
def test_config_of_a_custom_constructor(make, built, edited):
    wiring = make()
    if built:
        wiring.build(I)
    if edited:
        wiring.add_synapse(0, 0, -1)
    stored = json.loads(json.dumps(wiring.get_config()))
    again = type(wiring).from_config(stored)
    assert again.get_config() == stored
    assert again.is_built() == built
    for one in (wiring, again):
        one.build(I)
    same(wiring, again)
    nested = json.loads(json.dumps(config.to_config(wiring)))
    same(config.from_config(nested), wiring)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))]
)
def test_copies_of_a_custom_wiring(duplicate):
    wiring = Deep(SIZES)
    twin = duplicate(wiring)
    wiring.add_synapse(0, 0, -1)
    assert twin.adjacency[0, 0] == 0
    twin.build(I)
    assert not wiring.is_built()
    assert twin.get_config()["layer_sizes"] == SIZES
    drawn, other = AutoNCP(12, 3), duplicate(AutoNCP(12, 3))
    drawn_twin = duplicate(drawn)
    for one in (drawn, drawn_twin, other):
        one.build(4)
    same(drawn, drawn_twin)
    same(drawn, other)


def test_graph_and_drawing_of_a_custom_wiring():
    networkx = pytest.importorskip("networkx")
    wiring = Deep(SIZES)
    wiring.build(I)
    graph = wiring.get_graph()
    assert isinstance(graph, networkx.DiGraph)
    got = {(a, b): polarity for a, b, polarity in graph.edges(data="polarity")}
    names = {1: "excitatory", -1: "inhibitory"}
    wanted = {
        (f"{kind}_{a}", f"neuron_{b}"): names[p]
        for kind, sensory in (("neuron", False), ("sensory", True))
        for a, b, p in wiring.get_synapses(sensory=sensory)
    }
    assert got == wanted
    types = dict(graph.nodes(data="neuron_type"))
    assert [n for n in range(14) if types[f"neuron_{n}"] == "motor"] == [0, 1]


@pytest.mark.parametrize(
    "wiring",
    [
        FullyConnected(5, 2, input_dim=3),
        Random(6, 2, 0.5, input_dim=3),
        NCP(4, 3, 2, 2, 2, 3, 2, input_dim=3),
        AutoNCP(12, 3, input_dim=3),
    ],
    ids=lambda wiring: type(wiring).__name__,
)
def test_get_synapses_lists_the_matrices(wiring):
    for sensory, matrix in ((False, wiring.adjacency), (True, wiring.sensory_adjacency)):
        again = np.zeros_like(matrix)
        for source, target, polarity in wiring.get_synapses(sensory=sensory):
            again[source, target] = polarity
        np.testing.assert_array_equal(again, matrix)
        for n in range(wiring.units):
            into = wiring.get_synapses(target=n, sensory=sensory)
            assert [s.source for s in into] == np.flatnonzero(matrix[:, n]).tolist()
        for n in range(len(matrix)):
            out = wiring.get_synapses(n, sensory=sensory)
            assert {(s.target, s.polarity) for s in out} == {
                (m, matrix[n, m]) for m in np.flatnonzero(matrix[n])
            }
    assert sum(len(wiring.get_synapses(target=n)) for n in range(wiring.units)) == (
        wiring.synapse_count
    )


def test_get_synapses_of_one_pair_and_errors():
    wiring = Wiring(3)
    wiring.add_synapse(0, 2, -1)
    assert wiring.get_synapses(0, 2) == [Synapse(0, 2, -1)]
    assert wiring.get_synapses(2, 0) == []
    with pytest.raises(ValueError, match=r"\[get_synapses\] target must be .* got 3"):
        wiring.get_synapses(target=3)
    with pytest.raises(ValueError, match=r"\[get_synapses\] the wiring must be built"):
        wiring.get_synapses(sensory=True)


def test_get_neurons_of_type():
    wiring = NCP(4, 3, 2, 2, 2, 3, 2)
    assert wiring.get_neurons_of_type("motor") == [0, 1]
    assert wiring.get_neurons_of_type("command") == [2, 3, 4]
    assert wiring.get_neurons_of_type("inter") == [5, 6, 7, 8]
    assert wiring.get_neurons_of_type("sensory") == []


def test_cells_of_custom_wirings_round_trip():
    cell = WiredCfCCell(None, Deep(SIZES), backbone_units=6)
    cell.build(I)
    for one in (cell, LTCCell(Deep(SIZES), I)):
        again = config.from_config(json.loads(json.dumps(config.to_config(one))))
        assert again.layer_sizes == SIZES
        same(again.wiring, one.wiring)


# --- a layer builds the wiring that it was given, for its owner to read -------------------------


@pytest.mark.parametrize("make", [LTC, CfC])
def test_a_layer_builds_the_wiring_of_its_owner(make):
    wiring, other = AutoNCP(12, 3), AutoNCP(12, 3)
    other.build(4)
    layer = make(4, wiring)
    assert wiring.input_dim == 4
    for name in ("adjacency", "sensory_adjacency"):
        want = getattr(other, name)
        np.testing.assert_array_equal(getattr(wiring, name), want)
        np.testing.assert_array_equal(getattr(layer.rnn_cell.wiring, name), want)
    wiring.add_synapse(11, 11, -1)
    assert layer.rnn_cell.wiring.adjacency[11, 11] == other.adjacency[11, 11]  # its own copy


def test_the_wiring_that_a_layer_built_has_a_graph():
    pytest.importorskip("networkx")
    wiring = AutoNCP(12, 3)
    LTC(4, wiring)
    edges = wiring.get_graph().number_of_edges()
    assert edges == wiring.synapse_count + wiring.sensory_synapse_count


def test_layers_of_other_widths_start_from_the_wiring_as_given():
    wiring, other = AutoNCP(12, 3), AutoNCP(12, 3)
    other.build(7)
    layers = [LTC(4, wiring), LTC(7, wiring), LTC(None, wiring)]
    assert layers[2].sensory_size is None
    np.testing.assert_array_equal(layers[1].rnn_cell.wiring.adjacency, other.adjacency)
    assert wiring.input_dim == 4
    twin = LTC.from_config(layers[1].get_config())
    np.testing.assert_array_equal(twin.rnn_cell.wiring.adjacency, other.adjacency)
    again = copy.deepcopy(wiring)
    assert LTC(7, again).sensory_size == 7


def test_an_edited_wiring_stays_what_it_is():
    wiring = AutoNCP(12, 3)
    LTC(4, wiring)
    wiring.add_synapse(11, 11, -1)
    assert LTC(4, wiring).rnn_cell.wiring.adjacency[11, 11] == -1
    with pytest.raises(ValueError, match="must be 4, for which this AutoNCP is built, got 7"):
        LTC(7, wiring)


@pytest.mark.parametrize("kinds", [(), ("recurrent",), ("sensory",)])
@pytest.mark.parametrize("batch", [1, 40])
def test_steps_of_an_ltc_with_few_synapses_or_none(kinds, batch):
    wiring = Wiring(20, 2, I)
    if "recurrent" in kinds:
        wiring.add_synapse(0, 19, -1)
    if "sensory" in kinds:
        wiring.add_sensory_synapse(1, 0, 1)
    cell = LTCCell(wiring)
    x, state = mx.random.normal((batch, I)), mx.random.normal((batch, 20))
    mx.eval(x, state, cell.parameters())
    wanted = truth.ltc_step(x, state, 0.5, cell.params())
    for _ in range(2):
        _, got = cell(x, state, 0.5)
        assert_close("state", got, wanted, FORWARD)
