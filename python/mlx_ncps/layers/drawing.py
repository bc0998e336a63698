"""Drawing weights from a key of the caller's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..checks import key_words, refused

if TYPE_CHECKING:
    from .._types import KeyLike


@contextlib.contextmanager
def drawing_from(key: KeyLike) -> Iterator[None]:
    """Within it MLX's global random numbers come from `key`, an `mx.random.key` or its seed, or go
    on when it is None; after it they go on as if nothing was drawn.
    """
    if key is None:
        yield
        return
    state: Any = mx.random.state
    kept = state[0]
    mx.random.seed(_seed(key))
    try:
        yield
    finally:
        mx.random.seed(_seed(kept))


def _seed(key: mx.array | int) -> int:
    """The seed of a key: `mx.random.key(seed)` is that key. An int is a seed."""
    if isinstance(key, int) and not isinstance(key, bool):
        if not 0 <= key < 2**64:
            raise refused("redraw", "key", "an mx.random.key or a seed in [0, 2**64)", key)
        return key
    words = key_words("redraw", key)
    return int(words[0]) << 32 | int(words[1])
