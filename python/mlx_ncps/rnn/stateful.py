"""The states that a recurrent layer starts from, and what it keeps between calls."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ..ops.checks import check_array
from ..values import is_tracing
from .described import Described
from .direction import Result
from .layout import Layout
from .masks import Seen
from .resets import Resets, rows_anew, started_anew
from .tracing import check_state_captured


class Stateful(Described):
    """A layer that may keep its state, in `_kept`: "states" of each direction, and "seen", what it
    knows of each feature; empty, nothing is kept.
    """

    def _states(self, layout: Layout, hx: Any, x: mx.array) -> tuple:
        """The state of each direction before the first step of x [B, T, F], batched."""
        if hx is None and self._kept:
            return self._kept_states(x.shape[0])
        return self._first_states(layout, hx, x, "hx")

    def _first_states(self, layout: Layout, hx: Any, x: mx.array, name: str) -> tuple:
        """hx, or where each direction starts by itself."""
        sizes = self._state_sizes
        if hx is None and sizes is None:
            return tuple(half._free_initial_state(x.shape[0]) for half in self._directions)
        if self.bidirectional:
            sizes = {"forward": sizes, "backward": sizes}
        states = layout.state(hx, sizes, x, name)
        return states if self.bidirectional else (states,)

    def _episodes(
        self, layout: Layout, resets: Any, hx: Any, reset_state: Any, x: mx.array
    ) -> tuple[Resets | None, ...]:
        """The Resets of each direction, in the order of time; None without resets."""
        halves = self._directions if self.bidirectional else (self,)
        if resets is None:
            if reset_state is not None:
                raise ValueError(f"[{self.op}] reset_state wants resets beside it, got None.")
            return (None,) * len(halves)
        at = layout.resets(resets, *x.shape[:2])
        return tuple(Resets(at, s) for s in self._reset_states(layout, hx, reset_state, x))

    def _started_anew(self, x: mx.array, state: Any, resets: Any, reset_state: Any) -> Any:
        """The state that a step of x [B, I] or [I] reads, as `step` takes it."""
        layout = Layout(self.op, x.ndim == 2, True)
        at = layout.resets_of_step(resets, x.shape[0])
        if isinstance(at, np.ndarray):
            if not at.any():
                return state
            if not self._kept and (now := self._anew_at_once(at, state, reset_state)):
                return now[0]
        x = x[:, None] if layout.batched else x[None, None]  # [B, 1, I]
        check_array(self.op, "inputs", x, "[B, T, I]", x.shape)
        self.build(x.shape[-1])
        known, at = isinstance(at, np.ndarray), mx.array(at)
        if seen := self._kept_seen(0) if self._kept else None:
            kept = started_anew(at, tuple(map(mx.zeros_like, seen)), tuple(seen))
            self._kept = {**self._kept, "seen": [kept]}
        (before,), (first,) = (
            self._states(layout, state, x),
            self._reset_states(layout, None, reset_state, x),
        )
        state = layout.single(started_anew(at, first, before))
        if known and not is_tracing():
            mx.eval(state)  # such a step is computed at once
        return state

    def _anew_at_once(self, at: np.ndarray, state: Any, reset_state: Any) -> tuple:
        """(`_started_anew`,) without a graph of a layer that keeps no state, or ()."""
        zeros = reset_state is None or (isinstance(reset_state, (int, float)) and reset_state == 0)
        first = None if zeros else reset_state
        if at.all():
            return (first,)
        if state is None:
            return (None,) if zeros else ()
        now = rows_anew(at, first, state)
        return () if now is None else (now,)

    def _reset_states(self, layout: Layout, hx: Any, reset_state: Any, x: mx.array) -> tuple:
        """The state from which each direction starts anew where an episode begins."""
        given = hx if reset_state is None else reset_state
        if isinstance(given, (int, float)) and given == 0:
            given = None
        name = "hx" if reset_state is None else "reset_state"
        return self._first_states(layout, given, x, name)

    def _kept_states(self, batch: int) -> tuple:
        leaves: Any = tree_flatten(self._kept["states"])
        kept = leaves[0][1].shape[0]
        if kept != batch:
            raise ValueError(
                f"[{self.op}] inputs must be of the batch of the kept state, {kept}, got {batch}: "
                "reset_states() starts anew."
            )
        return tuple(self._kept["states"])

    def _kept_seen(self, n: int) -> Seen | None:
        """What direction n knew of each feature at the end of the call before."""
        seen = self._kept.get("seen", ())
        return Seen(*seen[n]) if seen else None

    def _keep(self, results: list[Result], x: mx.array) -> None:
        """Keep where a call ended, without its past: gradients end at the border of a call."""
        check_state_captured(self.op, self, x)
        seen = [tuple(result.seen) for result in results if result.seen is not None]
        kept = {"states": [result.state for result in results], "seen": seen}
        self._kept = tree_map(mx.stop_gradient, kept)

    def reset_states(self) -> None:
        """Forget the state that `stateful` kept: the next call starts from zeros."""
        self._kept = {}
