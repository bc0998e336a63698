"""The functional layer: sequence and step operators, activations, initialisers; `ops.numpy` has the
same in NumPy.
"""

from .activations import (
    ACTIVATIONS,
    gelu,
    get_activation,
    lecun_tanh,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from .cfc import CfCParams, cfc_sequence, cfc_step, cfc_update, cfc_update_pure
from .checks import MODES, VARIANTS
from .initializers import lecun_normal, lecun_uniform, orthogonal, uniform, xavier_uniform
from .ltc import LTCParams, ltc_sequence, ltc_step
from .synapses import SynapseLists

__all__ = [
    "ACTIVATIONS",
    "MODES",
    "VARIANTS",
    "CfCParams",
    "LTCParams",
    "SynapseLists",
    "cfc_sequence",
    "cfc_step",
    "cfc_update",
    "cfc_update_pure",
    "gelu",
    "get_activation",
    "lecun_normal",
    "lecun_tanh",
    "lecun_uniform",
    "ltc_sequence",
    "ltc_step",
    "orthogonal",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
    "uniform",
    "xavier_uniform",
]
