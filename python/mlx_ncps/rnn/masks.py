"""Masks over steps and over features (MATHS 5) for sequences of unequal length and irregular
data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_map

from ..ops import shapeless
from ..ops.checks import check_array, check_params
from ..ops.timespans import normalise_timespans

if TYPE_CHECKING:
    from .._types import TimespansLike


class Steps(NamedTuple):
    """The steps of a mask, moved to the front of each sample, and the way back.

    The state after a masked step is that of the last step before it, so any cell runs over the
    moved steps alone, fused or not: exact, in values and gradients, and the values of the mask need
    not be known.
    """

    order: mx.array  # [B, T] the step that stands at each place, those of the mask first
    seen: mx.array  # [B, T] steps of the mask up to each step, this one included
    real: mx.array  # [B, T] whether the place holds a step of the mask

    @classmethod
    def of(cls, mask: mx.array) -> Steps:
        """The steps where mask [B, T] is True."""
        steps = mask.shape[1]
        t = mx.arange(steps)
        seen = mx.cumsum(mask.astype(mx.int32), axis=1)
        order = mx.argsort(mx.where(mask, t, steps), axis=1)
        return cls(order, seen, t < seen[:, -1:])

    def take(self, x: mx.array, filler: float) -> mx.array:
        """The array x [B, T, ...] with the steps of the mask first, then `filler`."""
        x = mx.take_along_axis(x, _like(self.order, x), axis=1)
        return mx.where(_like(self.real, x), x, mx.array(filler, x.dtype))

    def last(self, x: mx.array, before: mx.array) -> mx.array:
        """The last of the moved steps of x [B, T, ...], `before` [B, ...] where there is none."""
        count = self.seen[:, -1:]
        found = mx.take_along_axis(x, _like(mx.maximum(count - 1, 0), x), axis=1)
        return mx.where(_like(count > 0, found), found, before[:, None].astype(x.dtype))[:, 0]

    def spread(self, x: mx.array, before: mx.array) -> mx.array:
        """The moved steps of x [B, T, ...] back at their places; a masked step has what the step
        before it has, the first ones `before` [B, ...].
        """
        x = mx.concatenate([before[:, None].astype(x.dtype), x], axis=1)
        return mx.take_along_axis(x, _like(self.seen, x), axis=1)


def _like(index: mx.array, x: mx.array) -> mx.array:
    """An index [B, T] with as many axes as x [B, T, ...], whose sizes it takes."""
    index = index.reshape(*index.shape, *(1,) * (x.ndim - 2))
    return mx.broadcast_to(index, (*index.shape[:2], *x.shape[2:]))


class Seen(NamedTuple):
    """What is known of each feature: its last seen value and the time since then, each [B, I].

    Example:
        >>> x, seen = mx.array([[[1.0]], [[2.0]]]), mx.array([[[1.0]], [[0.0]]])
        >>> _, _, last = carry_forward(x, seen, 0.5)
        >>> last.value.tolist(), last.time.tolist()
        ([[1.0], [0.0]], [[0.0], [0.5]])
    """

    value: mx.array
    time: mx.array


def carry_forward(
    inputs: mx.array,
    mask: mx.array,
    ts: TimespansLike = None,
    *,
    last: Seen | None = None,
    resets: mx.array | None = None,
) -> tuple[mx.array, mx.array, Seen]:
    """Fill the gaps of irregular data with the last seen values -> (values [B, T, I], time since
    update [B, T, I], Seen after the last step).

    values = m x + (1 - m) values_before; time = 0 where m = 1, else time_before + ts.

    Args:
        inputs: [B, T, I]; what stands at masked places is never read.
        mask: [B, T, I], 0 where a feature is missing.
        ts: elapsed time per step: None (1.0), a number >= 0, or an array [], [T], [B, T] or
            [B, T, 1].
        last: the Seen of the call before, to continue a sequence; None: zeros.
        resets: [B, T], not 0 where an episode begins: there nothing is known, as at the start of
            a sequence without `last`.

    A layer of 2 I or 3 I inputs reads [values, m] or [values, time, m] (Hasani et al. 2022).
    Raises ValueError for a wrong shape or dtype.

    Example:
        >>> x, mask = mx.array([[[3.0], [7.0]]]), mx.array([[[1.0], [0.0]]])
        >>> values, time, last = carry_forward(x, mask, 0.5)
        >>> values.tolist(), time.tolist()
        ([[[3.0], [3.0]]], [[[0.0], [0.5]]])
    """
    op = "carry_forward"
    shapeless.refuse(op, "a mask of features", length=False)
    check_array(op, "inputs", inputs, "[B, T, I]", (None, None, None))
    check_array(op, "mask", mask, "[B, T, I]", inputs.shape, ())
    (B, T, I), mask = inputs.shape, mask != 0
    ts = mx.broadcast_to(mx.array(normalise_timespans(op, ts, B, T)), (B, T))
    if last is None:
        last = Seen(mx.zeros((B, I), inputs.dtype), mx.zeros((B, I)))
    check_params(op, "last", last, Seen)
    for name, array in zip(Seen._fields, last, strict=True):
        check_array(op, f"last.{name}", array, "[B, I]", (B, I))
    if resets is not None:
        check_array(op, "resets", resets, "[B, T]", (B, T), ())
    if T == 0:
        return inputs, mx.zeros((B, T, I)), last
    t = mx.arange(1, T + 1)[:, None]
    latest = mx.cummax(mx.where(mask, t, 0), axis=1)  # [B, T, I] 0: not seen yet
    values = mx.concatenate([last.value[:, None].astype(inputs.dtype), inputs], axis=1)
    values = mx.take_along_axis(values, latest, axis=1)
    anew = None if resets is None else (resets != 0)[:, :, None]
    if anew is not None:
        values = mx.where(latest < mx.cummax(mx.where(anew, t, 0), axis=1), 0, values)
    time = _time_since(mask, ts[:, :, None], last.time, anew)
    return values, time, Seen(values[:, -1], time[:, -1])


def _time_since(mask: mx.array, ts: mx.array, before: mx.array, anew: mx.array | None) -> mx.array:
    """time_t = (1 - m_t)(time_(t-1) + ts_t) in log2(T) passes, each of which doubles how far back a
    sum reaches; without time_(t-1) where anew [B, T, 1] is True.
    """
    before = before[:, None]
    if anew is not None:
        before = mx.where(anew[:, :1], 0.0, before)
    time = mx.concatenate([before + ts[:, :1], mx.broadcast_to(ts, mask.shape)[:, 1:]], 1)
    time = mx.where(mask, 0.0, time)  # [B, T, I]
    done = mask if anew is None else mask | anew
    distance = 1
    while distance < mask.shape[1]:
        earlier = mx.pad(time[:, :-distance], [(0, 0), (distance, 0), (0, 0)])
        ended = mx.pad(done[:, :-distance], [(0, 0), (distance, 0), (0, 0)])
        time = time + mx.where(done, 0.0, earlier)
        done = done | ended
        distance *= 2
    return time


def masked_features(
    op: str,
    x: mx.array,
    mask: mx.array,
    ts: TimespansLike,
    width: int,
    last: Seen | None,
    resets: mx.array | None,
) -> tuple[mx.array, mx.array, Seen]:
    """What a layer of `width` inputs reads of x [B, T, I] and its feature mask [B, T, I] ->
    ([B, T, width], row mask [B, T], Seen).
    """
    features = x.shape[-1]
    if width not in (2 * features, 3 * features):
        raise ValueError(
            f"[{op}] a feature mask of {features} features wants a layer of {2 * features} inputs "
            f"[values, mask] or {3 * features} [values, time since update, mask], got {width}."
        )
    values, time, last = carry_forward(x, mask, ts, last=last, resets=resets)
    parts = [values, mask] if width == 2 * features else [values, time, mask]
    inputs = mx.concatenate([part.astype(x.dtype) for part in parts], axis=-1)
    return inputs, mx.any(mask, axis=-1), last


def spread_states(steps: Steps, states: Any, before: Any) -> Any:
    """`Steps.spread` of every array of a state."""
    return tree_map(steps.spread, states, before)
