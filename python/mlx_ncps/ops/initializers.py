"""Initial values of parameters, as plain functions shape -> array; cells and layers call them.

`key` is an `mx.random.key` or its seed, an int; None draws from MLX's global random state.
`ops.numpy` gives the same numbers for the same key. `dtype` None is float32.
"""

from __future__ import annotations

import math

import mlx.core as mx


def uniform(low: float, high: float, shape, *, dtype=None, key=None) -> mx.array:
    """Uniform in [low, high), of `shape`."""
    return mx.random.uniform(low, high, tuple(shape), dtype=_dtype(dtype), key=_key(key))


def xavier_uniform(shape, *, gain: float = 1.0, dtype=None, key=None) -> mx.array:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)), shape [out, in] (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / max(sum(_fans("xavier_uniform", shape)), 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def xavier_normal(shape, *, gain: float = 1.0, dtype=None, key=None) -> mx.array:
    """Normal with variance gain^2 2 / (fan_in + fan_out), shape [out, in] (Glorot and Bengio
    2010).
    """
    scale = gain * math.sqrt(2.0 / max(sum(_fans("xavier_normal", shape)), 1))
    return _normal(shape, scale, dtype, key)


def lecun_uniform(shape, *, dtype=None, key=None) -> mx.array:
    """Uniform in +-sqrt(3 / fan_in), shape [out, in] (LeCun et al. 1998)."""
    bound = math.sqrt(3.0 / max(_fans("lecun_uniform", shape)[1], 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def lecun_normal(shape, *, dtype=None, key=None) -> mx.array:
    """Normal with variance 1 / fan_in, shape [out, in] (LeCun et al. 1998)."""
    scale = math.sqrt(1.0 / max(_fans("lecun_normal", shape)[1], 1))
    return _normal(shape, scale, dtype, key)


def orthogonal(shape, *, gain: float = 1.0, dtype=None, key=None) -> mx.array:
    """Rows or columns, whichever are fewer, orthogonal and of length `gain`; shape [out, in] (Saxe
    et al. 2013).
    """
    rows, columns = _fans("orthogonal", shape)
    tall = (max(rows, columns), min(rows, columns))
    q, r = mx.linalg.qr(mx.random.normal(tall, key=_key(key)), stream=mx.cpu)
    q = q * mx.where(mx.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
    return mx.contiguous(gain * (q.T if rows < columns else q)).astype(_dtype(dtype))


def _normal(shape, scale: float, dtype, key) -> mx.array:
    return mx.random.normal(tuple(shape), dtype=_dtype(dtype), scale=scale, key=_key(key))


def _dtype(dtype):
    return mx.float32 if dtype is None else dtype


def _key(key):
    return mx.random.key(key) if isinstance(key, int) else key


def _fans(name: str, shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"[{name}] shape must be (out, in), got {tuple(shape)}.")
    return tuple(shape)
