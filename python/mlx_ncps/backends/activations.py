"""The activations, modes and variants of a CfC (MATHS 1), numbered as the kernels know them: as in
the lists of metal/activations.h and metal/cfc.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)), elementwise, stable at both ends.

    Example:
        >>> ops.sigmoid(0.0).item()
        0.5
    """
    return mx.sigmoid(x)


def softplus(x: mx.array) -> mx.array:
    """log(1 + exp(x)), elementwise, stable at both ends; for LTC's implicit parameters.

    Example:
        >>> round(ops.softplus(0.0).item(), 4)  # ln 2
        0.6931
    """
    return mx.logaddexp(x, 0)


def lecun_tanh(x: mx.array) -> mx.array:
    """1.7159 tanh(0.666 x), elementwise; 0.666 and not 2/3, as ncps has it (LeCun et al. 1998).

    Example:
        >>> ops.lecun_tanh(0.0).item()
        0.0
    """
    return 1.7159 * mx.tanh(0.666 * x)


def tanh(x: mx.array) -> mx.array:
    """The hyperbolic tangent of x, elementwise.

    Example:
        >>> ops.tanh(0.0).item()
        0.0
    """
    return mx.tanh(x)


def relu(x: mx.array) -> mx.array:
    """The larger of x and 0, elementwise; its gradient at 0 is 0.

    Example:
        >>> ops.relu(-1.0).item()
        0.0
    """
    return mx.maximum(x, 0)


def gelu(x: mx.array) -> mx.array:
    """Exact GELU x (1 + erf(x / sqrt 2)) / 2, elementwise (Hendrycks and Gimpel 2016).

    Example:
        >>> ops.gelu(0.0).item()
        0.0
    """
    return 0.5 * x * (1.0 + mx.erf(x * math.sqrt(0.5)))


def silu(x: mx.array) -> mx.array:
    """The sigmoid unit x sigmoid(x), elementwise.

    Example:
        >>> ops.silu(0.0).item()
        0.0
    """
    return x * mx.sigmoid(x)


def identity(x: mx.array) -> mx.array:
    """X itself."""
    return x


class Activation(NamedTuple):
    """A line of NCPS_ACTIVATIONS in metal/activations.h."""

    function: Callable[[mx.array], mx.array]
    from_value: bool  # its slope follows from its value; else a backward keeps its argument
    backbone: bool  # of a CfC's backbone
    heads: bool  # of its heads f1 and f2


TABLE = {  # in the order of NCPS_ACTIVATIONS
    "lecun_tanh": Activation(lecun_tanh, from_value=True, backbone=True, heads=True),
    "tanh": Activation(tanh, from_value=True, backbone=True, heads=True),
    "relu": Activation(relu, from_value=True, backbone=True, heads=False),
    "gelu": Activation(gelu, from_value=False, backbone=True, heads=False),
    "silu": Activation(silu, from_value=False, backbone=True, heads=False),
    "sigmoid": Activation(sigmoid, from_value=True, backbone=True, heads=False),
    "identity": Activation(identity, from_value=True, backbone=False, heads=True),
}
ACTIVATIONS = {name: one.function for name, one in TABLE.items() if one.backbone}
MODES = ("default", "no_gate", "pure")  # in the order of NCPS_CFC_MODES

# Activation of the heads f1 and f2 by variant; all but torch have the gate sigmoid(b - a ts).
HEAD_ACTIVATIONS = {"torch": "tanh", "keras": "identity", "paper": "lecun_tanh"}
VARIANTS = tuple(HEAD_ACTIVATIONS)


def first_dropped(variant: str) -> int:
    """The first backbone layer whose outputs dropout drops: in ncps.torch the second, in ncps.keras
    and the paper's code the first.
    """
    return 1 if variant == "torch" else 0


def number(activation: str) -> int:
    """NcpsActivation of metal/activations.h."""
    return list(TABLE).index(activation)


def mode_number(mode: str) -> int:
    """NcpsCfcMode of metal/cfc.h."""
    return MODES.index(mode)
