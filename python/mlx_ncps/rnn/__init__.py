"""Recurrent layers: `CfC` and `LTC`, cells over whole sequences."""

from .cfc import CfC
from .ltc import LTC

__all__ = ["LTC", "CfC"]
