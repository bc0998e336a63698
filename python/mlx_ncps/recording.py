"""Constructors that keep their arguments, from which a configuration is made, and that take other
packages' objects as ours.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Adopter = Callable[[Any], Any]

_ADOPTERS: list[Adopter] = []  # what makes ours of another package's objects


def adopter(function: Adopter) -> Adopter:
    """Let constructors of configurable classes take `function(argument)` for each argument: it
    gives our object for another package's, and anything else back as it is.
    """
    _ADOPTERS.append(function)
    return function


def adopted(value: Any) -> Any:
    """`value`, or our object for another package's."""
    for adopt in _ADOPTERS:
        value = adopt(value)
    return value


def recorded(init: Callable[..., None]) -> Callable[..., None]:
    """`init` that keeps its arguments, unless the constructor of a subclass has done so already,
    and takes other packages' objects as ours.
    """

    @functools.wraps(init)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        args = tuple(adopted(value) for value in args)
        kwargs = {key: adopted(value) for key, value in kwargs.items()}
        outermost = "_arguments" not in self.__dict__
        if outermost:
            self.__dict__["_arguments"] = _bound(init, self, args, kwargs)
        init(self, *args, **kwargs)
        if outermost and not self.__dict__.get("built", True):
            self.__dict__["_made_unbuilt"] = True

    return recording


def _bound(init: Callable[..., None], self: object, args: tuple, kwargs: dict[str, Any]) -> dict:
    """The arguments of a call by name, defaults included, options in a **dict as the others."""
    signature = inspect.signature(init)
    try:
        bound = signature.bind(self, *args, **kwargs)
    except TypeError:
        return {}  # the call itself is about to raise this
    bound.apply_defaults()
    kinds = {key: p.kind for key, p in signature.parameters.items()}
    arguments = {}
    for key, value in list(bound.arguments.items())[1:]:
        if kinds[key] is inspect.Parameter.VAR_POSITIONAL:
            arguments.update({f"*{key}": value} if value else {})
        else:
            arguments.update(value if kinds[key] is inspect.Parameter.VAR_KEYWORD else {key: value})
    return {key: _snapshot(value) for key, value in arguments.items()}


def _snapshot(value: Any) -> Any:
    """A wiring's copy: the user's own may be built or edited later."""
    return value.as_given() if hasattr(value, "as_given") else value
