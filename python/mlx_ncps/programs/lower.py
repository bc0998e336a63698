"""Lowers the operations of a trace to the instructions of a `Program`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from .finish import finish
from .operands import Operands
from .operations import Operation, Trace
from .program import Decline, Program
from .views import View, packed, row_layout, size_of

ELEMENTWISE = {
    "Negative": "neg", "Abs": "abs", "Exp": "exp", "Log1p": "log1p", "Square": "square",
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf", "Sign": "sign", "LogicalNot": "not",
    "Add": "add", "Subtract": "sub", "Multiply": "mul", "Divide": "div", "Maximum": "max",
    "Minimum": "min", "LogAddExp": "logaddexp", "Greater": "gt", "GreaterEqual": "ge",
    "Less": "lt", "LessEqual": "le", "NotEqual": "ne", "LogicalAnd": "and", "LogicalOr": "or",
    "Select": "select",
}  # fmt: skip

_NEUTRAL = {"mul": 1.0, "div": 1.0, "sub": 0.0}  # second operands that change nothing

Handler = Callable[["Lowering", "Operation", list[View]], "View | list[View]"]
HANDLERS: dict[str, Handler] = {}  # by name of a primitive; filled by the modules beside this one
ANY_DTYPE: set[str] = set()  # primitives that only move elements


def lower(
    trace: Trace,
    steps: Sequence[int],
    states: Sequence[int],
    arrays: Sequence[mx.array],
    rows: int,
    dtype: mx.Dtype = mx.float32,
) -> tuple[Program, list[mx.array]]:
    """The program of a trace with so many rows of this dtype, and the arrays that `captured` has,
    in their own dtypes. `arrays` are those given as inputs after steps and states. Raises Decline
    for what no instruction does.
    """
    lowering = Lowering(rows, dtype)
    operands, widths = lowering.operands, [*steps, *states]
    for name, width in zip(trace.inputs, widths, strict=False):
        value = operands.new(width, True)
        operands.given.append(value)
        lowering.views[name] = View(value, (rows, width), (0, 1), 0, 0)
    for name, array in zip(trace.inputs[len(widths) :], arrays, strict=True):
        lowering.views[name] = operands.capture(array)
    for name, array in trace.constants:
        lowering.views[name] = operands.constant_or_captured(array)
    for operation in trace.operations:
        lowering.add(operation)
    results = [lowering.result(name) for name in trace.outputs]
    program, captured = finish(operands, steps, states, results)
    return program, [operands.sources.get(value, operands.arrays[value]) for value in captured]


class Lowering:
    """Views of the arrays of a trace, by their names, and the instructions that make them."""

    def __init__(self, rows: int, dtype: mx.Dtype = mx.float32) -> None:
        self.rows, self.dtype = rows, dtype
        self._dtypes = {dtype, mx.float32, mx.bool_}  # what float32 stands for
        self.operands = Operands()
        self.views: dict[str, View] = {}

    def add(self, operation: Operation) -> None:
        """Lower one operation; Decline names its primitive."""
        name = operation.primitive
        try:
            views = [self.views[array[0]] for array in operation.inputs]
            if name not in ANY_DTYPE:
                self._check_types(operation, views)
            if (op := ELEMENTWISE.get(name)) is not None:
                self.views[operation.outputs[0][0]] = self.elementwise(op, *views)
                return
            if name not in HANDLERS:
                raise Decline("no instruction does it")
            found = HANDLERS[name](self, operation, views)
        except Decline as error:
            raise Decline(f"{name}: {error}") from None
        found = found if isinstance(found, list) else [found]
        for array, view in zip(operation.outputs, found, strict=True):
            self.views[array[0]] = view

    def _check_types(self, operation: Operation, views: list[View]) -> None:
        """Raise Decline for what isn't computed as in float32. Integers that are compared with a
        small one are.
        """
        for _, _, dtype in operation.outputs:
            if dtype not in self._dtypes:
                raise Decline(f"computes in {dtype_name(dtype)}, not float32")
        if any(array[2] not in self._dtypes for array in operation.inputs):
            numbers = [self.operands.number(view) for view in views]
            if all(number is None or abs(number) >= 2**24 for number in numbers):
                raise Decline("compares integers")

    def result(self, name: str) -> int:
        """The id of a varying value that is a result."""
        view = self.views[name]
        if view.row > 0 or not view.shape or view.shape[0] != self.rows:
            raise Decline("a result has no rows in front")
        return self.operands.whole(view.of_row(0), varying=True)

    def elementwise(self, op: str, *views: View) -> View:
        """The result of an instruction on views of one shape."""
        if op in _NEUTRAL and self.operands.number(views[1]) == _NEUTRAL[op]:
            return views[0]
        if (ins := self._whole_rows(views)) is not None:
            shape = views[0].shape
            strides, size = row_layout(shape)
            return View(self.operands.compute(op, size, ins), shape, strides, 0, 0)
        row, rows = self.by_row(views)
        shape = rows[0].shape
        size = size_of(shape)
        ins = [self.operands.operand(view) for view in rows]
        return self.placed(self.operands.compute(op, size, ins), shape, row)

    def _whole_rows(self, views: Sequence[View]) -> list[int] | None:
        """The ids of operands where, as nearly always, each is a row of a value, whole and in
        order, or one element, and rows come first; None otherwise.
        """
        shape, sizes = views[0].shape, self.operands.sizes
        if not shape or not any(view.row == 0 for view in views):
            return None
        strides, size = row_layout(shape)
        for base, _, along, offset, row in views:
            whole = sizes[base] == size and offset == 0 and along == strides
            if row > 0 or not (whole or sizes[base] == 1):
                return None
        return [self.operands.as_float(view.base) for view in views]

    def by_row(self, views: Sequence[View], free: Sequence[int] = ()) -> tuple[Row, list[View]]:
        """The views of one row, and what `placed` needs. A fixed result that would be the same for
        each row along axis 0 is computed once, unless 0 is in `free`.
        """
        row = -1
        for view in views:
            if view.row >= 0:
                if row not in (-1, view.row):
                    raise Decline("mixes the rows")
                row = view.row
        if row >= 0:
            return (row, row), [view.of_row(row) for view in views]
        if 0 not in free and all(
            v.shape and v.shape[0] == self.rows and v.strides[0] == 0 for v in views
        ):
            return (0, -1), [view.of_row(0) for view in views]
        return None, list(views)

    def placed(self, value: int, shape: tuple[int, ...], row: Row) -> View:
        """The view of a value that is one row of this shape, with the axis of the rows."""
        view = View(value, shape, packed(shape))
        if row is None:
            return view
        axis, varying = row
        full = (*shape[:axis], self.rows, *shape[axis:])
        strides = (*view.strides[:axis], 0, *view.strides[axis:])
        return View(value, full, strides, 0, varying)

    def copied(self, view: View) -> View:
        """A packed copy of a view."""
        row, (one,) = self.by_row([view])
        return self.placed(self.operands.whole(one), one.shape, row)


Row = tuple[int, int] | None  # the axis, and what View.row is to be


def dtype_name(dtype: mx.Dtype) -> str:
    """As `float16`."""
    return str(dtype).rsplit(".")[-1]
