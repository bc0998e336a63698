"""The ground truth: every operation of ``mlx_ncps.ops``, in NumPy float64.

Names and signatures are the same. Read ``ltc.py`` and ``cfc.py`` to understand the models: they are
the equations, one line each, with nothing folded, merged or hoisted. The ``*_backward`` functions
are the gradients, written by hand. Nothing here needs MLX, but MLX arrays (of any dtype) are
accepted wherever arrays are.
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
from .cfc import (
    MODES,
    VARIANTS,
    CfCParams,
    cfc_sequence,
    cfc_sequence_backward,
    cfc_step,
    cfc_update,
    cfc_update_pure,
)
from .ltc import LTCParams, ltc_sequence, ltc_sequence_backward, ltc_step

__all__ = [
    "ACTIVATIONS",
    "MODES",
    "VARIANTS",
    "CfCParams",
    "LTCParams",
    "cfc_sequence",
    "cfc_sequence_backward",
    "cfc_step",
    "cfc_update",
    "cfc_update_pure",
    "gelu",
    "get_activation",
    "lecun_tanh",
    "ltc_sequence",
    "ltc_sequence_backward",
    "ltc_step",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]
