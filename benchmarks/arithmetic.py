"""How many multiply-adds a layer does for a step of a sequence: what its time is judged by."""

from __future__ import annotations

from typing import Any

from mlx.utils import tree_flatten
from mlx_ncps.cells import LTCCell

GATE = 8  # multiply-adds that a gate of an LTC counts as
# The matrices of a cell that its solver reads at every evaluation; the others are read once.
_SOLVED = {
    "CTRNNCell": ("recurrent_map",),
    "NeuralODECell": ("recurrent_map", "field"),
    "ODERNNCell": ("field",),
    "ODELSTMCell": ("field",),
    "ELTCCell": ("w",),
}


def multiply_adds(layer: Any) -> int:
    """Those of all its cells, in both directions; a gate of an LTC counts as 8."""
    layers = layer.get("layers")
    if layers:
        return sum(multiply_adds(each) for each in layers)
    once = _of_cell(layer.rnn_cell) + (_matrices(layer["lstm"]) if "lstm" in layer else 0)
    return once * (2 if layer.bidirectional else 1)


def _of_cell(cell: Any) -> int:
    evaluations = getattr(cell, "ode_unfolds", 1)
    if getattr(cell, "ode_solver", "") == "runge_kutta":
        evaluations *= 4
    if isinstance(cell, LTCCell):
        gates = evaluations * cell.synapse_count + cell.sensory_synapse_count
        backbone = sum(_matrices(linear) for linear in cell.get("backbone") or ())
        return GATE * gates + backbone
    solved = _SOLVED.get(type(cell).__name__, ())
    return _matrices(cell) + (evaluations - 1) * _matrices(cell, solved)


def _matrices(module: Any, names: tuple[str, ...] | None = None) -> int:
    """Elements of the module's matrices, of those that begin with a name."""
    return sum(
        p.size
        for name, p in tree_flatten(module.trainable_parameters())
        if p.ndim == 2 and (names is None or name.split(".")[0] in names)
    )
