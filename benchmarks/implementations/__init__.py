"""What is measured: each implementation turns a row into a Program."""

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
    launches: Callable[[], int] | None = None  # operations of a call; None: not countable


class Implementation(NamedTuple):
    """A column of the table.

    place: "module:function" of this package; function(row, threads) -> Program.  other_model: it
    is another network of the same sizes, so that only its time can be compared.
    """

    key: str
    title: str
    place: str
    needs: tuple[str, ...] = ()  # packages
    other_model: bool = False
    modes: tuple[str, ...] = ()  # the only ones that it has; none: all

    def runs(self, row) -> bool:
        """Whether it has the row's mode; another model has no wiring."""
        wired = row.is_ltc and row.case.wiring
        return (not self.modes or row.mode in self.modes) and not (self.other_model and wired)

    def missing(self) -> str:
        """Import the packages, which takes seconds: "", or which one is not installed."""
        for name in self.needs:
            try:
                import_module(name)
            except ImportError as error:
                return f"not installed: {error.name or name}"
        return ""

    def load(self, row, threads: int) -> Program:
        """The program of `row`. Raises Missing."""
        if reason := self.missing():
            raise Missing(reason)
        module, function = self.place.split(":")
        return getattr(import_module(f"{__name__}.{module}"), function)(row, threads)


_TORCH, _NCPS = ("torch",), ("torch", "ncps")

IMPLEMENTATIONS = (
    Implementation("fused", "mlx-ncps", "mlx_ops:fused"),
    Implementation("layer_step", "layer.step", "mlx_ops:layer_step", modes=("step",)),
    Implementation("session", "StreamingSession", "mlx_ops:session", modes=("step",)),
    Implementation("eager", "MLX eager", "mlx_ops:eager"),
    Implementation("compiled", "mx.compile", "mlx_ops:compiled"),
    Implementation("by_hand", "MLX by hand", "by_hand:by_hand"),
    Implementation("torch", "ncps.torch", "ncps_torch:eager", _NCPS),
    Implementation("torch_compiled", "torch.compile", "ncps_torch:compiled", _NCPS),
    Implementation("jax", "JAX scan", "jax_scan:plain", ("jax",)),
    Implementation("jax_by_hand", "JAX by hand", "jax_scan:by_hand", ("jax",)),
    Implementation("torch_lstm", "torch LSTM", "ordinary:torch_lstm", _TORCH, True),
    Implementation("torch_gru", "torch GRU", "ordinary:torch_gru", _TORCH, True),
    Implementation("mlx_lstm", "MLX LSTM", "ordinary:mlx_lstm", (), True),
    Implementation("mlx_gru", "MLX GRU", "ordinary:mlx_gru", (), True),
)
BY_KEY = {i.key: i for i in IMPLEMENTATIONS}
