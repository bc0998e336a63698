"""When the solvers explicit and runge_kutta of an LTC can't diverge, and a warning
where they may.

A neuron's rate is d / cm, d the sum of its conductances (>= 0), and no gate is above 1: the rate is
at most R = (gleak + sum |w mask| + sum |sensory_w sensory_mask|) / cm. With q = (ts / U) R a step
of Euler's method multiplies the state by 1 - q' for some 0 <= q' <= q, which is within +-1 to
q = 2. The classical Runge-Kutta method multiplies by a polynomial that is linear in the rate of
each of its four stages, so that its extremes lie where each rate is 0 or R: within +-1 to
q = 2.785. Below that the states stay bounded whatever the inputs are; above it they may, as the
gates are mostly below 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import values
from ..ops.activations import softplus
from ..ops.timespans import check_timespans
from .ncp import NCPRNNCell

if TYPE_CHECKING:
    from .._types import TimespansLike

LIMITS = {"explicit": 2.0, "runge_kutta": 2.785}  # of q
_READ = ("gleak", "cm", "w", "sensory_w", "sparsity_mask", "sensory_sparsity_mask")


def stable_unfolds(rate: float, ode_solver: str, ts: float) -> float:
    """The least number of unfolds that is stable for any inputs, infinity where none is; 1 for a
    solver that is stable for any step.
    """
    if ode_solver not in LIMITS:
        return 1
    q = ts * rate
    return math.floor(q / LIMITS[ode_solver]) + 1 if q < 1e9 else math.inf


def longest_timespan(ts: TimespansLike) -> float | None:
    """The largest of ts, a number, an array of any shape, or None for 1.0; 0 of none, and for a
    negative element, which gives NaN anyway. None among tracers that have no values.
    """
    spans: Any = check_timespans("ltc", ts)
    if isinstance(spans, float):
        return spans
    most = values.native("largest", spans)
    if most is not None or spans.size == 0:
        return most or 0.0
    return _value(mx.max(mx.where(spans >= 0, spans, 0.0)))


def _value(a: mx.array) -> float | None:
    """What an array holds; None where that is unknown, under mx.compile and mx.vmap."""
    if values.lacks_value(a):
        return None
    value: Any = a.item()
    return float(value)


class Stability:
    """The largest rate of one cell, known until its parameters change, and its one warning."""

    def __init__(self, given: bool = False) -> None:
        self.given = given
        self._rate: tuple[Any, bool, float] | None = None  # (what it was read from, ..., itself)
        self._last: float | None = None  # the last one that was known

    def __reduce__(self) -> tuple:
        return Stability, (self.given,)

    def __deepcopy__(self, memo: dict) -> Stability:
        return Stability(self.given)

    def rate(self, cell: Any) -> float | None:
        """R of the fastest neuron; infinity where a capacitance is not positive, None where the
        parameters have no values.
        """
        arrays, implicit = [cell[name] for name in _READ], cell.implicit_param_constraints
        known = self._rate
        if known is not None and known[1] == implicit and known[0].are(arrays):
            return known[2]
        rate = values.native("largest_rate", arrays, implicit)
        rate = _value(_largest_rate(arrays, implicit)) if rate is None else rate
        if rate is None:
            return None
        self._last = rate = math.inf if math.isnan(rate) else rate
        seen = values.seen(arrays)
        self._rate = None if seen is None else (seen, implicit, rate)
        return rate

    def longest_stable(self, cell: Any) -> float:
        """From which elapsed time on a step must be checked: infinity where none need be."""
        if self.given or cell.ode_solver not in LIMITS:
            return math.inf
        rate = self.rate(cell) or 0.0
        return cell.ode_unfolds * LIMITS[cell.ode_solver] / rate if rate > 0 else math.inf

    def unfolds(self, cell: Any, ts: TimespansLike) -> int:
        """The least number that is stable for any inputs, or ValueError where none is known."""
        rate, longest = self.rate(cell), longest_timespan(ts)
        if rate is None or longest is None:
            raise ValueError(
                f"[{cell.op}] stable_unfolds wants arrays with values, got traced ones: call it "
                "outside of mx.compile and mx.vmap."
            )
        unfolds = stable_unfolds(rate, cell.ode_solver, longest)
        if unfolds == math.inf:
            raise ValueError(
                f"[{cell.op}] stable_unfolds wants every cm > 0 and a finite ts, got a rate of "
                f"{rate:g} and ts up to {longest:g}."
            )
        return int(unfolds)

    def check(self, cell: Any, ts: TimespansLike) -> None:
        """Warns once, in the first call that may diverge: by the last parameters that had values
        where mx.compile traces them.
        """
        if self.given or cell.ode_solver not in LIMITS:
            return
        rate = self.rate(cell)
        rate = self._last if rate is None else rate
        longest = None if rate is None else longest_timespan(ts)
        if rate is None or longest is None:
            return
        wanted = stable_unfolds(rate, cell.ode_solver, longest)
        if wanted <= cell.ode_unfolds:
            return
        self.given = True
        cell._step_cell.made = None  # which leaves such steps to a graph, for this warning
        advice = (
            f"{wanted} unfolds are stable for any inputs"
            if wanted < math.inf
            else "no number of unfolds is known to be stable (is every cm > 0, ts finite?)"
        )
        warnings.warn(
            f"[{cell.op}] the solver {cell.ode_solver} may diverge with "
            f"ode_unfolds={cell.ode_unfolds}, as its steps are long against cm over a neuron's "
            f"conductances; {advice}, and semi_implicit is with any number.",
            UserWarning,
            stacklevel=3,
        )


class SolverCell(NCPRNNCell):
    """A cell of a wiring whose solver may diverge."""

    def __init__(self) -> None:
        super().__init__()
        self._stability = Stability()

    def stable_unfolds(self, ts: TimespansLike = None) -> int:
        """The least `ode_unfolds` with which the cell's solver can't diverge in steps of the length
        ts, whatever the inputs are (MATHS 3.21); 1 for semi_implicit.

        Fewer are often enough, because the bound takes every gate as open. It depends on the
        parameters, and so changes in training.

        ts: None (1.0), a number >= 0, or an array of any shape, of which the largest counts.
        Raises ValueError for a cell that is not built, where no number is known to be stable (some
        cm <= 0, an infinite ts), and under mx.compile and mx.vmap, where values are unknown.
        """
        if not self.built:
            raise ValueError("[ltc] stable_unfolds wants a cell with weights: build it first.")
        self._sync_wiring()
        return self._stability.unfolds(self, ts)


def _largest_rate(arrays: Sequence[mx.array], implicit: bool) -> mx.array:
    *floats, mask, sensory_mask = arrays
    gleak, cm, w, sensory_w = (a.astype(mx.float32) for a in floats)
    if implicit:
        gleak, cm, w, sensory_w = (softplus(q) for q in (gleak, cm, w, sensory_w))
    total = mx.abs(gleak) + mx.abs(w * mask).sum(axis=0)
    total = total + mx.abs(sensory_w * sensory_mask).sum(axis=0)
    return mx.max(mx.where(cm > 0, total / cm, math.inf))
