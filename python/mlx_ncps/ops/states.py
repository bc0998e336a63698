"""States of recurrent cells: zeros to start from, detached from their past, rows reset to zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from .. import limits
from ..checks import float_dtype, integer, is_array, refused
from .checks import check_array


def initial_state(
    batch_size: int, units: int | Sequence[int], *, dtype: mx.Dtype | None = None
) -> Any:
    """Zeros [B, H] of `batch_size` and `units`, float32 unless `dtype` says another; a tuple of
    them when `units` is one, as for the (h, c) of mixed memory.

    Example:
        >>> ops.initial_state(8, 16).shape
        (8, 16)
    """
    op = "initial_state"
    if isinstance(units, tuple | list):
        return tuple(initial_state(batch_size, size, dtype=dtype) for size in units)
    batch_size = integer(op, "batch_size", batch_size, 0, most=limits.MAX_AXIS)
    return mx.zeros((batch_size, integer(op, "units", units, 0)), float_dtype(op, dtype))


def detach_state(state: Any) -> Any:
    """The state, an array or a tuple of them, without its past: no gradient flows through it.

    Example:
        >>> mx.grad(lambda state: ops.detach_state(state).sum())(mx.ones((1, 2))).tolist()
        [[0.0, 0.0]]
    """
    return tree_map(lambda part: mx.stop_gradient(_array("detach_state", part)), state)


def reset_state(state: Any, done: mx.array) -> Any:
    """The state, [B, ...] or a tuple of such, with zeros in the rows where `done` [B] is true: the
    sequences that start anew in a batch of streams. Raises ValueError when `done` isn't [B].

    Example:
        >>> ops.reset_state(mx.ones((2, 2)), mx.array([True, False])).tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """
    if isinstance(state, tuple | list):
        return tuple(reset_state(part, done) for part in state)
    _array("reset_state", state)
    check_array("reset_state", "done", done, "[B]", state.shape[:1], ())
    rows = done.astype(mx.bool_).reshape(-1, *[1] * (state.ndim - 1))
    return mx.where(rows, mx.zeros_like(state), state)


def _array(op: str, part: Any) -> mx.array:
    """`part`, which must be an array with a batch."""
    if not is_array(part) or part.ndim == 0:
        raise refused(op, "state", "an mx.array [B, ...] or a tuple of them", part)
    return part
