"""Recurrent layers, cells over whole sequences: `CfC` and `LTC`, stacked `CfCRNN` and `LTCRNN`,
`LiquidRNN` and `MMRNN` of any cell; `carry_forward` for irregular data; `chunked_value_and_grad`
and `checkpoint` for long sequences.
"""

from .cfc import CfC
from .checkpointed import checkpoint
from .chunked import chunked_value_and_grad
from .liquid import MMRNN, LiquidRNN
from .ltc import LTC
from .masks import Seen, carry_forward
from .session import StreamingSession
from .stacked import LTCRNN, CfCRNN

__all__ = [
    "LTC",
    "LTCRNN",
    "MMRNN",
    "CfC",
    "CfCRNN",
    "LiquidRNN",
    "Seen",
    "StreamingSession",
    "carry_forward",
    "checkpoint",
    "chunked_value_and_grad",
]


def __dir__() -> list[str]:
    """The public names."""
    return __all__
