"""Views: what slices, transposes, reshapes and broadcasts make of a value, without copying it."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from .program import Decline


class View(NamedTuple):
    """Elements of the value `base`: of each row of it, where `row` is the axis of the rows; -1 if
    the value is fixed. The stride of the row axis is 0.
    """

    base: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    row: int = -1

    def transposed(self, axes: list[int]) -> View:
        """The view with its axes in this order."""
        shape, strides = (tuple(part[a] for a in axes) for part in (self.shape, self.strides))
        row = axes.index(self.row) if self.row >= 0 else -1
        return self._replace(shape=shape, strides=strides, row=row)

    def expanded(self, axes: list[int]) -> View:
        """The view with axes of size 1 put in at these places."""
        shape, strides, row = list(self.shape), list(self.strides), self.row
        for axis in sorted(axes):
            shape.insert(axis, 1)
            strides.insert(axis, 0)
            row += 0 <= axis <= row
        return self._replace(shape=tuple(shape), strides=tuple(strides), row=row)

    def squeezed(self, axes: list[int]) -> View:
        """The view without these axes, of size 1."""
        keep = [a for a in range(len(self.shape)) if a not in axes]
        return self.transposed(keep)

    def broadcast(self, shape: tuple[int, ...]) -> View:
        """The view repeated to this shape."""
        if not self.shape:
            return View(self.base, shape, (0,) * len(shape), self.offset)
        new = len(shape) - len(self.shape)
        pairs = zip(self.shape, self.strides, strict=True)
        strides = (0,) * new + tuple([0 if n == 1 else stride for n, stride in pairs])
        row = self.row + new if self.row >= 0 else -1
        return View(self.base, shape, strides, self.offset, row)

    def sliced(self, start: tuple, shape: tuple[int, ...], steps: tuple) -> View:
        """Elements start, start + step, ... along each axis."""
        start = tuple(b + n if b < 0 else b for b, n in zip(start, self.shape, strict=True))
        if self.row >= 0 and (start[self.row], shape[self.row], steps[self.row]) != (
            0,
            self.shape[self.row],
            1,
        ):
            raise Decline("takes some of the rows")
        offset = self.offset + sum(b * s for b, s in zip(start, self.strides, strict=True))
        strides = tuple(s * k for s, k in zip(self.strides, steps, strict=True))
        return self._replace(shape=tuple(shape), strides=strides, offset=offset)

    def reshaped(self, shape: tuple[int, ...]) -> View | None:
        """The view in another shape, or None where at most a copy can be."""
        plain = self.squeezed([a for a, n in enumerate(self.shape) if n == 1])
        wanted = tuple(n for n in shape if n != 1)
        old, same = plain.shape, 0
        while same < min(len(old), len(wanted)) and old[same] == wanted[same]:
            same += 1
        if not is_packed(old[same:], plain.strides[same:]):
            return None
        strides = plain.strides[:same] + packed(wanted[same:])
        plain = plain._replace(shape=wanted, strides=strides)
        return plain.expanded([a for a, n in enumerate(shape) if n == 1])

    def of_row(self, row: int) -> View:
        """The view of one row, without axis `row`, along which a fixed value must be the same."""
        if self.row >= 0 and self.row != row:
            raise Decline("mixes the rows")
        if self.row < 0 and self.strides[row] != 0:
            raise Decline("reads a captured array that has one value for each row")
        shape, strides = self.shape, self.strides
        shape, strides = shape[:row] + shape[row + 1 :], strides[:row] + strides[row + 1 :]
        return View(self.base, shape, strides, self.offset)

    def indices(self) -> np.ndarray:
        """Where in the value each element of the view lies, without the rows' part."""
        flat = np.full(self.shape, self.offset, np.int64)
        for axis, (n, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            if stride:
                along = np.arange(n) * stride
                flat += along.reshape(n, *(1,) * (len(self.shape) - axis - 1))
        return flat


def packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a row-contiguous array."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


@lru_cache(maxsize=256)
def row_layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Strides of a view of a whole value whose rows are axis 0, and the size of a row."""
    return (0, *packed(shape[1:])), prod(shape[1:])


def is_packed(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements lie one after the other; the strides of axes of size 1 don't count."""
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1:
            if stride != step:
                return False
            step *= n
    return True


def repeats(view: View, size: int) -> tuple[int, int, int] | None:
    """(outer, mid, inner) where a view repeats a whole value [outer, inner] of this size mid times;
    or None.
    """
    pairs = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    repeated = [axis for axis, (_, stride) in enumerate(pairs) if stride == 0]
    if not repeated or view.offset != 0 or repeated[-1] - repeated[0] != len(repeated) - 1:
        return None
    first, end = repeated[0], repeated[-1] + 1
    kept = pairs[:first] + pairs[end:]
    shape, strides = tuple(n for n, _ in kept), tuple(s for _, s in kept)
    if size_of(shape) != size or not is_packed(shape, strides):
        return None
    parts = pairs[:first], pairs[first:end], pairs[end:]
    outer, mid, inner = (prod(n for n, _ in part) for part in parts)
    return outer, mid, inner


def runs(out: np.ndarray, source: np.ndarray) -> tuple[int, ...]:
    """The ints of a `move` of the elements `source` to `out`, both ascending in `out`."""
    n = len(out)
    d_out, d_in = np.diff(out), np.diff(source)
    kind = np.where((d_out == 1) & ((d_in == 0) | (d_in == 1)), d_in, -1)
    ends = np.append(np.flatnonzero(np.diff(kind)) + 1, n - 1)  # where the kind of step changes
    ints, start, segment = [], 0, 0
    while start < n:
        while segment < len(ends) - 1 and ends[segment] <= start:
            segment += 1
        step = int(kind[start]) if start < n - 1 else -1
        stop = int(ends[segment]) + 1 if step >= 0 else start + 1
        ints += [int(out[start]), int(source[start]), stop - start, step if step >= 0 else 1]
        start = stop
    return tuple(ints)


def size_of(shape: tuple[int, ...]) -> int:
    """How many elements."""
    return prod(shape)
