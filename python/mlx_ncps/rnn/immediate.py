"""Calls and steps of a layer that are computed at once, without a graph."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..at_once import STEP, More, attempt, linear
from ..cells import LiquidCell
from ..layers.linear import is_plain
from ..values import with_batch
from .own_steps import steps_of
from .stateful import Stateful
from .watched import ACTIVE, watched


class Immediate(Stateful):
    """A layer that tries it."""

    def _at_once(self, x: Any, state: Any, ts: Any, form: int, mask: Any = None) -> tuple | None:
        """(output, new state) computed now, or None where a graph must."""
        cell, lstm = self.get("rnn_cell"), self.get("lstm")  # a plain function lies elsewhere
        if self.bidirectional or self.go_backwards or (self.mixed_memory and lstm is None):
            return None
        if ACTIVE and watched.runs is not None:
            return None
        root = None
        if not isinstance(cell, LiquidCell):
            root, cell = cell, steps_of(self, x, ts)
            if cell is None:
                return None
        if state is None and self._kept:
            state = self._kept["states"][0]
            if rank_of(x) == (1 if form == STEP else 2) and _rows(state) == 1:
                state = _with_batch(state, False)
        more = None
        if form != STEP and (mask is not None or not self.batch_first):
            more = More(_as_array(mask), self._kept_seen(0), not self.batch_first)
        done = attempt(cell, lstm, x, state, ts, form, more, root)
        if done is None:
            return None
        output, state = done[0], done[1]
        if "fc" in self or "fc" in self.__dict__:
            output = self._project_at_once(output)
        if self.stateful:
            self._keep_at_once(state, done[2:])
        return output, state

    def _keep_at_once(self, state: Any, seen: tuple) -> None:
        """`_keep` of a call computed at once; seen: of its mask of features, if it had one."""
        batched = _with_batch(state, True)
        self._kept = {"states": [batched], "seen": list(seen) or self._kept.get("seen", [])}

    def _project_at_once(self, output):
        """`_project` without a graph where the map is a linear one."""
        fc, mapped = self.get("fc"), None
        if fc is not None and is_plain(fc):
            mapped = linear(output, fc["weight"], fc.get("bias"))
        wrong = mapped is None or mapped.shape[-1] != self.proj_size
        return self._project(output) if wrong else mapped


def _rows(state: Any) -> int:
    return (state[0] if isinstance(state, tuple) else state).shape[0]


def _as_array(mask: Any) -> Any:
    """A mask of NumPy's real numbers as an mx.array, which can't have negative strides; all else as
    it is.
    """
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "fiub":
        return mx.array(np.ascontiguousarray(mask))
    return mask


def _with_batch(state: Any, batched: bool) -> Any:
    """States [H] as [1, H], or back where not `batched`; without tree_map, which takes as long as a
    small step.
    """
    if isinstance(state, tuple):
        return tuple([_with_batch(s, batched) for s in state])
    return state if state.ndim == 1 + batched else with_batch(state, batched)


def rank_of(x: Any) -> int:
    """The rank of an array; 0 for what is none, also for one that was never initialised."""
    try:
        return x.ndim if isinstance(x, mx.array) else 0
    except TypeError:
        return 0
