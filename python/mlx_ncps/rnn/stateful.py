"""The states that a recurrent layer starts from, and what it keeps between calls."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from .described import Described
from .direction import Result
from .layout import Layout
from .masks import Seen
from .tracing import check_state_captured


class Stateful(Described):
    """A layer that may keep its state, in `_kept`: "states" of each direction, and "seen", what it
    knows of each feature; empty, nothing is kept.
    """

    def _states(self, layout: Layout, hx: Any, x: mx.array) -> tuple:
        """The state of each direction before the first step of x [B, T, F], batched."""
        batch = x.shape[0]
        sizes = self._state_sizes
        if hx is None and self._kept:
            return self._kept_states(batch)
        if hx is None and sizes is None:
            return tuple(half._free_initial_state(batch) for half in self._directions)
        if self.bidirectional:
            sizes = {"forward": sizes, "backward": sizes}
        states = layout.state(hx, sizes, x)
        return states if self.bidirectional else (states,)

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
