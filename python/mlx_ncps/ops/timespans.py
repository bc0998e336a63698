"""Elapsed times in all the forms that a user may write, brought to the two that backends read."""

from __future__ import annotations

import math
import numbers
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import array_of_others, brief, is_array
from . import shapeless

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
_INTS = (mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64)


def normalise_timespans(
    op: str, ts: Any, batch: int, steps: int, inputs: mx.array | None = None
) -> float | mx.array:
    """`ts` as a Python float >= 0, a float32 0-d array, or a float32 array [B, T].

    ts: None (1.0 for each step), a number, or an array of shape [], [T], [B, T] or [B, T, 1];
    integers become float32. A negative or NaN number raises ValueError, as do another shape, bool,
    str and float64; a negative element of an array becomes NaN, for checking values would force
    evaluation. inputs: [B, T, ...], whose sizes an array [T] follows under shapeless mx.compile.
    """
    if ts is None:
        return 1.0
    if type(ts) is float and ts >= 0:  # also one that was normalised before
        return ts
    if isinstance(ts, numbers.Real) and not isinstance(ts, bool):
        return _number(op, ts)
    ts = _array(op, ts)
    if ts.ndim == 3 and ts.shape == (batch, steps, 1):
        ts = ts.squeeze(2)
    if ts.shape not in ((), (steps,), (batch, steps)):
        raise ValueError(f"[{op}] timespans must be [B, T] = ({batch}, {steps}), got {ts.shape}.")
    ts = _not_negative(ts)
    if ts.ndim == 1 and inputs is not None:
        return shapeless.timespans(ts, inputs)
    return ts if ts.ndim == 0 else mx.broadcast_to(ts, (batch, steps))


def check_timespans(op: str, ts: Any) -> float | mx.array:
    """The same of an array of any shape, whose negative elements stay."""
    if ts is None:
        return 1.0
    if isinstance(ts, numbers.Real) and not isinstance(ts, bool):
        return _number(op, ts)
    return _array(op, ts)


def normalise_step_timespans(op: str, ts: Any, lead: tuple) -> float | mx.array:
    """`ts` of one step of rows `lead`, mostly (B,), as a Python float, a 0-d array or [*lead, 1].

    ts: None, a number, or an array of shape [], [*lead] or [*lead, 1]; else as above.
    """
    if ts is None or isinstance(ts, numbers.Real):
        return normalise_timespans(op, ts, 1, 1)
    ts = _array(op, ts)
    if ts.shape not in ((), lead, (*lead, 1)):
        raise ValueError(f"[{op}] timespans must be [B] = {lead}, got {ts.shape}.")
    ts = _not_negative(ts)
    return ts[..., None] if ts.ndim and ts.shape == lead else ts


def _number(op: str, ts: Any) -> float:
    try:
        ts = float(ts)
    except OverflowError:
        raise ValueError(f"[{op}] timespans must fit a float, got {brief(ts)}.") from None
    if not ts >= 0:
        raise ValueError(f"[{op}] timespans must be >= 0, got {ts}.")
    return ts


def _not_negative(ts: mx.array) -> mx.array:
    return mx.where(ts >= 0, ts, mx.array(math.nan, mx.float32))


def _array(op: str, ts: Any) -> mx.array:
    if isinstance(ts, np.ndarray):
        if ts.dtype.kind not in "fiu":
            raise ValueError(f"[{op}] timespans must be real numbers, got dtype {ts.dtype}.")
        return mx.array(ts.astype(np.float32))
    if not is_array(ts):
        raise ValueError(
            f"[{op}] timespans must be a number >= 0 or an array, "
            f"got {array_of_others(ts) or f'{type(ts).__name__} {brief(ts)}'}."
        )
    if ts.dtype not in _FLOATS + _INTS:
        raise ValueError(
            f"[{op}] timespans must be float32, float16, bfloat16 or integers, got {ts.dtype}."
        )
    return ts.astype(mx.float32)
