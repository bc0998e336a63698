"""The options of a recurrent layer, listed by its constructor alone: whose they are, what they are
by default, and how `inspect.signature` tells those behind a `**options`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..checks import brief

_OF_BOTH = ("input_size", "units", "wiring", "cell", "return_sequences", "return_state")
# read by the layer itself


@functools.cache
def _parameters(init: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor but `self`."""
    parameters = dict(inspect.signature(init).parameters)
    del parameters["self"]
    return parameters


def split_options(
    init: Callable[..., None], base: Callable[..., None], given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options of the cell, options of the layer) among the arguments `given` to a layer's
    constructor `init`: the layer's are those that the constructor `base` takes too.
    """
    names = [name for name in _parameters(init) if name not in _OF_BOTH]
    of_layer = {name: given[name] for name in names if name in _parameters(base)}
    return {name: given[name] for name in names if name not in of_layer}, of_layer


def check_cell_alone(op: str, init: Callable[..., None], of_cell: dict[str, Any]) -> None:
    """Raise ValueError for an option of the cell that is not the constructor's default, where a
    cell is given, which has its own.
    """
    for name, given in of_cell.items():
        default = _parameters(init)[name].default
        if given is not default and (type(given) is not type(default) or given != default):
            raise ValueError(
                f"[{op}] {name} must be left out with a cell, which has its own, "
                f"got {brief(given)}."
            )


class OptionsSignature:
    """The `__signature__` of a class whose constructor passes `**options` on: it names those of the
    class that `of(cls)` gives.
    """

    def __init__(self, of: Callable[[type], type], without: tuple[str, ...] = ()) -> None:
        self._of = of
        self._without = without

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")  # an object's is that of its call
        init: Any = owner.__init__
        own = list(_parameters(init).values())
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            known = {*_OF_BOTH, *self._without, *(p.name for p in own)}
            passed = _parameters(self._of(owner).__init__).values()
            of_others = [p for p in passed if p.name not in known]
            own[-1:] = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in of_others]
        return inspect.Signature(own)
