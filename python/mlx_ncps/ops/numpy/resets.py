"""Sequences that start anew: where resets [B, T] is not 0, a step reads the state to start from in
place of the state of the step before. A state is (h,), or (h, c) with mixed memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .checks import refused, shaped


class Resets(NamedTuple):
    """Where a sequence starts anew, and what of."""

    at: np.ndarray  # [B, T] True: before this step
    states: tuple  # from these, [B, H] each
    given: bool  # whether they are others than those before the first step

    def before(self, t: int, *states: np.ndarray) -> tuple:
        """What step t reads, where `states` are those of the step before it."""
        at = self.at[:, t, None]
        return tuple(np.where(at, new, s) for new, s in zip(self.states, states, strict=True))

    def zeros(self) -> tuple:
        """For the gradients of `states`."""
        return tuple(np.zeros_like(s) for s in self.states)

    def backward(self, t: int, sums: tuple, *gradients: np.ndarray) -> tuple:
        """What goes on to the step before t; adds the rest to `sums`."""
        at = self.at[:, t, None]
        for total, gradient in zip(sums, gradients, strict=True):
            total += np.where(at, gradient, 0.0)
        return tuple(np.where(at, 0.0, gradient) for gradient in gradients)

    def gradient(self, sums: tuple, *gradients: np.ndarray) -> Any:
        """That of the state, or the pair of it and of reset_state where that is given."""
        if not self.given:
            return _state(tuple(g + s for g, s in zip(gradients, sums, strict=True)))
        return _state(gradients), _state(sums)


def resets_of(op: str, resets: Any, reset_state: Any, steps: int, *states: np.ndarray) -> Resets:
    """The Resets of a call whose states before the first step are these."""
    batch = len(states[0])
    if resets is None:
        if reset_state is not None:
            raise refused(op, "reset_state", "None without resets", reset_state)
        return Resets(np.zeros((batch, steps), bool), states, False)
    at = shaped(op, "resets", resets, (batch, steps)) != 0
    if reset_state is None:
        return Resets(at, states, False)
    mixed = len(states) > 1
    if mixed and (not isinstance(reset_state, (tuple, list)) or len(reset_state) != 2):
        raise refused(op, "reset_state", "(h, c)", reset_state)
    parts = reset_state if mixed else (reset_state,)
    firsts = zip(parts, states, strict=True)
    return Resets(at, tuple(shaped(op, "reset_state", p, s.shape) for p, s in firsts), True)


def _state(parts):
    return parts if len(parts) > 1 else parts[0]
