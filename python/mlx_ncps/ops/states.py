"""States of recurrent cells: zeros to start from, their past cut off, rows set back; used by cells
and by users' own loops.
"""

from __future__ import annotations

import mlx.core as mx
from mlx.utils import tree_map

from .checks import check_array


def initial_state(batch_size: int, units, *, dtype=None):
    """Zeros [B, H], float32 unless `dtype` says another; a tuple of them when `units` is one, as
    for the (h, c) of mixed memory.
    """
    if isinstance(units, tuple | list):
        return tuple(initial_state(batch_size, size, dtype=dtype) for size in units)
    return mx.zeros((batch_size, units), mx.float32 if dtype is None else dtype)


def detach_state(state):
    """The state, an array or a tuple of them, without its past: no gradient flows through it."""
    return tree_map(mx.stop_gradient, state)


def reset_state(state, done):
    """The state, [B, ...] or a tuple of such, with zeros in the rows where `done` [B] is true: the
    sequences that start anew in a batch of streams. Raises ValueError when `done` isn't [B].
    """
    if isinstance(state, tuple | list):
        return tuple(reset_state(part, done) for part in state)
    check_array("reset_state", "done", done, "[B]", state.shape[:1], ())
    rows = done.astype(mx.bool_).reshape(-1, *[1] * (state.ndim - 1))
    return mx.where(rows, mx.zeros_like(state), state)
