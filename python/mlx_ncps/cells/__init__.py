"""One-step cells: `CfCCell`, `WiredCfCCell`, `LTCCell` and their bases."""

from .base import LiquidCell, NCPRNNCell
from .cfc import CfCCell
from .ltc import LTCCell
from .wired_cfc import WiredCfCCell

__all__ = ["CfCCell", "LTCCell", "LiquidCell", "NCPRNNCell", "WiredCfCCell"]
