"""The activations of a CfC backbone (MATHS 1), by function and by name; cells and layers call
it.
"""

from __future__ import annotations

from ..backends.reference import ACTIVATIONS, gelu, lecun_tanh, relu, sigmoid, silu, tanh

__all__ = ["gelu", "get_activation", "lecun_tanh", "relu", "sigmoid", "silu", "tanh"]


def get_activation(name: str):
    """The activation called `name`: lecun_tanh, tanh, relu, gelu, silu or sigmoid; ValueError for
    another name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}.")
    return ACTIVATIONS[name]
