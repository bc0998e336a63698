"""The values of a program while it is made, and how views are read as operands."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from ..values import is_tracer
from .program import Decline, Instruction
from .views import View, is_packed, packed, repeats, runs, size_of

MOST_RUNS = 1 << 16  # of a move


def number_of(array: mx.array) -> float:
    """The one element of an array that has a value."""
    value: Any = array.item()
    return float(value)


class Operands:
    """Sizes of values, the instructions that make them, captured arrays and constants."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.varying: list[bool] = []
        self.instructions: list[Instruction] = []
        self.given: list[int] = []  # ids of steps and states
        self.arrays: dict[int, mx.array] = {}  # captured, by id
        self.constants: dict[int, float] = {}
        self.sources: dict[int, mx.array] = {}  # of captured arrays that are converted ones
        self._baked: set[int] = set()  # captured constants that have a value
        self._foreign: set[int] = set()  # captured arrays that are no float32
        self._converted: dict[int, int] = {}
        self._constant_ids: dict[tuple, int] = {}
        self._moved: dict[tuple, int] = {}

    def new(self, size: int, varying: bool) -> int:
        """The id of a new value."""
        if size == 0:
            raise Decline("an array has no elements")
        self.sizes.append(size)
        self.varying.append(varying)
        return len(self.sizes) - 1

    def capture(self, array: mx.array) -> View:
        """The view of an array from outside of the step."""
        value = self.new(array.size, False)
        self.arrays[value] = array
        if array.dtype != mx.float32:
            self._foreign.add(value)
        return View(value, array.shape, packed(array.shape))

    def constant(self, number: float) -> int:
        """The id of a constant."""
        number = float(np.float32(number))
        number = number if number == number else math.nan  # one object, equal to itself in tuples
        key = (number, np.signbit(number)) if number == number else ("nan", False)
        value = self._constant_ids.get(key)
        if value is None:
            value = self._constant_ids[key] = self.new(1, False)
            self.constants[value] = number
        return value

    def constant_or_captured(self, array: mx.array) -> View:
        """The view of a constant of the trace: a constant of the program if it has no axes."""
        known = not is_tracer(array)
        if known and array.ndim == 0 and array.dtype == mx.float32:
            return View(self.constant(number_of(array)), (), ())
        view = self.capture(array)
        if known:
            self._baked.add(view.base)
        return view

    def number(self, view: View) -> float | None:
        """The one number of a view of a constant, or None."""
        if view.base in self._baked and self.arrays[view.base].ndim == 0:
            return number_of(self.arrays[view.base])
        return self.constants.get(view.base)

    def host(self, view: View) -> np.ndarray:
        """The elements of a view of an array of integers that is known while tracing."""
        if view.base not in self._baked or view.base not in self._foreign:
            raise Decline("reads an index that is known only at run time")
        array = self.arrays[view.base]
        return np.array(array).reshape(-1)[view.indices()]

    def as_float(self, value: int) -> int:
        """The id of a captured array's values as float32."""
        if value not in self._foreign:
            return value
        if value not in self._converted:
            array = self.arrays[value]
            if value in self._baked and array.ndim == 0:
                self._converted[value] = self.constant(number_of(array))
            else:
                converted = self._converted[value] = self.capture(array.astype(mx.float32)).base
                self.sources[converted] = array
        return self._converted[value]

    def readable(self, view: View) -> View:
        """The view of float32 numbers, which those of an array of another dtype become."""
        return view._replace(base=self.as_float(view.base)) if view.base in self._foreign else view

    def operand(self, view: View) -> int:
        """The id of an elementwise operand: a value of one element, or one with all of the view."""
        view = self.readable(view)
        if all(s == 0 or n == 1 for n, s in zip(view.shape, view.strides, strict=True)):
            view = View(view.base, (), (), view.offset)
        return self.whole(view)

    def whole(self, view: View, varying: bool | None = None) -> int:
        """The id of a value that is a view of one row, whole and in order. varying: whether it must
        be; None: as it is.
        """
        view = self.readable(view)
        size, is_varying = size_of(view.shape), self.varying[view.base]
        varying = is_varying if varying is None else varying
        same = view.offset == 0 and size == self.sizes[view.base] and is_varying == varying
        if same and is_packed(view.shape, view.strides):
            return view.base
        key = (view.base, view.shape, view.strides, view.offset, varying)
        if key in self._moved:
            return self._moved[key]
        blocks = repeats(view, self.sizes[view.base]) if is_varying == varying else None
        if blocks is not None:
            self._moved[key] = self.compute("expand", size, [view.base], blocks)
        else:
            flat = view.indices().reshape(-1)
            self._moved[key] = self.assemble([(view.base, flat, np.arange(size))], varying)
        return self._moved[key]

    def assemble(
        self, pieces: list[tuple[int, np.ndarray, np.ndarray]], varying: bool | None = None
    ) -> int:
        """The id of a value made of pieces: (value, which elements of it, their places, ascending).
        varying: whether it must be; None: where a piece is.
        """
        pieces = [piece for piece in pieces if len(piece[2])]
        if varying is None:
            varying = any(self.varying[value] for value, _, _ in pieces)
        out = self.new(sum(len(places) for _, _, places in pieces), varying)
        for value, elements, places in pieces:
            ints = runs(places, elements)
            if len(ints) > 4 * MOST_RUNS:
                raise Decline("moves too many elements one by one")
            self.instructions.append(Instruction("move", out, (value,), ints))
        return out

    def compute(self, op: str, size: int, ins: list[int], ints: Any = ()) -> int:
        """The id of the result of an instruction."""
        out = self.new(size, any(self.varying[value] for value in ins))
        self.instructions.append(Instruction(op, out, tuple(ins), tuple(ints)))
        return out
