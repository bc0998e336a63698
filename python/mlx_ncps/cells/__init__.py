"""One-step cells: `CfCCell`, `WiredCfCCell`, `LTCCell`, `LSTMCell`, their bases, and
continuous-time baselines from the literature.
"""

from .base import LiquidCell
from .cfc import CfCCell
from .continuous import CTRNNCell, ELTCCell, NeuralODECell
from .gated import CTGRUCell, ODERNNCell
from .lstm import LSTMCell
from .ltc import LTCCell
from .ltc_backbone import BackboneLTCCell
from .ncp import NCPRNNCell
from .ode_lstm import ODELSTMCell
from .wired_cfc import WiredCfCCell

__all__ = [
    "BackboneLTCCell",
    "CTGRUCell",
    "CTRNNCell",
    "CfCCell",
    "ELTCCell",
    "LSTMCell",
    "LTCCell",
    "LiquidCell",
    "NCPRNNCell",
    "NeuralODECell",
    "ODELSTMCell",
    "ODERNNCell",
    "WiredCfCCell",
]


def __dir__() -> list[str]:
    """The public names."""
    return __all__
