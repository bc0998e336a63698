"""The first arguments of `CfC` and `LTC`: a number of inputs and neurons or a wiring, a wiring
alone, or a cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..cells import LTCCell
from ..checks import refused, size
from ..options import optional
from ..wirings import Wiring
from .layout import Contract, one_of


class Leading(NamedTuple):
    """What a layer is made of: a cell; or a number of inputs, None until the first call, and
    neurons or a wiring. `default`: what a call returns unless the constructor is told.
    """

    cell: Any
    input_size: int | None
    units: Any
    default: Contract


def leading(op: str, kinds: tuple, input_size: Any, units: Any, wiring: Any, cell: Any) -> Leading:
    """The arguments of a constructor, checked. kinds: the classes that a cell may be of.

    Sizes follow ncps.torch (whole sequence and state); a wiring alone, named or first, the earlier
    MLX ports (whole sequence); a cell gives the last output.
    """
    wanted = " or ".join(f"{'an' if kind is LTCCell else 'a'} {kind.__name__}" for kind in kinds)
    first = one_of(op, input_size=input_size, cell=cell)
    if isinstance(first, kinds):
        for name, given in (("units", units), ("wiring", wiring)):
            if given is not None:
                raise refused(op, name, "left out with a cell, which has its own", given)
        return Leading(first, None, None, Contract(False, False))
    if cell is not None or hasattr(first, "state_size"):
        name = "cell" if cell is not None else "input_size, which is a cell,"
        raise ValueError(f"[{op}] {name} must be {wanted}, got {type(first).__name__}.")
    if isinstance(first, Wiring):
        if units is not None:
            raise ValueError(
                f"[{op}] input_size must be a number of inputs beside units, got a Wiring."
            )
        first, wiring = None, one_of(op, input_size=first, wiring=wiring)
    input_size = optional(size)(op, "input_size", first)
    if wiring is not None:
        if not isinstance(wiring, Wiring):
            raise refused(op, "wiring", "a Wiring", wiring)
        return Leading(
            None, input_size, one_of(op, units=units, wiring=wiring), Contract(True, False)
        )
    if not isinstance(units, Wiring):
        try:
            units = size(op, "units", units)
        except ValueError:
            raise refused(op, "units", "a number of neurons >= 1 or a Wiring", units) from None
    return Leading(None, input_size, units, Contract(True, True))
