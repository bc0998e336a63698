"""Single steps of a user's cell at once: its step program, kept as long as neither the cell nor
what its code reads has changed.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..at_once import StepCell
from ..cells import LSTMCell
from ..programs import HALVES, Declined, Impure, Watch, programs_of, why_none
from ..step_plan import ProgramStage, Readout, StepPlan
from .any_cell import takes_time
from .by_steps import modules_of, step_function

_MOST_TRACES = 8.0  # of a cell that keeps changing, before graphs compute its steps
_REGAINED = 1 / 32  # of a trace, with each step
_MOST_DECLINED = 3


class OwnSteps:
    """What `attempt` asks of a cell, for a user's cell in a layer and inputs of one dtype."""

    op = "rnn"

    def __init__(self, layer: Any, dtype: mx.Dtype) -> None:
        self._step_cell, self._dtype = StepCell(), dtype
        self._layer, self._cell, self._lstm = layer, layer.rnn_cell, layer.get("lstm")
        self._traces, self._declined, self._width = _MOST_TRACES, 0, 0
        self._watch: Watch | None = None
        try:
            self._read(layer)
        except Impure:
            self._declined = _MOST_DECLINED

    def _read(self, layer: Any) -> None:
        """Raises Impure where the cell's steps may become others unseen."""
        cell = self._cell
        if not isinstance(cell, nn.Module):
            raise Impure("the cell is no module")
        sizes = getattr(cell, "state_size", None)
        self._sizes: list[Any] = [*sizes] if isinstance(sizes, tuple) else [sizes]
        if layer.mixed_memory:
            self._sizes *= 2
        known = all(type(n) is int for n in self._sizes) and len({*self._sizes}) == 1
        if not known or len(self._sizes) > 2:
            raise Impure("a cell has one state or two of one size")
        self._timed = takes_time(cell)
        self._watch = Watch(modules_of(layer))

    def current(self, layer: Any) -> bool:
        """Whether these still are the steps of the layer."""
        same = layer is self._layer and layer.rnn_cell is self._cell
        same = same and layer.get("lstm") is self._lstm
        return same and (self._watch is None or self._watch.unchanged())

    def takes(self, x: Any, ts: Any) -> bool:
        """Whether such steps may be computed at once."""
        if self._declined >= _MOST_DECLINED or x.ndim == 0:
            return False
        self._traces = min(self._traces + _REGAINED, _MOST_TRACES)
        self._width = x.shape[-1]
        return self._timed or takes_none(ts)

    def _step_plan(self, mixed: bool) -> StepPlan | None:
        """As `LiquidCell` has it."""
        if why_none() or self._traces < 1:
            return None
        self._traces -= 1
        layer, width, units = self._layer, self._width, self._sizes[0]
        step = step_function(layer, mx.array if len(self._sizes) == 1 else tuple)
        bound = programs_of(layer).of(modules_of(layer), step, [width, 1], self._sizes, self._dtype)
        if isinstance(bound, Declined):
            self._declined += 1
            return None
        self._declined = 0
        stage = ProgramStage(width, units, bound.program)
        return StepPlan((stage,), bound.captured, Readout(0, units), lambda: [bound.captured])


class ByDtype(dict):
    """The OwnSteps of a layer, which copies and pickles leave behind."""

    def __deepcopy__(self, memo: dict) -> ByDtype:
        return ByDtype()

    def __reduce__(self) -> tuple:
        return ByDtype, ()


def steps_of(layer: Any, x: Any, ts: Any) -> Any:
    """What `attempt` is to be given for a cell that is no LiquidCell; None where its steps are not
    computed at once.
    """
    cell = layer.rnn_cell
    if type(cell) is LSTMCell:
        return cell if takes_none(ts) else None
    if not isinstance(x, mx.array):
        return None
    dtype = mx.float32 if layer.mixed_memory else x.dtype
    if dtype not in (mx.float32, *HALVES):
        return None
    of_dtype = vars(layer).setdefault("_own_steps", ByDtype())
    kept = of_dtype.get(dtype)
    if kept is None or not kept.current(layer):
        kept = of_dtype[dtype] = OwnSteps(layer, dtype)
    return kept if kept.takes(x, ts) else None


def takes_none(ts: Any) -> bool:
    """Whether time spans say no more than to leave them out does."""
    return ts is None or (isinstance(ts, int | float) and ts == 1.0)
