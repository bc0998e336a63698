"""Sources of random choices for the wirings: NumPy's, as ncps uses them, or MLX's from a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import key_words


class KeyDraws:
    """``choice`` as NumPy's generators have it, drawn from MLX's PRNG.

    Splits its own key before each draw; the global state of ``mx.random`` is neither read nor
    changed.
    """

    def __init__(self, key: np.ndarray) -> None:
        self._key = key  # [2] uint32, NumPy: it stays out of a module's parameters

    def _uniform(self, count: int) -> np.ndarray:
        following, used = mx.random.split(mx.array(self._key))
        self._key = np.array(following)
        return np.array(mx.random.uniform(shape=(count,), key=used), dtype=np.float64)

    def choice(
        self, options: Any, size: int | tuple[int, ...] | None = None, replace: bool = True
    ) -> Any:
        """Draws from a list, or from ``range(options)``; one value when ``size`` is None."""
        options = np.arange(options) if isinstance(options, int) else np.asarray(options)
        if not replace:
            return options[np.argsort(self._uniform(len(options)), kind="stable")[:size]]
        count = 1 if size is None else int(np.prod(size))
        index = (self._uniform(count) * len(options)).astype(np.int64)
        drawn = options[index]
        return drawn[0] if size is None else drawn.reshape(size)


def checked_key(op: str, key: Any) -> np.ndarray | None:
    """``key`` as a NumPy ``[2]`` uint32 array; None stays None."""
    if key is None:
        return None
    return key_words(op, key)


def source(make: Callable[[int], Any], seed: int, key: np.ndarray | None) -> Any:
    """``KeyDraws`` when a key is given, else NumPy's generator ``make(seed)``."""
    return make(seed) if key is None else KeyDraws(key)


def one_by_one(rng: Any, options: list[int], count: int) -> Any:
    """``count`` draws, the same as by ``count`` calls of ``choice``, as ncps makes them.

    NumPy's generators draw a whole array in that order too, at once; a key is split for each call.
    """
    if isinstance(rng, KeyDraws):
        return [rng.choice(options) for _ in range(count)]
    return rng.choice(options, size=count)
