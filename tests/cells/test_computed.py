"""The picture of a cell shows the synapses that it computes."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, ELTCCell, LiquidRNN
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

networkx = pytest.importorskip("networkx")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

I = 4
WIRINGS = {
    "auto": lambda: AutoNCP(12, 2),
    "ncp": lambda: NCP(6, 5, 2, 3, 3, 6, 3),
    "random": lambda: Random(8, 3, 0.4),
    "full": lambda: FullyConnected(5, 2),
}
all_wirings = pytest.mark.parametrize("wiring", WIRINGS)


def edges(graph):
    return {(a, b): kind for a, b, kind in graph.edges(data="polarity")}


def depends(layer, x, states):
    """Which sources act on the state of a neuron within a step: {(node, node)}, by gradients.

    x [1, I], states [1, H] in the order of `state_names`. In a wired CfC, layers read the new
    states of the layer before, so that each of its cells is asked by itself.
    """
    cell = layer.rnn_cell
    names = [f"neuron_{name.split('_')[1]}" for name in layer.state_names()]
    sensory = [f"sensory_{i}" for i in range(x.shape[1])]
    found = set()

    def ask(step, x, v, sources, own):
        for j, target in enumerate(own):
            dx, dv = mx.grad(lambda x, v, j=j: step(x, v)[1][0, j], argnums=(0, 1))(x, v)
            slopes = zip([*sources, *own], [*dx[0].tolist(), *dv[0].tolist()], strict=True)
            found.update((node, target) for node, slope in slopes if slope != 0)

    if not hasattr(cell, "synapses_into"):
        ask(cell, x, states, sensory, names)
        return found
    sources, start = sensory, 0
    for n, size in enumerate(cell.layer_sizes):
        part, own = cell[f"layer_{n}"], names[start : start + size]
        inputs = mx.random.normal((1, len(sources)))
        mask = cell.get(f"source_mask_{n}")

        def step(x, v, part=part, mask=mask):
            return part(x if mask is None else x * mask, v)

        ask(step, inputs, states[:, start : start + size], sources, own)
        sources, start = own, start + size
    return found


@all_wirings
@pytest.mark.parametrize("kind", ["ltc", "eltc", "dense", "sparse", "backbone"])
def test_the_graph_has_the_synapses_that_gradients_find(wiring, kind):
    mx.random.seed(3)
    wiring = WIRINGS[wiring]()
    if kind == "ltc":
        layer = LTC(I, wiring, ode_unfolds=1)
    elif kind == "eltc":
        layer = LiquidRNN(ELTCCell(wiring, I, ode_solver="explicit", ode_unfolds=1))
    elif kind == "backbone":  # a linear one, so that no neuron is cut off
        layer = CfC(I, wiring, mode="pure", backbone_units=30, activation="tanh")
    else:
        layer = CfC(I, wiring, mode="pure", fully_recurrent=kind == "dense")
    H = layer.state_size
    graph = edges(layer.rnn_cell.get_graph())
    want = depends(layer, mx.random.normal((1, I)), mx.random.normal((1, H)))
    if kind in ("ltc", "eltc"):  # a neuron's state acts on itself without a synapse
        own = {(f"neuron_{n}", f"neuron_{n}") for n in range(H)}
        assert set(graph) | own == want | own
    else:
        assert set(graph) == want


def test_a_wired_cfc_draws_no_synapse_that_it_does_not_read_and_its_dense_layers_unsigned():
    wiring = NCP(6, 5, 2, 3, 3, 6, 3)
    wiring.build(I)
    wiring.add_synapse(7, 12, 1)  # inter to inter, which no layer reads but a dense one
    wiring.add_synapse(7, 0, 1)  # inter to motor
    cell = CfC(I, wiring).rnn_cell
    graph = edges(cell.get_graph())
    assert ("neuron_7", "neuron_0") in edges(cell.wiring.get_graph())
    assert ("neuron_7", "neuron_0") not in graph
    inter = cell.wiring.get_neurons_of_type("inter")
    assert all(graph[f"neuron_{a}", f"neuron_{b}"] == "unsigned" for a in inter for b in inter)
    sparse = CfC(I, wiring, fully_recurrent=False).rnn_cell
    graph = edges(sparse.get_graph())
    assert graph["neuron_7", "neuron_12"] == "excitatory"
    assert "unsigned" not in graph.values()


def test_an_ltc_draws_the_reversal_potentials_of_now():
    cell = LTC(I, AutoNCP(8, 2)).rnn_cell
    before = edges(cell.get_graph())
    assert before == edges(cell.wiring.get_graph())
    cell.erev = -cell.erev
    after = edges(cell.get_graph())
    turned = {"excitatory": "inhibitory", "inhibitory": "excitatory"}
    for (a, b), kind in before.items():
        assert after[a, b] == (kind if a.startswith("sensory") else turned[kind])


@all_wirings
def test_a_cell_is_drawn_with_its_unsigned_synapses_grey(wiring):
    cell = CfC(I, WIRINGS[wiring]()).rnn_cell
    figure, axes = plt.subplots()
    try:
        labels = {h.get_label() for h in cell.draw_graph("layered", ax=axes, legend=True)}
        assert "Unsigned synapses" in labels
        grey = matplotlib.colors.to_rgba("tab:gray")
        figure.canvas.draw()
        drawn = sum(tuple(p.get_edgecolor()) == grey for p in axes.patches)
        assert drawn == sum(n * n for n in cell.layer_sizes)
        cell.draw_graph(synapse_colors={"unsigned": "tab:cyan"}, ax=axes)
        with pytest.raises(ValueError, match="synapse_colors must be colours of"):
            cell.draw_graph(synapse_colors={"unsinged": "tab:cyan"}, ax=axes)
    finally:
        plt.close(figure)


def test_a_cell_that_is_not_built_says_so():
    cell = CfC(None, AutoNCP(8, 2)).rnn_cell
    for method in ("get_graph", "draw_graph"):
        with pytest.raises(ValueError, match=rf"\[cfc\] {method} wants a cell that is built"):
            getattr(cell, method)()


def test_a_picture_follows_an_edit():
    cell = LTC(I, AutoNCP(8, 2)).rnn_cell
    source, target, _ = cell.wiring.get_synapses()[0][:3]
    assert (f"neuron_{source}", f"neuron_{target}") in edges(cell.get_graph())
    cell.wiring.remove_synapse(source, target)
    assert (f"neuron_{source}", f"neuron_{target}") not in edges(cell.get_graph())
    assert np.array_equal(cell._computed().adjacency != 0, cell.wiring.adjacency != 0)
