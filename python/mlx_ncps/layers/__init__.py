"""Layers that build lazily: `NCPLayer`, the base of these and of all cells, and `NCPDense`."""

from .base import NCPLayer
from .dense import NCPDense

__all__ = ["NCPDense", "NCPLayer"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__
