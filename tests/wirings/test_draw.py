"""Graphs and drawings of wirings: every neuron and every synapse is there, in its colour."""

import importlib

import numpy as np
import pytest
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Wiring
from mlx_ncps.wirings.draw import LAYOUTS

networkx = pytest.importorskip("networkx")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
to_rgba = pytest.importorskip("matplotlib.colors").to_rgba
FancyArrowPatch = pytest.importorskip("matplotlib.patches").FancyArrowPatch


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def drawn(axes):
    """Numbers of nodes and edges in the axes by colour."""
    axes.figure.canvas.draw()
    nodes, edges = {}, {}
    for group in axes.collections:
        color = tuple(group.get_facecolor()[0])
        nodes[color] = nodes.get(color, 0) + len(group.get_offsets())
    for patch in axes.patches:
        assert isinstance(patch, FancyArrowPatch)
        color = tuple(patch.get_edgecolor())
        edges[color] = edges.get(color, 0) + 1
    return nodes, edges


def counts(wiring):
    both = np.concatenate([wiring.adjacency, wiring.sensory_adjacency])
    return int(np.sum(both > 0)), int(np.sum(both < 0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_draw_graph_shows_everything(axes, layout):
    if layout == "kamada":
        pytest.importorskip("scipy")
    wiring = AutoNCP(10, 2, input_dim=3)
    handles = wiring.draw_graph(layout, draw_labels=True, ax=axes, legend=True)
    nodes, edges = drawn(axes)
    excitatory, inhibitory = counts(wiring)
    assert nodes == {
        to_rgba("tab:blue"): 5,
        to_rgba("tab:purple"): 3,
        to_rgba("tab:orange"): 2,
        to_rgba("tab:olive"): 3,
    }
    assert edges == {to_rgba("tab:green"): excitatory, to_rgba("tab:red"): inhibitory}
    assert len(axes.texts) == 13
    labels = {handle.get_label() for handle in handles}
    assert labels == {
        "Inter neurons", "Command neurons", "Motor neurons", "Sensory neurons",
        "Excitatory synapses", "Inhibitory synapses",
    }  # fmt: skip
    assert {text.get_text() for text in axes.get_legend().get_texts()} == labels


@pytest.mark.parametrize(
    "wiring",
    [
        FullyConnected(5, 2, input_dim=2),
        Random(6, 6, 0.5, input_dim=3),
        NCP(4, 3, 2, 2, 2, 3, 2, input_dim=3),
    ],
    ids=lambda wiring: type(wiring).__name__,
)
def test_draw_graph_layered_positions(axes, wiring):
    wiring.draw_graph("layered", ax=axes)
    places = np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections])
    assert len(np.unique(places, axis=0)) == wiring.units + wiring.input_dim
    columns = 4 if wiring.num_layers == 3 else 2 + (wiring.output_dim < wiring.units)
    assert len(np.unique(places[:, 0])) == columns
    assert sum(drawn(axes)[1].values()) == sum(counts(wiring))


def test_draw_graph_colors(axes):
    wiring = FullyConnected(3, 1, input_dim=1)
    mine = {"motor": "black"}
    wiring.draw_graph(neuron_colors=mine, synapse_colors="gray", ax=axes)
    nodes, edges = drawn(axes)
    assert mine == {"motor": "black"}
    assert nodes[to_rgba("black")] == 1
    assert edges == {to_rgba("gray"): 12}
    assert axes.get_legend() is None
    assert not axes.texts


def test_draw_graph_current_axes(axes):
    plt.sca(axes)
    FullyConnected(3, input_dim=1).draw_graph()
    assert sum(drawn(axes)[0].values()) == 4


def test_draw_graph_errors(axes):
    class Odd(Wiring):
        def get_type_of_neuron(self, neuron_id):
            return "odd"

    with pytest.raises(ValueError, match=r"\[draw_graph\] layout must be one of kamada, .* 'no'"):
        FullyConnected(3, input_dim=1).draw_graph("no", ax=axes)
    with pytest.raises(ValueError, match=r"\[draw_graph\] neuron_colors .* 'odd', got none"):
        Odd(3, input_dim=1).draw_graph(ax=axes)
    Odd(3, input_dim=1).draw_graph(neuron_colors={"odd": "black"}, ax=axes)


def test_get_graph_without_sensory_neurons():
    wiring = Random(6, 2, 0.5, input_dim=3)
    whole, inner = wiring.get_graph(), wiring.get_graph(include_sensory_neurons=False)
    assert (len(whole), len(inner)) == (9, 6)
    assert inner.number_of_edges() == wiring.synapse_count
    assert whole.number_of_edges() == wiring.synapse_count + wiring.sensory_synapse_count
    signs = {"excitatory": 1, "inhibitory": -1}
    for a, b, polarity in inner.edges(data="polarity"):
        src, dest = int(a.removeprefix("neuron_")), int(b.removeprefix("neuron_"))
        assert wiring.adjacency[src, dest] == signs[polarity]


@pytest.mark.parametrize("missing", ["networkx", "matplotlib", "scipy"])
def test_missing_package_is_named(monkeypatch, missing):
    def import_module(name, package=None):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return find(name)

    find = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=rf"\[draw_graph\] needs {missing}, .*pip install"):
        FullyConnected(3, input_dim=1).draw_graph("kamada")


def test_broken_package_is_not_hidden(monkeypatch):
    def import_module(name, package=None):
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="inner"):
        FullyConnected(3, input_dim=1).get_graph()


@pytest.mark.parametrize(
    ("option", "kind"), [("neuron_colors", "comand"), ("synapse_colors", "exitatory")]
)
def test_misspelt_kinds_are_refused_with_the_known(axes, option, kind):
    with pytest.raises(ValueError, match=rf"\[draw_graph\] {option} must be colours of .*'{kind}'"):
        FullyConnected(3, 1, input_dim=1).draw_graph(ax=axes, **{option: {kind: "tab:cyan"}})
