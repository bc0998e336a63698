"""One step of a cell as a list of instructions: `Program`; or why it is none: `Declined`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx


class Declined(NamedTuple):
    """Why a step is no program, in words for a user."""

    reason: str


class Decline(ValueError):
    """Raised within this package where a step can't be a program."""


class Instruction(NamedTuple):
    """`out` = op(`ins`), where out and ins are value ids. In the elementwise operations an operand
    has the size of the out, or size 1.

    | op | out, ins, ints |
    |---|---|
    | neg, abs, exp, log, log1p, sqrt, rsqrt, square, sigmoid, tanh, erf, sign, not | a |
    | add, sub, mul, div, max, min, logaddexp, gt, ge, lt, le, eq, ne, and, or | a, b; 1 or 0 |
    | select | c, a, b: a where c is not 0, else b |
    | move | ints: runs of 4 (out offset, in offset, length, step 0 or 1); several moves may write \
one value, each element once |
    | sum | ints: outer, mid, inner; [outer, mid, inner] summed over mid |
    | expand | ints: outer, mid, inner; [outer, inner] repeated to [outer, mid, inner] |
    | softmax | ints: outer, n; over the last axis of [outer, n] |
    | matmul | a [k], b [k, n] or [n, k] if transposed, bias [n] or none; ints: k, n, transposed |
    """

    op: str
    out: int
    ins: tuple[int, ...]
    ints: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """One step of a cell. A value is *varying*, one for each row of the batch, or *fixed*, the same
    for all rows.

    Value ids: captured arrays, steps, states, then constants and results. `sizes` are the floats of
    a value, per row of a varying one. `once` has what depends on captured arrays and constants
    alone, `step` the rest. `next` and `outputs` are varying; they may repeat an id, or name a step
    or a state. `captured` takes no part in equality and hash: calls with other weights have equal
    programs.
    """

    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    states: tuple[int, ...]
    sizes: tuple[int, ...]
    varying: tuple[bool, ...]
    constants: tuple[tuple[int, float], ...]
    once: tuple[Instruction, ...]
    step: tuple[Instruction, ...]
    next: tuple[int, ...]
    outputs: tuple[int, ...]
    captured: tuple[mx.array, ...] = field(compare=False, repr=False)
