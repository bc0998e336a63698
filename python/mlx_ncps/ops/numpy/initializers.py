"""Initial values of parameters; for the same key the numbers of ``mlx_ncps.ops``, up to rounding.

MLX's generator is Threefry-2x32 (Salmon et al. 2011), counter-based: a key and a position give 32
bits, whatever machine draws them. ``key`` is an ``mx.random.key`` ([2] uint32) or its seed, an int;
None takes a key from NumPy's global random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .checks import dtype as checked_dtype
from .checks import key as key_words
from .checks import number, sizes

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_LOW = np.nextafter(np.float32(-1), np.float32(0))


def uniform(
    low: float, high: float, shape: Sequence[int], *, dtype: Any = None, key: Any = None
) -> np.ndarray:
    """Uniform in [low, high), of ``shape``; float64 unless ``dtype`` is given."""
    op = "uniform"
    low, high = number(op, "low", low), number(op, "high", high)
    return (low + (high - low) * _unit(op, shape, key)).astype(checked_dtype(op, dtype))


def xavier_uniform(
    shape: Sequence[int], *, gain: float = 1.0, dtype: Any = None, key: Any = None
) -> np.ndarray:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)), shape [out, in] (Glorot and Bengio 2010)."""
    op = "xavier_uniform"
    bound = number(op, "gain", gain) * np.sqrt(6.0 / max(sum(_fans(op, shape)), 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def xavier_normal(
    shape: Sequence[int], *, gain: float = 1.0, dtype: Any = None, key: Any = None
) -> np.ndarray:
    """Normal with variance gain^2 2 / (fan_in + fan_out), shape [out, in] (Glorot and Bengio
    2010).
    """
    op = "xavier_normal"
    scale = number(op, "gain", gain) * np.sqrt(2.0 / max(sum(_fans(op, shape)), 1))
    return (scale * _normal(op, shape, key)).astype(checked_dtype(op, dtype))


def lecun_uniform(shape: Sequence[int], *, dtype: Any = None, key: Any = None) -> np.ndarray:
    """Uniform in +-sqrt(3 / fan_in), shape [out, in] (LeCun et al. 1998)."""
    bound = np.sqrt(3.0 / max(_fans("lecun_uniform", shape)[1], 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def lecun_normal(shape: Sequence[int], *, dtype: Any = None, key: Any = None) -> np.ndarray:
    """Normal with variance 1 / fan_in, shape [out, in] (LeCun et al. 1998)."""
    scale = np.sqrt(1.0 / max(_fans("lecun_normal", shape)[1], 1))
    return (scale * _normal("lecun_normal", shape, key)).astype(
        checked_dtype("lecun_normal", dtype)
    )


def orthogonal(
    shape: Sequence[int], *, gain: float = 1.0, dtype: Any = None, key: Any = None
) -> np.ndarray:
    """Rows or columns, whichever are fewer, orthogonal and of length ``gain``; shape [out, in]
    (Saxe et al. 2013).
    """
    op = "orthogonal"
    (rows, columns), gain = _fans(op, shape), number(op, "gain", gain)
    q, r = np.linalg.qr(_normal(op, (max(rows, columns), min(rows, columns)), key))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
    return (gain * (q.T if rows < columns else q)).astype(checked_dtype(op, dtype))


def _unit(op: str, shape: Sequence[int], key: Any) -> np.ndarray:
    """Uniform in [0, 1): 32 random bits over 2^32 - 1, below 1, with the rounding of float32."""
    shape = sizes(op, "shape", shape)
    drawn = _bits(_key(op, key), int(np.prod(shape))).astype(np.float32) / np.float32(2**32 - 1)
    return np.minimum(drawn, -_LOW).astype(np.float64).reshape(shape)


def _normal(op: str, shape: Sequence[int], key: Any) -> np.ndarray:
    """Standard normal: the quantiles of uniform numbers in (-1, 1). Their rounding to float32 is
    what bounds the tails.
    """
    drawn = _LOW + (np.float32(1) - _LOW) * _unit(op, shape, key).astype(np.float32)
    from statistics import NormalDist  # slow to import

    inverse = np.frompyfunc(NormalDist().inv_cdf, 1, 1)
    quantiles = inverse((1.0 + drawn.astype(np.float64)) / 2.0)
    return np.asarray(quantiles, dtype=np.float64).reshape(tuple(shape))


def _bits(key: Any, count: int) -> np.ndarray:
    """``count`` random uint32: Threefry of the pairs (0, h), (1, h + 1), ..., the first words of
    all, then the second ones; the word in the middle of an odd count is that of the pair (h, 0).
    """
    half = count // 2
    left, right = np.arange(half), np.arange(half) + half + count % 2
    if count % 2:
        left, right = np.append(left, half), np.append(right, 0)
    first, second = _threefry(key, left.astype(np.uint32), right.astype(np.uint32))
    return np.concatenate([first, second[:half]])


def _threefry(key: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 20 rounds of Threefry-2x32 on the counters x, y."""
    first, second = key[:1], key[1:]  # arrays, which wrap around without a warning
    words = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
    x, y = x + words[0], y + words[1]
    for n in range(5):
        for r in _ROTATIONS[n % 2]:
            x = x + y
            y = (y << np.uint32(r) | y >> np.uint32(32 - r)) ^ x
        x = x + words[(n + 1) % 3]
        y = y + words[(n + 2) % 3] + np.uint32(n + 1)
    return x, y


def _key(op: str, key: Any) -> np.ndarray:
    """The key as an array [2] uint32."""
    if key is None:
        return np.random.randint(0, 2**32, 2, dtype=np.uint32)
    return key_words(op, key)


def _fans(op: str, shape: Sequence[int]) -> tuple[int, int]:
    outputs, inputs = sizes(op, "shape", shape, 2)
    return outputs, inputs
