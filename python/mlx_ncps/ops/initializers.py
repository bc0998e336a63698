"""Initial values of parameters, as plain functions shape -> array (MATHS 11).

`key` is an `mx.random.key` or its seed, an int; None draws from MLX's global random state.
`ops.numpy` gives the same numbers for the same key. `dtype` None is float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..checks import float_dtype, is_array, key_words, real, refused, sizes

if TYPE_CHECKING:
    from .._types import KeyLike


def uniform(
    low: float,
    high: float,
    shape: Sequence[int],
    *,
    dtype: mx.Dtype | None = None,
    key: KeyLike = None,
) -> mx.array:
    """Uniform in [low, high), of `shape`; `dtype` None is float32. `key` is an `mx.random.key` or
    its seed; None draws from MLX's random state.

    Example:
        >>> ops.uniform(-1.0, 1.0, (4, 3), key=0).shape
        (4, 3)
    """
    op = "uniform"
    low, high = (real(op, n, x, "a finite number") for n, x in (("low", low), ("high", high)))
    shape, dtype = sizes(op, "shape", shape), float_dtype(op, dtype)
    return mx.random.uniform(low, high, shape, dtype=dtype, key=_key(op, key))


def xavier_uniform(
    shape: Sequence[int], *, gain: float = 1.0, dtype: mx.Dtype | None = None, key: KeyLike = None
) -> mx.array:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)), shape [out, in] (Glorot and Bengio 2010);
    `dtype` and `key` as in `uniform`.

    Example:
        >>> ops.xavier_uniform((4, 3), key=0).shape
        (4, 3)
    """
    op = "xavier_uniform"
    bound = _gain(op, gain) * math.sqrt(6.0 / max(sum(_fans(op, shape)), 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def xavier_normal(
    shape: Sequence[int], *, gain: float = 1.0, dtype: mx.Dtype | None = None, key: KeyLike = None
) -> mx.array:
    """Normal with variance gain^2 2 / (fan_in + fan_out), shape [out, in] (Glorot and Bengio
    2010); `dtype` and `key` as in `uniform`.

    Example:
        >>> ops.xavier_normal((4, 3), key=0).shape
        (4, 3)
    """
    op = "xavier_normal"
    scale = _gain(op, gain) * math.sqrt(2.0 / max(sum(_fans(op, shape)), 1))
    return _normal(op, shape, scale, dtype, key)


def lecun_uniform(
    shape: Sequence[int], *, dtype: mx.Dtype | None = None, key: KeyLike = None
) -> mx.array:
    """Uniform in +-sqrt(3 / fan_in), shape [out, in] (LeCun et al. 1998); `dtype` and `key` as in
    `uniform`.

    Example:
        >>> ops.lecun_uniform((4, 3), key=0).shape
        (4, 3)
    """
    bound = math.sqrt(3.0 / max(_fans("lecun_uniform", shape)[1], 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def lecun_normal(
    shape: Sequence[int], *, dtype: mx.Dtype | None = None, key: KeyLike = None
) -> mx.array:
    """Normal with variance 1 / fan_in, shape [out, in] (LeCun et al. 1998); `dtype` and `key` as
    in `uniform`.

    Example:
        >>> ops.lecun_normal((4, 3), key=0).shape
        (4, 3)
    """
    scale = math.sqrt(1.0 / max(_fans("lecun_normal", shape)[1], 1))
    return _normal("lecun_normal", shape, scale, dtype, key)


def orthogonal(
    shape: Sequence[int], *, gain: float = 1.0, dtype: mx.Dtype | None = None, key: KeyLike = None
) -> mx.array:
    """Rows or columns, whichever are fewer, orthogonal and of length `gain`; shape [out, in] (Saxe
    et al. 2013); `dtype` and `key` as in `uniform`.

    Example:
        >>> w = ops.orthogonal((2, 3), key=0)
        >>> mx.allclose(w @ w.T, mx.eye(2), atol=1e-5).item()
        True
    """
    op = "orthogonal"
    (rows, columns), gain, dtype = _fans(op, shape), _gain(op, gain), float_dtype(op, dtype)
    tall = (max(rows, columns), min(rows, columns))
    q, r = mx.linalg.qr(mx.random.normal(tall, key=_key(op, key)), stream=mx.cpu)
    q = q * mx.where(mx.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
    return mx.contiguous(gain * (q.T if rows < columns else q)).astype(dtype)


def _normal(
    op: str, shape: Sequence[int], scale: float, dtype: mx.Dtype | None, key: KeyLike
) -> mx.array:
    dtype, key = float_dtype(op, dtype), _key(op, key)
    return mx.random.normal(tuple(shape), dtype=dtype, scale=scale, key=key)


def _gain(op: str, gain: Any) -> float:
    return real(op, "gain", gain, "a finite number")


def _key(op: str, key: KeyLike) -> mx.array | None:
    """An `mx.random.key` of itself or its seed; None stays None."""
    if key is None:
        return None
    if isinstance(key, int) and not isinstance(key, bool):
        if not 0 <= key < 2**64:
            raise refused(op, "key", "an mx.random.key or a seed in [0, 2**64)", key)
        return mx.random.key(key)
    if is_array(key) and key.dtype == mx.uint32 and key.shape == (2,):
        return key  # may be a tracer
    return mx.array(key_words(op, key))


def _fans(op: str, shape: Sequence[int]) -> tuple[int, int]:
    shape = sizes(op, "shape", shape, "(out, in)")
    if len(shape) != 2:
        raise ValueError(f"[{op}] shape must be (out, in), got {shape}.")
    return shape
