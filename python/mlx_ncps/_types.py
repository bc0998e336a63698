"""What arguments of the public functions may be, where it is more than one type."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

StateLike = mx.array | tuple[Any, ...] | list[Any]  # one array, or several, also nested
TimespansLike = float | mx.array | np.ndarray | None  # None: 1.0
MaskLike = mx.array | np.ndarray
ShapeLike = int | Sequence[int | None]  # of inputs: their number, or a shape that ends with it
KeyLike = mx.array | int | None  # an mx.random.key, its seed, or MLX's global random state
WeightSource = str | os.PathLike[str] | Mapping[str, mx.array] | Sequence[tuple[str, mx.array]]
Ranges = Mapping[str, tuple[float, float]]  # by the name of a parameter
Activation = str | Callable[[mx.array], mx.array]
Cell = Callable[..., tuple[Any, Any]]  # cell(inputs, state, ts) -> (output, new state)
