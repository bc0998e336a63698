"""The name under which cells that were pickled before look for their step cell."""

from ..at_once import StepCell

__all__ = ["StepCell"]
