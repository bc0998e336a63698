"""Lowers primitives that compute, but for the elementwise ones of one instruction each."""

from __future__ import annotations

import math

import mlx.core as mx

from .lower import HANDLERS, Lowering
from .operations import Operation
from .program import Decline
from .views import View, is_packed, size_of

AND, OR, SUM = 0, 1, 2  # of Reduce
_REDUCTIONS = ("all", "any", "sum", "product", "minimum", "maximum")
_LOG = (math.log(2.0), math.log(10.0), 1.0)  # of Log's arguments 0, 1, 2


def _constant(lowering: Lowering, number: float, like: View) -> View:
    return View(lowering.operands.constant(number), (), ()).broadcast(like.shape)


def _sqrt(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    return lowering.elementwise("rsqrt" if operation.arguments[0] else "sqrt", views[0])


def _log(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    scale, result = _LOG[operation.arguments[0]], lowering.elementwise("log", views[0])
    if scale == 1.0:
        return result
    return lowering.elementwise("mul", result, _constant(lowering, 1.0 / scale, result))


def _equal(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    if operation.arguments[0]:
        raise Decline("compares NaN")
    return lowering.elementwise("eq", *views)


def _bitwise(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    (kind,) = operation.arguments
    if operation.outputs[0][2] != mx.bool_ or kind not in (0, 1, 2):
        raise Decline("computes with bits")
    return lowering.elementwise(("and", "or", "ne")[kind], *views)


def _power(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    x, exponent = views
    number = lowering.operands.number(exponent)
    if number == 1.0:
        return x
    if number in (2.0, 3.0, 4.0):
        square = lowering.elementwise("square", x)
        if number == 2.0:
            return square
        if number == 3.0:
            return lowering.elementwise("mul", square, x)
        return lowering.elementwise("square", square)
    if number in (0.5, -0.5):
        return lowering.elementwise("sqrt" if number > 0 else "rsqrt", x)
    if number == -1.0:
        return lowering.elementwise("div", _constant(lowering, 1.0, x), x)
    raise Decline("no instruction does it; exponents -1, -0.5, 0.5, 1, 2, 3 and 4 can be")


def _reduce(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    kind, axes = operation.arguments
    view = views[0]
    repeated = view.shape[0] == lowering.rows and view.strides[0] == 0
    if view.row in axes or (view.row < 0 and repeated and 0 in axes):
        raise Decline("reduces over the rows")
    row, (one,) = lowering.by_row([view])
    if row is not None:
        axes = [axis - (axis > row[0]) for axis in axes]
    shape = tuple(1 if a in axes else n for a, n in enumerate(one.shape))
    if size_of(shape) == size_of(one.shape):
        return view
    if kind not in (AND, OR, SUM):
        raise Decline(f"no instruction does a {_REDUCTIONS[kind]} over an axis")
    result = lowering.placed(_sum(lowering, kind, one, axes), shape, row)
    if kind == SUM:
        return result
    return lowering.elementwise(
        "eq" if kind == AND else "ne", result, _constant(lowering, 0.0, result)
    )


def _sum(lowering: Lowering, kind: int, one: View, axes: list[int]) -> int:
    """The id of a sum over axes of the view of one row; for AND of how many are 0."""
    operands, wide = lowering.operands, [a for a in axes if one.shape[a] > 1]
    first, last = min(wide), max(wide)
    if any(one.shape[a] > 1 for a in range(first, last + 1) if a not in wide):
        order = [a for a in range(len(one.shape)) if a not in wide]
        one, first, last = one.transposed(order + wide), len(order), len(one.shape) - 1
    value, size = operands.whole(one), size_of(one.shape)
    if kind == AND:
        value = operands.compute("not", size, [value])
    parts = one.shape[:first], one.shape[first : last + 1], one.shape[last + 1 :]
    outer, mid, inner = map(size_of, parts)
    return operands.compute("sum", outer * inner, [value], (outer, mid, inner))


def _softmax(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    view = views[0]
    last = len(view.shape) - 1
    if view.row == last:
        raise Decline("reduces over the rows")
    row, (one,) = lowering.by_row([view], free=[last])
    operands, size, n = lowering.operands, size_of(one.shape), one.shape[-1]
    value = operands.compute("softmax", size, [operands.whole(one)], (size // n, n))
    return lowering.placed(value, one.shape, row)


def _matmul(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    a, b, *_ = views
    out = operation.outputs[0][1]
    if a.row >= 0 and b.row >= 0:
        raise Decline("multiplies two arrays that both change with the step")
    if a.row < 0 and b.row < 0:
        raise Decline("multiplies two fixed arrays")
    if b.row >= 0:  # the matrix stands in front: out = A b
        shape = (*out[:-2], out[-1], out[-2])
        return _turned(_vector_by_matrix(lowering, _turned(b), _turned(a), shape))
    return _vector_by_matrix(lowering, a, b, out)


def _turned(view: View) -> View:
    """The view with its last two axes changed over."""
    n = len(view.shape)
    return view.transposed([*range(n - 2), n - 1, n - 2])


def _vector_by_matrix(lowering: Lowering, a: View, b: View, out: tuple[int, ...]) -> View:
    """A [..., k] with one vector per row, times a fixed matrix b [..., k, n]."""
    k, n = b.shape[-2:]
    if a.row == len(a.shape) - 1:
        raise Decline("mixes the rows")
    if any(s and m > 1 for m, s in zip(b.shape[:-2], b.strides[:-2], strict=True)):
        raise Decline("multiplies by several matrices")
    row, (one,) = lowering.by_row([a], free=[len(a.shape) - 1])
    if size_of(one.shape) != k:
        raise Decline("multiplies a matrix, not a vector, of each row")
    shape = tuple(m for axis, m in enumerate(out) if row is None or axis != row[0])
    operands = lowering.operands
    matrix = View(b.base, b.shape[-2:], b.strides[-2:], b.offset)
    value, transposed = _matrix(lowering, matrix)
    ins = [operands.whole(one), value]
    return lowering.placed(operands.compute("matmul", n, ins, (k, n, transposed)), shape, row)


def _matrix(lowering: Lowering, view: View) -> tuple[int, int]:
    """The id of a matrix [k, n], and whether it lies as [n, k]."""
    turned = _turned(view)
    whole = size_of(view.shape) == lowering.operands.sizes[view.base] and view.offset == 0
    if (
        whole
        and not is_packed(view.shape, view.strides)
        and is_packed(turned.shape, turned.strides)
    ):
        return lowering.operands.whole(turned), 1
    return lowering.operands.whole(view), 0


def _addmm(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    if tuple(operation.arguments) != (1.0, 1.0):
        raise Decline("scales what it adds")
    return lowering.elementwise("add", _matmul(lowering, operation, views), views[2])


HANDLERS |= {
    "Sqrt": _sqrt,
    "Log": _log,
    "Equal": _equal,
    "BitwiseBinary": _bitwise,
    "Power": _power,
    "Reduce": _reduce,
    "Softmax": _softmax,
    "Matmul": _matmul,
    "AddMM": _addmm,
}
