"""What a recurrent layer asks of any cell, one of this package, a user's module or a function."""

from __future__ import annotations

import inspect
from typing import Any

from ..cells import CfCCell, LiquidCell, WiredCfCCell


def width_of(cell: Any) -> int | None:
    """The number of inputs that a cell says to have."""
    width = getattr(cell, "sensory_size", None)
    return getattr(cell, "input_size", None) if width is None else width


def name_of(cell: Any) -> str:
    """The name of a cell in errors."""
    return getattr(cell, "__name__", type(cell).__name__)


def runs_sequences(cell: Any) -> bool:
    """Whether a cell runs over a sequence itself; any other is called once for each step."""
    return isinstance(cell, LiquidCell) and not cell._has_own_call()


def starts_anew(cell: Any) -> bool:
    """Whether the method `sequence` of a cell takes resets, and `mixed_sequence` where it has one;
    of a wired CfC that of each layer.
    """
    parts = [cell, *(cell._layers() if isinstance(cell, WiredCfCCell) else ())]
    methods = [
        getattr(part, name, None) for part in parts for name in ("sequence", "mixed_sequence")
    ]
    return all(_takes_keywords(method) for method in methods if method is not None)


def holds_steps(cell: Any) -> bool:
    """Whether `sequence` of a cell takes `held`: that of a CfC without modules of a user."""
    if not isinstance(cell, CfCCell | WiredCfCCell) or cell.stepwise():
        return False
    layers = cell._layers() if isinstance(cell, WiredCfCCell) else [cell]
    parts = [cell, *layers]
    own = all(owner_of(part, "sequence") in (CfCCell, WiredCfCCell) for part in parts)
    return own and all(isinstance(layer, CfCCell) for layer in layers)


def _takes_keywords(method: Any) -> bool:
    parameters = inspect.signature(method).parameters
    kinds = [p.kind for p in parameters.values()]
    return "resets" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def owner_of(cell: Any, name: str) -> type | None:
    """The class that gives a cell its method of this name, or None: who changes one of two methods
    that belong together has not changed the other.
    """
    return next((kind for kind in type(cell).__mro__ if name in vars(kind)), None)


def has_program_of_sequence(cell: Any) -> bool:
    """Whether a cell's `sequence` runs its step program: none that a user's class has changed."""
    owner = owner_of(cell, "_program")
    return owner is not None and owner_of(cell, "sequence") is owner


def takes_time(cell: Any) -> bool:
    """Whether a plain cell has a third positional argument, the elapsed time."""
    kinds = [p.kind for p in inspect.signature(cell).parameters.values()]
    positional = kinds.count(inspect.Parameter.POSITIONAL_ONLY)
    positional += kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return positional > 2 or inspect.Parameter.VAR_POSITIONAL in kinds
