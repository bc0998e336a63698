"""Pictures of a wiring: its networkx graph, and matplotlib drawings of that."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ..checks import brief, choice, flag, refused

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from networkx import DiGraph

Color = str | tuple[float, ...]  # as matplotlib has it
Member = TypeVar("Member")

NEURON_COLORS = {
    "inter": "tab:blue",
    "command": "tab:purple",
    "motor": "tab:orange",
    "sensory": "tab:olive",
}
SYNAPSE_COLORS = {"excitatory": "tab:green", "inhibitory": "tab:red", "unsigned": "tab:gray"}
UNSIGNED = 2  # in the matrices of what a cell computes: a synapse without a polarity
LAYOUTS = ("kamada", "circular", "random", "shell", "spring", "spectral", "spiral", "layered")


class Drawn(Protocol):
    """What a picture needs of a wiring."""

    units: int

    @property
    def adjacency(self) -> np.ndarray: ...  # noqa: D102
    @property
    def sensory_adjacency(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    def get_neurons_of_layer(self, layer_id: int) -> list[int]: ...  # noqa: D102
    def get_type_of_neuron(self, neuron_id: int) -> str: ...  # noqa: D102


def graph_of(wiring: Drawn, include_sensory_neurons: bool = True) -> DiGraph:
    """A ``networkx.DiGraph`` of a built wiring.

    Nodes ``neuron_<id>`` and ``sensory_<id>`` carry ``neuron_type``, edges carry ``polarity``,
    ``"excitatory"`` or ``"inhibitory"``.

    Raises:
        ImportError: networkx is not installed.
    """
    graph = _optional("networkx", "get_graph").DiGraph()
    for i in range(wiring.units):
        graph.add_node(f"neuron_{i}", neuron_type=wiring.get_type_of_neuron(i))
    sensory = wiring.sensory_adjacency
    if include_sensory_neurons and sensory is not None:
        for i in range(sensory.shape[0]):
            graph.add_node(f"sensory_{i}", neuron_type="sensory")
        _add_edges(graph, "sensory", sensory)
    _add_edges(graph, "neuron", wiring.adjacency)
    return graph


def _add_edges(graph: DiGraph, source_kind: str, matrix: np.ndarray) -> None:
    for src, dest in zip(*matrix.nonzero(), strict=True):
        polarity = "excitatory" if matrix[src, dest] > 0 else "inhibitory"
        if matrix[src, dest] == UNSIGNED:
            polarity = "unsigned"
        graph.add_edge(f"{source_kind}_{src}", f"neuron_{dest}", polarity=polarity)


def draw_graph(
    wiring: Drawn,
    layout: str = "shell",
    neuron_colors: Mapping[str, Color] | None = None,
    synapse_colors: str | Mapping[str, Color] | None = None,
    draw_labels: bool = False,
    *,
    ax: Axes | None = None,
    legend: bool = False,
) -> list[Patch]:
    """Draws a built wiring with matplotlib.

    Args:
        wiring: a built wiring.
        layout: ``kamada``, ``circular``, ``random``, ``shell``, ``spring``, ``spectral``,
            ``spiral``, or ``layered``: columns from the inputs to the motor neurons.
        neuron_colors: colour of each type of neuron; types left out keep their default.
        synapse_colors: one colour, or those of ``excitatory`` (green), ``inhibitory`` (red) and
            ``unsigned`` (grey) synapses; only pictures of cells have the last.
        draw_labels: whether to write each node's name.
        ax: matplotlib axes; default the current ones.
        legend: whether to add the legend, below the axes.

    Returns:
        Handles for ``plt.legend(handles=...)``: the types of neurons and the polarities drawn.

    Raises:
        ValueError: unknown layout or kind of neuron or synapse, or a colour is missing for a type
            of neuron of a custom wiring.
        ImportError: networkx or matplotlib is not installed, or the SciPy that ``kamada`` needs,
            and ``spring`` and ``spectral`` with 500 nodes.
    """
    _optional("networkx", "draw_graph")
    plt = _optional("matplotlib.pyplot", "draw_graph")
    choice("draw_graph", "layout", layout, LAYOUTS)
    draw_labels = flag("draw_graph", "draw_labels", draw_labels)
    legend = flag("draw_graph", "legend", legend)
    if isinstance(synapse_colors, str):
        synapse_colors = dict.fromkeys(SYNAPSE_COLORS, synapse_colors)
    kinds = {*NEURON_COLORS, *map(wiring.get_type_of_neuron, range(wiring.units))}
    of_neurons = _colors("neuron_colors", NEURON_COLORS, neuron_colors, kinds)
    of_synapses = _colors("synapse_colors", SYNAPSE_COLORS, synapse_colors, SYNAPSE_COLORS)
    if ax is not None and not hasattr(ax, "add_patch"):
        raise refused("draw_graph", "ax", "axes of matplotlib", ax)
    axes = plt.gca() if ax is None else ax
    handles = _drawn(axes, wiring, layout, of_neurons, of_synapses, draw_labels)
    if legend:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncol": 3}
        axes.legend(handles=handles, frameon=False, fontsize="small", **below)
    return handles


def _drawn(
    ax: Axes,
    wiring: Drawn,
    layout: str,
    neuron_colors: dict[str, Color],
    synapse_colors: dict[str, Color],
    labels: bool,
) -> list[Patch]:
    """The graph on the axes, kind by kind; handles of what was drawn."""
    nx, graph = _optional("networkx", "draw_graph"), graph_of(wiring)
    if layout == "kamada" or (layout in ("spring", "spectral") and len(graph) >= 500):
        _optional("scipy", "draw_graph")
    position = _positions(nx, wiring, graph, layout)
    nodes = _grouped(graph.nodes(data="neuron_type"))
    edges = _grouped(((a, b), polarity) for a, b, polarity in graph.edges(data="polarity"))
    for kind, names in nodes.items():
        if kind not in neuron_colors:
            raise ValueError(
                f"[draw_graph] neuron_colors must name a colour for {kind!r}, got none."
            )
        nx.draw_networkx_nodes(graph, position, names, node_color=neuron_colors[kind], ax=ax)
    for polarity, pairs in edges.items():
        nx.draw_networkx_edges(graph, position, pairs, edge_color=synapse_colors[polarity], ax=ax)
    if labels:
        nx.draw_networkx_labels(graph, position, ax=ax)
    neurons = _handles(nodes, neuron_colors, "neurons")
    return neurons + _handles(edges, synapse_colors, "synapses")


def _colors(
    name: str,
    defaults: Mapping[str, Color],
    given: Mapping[str, Color] | None,
    kinds: Iterable[str],
) -> dict[str, Color]:
    """The colours by kind, those ``given``, of ``kinds`` alone, in place of the defaults."""
    is_color = _optional("matplotlib.colors", "draw_graph").is_color_like
    if given is not None and not isinstance(given, Mapping):
        raise refused("draw_graph", name, "a dict of names and colours", given)
    for kind, color in (given or {}).items():
        if kind not in kinds:
            raise refused("draw_graph", name, f"colours of {', '.join(sorted(kinds))}", kind)
        if not is_color(color):
            raise refused("draw_graph", f"{name}[{brief(kind)}]", "a colour of matplotlib", color)
    return {**defaults, **(given or {})}


def _positions(nx: Any, wiring: Drawn, graph: DiGraph, layout: str) -> dict:
    layouts = {
        "kamada": nx.kamada_kawai_layout,
        "circular": nx.circular_layout,
        "random": lambda g: nx.random_layout(g, seed=0),
        "shell": nx.shell_layout,
        "spring": lambda g: nx.spring_layout(g, seed=0),
        "spectral": nx.spectral_layout,
        "spiral": nx.spiral_layout,
        "layered": lambda g: _layered(wiring, g),
    }
    return layouts[layout](graph)


def _layered(wiring: Drawn, graph: DiGraph) -> dict[str, tuple[int, float]]:
    """Columns: inputs, then the wiring's layers; a single layer is split by motor or not."""
    columns = [[name for name, kind in graph.nodes(data="neuron_type") if kind == "sensory"]]
    if wiring.num_layers > 1:
        for layer in range(wiring.num_layers):
            columns.append([f"neuron_{i}" for i in wiring.get_neurons_of_layer(layer)])
    else:
        kinds = {f"neuron_{i}": wiring.get_type_of_neuron(i) for i in range(wiring.units)}
        columns.append([name for name, kind in kinds.items() if kind != "motor"])
        columns.append([name for name, kind in kinds.items() if kind == "motor"])
    columns = [column for column in columns if column]
    return {
        name: (x, (i + 0.5) / len(column))
        for x, column in enumerate(columns)
        for i, name in enumerate(column)
    }


def _grouped(pairs: Iterable[tuple[Member, str]]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for member, group in pairs:
        groups.setdefault(group, []).append(member)
    return groups


def _handles(groups: dict[str, list], colors: dict[str, Color], noun: str) -> list[Patch]:
    patches = importlib.import_module("matplotlib.patches")
    return [
        patches.Patch(color=colors[kind], label=f"{kind.capitalize()} {noun}") for kind in groups
    ]


def _optional(module: str, op: str) -> Any:
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"[{op}] needs {package}, which is not installed: pip install {package}."
        ) from error
