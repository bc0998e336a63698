"""The activations of a CfC backbone (MATHS 1), as functions and by name; the cells call it."""

from __future__ import annotations

from ..backends.reference import ACTIVATIONS as _FUNCTIONS
from ..backends.reference import gelu, lecun_tanh, relu, sigmoid, silu, softplus, tanh

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

ACTIVATIONS = tuple(_FUNCTIONS)


def get_activation(name: str):
    """The activation called `name`, one of ACTIVATIONS; ValueError for another name."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            f"[activations] activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}."
        )
    return _FUNCTIONS[name]


def activation_name(op: str, name: str, value) -> str:
    """`value`, which must name one of ACTIVATIONS; ValueError otherwise: a check of an option."""
    get_activation(value)
    return value
