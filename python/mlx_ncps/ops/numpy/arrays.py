"""Conversion to float64 and the checks of shapes, shared by the LTC and the CfC of this package."""

from __future__ import annotations

import sys
from numbers import Real
from typing import Any

import numpy as np

Numbers = Any  # a number, an array of NumPy or MLX, or lists; None where one may be left out


def as_float64(array: Any) -> Any:
    """A number, NumPy array or MLX array of any dtype as float64; None stays None."""
    if array is None:
        return None
    if not _has_values(array):  # an mx.array that was never initialised ends the process in NumPy
        raise _not_numbers(array)
    if str(getattr(array, "dtype", "")) == "mlx.core.bfloat16":  # NumPy has no bfloat16
        array = array.astype(sys.modules["mlx.core"].float32)
    try:
        host = np.asarray(array)
        if host.dtype.kind not in "fiub" or isinstance(array, (bool, str, bytes)):
            raise TypeError(host.dtype)
        return host.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        if "[eval]" in str(error):
            raise
        raise _not_numbers(array) from error


def _has_values(array: Any, depth: int = 64) -> bool:
    """False where an MLX array, also one in nested lists, was never initialised."""
    if isinstance(array, (list, tuple)):
        return depth == 0 or all(_has_values(item, depth - 1) for item in array)
    try:
        return type(array).__module__ != "mlx.core" or array.shape is not None
    except Exception:  # nanobind's
        return False


def numbers(x: Any) -> np.ndarray:
    """``x`` as float64, which can't be None."""
    if x is None:
        raise _not_numbers(x)
    return as_float64(x)


def _not_numbers(array: object) -> ValueError:
    kind = type(array).__name__
    return ValueError(f"[numpy] an argument must be a number or an array of numbers, got {kind}.")


def check_shapes(op: str, inputs: np.ndarray, state: Any, input_size: int, units: int) -> None:
    """Raises ValueError unless inputs [B, T, I] and state [B, H] have the parameters' sizes."""
    if np.ndim(inputs) != 3 or inputs.shape[2] != input_size:
        raise ValueError(
            f"[{op}] inputs must be [B, T, I] = (*, *, {input_size}), got {np.shape(inputs)}."
        )
    found: Any = () if state is None else state.shape
    if found != (inputs.shape[0], units):
        raise ValueError(
            f"[{op}] state must be [B, H] = ({inputs.shape[0]}, {units}), got {found}."
        )


def check_cotangents(op: str, cotangents: np.ndarray, states: np.ndarray) -> None:
    """Raises ValueError unless ``cotangents`` is shaped as the states that it belongs to."""
    if cotangents.shape != states.shape:
        raise ValueError(
            f"[{op}] cotangents must be [B, T, H] = {states.shape}, got {cotangents.shape}."
        )


def timespans_array(op: str, ts: Any, batch: int, steps: int) -> np.ndarray:
    """The elapsed times as an array [B, T].

    ``ts`` is None (1.0 everywhere), a number, or an array of shape [], [T], [B, T] or [B, T, 1]. A
    negative or NaN number raises ValueError; a negative or NaN element of an array becomes NaN.
    """
    if isinstance(ts, bool):
        raise ValueError(f"[{op}] timespans must be a number >= 0 or an array, got {ts}.")
    number: Any = ts if isinstance(ts, Real) else 0.0
    if not number >= 0:
        raise ValueError(f"[{op}] timespans must not be negative or NaN, got {ts}.")
    ts = np.float64(1.0) if ts is None else as_float64(ts)
    if ts.shape not in ((), (steps,), (batch, steps), (batch, steps, 1)):
        raise ValueError(
            f"[{op}] timespans must be a number, [T] = ({steps},), [B, T] = ({batch}, {steps}) "
            f"or [B, T, 1], got {ts.shape}."
        )
    ts = np.where(ts >= 0, ts, np.nan)
    ts = ts[..., 0] if ts.ndim == 3 else ts
    return np.broadcast_to(ts, (batch, steps))


def timespans_column(op: str, ts: Any, batch: int) -> np.ndarray:
    """The elapsed times of one step as [B, 1]; ``ts`` is None, a number, or [], [B] or [B, 1]."""
    ts = ts if isinstance(ts, Real) else as_float64(ts)
    shape = np.shape(ts) if isinstance(ts, np.ndarray) else ()
    if shape not in ((), (batch,), (batch, 1)):
        raise ValueError(
            f"[{op}] timespans must be a number, [B] = ({batch},) or [B, 1], got {shape}."
        )
    return timespans_array(op, as_float64(ts).reshape(batch, 1) if shape else ts, batch, 1)


def timespans_gradient(ts: Any, dts: np.ndarray) -> Any:
    """The gradient ``dts`` [B, T] in the shape of the ``ts`` that the user gave; None for None."""
    if ts is None:
        return None
    shape = np.shape(ts)
    if shape == ():
        return dts.sum()
    return dts.sum(axis=0) if len(shape) == 1 else dts.reshape(shape)
