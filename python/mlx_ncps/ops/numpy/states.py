"""States of recurrent cells: zeros to start from, detached from their past, rows reset to zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import Numbers, as_float64
from .checks import dtype as checked_dtype
from .checks import integer, refused


def initial_state(batch_size: int, units: int | Sequence[int], *, dtype: Any = None) -> Any:
    """Zeros [B, H], float64 unless ``dtype`` says another; a tuple of them when ``units`` is one,
    as for the (h, c) of mixed memory.
    """
    if isinstance(units, (tuple, list)):
        return tuple(initial_state(batch_size, size, dtype=dtype) for size in units)
    op = "initial_state"
    shape = (integer(op, "batch_size", batch_size, 0), integer(op, "units", units, 0))
    return np.zeros(shape, checked_dtype(op, dtype))


def detach_state(state: Any) -> Any:
    """The state unchanged: NumPy records nothing for a gradient."""
    if isinstance(state, (tuple, list)):
        return tuple(detach_state(part) for part in state)
    return _array("detach_state", state)


def reset_state(state: Any, done: Numbers) -> Any:
    """The state, [B, ...] or a tuple of such, with zeros in the rows where ``done`` [B] is true.

    Raises ValueError when ``done`` isn't [B].
    """
    if isinstance(state, (tuple, list)):
        return tuple(reset_state(part, done) for part in state)
    state, done = _array("reset_state", state), as_float64(done)
    if done is None:
        raise refused("reset_state", "done", "an array [B]", done)
    if done.shape != state.shape[:1]:
        raise ValueError(f"[reset_state] done must be [B] = {state.shape[:1]}, got {done.shape}.")
    return np.where(done.astype(bool).reshape(-1, *[1] * (state.ndim - 1)), 0.0, state)


def _array(op: str, part: Any) -> np.ndarray:
    part = as_float64(part)
    if part is None or part.ndim == 0:
        raise refused(op, "state", "an array [B, ...] or a tuple of them", part)
    return part
