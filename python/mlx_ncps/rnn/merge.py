"""Both directions of a layer: what one reads backwards, and their outputs as one."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .resets import Resets

MERGE_MODES = ("concat", "sum", "mul", "ave", None)


def merge(mode: str | None, first: mx.array, second: mx.array) -> Any:
    """The outputs of both directions as one, or as a pair when `mode` is None."""
    if mode == "concat":
        return mx.concatenate([first, second], axis=-1)
    if mode == "sum":
        return first + second
    if mode == "mul":
        return first * second
    return (first + second) / 2 if mode == "ave" else (first, second)


def backwards(
    x: mx.array, state: Any, ts: Any, mask: mx.array | None, seen: Any, resets: Resets | None
) -> tuple:
    """Inputs, time spans, mask and episodes in the opposite order of time."""
    ts = ts[:, ::-1] if isinstance(ts, mx.array) and ts.ndim == 2 else ts
    mask = None if mask is None else mask[:, ::-1]
    return x[:, ::-1], state, ts, mask, seen, None if resets is None else resets.backwards()
