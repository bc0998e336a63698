"""The implementations of the fused operators: one module each, all with the names that `Backend`
lists; `dispatch` picks one.
"""

from .types import Backend, CfCFacts, Facts, FusedCall, LTCFacts

__all__ = ["Backend", "CfCFacts", "Facts", "FusedCall", "LTCFacts"]
