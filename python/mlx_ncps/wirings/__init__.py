"""Wirings: which neuron excites or inhibits which; bit-exact with ncps."""

from .base import Synapse, Wiring
from .dense import FullyConnected, Random
from .foreign import our_wiring
from .ncp import NCP, AutoNCP

__all__ = ["NCP", "AutoNCP", "FullyConnected", "Random", "Synapse", "Wiring", "our_wiring"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__
