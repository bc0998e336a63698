"""The functional layer: sequence and step operators, activations, initialisers, states; `ops.numpy`
has the same in NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import activations as _activations
from .activations import *  # noqa: F403 (its __all__)
from .cfc import cfc_sequence, cfc_step, cfc_update, cfc_update_pure
from .checks import MODES, VARIANTS
from .initializers import (
    lecun_normal,
    lecun_uniform,
    orthogonal,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from .ltc import ltc_sequence, ltc_step
from .mixed_memory import cfc_mixed_sequence, ltc_mixed_sequence
from .params import CfCParams, LSTMParams, LTCParams
from .states import detach_state, initial_state, reset_state
from .synapses import SynapseLists

if TYPE_CHECKING:
    from . import numpy as numpy  # imported when it is used first

__all__ = [
    "MODES",
    "VARIANTS",
    "CfCParams",
    "LSTMParams",
    "LTCParams",
    "SynapseLists",
    "cfc_mixed_sequence",
    "cfc_sequence",
    "cfc_step",
    "cfc_update",
    "cfc_update_pure",
    "detach_state",
    "initial_state",
    "lecun_normal",
    "lecun_uniform",
    "ltc_mixed_sequence",
    "ltc_sequence",
    "ltc_step",
    "orthogonal",
    "reset_state",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
]
__all__ += _activations.__all__


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Submodules that few need, imported when they are used first."""
        if name == "numpy":
            return import_module("mlx_ncps.ops.numpy")  # which sets the attribute
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "numpy"]
