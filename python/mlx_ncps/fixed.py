"""Arrays of a module that are saved and never trained, as masks and wirings: what MLX's walks over
all parameters may do to them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import mlx.nn as nn

_APPLY = nn.Module.apply.__code__


class FrozenKeys(set[str]):
    """A module's frozen keys; the `fixed` ones outlive `unfreeze()`, which clears the set."""

    fixed: frozenset[str]
    asked: frozenset[str] | None

    def __init__(self, fixed: Iterable[str] = ()) -> None:
        super().__init__(fixed)
        self.fixed = frozenset(fixed)
        self.asked = None  # the names of the last `freeze()`, which `unfreeze()` takes back

    def fix(self, names: Iterable[str]) -> None:
        """Add names to the fixed keys."""
        self.fixed |= frozenset(names)
        super().update(names)

    def update(self, *others: Iterable[str]) -> None:
        """Add keys, as `freeze()` does."""
        self.asked = frozenset().union(*others)
        super().update(self.asked)

    def clear(self) -> None:
        """Remove all keys that are not fixed."""
        super().clear()
        super().update(self.fixed)
        self.asked = None

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove the keys of `others` that are not fixed."""
        super().difference_update(*others)
        super().update(self.fixed)
        self.asked = None


class FixedArrays(nn.Module):
    """A module whose fixed arrays stay what they are in `apply`, of the module itself or of a model
    around it: new initial values and dtypes are meant for the weights alone.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if not self._stays(key):
            super().__setitem__(key, value)

    def _stays(self, key: str) -> bool:
        """Whether setting this key now leaves a fixed array as it is."""
        fixed = getattr(self.__dict__.get("_no_grad"), "fixed", ())
        return key in fixed and key in self and _within_apply()


def _within_apply() -> bool:
    """Whether `nn.Module.apply` is running: it sets all arrays through the same `update()` that
    `load_weights` and users call, so that only the stack tells them apart.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back
    return False
