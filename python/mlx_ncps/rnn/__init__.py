"""Recurrent layers, cells over whole sequences: `CfC` and `LTC`, stacked `CfCRNN` and `LTCRNN`,
`LiquidRNN` and `MMRNN` of any cell; `carry_forward` for irregular data.
"""

from .cfc import CfC
from .liquid import MMRNN, LiquidRNN
from .ltc import LTC
from .masks import Seen, carry_forward
from .stacked import LTCRNN, CfCRNN

__all__ = ["LTC", "LTCRNN", "MMRNN", "CfC", "CfCRNN", "LiquidRNN", "Seen", "carry_forward"]
