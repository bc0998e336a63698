"""How a cell describes its steps to what computes them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from . import _loader
from .backends import cpu


class Readout(NamedTuple):
    """Which neurons are the outputs: `count` of them from `first`, times w plus b where given."""

    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  tuple has a count()
    w: mx.array | None = None
    b: mx.array | None = None


class CfCStage(NamedTuple):
    """The sizes and options of a CfC; `backbone`: the widths of its layers."""

    inputs: int
    units: int
    backbone: tuple[int, ...]
    mode: str
    activation: str
    variant: str

    def work(self, memory: bool) -> int:
        """Of one row and step, `memory`: behind an LSTM."""
        pure = self.mode == "pure"
        return _loader.native.cfc_step_work(self.inputs, self.units, self.backbone, pure, memory)


class LTCStage(NamedTuple):
    """The sizes and options of an LTC."""

    inputs: int
    units: int
    ode_unfolds: int
    epsilon: float
    implicit_param_constraints: bool
    ode_solver: str = "semi_implicit"
    front: Any = None  # a program of the extension: of the layers that the inputs pass first

    @property
    def backbone(self) -> tuple[int, ...]:
        """None: an LTC has no layers."""
        return ()

    def work(self, memory: bool) -> int:
        """Of one row and step, `memory`: behind an LSTM."""
        sizes = self.inputs, self.units, self.ode_unfolds
        front = 0 if self.front is None else self.front.work
        return _loader.native.ltc_step_work(*sizes, memory, self.ode_solver) + front


class ProgramStage(NamedTuple):
    """A step program of any cell."""

    inputs: int
    units: int
    program: Any  # of the extension

    @property
    def backbone(self) -> tuple[int, ...]:
        """None that a kernel knows."""
        return ()

    def work(self, memory: bool) -> int:
        """Of one row and step; the program has the LSTM in it."""
        return self.program.work


class StepPlan(NamedTuple):
    """All that a cell's steps are computed from.

    stages: one LTC, a chain of CfCs each of which reads the new state of the one before, or a
        step program.
    arrays: every array that a step depends on.
    readout: of the last stage's state.
    weights: gives the checked parameters of each stage, of an LTC with its SynapseLists and what
        the program in front of it captured.
    """

    stages: tuple[CfCStage, ...] | tuple[LTCStage] | tuple[ProgramStage]
    arrays: list[mx.array]
    readout: Readout
    weights: Callable[[], list]

    def work(self, mixed: bool) -> int:
        """Of one row and step, `mixed`: behind an LSTM."""
        return min(sum(stage.work(mixed) for stage in self.stages), 2**62)

    def unsupported(self) -> str:
        """Why the CPU's kernels can't run it; or ""."""
        reasons = (cpu.too_deep(stage.backbone) for stage in self.stages)
        return next(filter(None, reasons), "")
