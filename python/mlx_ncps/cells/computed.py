"""The synapses that a cell computes, as a wiring's pictures take them: those of its wiring as the
cell reads them, and others that the wiring doesn't have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..wirings import draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from networkx import DiGraph

    from ..wirings import Wiring


class Computed:
    """A built wiring with other synapses, [source, target]: -1, 1, or `draw.UNSIGNED` for one whose
    weight alone says whether it excites.
    """

    def __init__(self, wiring: Wiring, adjacency: np.ndarray, sensory_adjacency: np.ndarray):
        self._wiring = wiring
        self.units = wiring.units
        self.num_layers = wiring.num_layers
        self.adjacency = adjacency
        self.sensory_adjacency = sensory_adjacency

    def get_neurons_of_layer(self, layer_id: int) -> list[int]:
        """As the wiring has it."""
        return self._wiring.get_neurons_of_layer(layer_id)

    def get_type_of_neuron(self, neuron_id: int) -> str:
        """As the wiring has it."""
        return self._wiring.get_type_of_neuron(neuron_id)


class DrawnCell:
    """The pictures of a cell that follows a wiring."""

    op: str
    built: bool
    wiring: Any

    def _computed(self) -> Computed:
        """The synapses that are computed now."""
        wiring, cell = self.wiring, cast("Any", self)
        if hasattr(cell, "synapses_into"):
            layers = [cell.synapses_into(n) for n in range(cell.num_layers)]
            whole = bool(cell.backbone_options.sizes)
            return _of_layers(wiring, layers, cell.fully_recurrent, whole)
        if "erev" in cell:
            return _of_reversal_potentials(wiring, cell.erev, cell.sensory_erev)
        return Computed(wiring, wiring.adjacency, wiring.sensory_adjacency)

    def get_graph(self, include_sensory_neurons: bool = True) -> DiGraph:
        """A ``networkx.DiGraph`` of the synapses that the cell computes, as `Wiring.get_graph`
        gives those of a wiring.

        They differ from those of the wiring in a wired CfC, which reads it from layer to layer
        only and where, unless ``fully_recurrent=False``, all neurons of a layer read each other;
        their ``polarity`` is ``"unsigned"`` where only a weight says which it is. An LTC's are as
        excitatory or inhibitory as its reversal potentials are now.
        Raises ValueError before the cell is built; ImportError without networkx.

        Example:
            >>> from mlx_ncps import CfC
            >>> from mlx_ncps.wirings import AutoNCP
            >>> layer = CfC(3, AutoNCP(16, 4), fully_recurrent=False)
            >>> graph = layer.rnn_cell.get_graph()  # doctest: +SKIP
        """
        return draw.graph_of(self._built_graph("get_graph"), include_sensory_neurons)

    def draw_graph(
        self,
        layout: str = "shell",
        neuron_colors: Mapping[str, draw.Color] | None = None,
        synapse_colors: str | Mapping[str, draw.Color] | None = None,
        draw_labels: bool = False,
        *,
        ax: Axes | None = None,
        legend: bool = False,
    ) -> list[Patch]:
        """Draws the graph of `get_graph`, unsigned synapses grey; arguments, errors and what comes
        back as in `mlx_ncps.wirings.draw.draw_graph`.
        """
        computed = self._built_graph("draw_graph")
        return draw.draw_graph(
            computed, layout, neuron_colors, synapse_colors, draw_labels, ax=ax, legend=legend
        )

    def _built_graph(self, method: str) -> Computed:
        if not self.built:
            raise ValueError(
                f"[{self.op}] {method} wants a cell that is built, got one that isn't: call it "
                "once before, or build(input_size)."
            )
        return self._computed()


def _of_reversal_potentials(wiring: Wiring, erev: Any, sensory_erev: Any) -> Computed:
    """The synapses of a wiring with the signs of an LTC's reversal potentials."""
    pairs = (wiring.adjacency, erev), (wiring.sensory_adjacency, sensory_erev)
    signed = [(matrix != 0) * np.where(np.array(e) < 0, -1, 1) for matrix, e in pairs]
    return Computed(wiring, *signed)


def _of_layers(wiring: Wiring, layers: list[np.ndarray], fully_recurrent: bool, whole: bool) -> Any:
    """The synapses of a wired CfC: layers of [in + H_n, H_n] into each layer; `whole`: a source
    with a synapse into a layer reaches all of it.
    """
    adjacency = np.zeros_like(wiring.adjacency)
    sensory = np.zeros_like(wiring.sensory_adjacency)
    for n, mask in enumerate(layers):
        own = wiring.get_neurons_of_layer(n)
        incoming = mask[: len(mask) - len(own)]
        if whole:
            read = np.any(incoming != 0, axis=1, keepdims=True)
            incoming = np.broadcast_to(read * draw.UNSIGNED, incoming.shape)
        if n == 0:
            sensory[:, own] = incoming
        else:
            adjacency[np.ix_(wiring.get_neurons_of_layer(n - 1), own)] = incoming
        among = draw.UNSIGNED if fully_recurrent or whole else mask[len(mask) - len(own) :]
        adjacency[np.ix_(own, own)] = among
    return Computed(wiring, adjacency, sensory)
