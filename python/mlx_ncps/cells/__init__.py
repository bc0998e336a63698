"""One-step cells: `CfCCell`, `WiredCfCCell`, `LTCCell`, `LSTMCell` and their bases."""

from .base import LiquidCell, NCPRNNCell
from .cfc import CfCCell
from .lstm import LSTMCell
from .ltc import LTCCell
from .wired_cfc import WiredCfCCell

__all__ = ["CfCCell", "LSTMCell", "LTCCell", "LiquidCell", "NCPRNNCell", "WiredCfCCell"]
