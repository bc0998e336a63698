"""The ground truth: every operation of ``mlx_ncps.ops``, in NumPy float64.

Names and signatures are the same. Read ``ltc.py`` and ``cfc.py`` to understand the models: they are
the equations, one line each, with nothing folded, merged or hoisted. The ``*_backward`` functions
are the gradients, written by hand. Nothing here needs MLX, but MLX arrays (of any dtype) are
accepted wherever arrays are.
"""

from . import activations as _activations
from .activations import *  # noqa: F403 (its __all__)
from .cfc import (
    VARIANTS,
    cfc_sequence,
    cfc_sequence_backward,
    cfc_step,
    cfc_update,
    cfc_update_pure,
)
from .cfc_params import MODES, CfCParams
from .initializers import (
    lecun_normal,
    lecun_uniform,
    orthogonal,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from .ltc import LTCParams, ltc_sequence, ltc_sequence_backward, ltc_step
from .mixed_memory import (
    LSTMParams,
    cfc_mixed_sequence,
    cfc_mixed_sequence_backward,
    ltc_mixed_sequence,
    ltc_mixed_sequence_backward,
)
from .states import detach_state, initial_state, reset_state

__all__ = [
    "MODES",
    "VARIANTS",
    "CfCParams",
    "LSTMParams",
    "LTCParams",
    "cfc_mixed_sequence",
    "cfc_mixed_sequence_backward",
    "cfc_sequence",
    "cfc_sequence_backward",
    "cfc_step",
    "cfc_update",
    "cfc_update_pure",
    "detach_state",
    "initial_state",
    "lecun_normal",
    "lecun_uniform",
    "ltc_mixed_sequence",
    "ltc_mixed_sequence_backward",
    "ltc_sequence",
    "ltc_sequence_backward",
    "ltc_step",
    "orthogonal",
    "reset_state",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
]
__all__ += _activations.__all__


def __dir__() -> list[str]:
    """The public names."""
    return __all__
