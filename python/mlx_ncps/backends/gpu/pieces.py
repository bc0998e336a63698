"""What one launch takes of a call. It stays far below the seconds after which a watchdog ends it,
and below 2^32 elements of an array, as kernels count in 32 bits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import mlx.core as mx

SIMD = 32  # threads of a SIMD group
BUSY = 4 * SIMD  # threads of a core: each of its four schedulers has a SIMD group
# Numbers [H] of a row in threadgroup memory in the backward of an LTC, which keeps most: dn, dd and
# dv, and behind an LSTM two more.
LTC_COPIES = 3, 5
_Function = TypeVar("_Function", bound=Callable[..., Any])


def once(function: _Function) -> _Function:
    """`function`, asked once for the same arguments: every call of a shape gets one answer."""
    return cast(_Function, functools.lru_cache(maxsize=4096)(function))


def ceil_div(n: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-n // by)


def round_up(n: int, to: int = SIMD) -> int:
    """The next multiple of `to`."""
    return ceil_div(n, to) * to


def power_of_two(most: int) -> int:
    """The largest power of two that is not larger than `most` >= 1."""
    return 1 << (most.bit_length() - 1)


class Launch(NamedTuple):
    """Threadgroups and threads of each, along x, y, z, and the template arguments of the kernel
    that follow from them; matrix: whether a CfC's sums are of simdgroup_matrix.
    """

    groups: tuple[int, int, int]
    threads: tuple[int, int, int]
    template: tuple[tuple[str, int], ...] = ()
    matrix: bool = False

    @property
    def grid(self) -> tuple[int, ...]:
        """Threads in all, as mx.fast.metal_kernel counts."""
        return tuple(g * t for g, t in zip(self.groups, self.threads, strict=True))

    def argument(self, name: str) -> int:
        """A template argument."""
        return dict(self.template)[name]


def dense_threads(units: int, parts: int) -> int:
    """`parts` threads per neuron; every padded neuron that others read has its threads."""
    return round_up(parts * round_up(units, parts))


def dense_launch(groups: int, units: int, per: int, parts: int, padded: int) -> Launch:
    """Of an LTC with its synapses in registers, `per` in each thread."""
    template = ("PER", per), ("PARTS", parts), ("UNITS", padded)
    return Launch((groups, 1, 1), (dense_threads(units, parts), 1, 1), template)


def gradient_chunks(rows: int, synapses: int) -> int:
    """Chunks of rows whose gradients are summed apart: of >= 64 rows, while 2^19 threads last."""
    return max(1, min(ceil_div(rows, 64), 2**19 // synapses))


def fitting(launch: Launch | None) -> Launch:
    """A launch of which one row fits: `ltc_excess` and `cfc_takes_products` see to that."""
    assert launch is not None
    return launch


class Piece(NamedTuple):
    """What one launch takes of a call: so many batch rows and steps, at most."""

    rows: int
    steps: int


@dataclass(frozen=True, eq=False)
class Pieces:
    """Limits of one launch on a kind of GPU, and the pieces in which calls run."""

    memory: int = 32 * 1024  # bytes of threadgroup memory
    launch_unfolds: int = 6 * 1024  # of an LTC: each waits for the one before
    launch_steps: int = 4096  # of a CfC, likewise
    launch_elements: int = 2**30  # of the largest array: indices are 32 bits wide
    launch_gates: int = 2**30  # of an LTC
    row_gates: int = 2**25  # of one batch row of it, which one core computes
    launch_products: int = 2**33  # of a CfC's weights
    row_products: int = 2**28  # of one batch row of it

    def _piece(
        self, batch: int, steps: int, elements: int, work: int, most: int, most_of_row: int
    ) -> Piece:
        """elements: of the largest array, work: gates or products; of one row's step."""
        elements, work = max(1, elements), max(1, work)
        rows = max(1, min(batch, self.launch_elements // elements, most // work))
        steps = min(steps, self.launch_elements // (rows * elements), most // (rows * work))
        return Piece(rows, max(1, min(steps, most_of_row // work)))

    @once
    def ltc_piece(
        self, batch: int, inputs: int, units: int, unfolds: int, memory: bool = False
    ) -> Piece:
        """Of an LTC, with all of its synapses; memory: an LSTM in front, which reads as much as an
        unfold, and counts twice so that no launch is longer than without.
        """
        rounds = unfolds + 2 * memory
        elements = max(2 * rounds * units, inputs * ceil_div(units, SIMD))
        work = max(rounds * units, inputs) * units
        steps = self.launch_unfolds // rounds
        return self._piece(batch, steps, elements, work, self.launch_gates, self.row_gates)

    @once
    def cfc_piece(
        self, batch: int, inputs: int, units: int, widths: tuple[int, ...], heads: int
    ) -> Piece:
        """Of a CfC whose layers have these widths."""
        elements = max(inputs, sum(widths) + max(heads, 3) * units)
        work = sum(n * m for n, m in itertools.pairwise((units, *widths, heads * units)))
        most = self.launch_products
        return self._piece(batch, self.launch_steps, elements, work, most, self.row_products)

    @once
    def program_piece(self, batch: int, elements: int, work: int) -> Piece:
        """Of a step program, whose row and step takes so many elements of an array and products."""
        most = self.launch_products
        return self._piece(batch, self.launch_steps, elements, work, most, self.row_products)

    @once
    def ltc_excess(self, inputs: int, units: int, unfolds: int, memory: bool = False) -> str:
        """Why no launch may take a single step of a single row of this LTC, behind an LSTM with
        `memory`; "" when one may.
        """
        if LTC_COPIES[memory] * 4 * round_up(units) > self.memory:
            what = "the states and the LSTM's gradients" if memory else "the states"
            return f"{what} of {units} neurons exceed threadgroup memory"
        if unfolds > self.launch_unfolds:
            return f"a launch has at most {self.launch_unfolds} unfolds, got {unfolds}"
        if max(unfolds * units, inputs) * units > 2 * self.row_gates:
            return (
                f"a step of {inputs} inputs, {units} neurons and {unfolds} unfolds is more than a "
                "launch may take"
            )
        return ""

    @once
    def cfc_excess(self, inputs: int, units: int, widths: tuple[int, ...]) -> str:
        """The same for a CfC."""
        edges = (inputs + units, *widths, 4 * units)
        if max(n * m for n, m in itertools.pairwise(edges)) > self.launch_elements:
            weights = f"its weights of {inputs} inputs and {units} neurons"
            return f"{weights} are more than a launch may take"
        return ""


def spread(ts: float | mx.array, batch: int, steps: int) -> mx.array:
    """Time spans as [B, T], with values of their own: else each kernel would copy them."""
    ts = ts if isinstance(ts, mx.array) else mx.array(ts, mx.float32)
    return ts if ts.ndim else mx.contiguous(mx.broadcast_to(ts, (batch, steps)))


def in_pieces(
    piece: Piece,
    run: Callable[..., mx.array],
    state: mx.array,
    *timed: mx.array,
    timeless: Sequence[mx.array] = (),
) -> mx.array:
    """States [B, T, H] from `run(state, *timed, *timeless)`, called with what a launch takes of
    state [B, H], of the arrays [B, T, ...] and of the `timeless` ones [B, ...]; each piece of time
    starts from the last state of the one before.
    """

    def listed(states, timed, timeless):
        return [run(*states, *timed, *timeless)]

    return states_in_pieces(piece, listed, [state], timed, timeless)[0]


def states_in_pieces(
    piece: Piece,
    run: Callable[..., Sequence[mx.array]],
    states: Sequence[mx.array],
    timed: Sequence[mx.array],
    timeless: Sequence[mx.array],
) -> list[mx.array]:
    """The same of several states: arrays [B, T, H], one for each of them, from `run(states, timed,
    timeless)`.
    """
    batch, steps = timed[0].shape[:2]
    if batch <= piece.rows and steps <= piece.steps:
        return list(run(states, timed, timeless))
    blocks = []
    for b in range(0, batch, piece.rows):
        rows = slice(b, b + piece.rows)
        carried, kept, chunks = [s[rows] for s in states], [a[rows] for a in timeless], []
        for t in range(0, steps, piece.steps):
            span = slice(t, t + piece.steps)
            chunks.append(run(carried, [array[rows, span] for array in timed], kept))
            carried = [chunk[:, -1] for chunk in chunks[-1]]
        blocks.append([_joined(list(parts), axis=1) for parts in zip(*chunks, strict=True)])
    return [_joined(list(parts), axis=0) for parts in zip(*blocks, strict=True)]


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
