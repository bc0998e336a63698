"""`StreamingSession`: a layer over a stream of samples as they arrive, for control loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checks import is_array, refused

if TYPE_CHECKING:
    from .._types import MaskLike, StateLike, TimespansLike


class StreamingSession:
    """A layer that keeps its state from sample to sample: `output = session(x, ts)`.

    Every call is computed when it returns, so that no graph grows from step to step. On the CPU a
    CfC or an LTC needs no graph at all (`layer.step`).

    Args:
        layer: any layer with `step`, one direction, in evaluation mode or not.
        state: where to start, as `layer.step` takes it. None: zeros.

    `session(x, ts=None, resets=None)`: x [I] or [B, I], an mx.array or a NumPy array, and the
    output [O] or [B, O] is of the same kind; a NumPy array is read as float32. ts: the time elapsed
    before the sample, as in `layer.step`. resets: [B], or a bool for one sample, not 0 where an
    episode begins with this sample: there the state starts anew, from that which the session began
    with or was last reset to. `session.state` is the state after the last sample.
    Any thread may call it, one at a time: the layer's weights are evaluated here, since MLX
    computes an array only in the thread that made it. Who sets weights later evaluates them.
    Raises ValueError as `layer.step` does.

    Example:
        >>> session = StreamingSession(CfC(3, AutoNCP(16, 2)))
        >>> for x in np.zeros((4, 3), np.float32):  # sample by sample
        ...     action = session(x, 0.1)
        >>> action.shape, session.state.shape
        ((2,), (16,))
    """

    def __init__(self, layer: Any, state: StateLike | None = None) -> None:
        if not callable(getattr(layer, "step", None)):
            raise ValueError(
                f"[streaming_session] layer must have step(x, state, ts), as CfC and LTC have, "
                f"got {type(layer).__name__}."
            )
        self.layer = layer
        self.state = self._first = state
        if isinstance(layer, nn.Module):
            mx.eval(layer.parameters())  # no other thread can compute what this one has begun
        mx.eval(_checked(state))

    def __call__(
        self,
        x: mx.array | np.ndarray,
        ts: TimespansLike = None,
        resets: MaskLike | bool | None = None,
    ) -> mx.array | np.ndarray:
        """One sample -> the output."""
        from_numpy = isinstance(x, np.ndarray)
        if from_numpy:
            if x.dtype.kind not in "fiub":
                raise ValueError(
                    f"[streaming_session] x must be of real numbers, got dtype {x.dtype}."
                )
            x = mx.array(x.astype(np.float32, copy=False))
        try:
            if resets is None:
                output, state = self.layer.step(x, self.state, ts)
            else:
                anew = {"resets": resets, "reset_state": self._first}
                output, state = self.layer.step(x, self.state, ts, **anew)
            mx.eval(output, state)
        except RuntimeError as error:
            if "There is no Stream" not in str(error):
                raise
            raise ValueError(
                "[streaming_session] weights, sample and state must be evaluated in the thread "
                "that made them (mx.eval(layer.parameters(), x)) before another reads them, "
                f"got an array that is not: {error}"
            ) from error
        self.state = state
        return np.array(output) if from_numpy else output

    def reset(self, state: StateLike | None = None) -> None:
        """Start anew, from zeros or from `state`."""
        mx.eval(_checked(state))
        self.state = self._first = state
        if state is None and hasattr(self.layer, "reset_states"):
            self.layer.reset_states()


def _checked(state: Any) -> Any:
    """A state: None, an array, or a tuple of such."""
    parts = state if isinstance(state, tuple | list) else (state,)
    for part in parts:
        if part is not None and part is not state and isinstance(part, tuple | list):
            _checked(part)
        elif part is not None and not is_array(part):
            raise refused(
                "streaming_session", "state", "None, an mx.array or a tuple of them", part
            )
    return [] if state is None else state
