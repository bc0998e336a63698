"""Options of ops, cells and layers: the checks that their tables name, and `CheckedOptions`, which
runs a check wherever an option is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import mlx.nn as nn

from . import limits
from .checks import choice, real, size

Check = Callable[[str, str, Any], Any]  # check(op, name, value) -> the value to keep

unfolds = partial(size, most=limits.MAX_UNFOLDS)
layer_count = partial(size, most=limits.MAX_LAYERS)


def number(op: str, name: str, value: object) -> float:
    """`value` as a finite float >= 0."""
    return real(op, name, value, "a number >= 0", lambda n: 0 <= n < math.inf)


def positive(op: str, name: str, value: object) -> float:
    """`value` as a finite float > 0."""
    return real(op, name, value, "a number > 0", lambda n: 0 < n < math.inf)


def optional(check: Check) -> Check:
    """`check`, which lets None pass."""
    return lambda op, name, value: None if value is None else check(op, name, value)


def one_of(*among: str | None) -> Check:
    """The check of `choice` among these."""
    return partial(choice, options=among)


class CheckedOptions(nn.Module):
    """Options are attributes that are checked whenever they are set, in the constructor or later.

    `_checked_options`: {name: check(op, name, value) -> the value to keep}. `_fixed_options`: names
    that weights were made by, which can't become another value than the first that is not None.
    Both raise ValueError.
    """

    op: str
    _checked_options: ClassVar[dict[str, Check]] = {}
    _fixed_options: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        check = self._checked_options.get(name)
        if check is not None:
            value = check(self.op, name, value)
        if name in self._fixed_options:
            first = getattr(self, name, None)
            if first is not None and first != value:
                raise ValueError(
                    f"[{self.op}] {name} is fixed when the weights are made, as {first!r}; "
                    f"got {value!r}."
                )
        super().__setattr__(name, value)
