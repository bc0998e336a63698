"""Checks of plain arguments, numbers, options, shapes, paths: each gives the value, or raises a
ValueError that names op, wanted and got. Those of an op's arrays are in `ops.checks`.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeGuard

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from . import limits

if TYPE_CHECKING:
    from pathlib import Path

    import mlx.nn as nn

FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def brief(value: Any, most: int = 100) -> str:
    """`value` for a message: its repr unless that is long or fails, an array by its shape."""
    if isinstance(value, (mx.array, np.ndarray)):
        return f"an array {value.shape}" if _has_shape(value) else "an array without a value"
    try:
        text = repr(value)
    except Exception:  # of a user's class, or an integer of too many digits
        return type(value).__name__
    return text if len(text) <= most else f"{text[:most]}..."


def refused(op: str, name: str, wanted: str, got: object) -> ValueError:
    """The error of an argument; `got` is the value itself."""
    if "mx.array" in wanted and (foreign := array_of_others(got)):
        return ValueError(f"[{op}] {name} must be {wanted}, got {foreign}.")
    return ValueError(f"[{op}] {name} must be {wanted}, got {brief(got)}.")


def kind_of(value: Any) -> str:
    """The kind of what is no mx.array for a message: its type, and how to make an mx.array of it
    where that is known.
    """
    return array_of_others(value) or type(value).__name__


def array_of_others(value: Any) -> str:
    """What an array of another framework, or a list of numbers, is and how to make an mx.array of
    it; "" for anything else.
    """
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, (np.ndarray, np.generic)):
        return f"a NumPy array {value.shape}: wrap it in mx.array(...)"
    if isinstance(value, (list, tuple)) and _numbers(value):
        return f"a {type(value).__name__}: wrap it in mx.array(...)"
    if package == "torch" and hasattr(value, "numpy"):
        return f"a torch.{type(value).__name__}: wrap it in mx.array(tensor.numpy())"
    if isinstance(value, mx.array) or not hasattr(value, "__array__"):
        return ""
    return f"an array of {package}: wrap it in mx.array(numpy.asarray(...))"


def _numbers(values: list | tuple) -> bool:
    """Whether nested lists begin with a number."""
    first: Any = values
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, numbers.Real)


def is_array(value: Any) -> TypeGuard[mx.array]:
    """Whether `value` is an mx.array; one of `mx.array.__new__` alone has no value and isn't."""
    try:
        return isinstance(value, mx.array) and value.shape is not None
    except Exception:  # nanobind's, for an object that was never initialised
        return False


def _has_shape(array: Any) -> bool:
    try:
        return array.shape is not None
    except Exception:  # nanobind's, for an object that was never initialised
        return False


def at_most(op: str, name: str, number: int, most: int, meaning: str = "") -> int:
    """`number`, which must not exceed `most`, the size called `meaning` if it is one."""
    if number > most:
        wanted = f"at most {meaning} = {most}" if meaning else f"at most {most}"
        raise refused(op, name, wanted, number)
    return number


def integer(
    op: str,
    name: str,
    value: Any,
    low: int,
    high: int | None = None,
    *,
    most: int = limits.MAX_SIZE,
) -> int:
    """`value` as an int in [low, high), or in [low, most] without `high`."""
    wanted = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high})"
    number = None
    if not isinstance(value, (bool, mx.array)):
        with contextlib.suppress(TypeError):
            number = operator.index(value)
    if number is None or number < low or (high is not None and number >= high):
        raise refused(op, name, wanted, value)
    return at_most(op, name, number, most) if high is None else number


def size(op: str, name: str, value: Any, *, most: int = limits.MAX_SIZE) -> int:
    """`value` as an int >= 1."""
    return integer(op, name, value, 1, most=most)


def check_numbers(op: str, module: nn.Module) -> None:
    """Raise ValueError when a module just made has more weights than `limits.MAX_NUMBERS`; arrays
    of MLX are allocated when they are first read, so none is yet.
    """
    leaves: Any = tree_flatten(module.parameters())
    count = sum(array.size for _, array in leaves if hasattr(array, "size"))
    at_most(op, "the number of weights", count, limits.MAX_NUMBERS)


def real(
    op: str, name: str, value: Any, wanted: str, fits: Callable[[float], bool] = math.isfinite
) -> float:
    """`value` as a float for which `fits`; no bool, NaN never."""
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if math.isnan(number) or not fits(number):
        raise refused(op, name, wanted, value)
    return number


def flag(op: str, name: str, value: Any) -> bool:
    """`value` as a bool: True, False, 1 or 0."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)) and value in (0, 1):
        return bool(value)
    raise refused(op, name, "True or False", value)


def choice(
    op: str, name: str, value: Any, options: Collection[str | None], wanted: str | None = None
) -> Any:
    """`value`, which is one of `options`, strings or None."""
    if (value is None or isinstance(value, str)) and value in options:
        return value
    raise refused(op, name, wanted or f"one of {', '.join(map(str, options))}", value)


def sizes(
    op: str,
    name: str,
    shape: object,
    wanted: str = "a tuple of sizes",
    low: int | None = 0,
    *,
    most: int = limits.MAX_AXIS,
) -> tuple[Any, ...]:
    """`shape` as a tuple of ints in [low, most], of which any may be None if `low` is None."""
    if not isinstance(shape, (tuple, list)):
        raise refused(op, name, wanted, shape)
    return tuple(
        n if n is None and low is None else integer(op, f"{name}[{k}]", n, low or 0, most=most)
        for k, n in enumerate(shape)
    )


def float_dtype(op: str, dtype: object) -> mx.Dtype:
    """`dtype`, float32 for None."""
    if dtype is None:
        return mx.float32
    if not isinstance(dtype, mx.Dtype) or dtype not in FLOATS:
        raise refused(op, "dtype", "mx.float32, mx.float16 or mx.bfloat16", dtype)
    return dtype


def key_words(op: str, key: object) -> np.ndarray:
    """The two uint32 of an `mx.random.key`, in NumPy."""
    host = host_numbers(op, "key", key, "an mx.random.key, [2] uint32")
    if (
        host.shape != (2,)
        or host.dtype.kind not in "iu"
        or (host < 0).any()
        or (host >= 2**32).any()
    ):
        raise refused(op, "key", "an mx.random.key, [2] uint32", key)
    return host.astype(np.uint32)


def host_numbers(op: str, name: str, value: Any, wanted: str = "an array of numbers") -> np.ndarray:
    """`value`, an array or nested lists of real numbers, in NumPy."""
    known = isinstance(value, (mx.array, np.ndarray, np.generic, list, tuple, int, float))
    if not known or not _has_values(value):  # without values NumPy would end the process
        raise refused(op, name, wanted, value)
    if isinstance(value, mx.array) and value.dtype == mx.bfloat16:  # NumPy has none
        value = value.astype(mx.float32)
    try:
        host = np.asarray(value)
    except ValueError as error:  # ragged lists, or a tracer
        if "[eval]" in str(error):
            raise
        raise refused(op, name, wanted, value) from error
    if host.dtype.kind not in "fiub":
        raise refused(op, name, wanted, value)
    return host


def _has_values(value: Any, depth: int = 64) -> bool:
    """Whether no array in nested lists was never initialised; deeper NumPy doesn't look either."""
    if isinstance(value, (list, tuple)):
        return depth == 0 or all(_has_values(item, depth - 1) for item in value)
    return not isinstance(value, mx.array) or is_array(value)


def path(op: str, name: str, value: Any) -> Path:
    """`value` as a Path."""
    if not isinstance(value, (str, os.PathLike)):
        raise refused(op, name, "a path", value)
    from pathlib import Path  # a twelfth of the package's import, needed for files alone

    return Path(value)


def path_to_write(op: str, name: str, value: Any) -> Path:
    """`value` as the Path of a file that is to be written, in a folder that exists."""
    file = path(op, name, value)
    if file.is_dir() or not file.parent.is_dir():
        raise refused(op, name, "the path of a file in a folder that exists", value)
    return file
