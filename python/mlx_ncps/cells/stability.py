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
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..ops.activations import softplus

if TYPE_CHECKING:
    from .._types import TimespansLike
    from ..ops.params import LTCParams

LIMITS = {"explicit": 2.0, "runge_kutta": 2.785}  # of q


def largest_rate(params: LTCParams, implicit: bool) -> mx.array:
    """R of the fastest neuron of LTCParams, []; infinity where a capacitance is not positive."""
    p = params
    gleak, cm, w, sensory_w = (a.astype(mx.float32) for a in (p.gleak, p.cm, p.w, p.sensory_w))
    if implicit:
        gleak, cm, w, sensory_w = (softplus(q) for q in (gleak, cm, w, sensory_w))
    w = w if p.mask is None else w * p.mask
    sensory_w = sensory_w if p.sensory_mask is None else sensory_w * p.sensory_mask
    total = mx.abs(gleak) + mx.abs(w).sum(axis=0) + mx.abs(sensory_w).sum(axis=0)
    return mx.max(mx.where(cm > 0, total / cm, math.inf))


def stable_unfolds(
    params: LTCParams, implicit: bool, ode_solver: str, ts: TimespansLike
) -> float | None:
    """The least number of unfolds that is stable for any inputs, infinity where none is; None among
    tracers, which have no values. ts: None, a number or an array.
    """
    longest = mx.array(1.0 if ts is None else ts, mx.float32)
    if longest.size == 0:
        return 1
    q = mx.max(longest) * largest_rate(params, implicit)
    try:
        mx.async_eval(q)  # refuses under mx.compile, mx.vmap and mx.grad
    except ValueError:
        return None
    most: Any = q.item()
    return math.floor(most / LIMITS[ode_solver]) + 1 if most < 1e9 else math.inf


class StabilityWarning:
    """Warns once, in the first call with values that may diverge; belongs to one cell."""

    def __init__(self) -> None:
        self.given = False

    def check(self, cell: Any, params: LTCParams, ts: TimespansLike) -> None:
        """Called with what `LTCCell.sequence` computes with."""
        if cell.ode_solver == "semi_implicit" or self.given:
            return
        wanted = stable_unfolds(
            params, cell.implicit_param_constraints, cell.ode_solver, _values(ts)
        )
        if wanted is None or wanted <= cell.ode_unfolds:
            return
        self.given = True
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
            stacklevel=2,
        )


def _values(ts: TimespansLike) -> float | mx.array | None:
    """Time spans of integers or NumPy as float32."""
    return mx.array(ts.astype(np.float32)) if isinstance(ts, np.ndarray) else ts
