"""What is measured: each implementation turns a row into a Program. The worker calls them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple


class Missing(Exception):
    """An implementation can't run here; the text says why, and is printed."""


class Program(NamedTuple):
    """One row in one implementation, ready to run."""

    check: Callable[[], dict]  # the same arrays as truth.want, computed as `run` does
    run: Callable[[], object]  # what is timed; returns when everything is computed


class Implementation(NamedTuple):
    """A column of the table."""

    key: str
    title: str
    place: str  # "module:function" of this package; function(row, threads) -> Program

    def load(self, row, threads: int) -> Program:
        """The program of `row`. Raises Missing."""
        module, function = self.place.split(":")
        return getattr(import_module(f"{__name__}.{module}"), function)(row, threads)


IMPLEMENTATIONS = (
    Implementation("fused", "mlx-ncps", "mlx_ops:fused"),
    Implementation("eager", "MLX eager", "mlx_ops:eager"),
    Implementation("compiled", "mx.compile", "mlx_ops:compiled"),
    Implementation("by_hand", "MLX by hand", "by_hand:by_hand"),
    Implementation("torch", "ncps.torch", "ncps_torch:eager"),
)
