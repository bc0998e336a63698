"""What ran within a call of a layer, kept for `Neurons`: nothing unless it is asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import mlx.core as mx

from .resets import Resets


class Run(NamedTuple):
    """One direction's run, in the order in which it read."""

    half: Any
    x: mx.array  # [B, T, I] as the cell read it
    before: Any  # the state before the first step, [B, H]
    ts: Any  # a number, [] or [B, T]
    mask: mx.array | None  # [B, T]
    resets: Resets | None
    states: Any  # [B, T, H]


class _Watched(threading.local):
    runs: list[Run] | None = None


watched = _Watched()  # of this thread
ACTIVE: list[int] = []  # one entry for each `watching` of any thread: what each step looks at first


@contextlib.contextmanager
def watching() -> Iterator[list[Run]]:
    """Collects the runs of the calls within it; none of them is computed at once."""
    outer, watched.runs = watched.runs, []
    ACTIVE.append(0)
    try:
        yield watched.runs
    finally:
        ACTIVE.pop()
        watched.runs = outer
