"""Why a direction of a layer runs step by step and not over the whole sequence."""

from __future__ import annotations

from typing import Any

from ..cells import LSTMCell
from ..ops.mixed_memory import mixed_memory_is_fused
from ..programs import gpu_in_place
from .any_cell import name_of, owner_of, runs_sequences, starts_anew

_MIXED = (
    "the LSTM in front of the cell reads the state that the cell wrote one step before, and {} "
    "has no kernel of both"
)


def why_steps(layer: Any) -> str:
    """The reason, or "" when it runs over the whole sequence."""
    if layer.mixed_memory:
        return _why_behind_memory(layer)
    if runs_sequences(layer.rnn_cell):
        return layer.rnn_cell.stepwise()
    return f"{name_of(layer.rnn_cell)} is called once for each step"


def why_steps_with_resets(layer: Any) -> str:
    """The same of a call that starts anew at some steps."""
    if why := why_steps(layer):
        return why
    if not starts_anew(layer.rnn_cell):
        return f"{name_of(layer.rnn_cell)}.sequence takes no resets"
    return ""


def cell_takes_memory(layer: Any) -> bool:
    """Whether the cell's `mixed_sequence` runs the LSTM too: where it is fused, and where it draws
    dropout for the whole sequence, so that all backends draw the same.
    """
    if not _why_behind_memory(layer):
        return True
    if gpu_in_place() is not None:  # whose step programs draw the same
        return False
    return bool(getattr(layer.rnn_cell, "_drops", list)()) and not _why_apart(layer)


def _why_behind_memory(layer: Any) -> str:
    """`why_steps` of a cell behind the LSTM."""
    if why := _why_apart(layer):
        return why
    for op, facts in layer.rnn_cell.calls():
        if not mixed_memory_is_fused(op, facts):
            return _MIXED.format("its backend")
    return ""


def _why_apart(layer: Any) -> str:
    """Why it isn't the cell that runs both over the sequence, in whatever way; or ""."""
    cell = layer.rnn_cell
    if type(layer.lstm) is not LSTMCell:
        return f"lstm is {name_of(layer.lstm)}, no LSTMCell: each step calls it"
    if why := layer.lstm.stepwise():
        return f"lstm: {why}"
    if not runs_sequences(cell):
        return f"{name_of(cell)} is called once for each step"
    if why := cell.stepwise():
        return why
    owners = [owner_of(cell, name) for name in ("sequence", "mixed_sequence")]
    if owners[1] is None or owners[0] is not owners[1]:
        return _MIXED.format(name_of(cell))
    return ""
