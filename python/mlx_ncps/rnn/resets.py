"""Episodes within a sequence: where a state starts anew, and from what."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ..values import has_values
from .masks import Steps


class Resets(NamedTuple):
    """Steps before which a state starts anew. Backwards in time an episode is entered at its end,
    so there a state starts anew before each step that the first one of another episode follows.
    """

    at: mx.array  # [B, T] True: before this step, in the order of reading
    state: Any  # from this state, [B, ...] each array

    def before(self, t: int, state: Any) -> Any:
        """The state that step t reads, where that of the step before it is `state`."""
        return started_anew(self.at[:, t], self.state, state)

    def read(self, states: Any) -> Any:
        """What each step reads, [B, T, ...] each array, of the states before it."""
        return tree_map(
            lambda s, f: mx.where(_like(self.at, s), f[:, None].astype(s.dtype), s),
            states,
            self.state,
        )

    def backwards(self) -> Resets:
        """The same episodes read from the end; self.at is in the order of time."""
        never = mx.zeros_like(self.at[:, :1])
        return self._replace(at=mx.concatenate([never, self.at[:, 1:][:, ::-1]], axis=1))

    def moved(self, steps: Steps) -> Resets:
        """Those of the steps that a mask moved to the front: a reset of a step that it leaves out
        acts on the next one.
        """
        count = steps.take(mx.cumsum(self.at.astype(mx.int32), axis=1), 0)
        earlier = mx.pad(count[:, :-1], [(0, 0), (1, 0)])
        return self._replace(at=count > earlier)

    def spread(self, steps: Steps, mask: mx.array, tree: Any, first: Any) -> Any:
        """Arrays [B, T, ...] that `steps` moved back, with `first` [B, ...] where no step of the
        mask has followed the last reset yet.
        """
        before = mx.where(self.at, steps.seen - mask.astype(mx.int32), -1)
        fresh = steps.seen == mx.cummax(before, axis=1)  # [B, T]
        return tree_map(lambda a, f: mx.where(_like(fresh, a), f[:, None], a), tree, first)


def started_anew(at: mx.array, first: Any, state: Any) -> Any:
    """The arrays [B, ...] of `state`, of `first` in the rows where at [B] is True."""
    return tree_map(lambda s, f: mx.where(_like(at, s), f.astype(s.dtype), s), state, first)


def rows_anew(at: np.ndarray, first: Any, state: Any) -> Any:
    """`started_anew` at once, `first` None for zeros; None where an array is not of evaluated
    float32 numbers.
    """
    if isinstance(state, tuple | list):
        firsts = (None,) * len(state) if first is None else first
        if not isinstance(firsts, tuple | list) or len(firsts) != len(state):
            return None
        parts = [rows_anew(at, f, s) for f, s in zip(firsts, state, strict=True)]
        return None if any(part is None for part in parts) else type(state)(parts)
    if not has_values(state) or state.shape[:1] != at.shape:
        return None
    if first is not None and (not has_values(first) or first.shape != state.shape):
        return None
    rows = np.array(state)
    rows[at] = 0 if first is None else np.array(first)[at]
    return mx.array(rows)


def _like(at: mx.array, x: mx.array) -> mx.array:
    """`at` with as many axes as x, which begins with its."""
    return at.reshape(*at.shape, *(1,) * (x.ndim - at.ndim))
