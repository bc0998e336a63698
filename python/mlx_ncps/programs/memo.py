"""What was found for a step before: a trace that says the same again is not lowered again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..values import is_tracer
from .operations import Trace
from .program import Program


class Memo:
    """The last program of a step; kept by whoever traces the step at each call."""

    def __init__(self) -> None:
        self.checked = False  # whether `trace_checked` has compared two traces
        self._facts: Any = None
        self._program: Program | None = None
        self._places: list[tuple[int | None, bool]] = []  # which array, whether converted

    def recall(
        self, trace: Trace, arrays: Sequence[mx.array]
    ) -> tuple[Program, list[mx.array]] | None:
        """The program of an equal trace with the arrays of this one, and these in their own dtypes;
        or None.
        """
        if self._program is None or self._facts != _facts(trace, arrays):
            return None
        known, sources, captured = _arrays(trace, arrays), [], []
        for (number, converted), old in zip(self._places, self._program.captured, strict=True):
            sources.append(old if number is None else known[number])
            captured.append(sources[-1].astype(mx.float32) if converted else sources[-1])
        return replace(self._program, captured=tuple(captured)), sources

    def keep(
        self,
        trace: Trace,
        arrays: Sequence[mx.array],
        program: Program,
        sources: Sequence[mx.array],
    ) -> None:
        """Remember the program of a trace, whose captured arrays are made from `sources`."""
        numbers = {id(array): number for number, array in enumerate(_arrays(trace, arrays))}
        pairs = zip(sources, program.captured, strict=True)
        self._places = [(numbers.get(id(a)), a is not captured) for a, captured in pairs]
        made = [  # no weights: they would live as long as the memo
            array if number is None else mx.zeros(())
            for array, (number, _) in zip(program.captured, self._places, strict=True)
        ]
        self._program = replace(program, captured=tuple(made))
        self._facts, self.checked = _facts(trace, arrays), False


def _arrays(trace: Trace, arrays: Sequence[mx.array]) -> list[mx.array]:
    return [*(array for _, array in trace.constants), *arrays]


def _facts(trace: Trace, arrays: Sequence[mx.array]) -> tuple:
    """All that a program depends on."""
    constants = [(name, a.shape, a.dtype, _value(a)) for name, a in trace.constants]
    given = [(a.shape, a.dtype) for a in arrays]
    return trace.inputs, trace.outputs, trace.operations, constants, given


def _value(array: mx.array) -> Any:
    """The value of a constant where a program has it: of a number, and of indices."""
    if is_tracer(array):
        return None
    if array.ndim == 0:
        number = array.item()
        return number if number == number else math.nan  # the one NaN, equal to itself in tuples
    integers = mx.issubdtype(array.dtype, mx.integer)
    return np.array(array).tobytes() if integers else True
