"""Lowers primitives that move elements: most become another view of the same value."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .lower import ANY_DTYPE, HANDLERS, Lowering, dtype_name
from .operations import Operation
from .program import Decline
from .views import View, size_of

NO_MODE = 4  # of SliceUpdate: elements are replaced


def _broadcast(_: Lowering, operation: Operation, views: list[View]) -> View:
    return views[0].broadcast(operation.outputs[0][1])


def _reshape(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    shape = operation.outputs[0][1]
    found = views[0].reshaped(shape)
    if found is None:
        found = lowering.copied(views[0]).reshaped(shape)
    if found is None:
        raise Decline("mixes the rows with other axes")
    return found


def _expand(_: Lowering, operation: Operation, views: list[View]) -> View:
    return views[0].expanded(operation.arguments[0])


def _squeeze(_: Lowering, operation: Operation, views: list[View]) -> View:
    return views[0].squeezed(operation.arguments[0])


def _transpose(_: Lowering, operation: Operation, views: list[View]) -> View:
    return views[0].transposed(operation.arguments[0])


def _slice(_: Lowering, operation: Operation, views: list[View]) -> View:
    start, _end, steps = operation.arguments
    return views[0].sliced(start, operation.outputs[0][1], steps)


def _split(_: Lowering, operation: Operation, views: list[View]) -> list[View]:
    cuts, axis = operation.arguments
    view, parts = views[0], []
    for begin, (_name, shape, _dtype) in zip((0, *cuts), operation.outputs, strict=True):
        start = [0] * len(shape)
        start[axis] = begin
        parts.append(view.sliced(tuple(start), shape, (1,) * len(shape)))
    return parts


def _same(_: Lowering, operation: Operation, views: list[View]) -> View:
    return views[0]


def _arange(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    dtype = operation.outputs[0][2]
    numbers = np.arange(*operation.arguments)
    return lowering.operands.constant_or_captured(mx.array(numbers).astype(dtype))


def _astype(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    view, (wanted,), given = views[0], operation.arguments, operation.inputs[0][2]
    if wanted == given:
        return view
    if wanted in (mx.float32, lowering.dtype):  # all is computed in float32
        return lowering.operands.readable(view)
    if wanted == mx.bool_:
        zero = View(lowering.operands.constant(0.0), (), ()).broadcast(view.shape)
        return lowering.elementwise("ne", view, zero)
    signed = mx.issubdtype(wanted, mx.signedinteger)
    if signed and not mx.issubdtype(given, mx.floating) and given.size < wanted.size:
        return view  # it holds these integers too
    raise Decline(f"computes in {dtype_name(wanted)}, not float32")


def _places(shape: tuple[int, ...], start: list[int], part: tuple[int, ...]) -> np.ndarray:
    """Where the elements of a part of an array lie in it."""
    grid = np.arange(size_of(shape)).reshape(shape)
    return grid[tuple(slice(b, b + n) for b, n in zip(start, part, strict=True))].reshape(-1)


def _concatenate(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    (axis,) = operation.arguments
    row, parts = lowering.by_row(views, free=[axis])
    if row is not None:
        if axis == row[0]:
            raise Decline("mixes the rows")
        axis -= axis > row[0]
    lengths = [part.shape[axis] for part in parts]
    shape = (*parts[0].shape[:axis], sum(lengths), *parts[0].shape[axis + 1 :])
    pieces, begin = [], 0
    for part, length in zip(parts, lengths, strict=True):
        part = lowering.operands.readable(part)
        start = [begin if a == axis else 0 for a in range(len(shape))]
        flat = part.indices().reshape(-1)
        pieces.append((part.base, flat, _places(shape, start, part.shape)))
        begin += length
    return lowering.placed(lowering.operands.assemble(pieces), shape, row)


def _pad(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    axes, low, high = operation.arguments
    inner, value = (lowering.operands.readable(view) for view in views)
    row, (one,) = lowering.by_row([inner], free=axes)
    before, after = ([0] * len(inner.shape) for _ in range(2))
    for axis, b, a in zip(axes, low, high, strict=True):
        before[axis], after[axis] = b, a
    if row is not None and (before.pop(row[0]), after.pop(row[0])) != (0, 0):
        raise Decline("adds rows")
    shape = tuple(b + n + a for b, n, a in zip(before, one.shape, after, strict=True))
    places = _places(shape, before, one.shape)
    rest = np.setdiff1d(np.arange(size_of(shape)), places)
    pieces = [(one.base, one.indices().reshape(-1), places)]
    pieces.append((value.base, np.full(len(rest), value.offset), rest))
    return lowering.placed(lowering.operands.assemble(pieces), shape, row)


def _slice_update(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    mode, start, _, steps = operation.arguments
    if mode != NO_MODE:
        raise Decline("adds to, or compares with, what it replaces")
    old, new = (lowering.operands.readable(view) for view in views)
    row, (old, new) = lowering.by_row([old, new], free=range(len(old.shape)))
    begin, step = list(start), list(steps)
    if row is not None and (begin.pop(row[0]), step.pop(row[0])) != (0, 1):
        raise Decline("takes some of the rows")
    if row is not None and operation.inputs[1][1][row[0]] != lowering.rows:
        raise Decline("takes some of the rows")
    grid = np.arange(size_of(old.shape)).reshape(old.shape)
    index = [b + np.arange(n) * k for b, n, k in zip(begin, new.shape, step, strict=True)]
    places = grid[np.ix_(*index)].reshape(-1)
    order = np.argsort(places)
    rest = np.setdiff1d(grid.reshape(-1), places)
    pieces = [(old.base, old.indices().reshape(-1)[rest], rest)]
    pieces.append((new.base, new.indices().reshape(-1)[order], places[order]))
    return lowering.placed(lowering.operands.assemble(pieces), old.shape, row)


def _gather(lowering: Lowering, operation: Operation, views: list[View]) -> View:
    axes, sizes = operation.arguments
    source = lowering.operands.readable(views[0])
    out = operation.outputs[0][1]
    front = len(out) - len(sizes)
    where = np.full(out, source.offset)
    of_row = None
    for axis, (n, stride) in enumerate(zip(source.shape, source.strides, strict=True)):
        at = np.arange(sizes[axis]).reshape(-1, *(1,) * (len(sizes) - axis - 1))
        if axis in axes:
            index = lowering.operands.host(views[1 + list(axes).index(axis)]).astype(np.int64)
            index = np.where(index < 0, index + n, index)
            if index.size and not (index.min() >= 0 and index.max() < n):
                raise Decline("reads an index out of range")
            at = at + index.reshape(*index.shape, *(1,) * len(sizes))
        if axis == source.row:
            of_row = np.broadcast_to(at, out)
        where = where + at * stride
    if of_row is None:
        row, one = _shared_row(lowering, where)
    else:
        row, one = _row_axis(of_row, where, lowering.rows, front)
    value = lowering.operands.assemble([(source.base, one.reshape(-1), np.arange(one.size))])
    return lowering.placed(value, one.shape, row)


def _shared_row(lowering: Lowering, where: np.ndarray) -> tuple[tuple[int, int] | None, np.ndarray]:
    if where.ndim and where.shape[0] == lowering.rows and (where == where[:1]).all():
        return (0, -1), where[0]
    return None, where


def _row_axis(
    of_row: np.ndarray, where: np.ndarray, rows: int, front: int
) -> tuple[tuple[int, int], np.ndarray]:
    """The axis along which a gather walks over the rows, and what it reads of one row."""
    for axis in range(of_row.ndim):
        walk = np.arange(rows).reshape(-1, *(1,) * (of_row.ndim - axis - 1))
        first = where.take([0], axis)
        if of_row.shape[axis] == rows and (of_row == walk).all() and (where == first).all():
            return (axis, axis), first.squeeze(axis)
    raise Decline("mixes the rows")


HANDLERS |= {
    "Broadcast": _broadcast,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Unflatten": _reshape,
    "ExpandDims": _expand,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Full": _same,
    "Arange": _arange,
    "AsType": _astype,
    "Concatenate": _concatenate,
    "Pad": _pad,
    "SliceUpdate": _slice_update,
    "Gather": _gather,
}
ANY_DTYPE |= set(HANDLERS)
