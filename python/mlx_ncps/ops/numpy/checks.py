"""Checks of options, sizes and keys: the value, or a ValueError with op, wanted and got."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Collection
from numbers import Real
from typing import Any

import numpy as np

from .arrays import as_float64


def refused(op: str, name: str, wanted: str, got: object) -> ValueError:
    """The error for an argument. It shows short values themselves, and the type of all else."""
    text = type(got).__name__
    if got is None or isinstance(got, (Real, str, tuple, list)):
        with contextlib.suppress(Exception):  # of what is in it, or an integer of too many digits
            text = repr(got)
    text = text if len(text) <= 100 else f"{text[:100]}..."
    return ValueError(f"[{op}] {name} must be {wanted}, got {text}.")


def choice(op: str, name: str, value: Any, options: Collection[str]) -> str:
    """``value``, which is one of the strings ``options``."""
    if not isinstance(value, str) or value not in options:
        raise refused(op, name, f"one of {', '.join(options)}", value)
    return value


def integer(op: str, name: str, value: Any, low: int, most: int = 2**31 - 1) -> int:
    """``value`` as an int from ``low`` to ``most``, by default what a size can be."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except Exception:  # also what nanobind raises
        number = None
    if number is None or number < low:
        raise refused(op, name, f"an integer >= {low}", value)
    if number > most:
        raise refused(op, name, f"at most {most}", value)
    return number


def number(op: str, name: str, value: Any, low: float = -math.inf) -> float:
    """``value`` as a finite float >= ``low``."""
    try:
        real = isinstance(value, Real) and not isinstance(value, bool)
        real = real and low <= float(value) and math.isfinite(value)
    except OverflowError:
        real = False
    if not real:
        raise refused(op, name, "a finite number" if low < 0 else f"a number >= {low}", value)
    return float(value)


def sizes(op: str, name: str, shape: Any, rank: int | None = None) -> tuple[int, ...]:
    """``shape`` as a tuple of sizes."""
    wanted = "a tuple of sizes" if rank is None else "(out, in)"
    if not isinstance(shape, (tuple, list)) or len(shape) != (len(shape) if rank is None else rank):
        raise refused(op, name, wanted, shape)
    return tuple(integer(op, f"{name}[{n}]", size, 0) for n, size in enumerate(shape))


def dtype(op: str, value: Any) -> Any:
    """``value`` as a floating dtype of NumPy; None is float64."""
    try:
        kind = np.dtype(np.float64 if value is None else value)
    except Exception:  # TypeError, or what the value's own class raises
        kind = None
    if kind is None or kind.kind != "f":
        raise refused(op, "dtype", "a floating dtype of NumPy", value)
    return kind


def key(op: str, value: Any) -> Any:
    """``value``, an mx.random.key or its seed, as two uint32."""
    wanted = "an mx.random.key, [2] uint32, or a seed in [0, 2**64)"
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**64:
            raise refused(op, "key", wanted, value)
        return np.array([value >> 32, value & 0xFFFFFFFF], dtype=np.uint32)
    try:
        words = as_float64(value)  # exact up to 2**53
    except ValueError:
        words = np.zeros(())
    if words.shape != (2,) or not ((words % 1 == 0) & (words >= 0) & (words < 2**32)).all():
        raise refused(op, "key", wanted, value)
    return words.astype(np.uint32)


def shaped(op: str, name: str, array: Any, shape: tuple[int | None, ...]) -> Any:
    """``array`` as float64 of ``shape``, in which None is any size."""
    array = as_float64(array)
    got: Any = None if array is None else array.shape
    fits = got is not None and len(got) == len(shape)
    if not fits or any(n not in (None, m) for n, m in zip(shape, got or (), strict=True)):
        raise ValueError(f"[{op}] {name} must be of shape {shape}, got {got}.")
    return array
