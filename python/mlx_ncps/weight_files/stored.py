"""An array of a file that is not read yet, and what the readers of both formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import mlx.core as mx
import numpy as np

MAX_AXES = 16

Broken = Callable[[str], ValueError]  # the error of a file from what is wrong with it


class Stored(NamedTuple):
    """An array that is not read yet: its shape, and `read()`, which gives the `mx.array`."""

    shape: tuple[int, ...]
    read: Callable[[], mx.array]


def as_mlx(array: np.ndarray, dtype: mx.Dtype | None = None) -> mx.array:
    """The array of MLX; the bits of a bfloat16 come as integers, and float64 becomes float32."""
    if dtype is mx.bfloat16:
        return mx.array(array).view(mx.bfloat16)
    if array.dtype.char == "d":
        with np.errstate(over="ignore", invalid="ignore"):  # too large is infinity, as in MLX
            array = array.astype(np.float32)
    return mx.array(array)


def repeated(names: Iterable[str]) -> str | None:
    """The first name that comes again, or None."""
    seen = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
