"""The part of a step program that no state reaches, in MLX operations over the whole sequence: what
is the same for all rows, and what depends on the inputs of the steps alone. MLX differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from .split import Op

Values = dict[int, mx.array]  # by id: [n] of a fixed one, [B, T, n] of a varying one

_FUNCTIONS: dict[str, Callable[..., mx.array]] = {
    "neg": mx.negative,
    "abs": mx.abs,
    "exp": mx.exp,
    "log": mx.log,
    "log1p": mx.log1p,
    "sqrt": mx.sqrt,
    "rsqrt": mx.rsqrt,
    "square": mx.square,
    "sigmoid": mx.sigmoid,
    "tanh": mx.tanh,
    "erf": mx.erf,
    "sign": mx.sign,
    "add": mx.add,
    "sub": mx.subtract,
    "mul": mx.multiply,
    "div": mx.divide,
    "max": mx.maximum,
    "min": mx.minimum,
    "logaddexp": mx.logaddexp,
}
_TRUTHS: dict[str, Callable[..., mx.array]] = {
    "not": lambda a: a == 0.0,
    "gt": mx.greater,
    "ge": mx.greater_equal,
    "lt": mx.less,
    "le": mx.less_equal,
    "eq": mx.equal,
    "ne": mx.not_equal,
    "and": lambda a, b: mx.logical_and(a != 0.0, b != 0.0),
    "or": lambda a, b: mx.logical_or(a != 0.0, b != 0.0),
}
_FEW_RUNS = 8  # of a move, that are slices; more are taken by their indices


def evaluate(ops: Iterable[Op], values: Values, sizes: Sequence[int]) -> None:
    """Add the results of some instructions to `values`; sizes of all values."""
    moves: dict[int, list] = {}
    for one in ops:
        if one.op == "move":
            pieces = moves.setdefault(one.out, [])
            pieces.append((one.ints, values[one.ins[0]]))
            values[one.out] = _assembled(pieces)
        else:
            found = _result(one, [values[n] for n in one.ins])
            if found.shape[-1] != sizes[one.out]:  # of numbers alone
                found = mx.broadcast_to(found, (*found.shape[:-1], sizes[one.out]))
            values[one.out] = found


def _result(one: Op, operands: list[mx.array]) -> mx.array:
    op, ints = one.op, one.ints
    if op in _FUNCTIONS:
        return _FUNCTIONS[op](*operands)
    if op in _TRUTHS:
        return _TRUTHS[op](*operands).astype(mx.float32)
    if op == "select":
        return mx.where(operands[0] != 0.0, *operands[1:])
    if op == "matmul":
        x, weight = operands[0], matrix(operands[1], ints)
        return x @ weight if len(operands) == 2 else mx.addmm(operands[2], x, weight)
    if op == "rows":  # of a matrix, those of some runs
        weight = matrix(operands[0], ints)
        runs = zip(ints[3::2], ints[4::2], strict=True)
        return mx.concatenate([weight[at : at + n] for at, n in runs]).reshape(-1)
    x = operands[0]
    front = x.shape[:-1]
    if op == "sum":
        return x.reshape(*front, *ints).sum(axis=-2).reshape(*front, -1)
    if op == "expand":
        outer, mid, inner = ints
        blocks = x.reshape(*front, outer, 1, inner)
        return mx.broadcast_to(blocks, (*front, outer, mid, inner)).reshape(*front, -1)
    assert op == "softmax", op
    return mx.softmax(x.reshape(*front, *ints), axis=-1).reshape(x.shape)


def matrix(flat: mx.array, ints: Any) -> mx.array:
    """The matrix [k, n] of a product, of its elements."""
    k, n, transposed = ints[:3]
    return flat.reshape(n, k).T if transposed else flat.reshape(k, n)


def _assembled(pieces: list[tuple[tuple[int, ...], mx.array]]) -> mx.array:
    """A value of the runs of its moves so far, each of (to, from, length, step 0 or 1)."""
    runs: list[tuple[int, mx.array]] = []
    front = max((x.shape[:-1] for _, x in pieces), key=len)
    for ints, x in pieces:
        if len(ints) > 4 * _FEW_RUNS:
            runs += _taken(ints, x)
            continue
        for to, at, length, step in np.reshape(ints, (-1, 4)).tolist():
            part = x[..., at : at + length] if step else x[..., at : at + 1]
            runs.append((to, mx.broadcast_to(part, (*front, length))))
    parts = [part for _, part in sorted(runs, key=lambda run: run[0])]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _taken(ints: tuple[int, ...], x: mx.array) -> list[tuple[int, mx.array]]:
    """The runs of a move that has many, joined where they follow each other."""
    table = np.reshape(ints, (-1, 4))
    index = np.concatenate([at + step * np.arange(n) for _, at, n, step in table])
    places = np.concatenate([to + np.arange(n) for to, _, n, _ in table])
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    parts = zip(np.split(places, cuts), np.split(index, cuts), strict=True)
    return [(int(to[0]), mx.take(x, mx.array(at), axis=-1)) for to, at in parts]
