"""The activations of a CfC's backbone (MATHS 1), as functions and by name."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ..backends import activations as table
from ..checks import choice, is_array, real, refused

__all__ = [
    "ACTIVATIONS",
    "gelu",
    "get_activation",
    "lecun_tanh",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]

ACTIVATIONS = tuple(table.ACTIVATIONS)


def _checked(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array | float], mx.array]:
    """`function` of an mx.array or a number, and of nothing else."""

    @functools.wraps(function)
    def activation(x: mx.array | float) -> mx.array:
        if isinstance(x, numbers.Real) and not isinstance(x, bool):
            x = mx.array(real(function.__name__, "x", x, "a number or an mx.array"))
        if not is_array(x) or not mx.issubdtype(x.dtype, mx.floating):
            raise refused(function.__name__, "x", "a floating mx.array or a number", x)
        return function(x)

    return activation


gelu = _checked(table.gelu)
lecun_tanh = _checked(table.lecun_tanh)
relu = _checked(table.relu)
sigmoid = _checked(table.sigmoid)
silu = _checked(table.silu)
softplus = _checked(table.softplus)
tanh = _checked(table.tanh)


def get_activation(name: str) -> Callable[[mx.array], mx.array]:
    """The activation called `name`, one of ACTIVATIONS; ValueError for another name.

    Example:
        >>> ops.get_activation("relu")(mx.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return table.ACTIVATIONS[choice("activations", "activation", name, ACTIVATIONS)]


def activation_name(op: str, name: str, value: Any) -> str:
    """`value`, which must name one of ACTIVATIONS; ValueError otherwise: a check of an option."""
    return choice(op, name, value, ACTIVATIONS)
