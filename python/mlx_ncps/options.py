"""Options of ops, cells and layers: one check for each kind of value, and `CheckedOptions`, which
runs it wherever an option is set.
"""

from __future__ import annotations

import math
import numbers
from functools import partial
from typing import ClassVar

import numpy as np

from . import limits


def integer(op: str, name: str, value, least: int = 1, most: int = limits.MAX_SIZE) -> int:
    """`value` as an int from `least` to `most`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not whole or value < least:
        raise ValueError(f"[{op}] {name} must be an integer >= {least}, got {value!r}.")
    return limits.at_most(op, name, int(value), most)


unfolds = partial(integer, most=limits.MAX_UNFOLDS)
layer_count = partial(integer, most=limits.MAX_LAYERS)


def number(op: str, name: str, value, above: float | None = None) -> float:
    """`value` as a finite float >= 0, or > `above` where that is given."""
    real = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    fits = real and (value >= 0 if above is None else above < value)
    if not fits or not value < math.inf or (isinstance(value, int) and value > 1e308):
        wanted = "a number >= 0" if above is None else f"a number > {above:g}"
        raise ValueError(f"[{op}] {name} must be {wanted}, got {value!r}.")
    return float(value)


def positive(op: str, name: str, value) -> float:
    """`value` as a finite float > 0."""
    return number(op, name, value, above=0.0)


def flag(op: str, name: str, value) -> bool:
    """`value` as a bool: True, False, 1 or 0."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"[{op}] {name} must be True or False, got {value!r}.")


def choice(op: str, name: str, value, *, among: tuple) -> str:
    """`value`, which must be one of `among`: strings, and None if it is there."""
    if (value is None or isinstance(value, str)) and value in among:
        return value
    listed = ", ".join(str(one) for one in among)
    raise ValueError(f"[{op}] {name} must be one of {listed}, got {value!r}.")


def optional(check):
    """`check`, which lets None pass."""
    return lambda op, name, value: None if value is None else check(op, name, value)


def one_of(*among):
    """The check of `choice` among these."""
    return partial(choice, among=among)


class CheckedOptions:
    """Options are attributes that are checked whenever they are set, in the constructor or later.

    `checked_options`: {name: check(op, name, value) -> the value to keep}.  `fixed_options`: names
    that weights were made by, which can't become another value than the first that is not None.
    Both raise ValueError.
    """

    checked_options: ClassVar[dict] = {}
    fixed_options: frozenset = frozenset()

    def __setattr__(self, name, value):
        check = self.checked_options.get(name)
        if check is not None:
            value = check(self.op, name, value)
        if name in self.fixed_options:
            first = getattr(self, name, None)
            if first is not None and first != value:
                raise ValueError(
                    f"[{self.op}] {name} is fixed when the weights are made, as {first!r}; "
                    f"got {value!r}."
                )
        super().__setattr__(name, value)
