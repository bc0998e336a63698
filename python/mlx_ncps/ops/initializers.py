"""Initial values of parameters, as plain functions shape -> array; cells and layers call them."""

from __future__ import annotations

import math

import mlx.core as mx


def uniform(low: float, high: float, shape, *, dtype=mx.float32, key=None) -> mx.array:
    """Uniform in [low, high), of `shape`."""
    return mx.random.uniform(low, high, tuple(shape), dtype=dtype, key=key)


def xavier_uniform(shape, *, gain: float = 1.0, dtype=mx.float32, key=None) -> mx.array:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)), shape [out, in] (Glorot and Bengio 2010)."""
    fan_out, fan_in = _fans("xavier_uniform", shape)
    bound = gain * math.sqrt(6.0 / max(fan_in + fan_out, 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def lecun_uniform(shape, *, dtype=mx.float32, key=None) -> mx.array:
    """Uniform in +-sqrt(3 / fan_in), shape [out, in] (LeCun et al. 1998)."""
    bound = math.sqrt(3.0 / max(_fans("lecun_uniform", shape)[1], 1))
    return uniform(-bound, bound, shape, dtype=dtype, key=key)


def lecun_normal(shape, *, dtype=mx.float32, key=None) -> mx.array:
    """Normal with variance 1 / fan_in, shape [out, in] (LeCun et al. 1998)."""
    scale = math.sqrt(1.0 / max(_fans("lecun_normal", shape)[1], 1))
    return mx.random.normal(tuple(shape), dtype=dtype, scale=scale, key=key)


def orthogonal(shape, *, gain: float = 1.0, dtype=mx.float32, key=None) -> mx.array:
    """Rows or columns, whichever are fewer, orthogonal and of length `gain`; shape [out, in] (Saxe
    et al. 2013).
    """
    rows, columns = _fans("orthogonal", shape)
    tall = (max(rows, columns), min(rows, columns))
    q, r = mx.linalg.qr(mx.random.normal(tall, key=key), stream=mx.cpu)
    q = q * mx.where(mx.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
    return (gain * (q.T if rows < columns else q)).astype(dtype)


def _fans(name: str, shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"[{name}] shape must be (out, in), got {tuple(shape)}.")
    return tuple(shape)
