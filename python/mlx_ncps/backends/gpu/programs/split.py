"""Splits a step program: what no state reaches, which MLX computes for the whole sequence, and what
a kernel runs at each step.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .expressions import VALUES

if TYPE_CHECKING:
    from ....programs.program import Program


class Op(NamedTuple):
    """An instruction, as programs/program.py lists them; also `copy`, and outside of kernels
    `rows`: of a matrix those of the runs that follow k, n, transposed.
    """

    op: str
    out: int
    ins: tuple[int, ...]
    ints: tuple[int, ...] = ()


class Split:
    """The instructions of a program: `once` and `before` outside of the kernel, `inside` it."""

    def __init__(self, program: Program):
        self.sizes = list(program.sizes)
        self.varying = list(program.varying)
        self.numbers = {ref: n for ref, n in program.constants if math.isfinite(n)}
        first = len(program.shapes) + len(program.steps)
        self.states = tuple(range(first, first + len(program.states)))
        self.reached = set(self.states)  # by a state
        self.once, self.before, self.inside = [Op(*i) for i in program.once], [], []
        for i in program.step:
            if any(ref in self.reached for ref in i.ins):
                self.reached.add(i.out)
        for i in program.step:
            (self.inside if i.out in self.reached else self.before).append(Op(*i))
        self.alias: dict[int, tuple[int, int]] = {}  # a part of another value: (which, from where)
        self.joined: dict[int, tuple[int, ...]] = {}  # rows that products read part by part
        self._rows: dict[tuple, int] = {}  # of matrices
        self._timed: dict[tuple, int] = {}  # products for all steps at once
        self._expanded: dict[tuple[int, int], int] = {}
        self._read_of_states: dict[int, tuple] = {}
        self._find_aliases()
        self._split_products((*program.next, *program.outputs))
        self._add_to_products((*program.next, *program.outputs))
        self._prepare_operands()
        self.next = tuple(self._result(ref, state=True) for ref in program.next)
        self.outputs = tuple(self._result(ref) for ref in program.outputs)

    def new(self, size: int, varying: bool = True, *, reached: bool = True) -> int:
        """The id of another value."""
        self.sizes.append(size)
        self.varying.append(varying)
        if reached:
            self.reached.add(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def root(self, ref: int) -> tuple[int, int]:
        """The value that has a value's elements, and from which of its own on."""
        offset = 0
        while ref in self.alias:
            ref, more = self.alias[ref]
            offset += more
        return ref, offset

    def _find_aliases(self) -> None:
        """Moves of one run that is all of their value need no instruction."""
        kept = []
        for one in self.inside:
            whole = one.op == "move" and len(one.ints) == 4 and one.ints[3] == 1
            if whole and one.ints[2] == self.sizes[one.out] and one.ins[0] in self.reached:
                self.alias[one.out] = one.ins[0], one.ints[1]
            else:
                kept.append(one)
        self.inside = kept

    def _split_products(self, results: tuple[int, ...]) -> None:
        """A product of a row that is assembled reads its parts where they lie. That with parts that
        no state reaches is a product of its own, for all steps at once, and is added.
        """
        writers: dict[int, list[Op]] = {}
        for one in self.inside:
            writers.setdefault(one.out, []).append(one)
        ops = []
        for one in self.inside:
            pieces = writers.get(one.ins[0], []) if one.op == "matmul" else []
            plain = all(p.op == "move" and len(p.ints) == 4 and p.ints[3] == 1 for p in pieces)
            free = [p for p in pieces if p.ins[0] not in self.reached]
            if plain and free:
                bound = [p for p in pieces if p not in free]
                ops.append(self._two_products(one, free, bound))
            elif plain and pieces:
                if one.ins[0] not in self._read_of_states:
                    self._read_of_states[one.ins[0]] = (self._in_parts(pieces),)
                (row,) = self._read_of_states[one.ins[0]]
                ops.append(one._replace(ins=(row, *one.ins[1:])))
            else:
                ops.append(one)
        read = {self.root(ref)[0] for ref in (*results, *(ref for one in ops for ref in one.ins))}
        assembled = {ref for ref in self._read_of_states if ref not in read}
        self.inside = [one for one in ops if one.out not in assembled]

    def _two_products(self, one: Op, free: list[Op], bound: list[Op]) -> Op:
        a, weight, *bias = one.ins
        k, n, transposed = one.ints
        if a not in self._read_of_states:
            self._read_of_states[a] = self._assembled(free), self._in_parts(bound)
        outside, inside = self._read_of_states[a]
        parts = []
        in_order = sorted(bound, key=lambda p: p.ints[0])
        for source, pieces in ((outside, free), (inside, in_order)):
            size = self.sizes[source]
            runs = [number for p in pieces for number in (p.ints[0], p.ints[2])]
            which = weight, (k, n, transposed, *runs)
            if which not in self._rows:
                self._rows[which] = self.new(size * n, False, reached=False)
                self.once.append(Op("rows", self._rows[which], (weight,), which[1]))
            parts.append((source, self._rows[which], (size, n, 0)))
        (source, rows, ints), (state, own, own_ints) = parts
        read = source, rows, *bias
        if read not in self._timed:
            self._timed[read] = self.new(n, reached=False)
            self.before.append(Op("matmul", self._timed[read], read, ints))
        return Op("matmul", one.out, (state, own, self._timed[read]), own_ints)

    def _assembled(self, pieces: list[Op]) -> int:
        """The value of some pieces that no state reaches."""
        out, at = self.new(sum(p.ints[2] for p in pieces), reached=False), 0
        for p in pieces:
            self.before.append(Op("move", out, p.ins, (at, *p.ints[1:])))
            at += p.ints[2]
        return out

    def _in_parts(self, pieces: list[Op]) -> int:
        """A row of pieces that stay where they are, in the order of their places."""
        parts = []
        for p in sorted(pieces, key=lambda p: p.ints[0]):
            parts.append(self.new(p.ints[2]))
            self.alias[parts[-1]] = p.ins[0], p.ints[1]
        if len(parts) == 1:
            return parts[0]
        row = self.new(sum(self.sizes[part] for part in parts))
        self.joined[row] = tuple(parts)
        return row

    def parts(self, row: int) -> tuple[int, ...]:
        """The values that a product's row is made of."""
        return self.joined.get(row, (row,))

    def _add_to_products(self, results: tuple[int, ...]) -> None:
        """What a step adds to a product, and to nothing else, is added to its sums."""
        uses = Counter(self.root(ref)[0] for one in self.inside for ref in one.ins)
        uses.update(self.root(ref)[0] for ref in (*results, *self.alias))
        products = {one.out: n for n, one in enumerate(self.inside) if one.op == "matmul"}
        found: list[Op | None] = list(self.inside)
        for number, one in enumerate(self.inside):
            for product, timed in (one.ins, one.ins[::-1]) if one.op == "add" else ():
                at = products.get(product)
                alone = at is not None and uses[product] == 1 and len(self.inside[at].ins) == 2
                if not alone or timed in self.reached or not self.varying[timed]:
                    continue
                if at is None:  # `alone` says so
                    continue
                if self.sizes[timed] == self.sizes[product] == self.sizes[one.out]:
                    matmul = self.inside[at]
                    found[at] = None
                    found[number] = Op("matmul", one.out, (*matmul.ins, timed), matmul.ints)
                    break
        self.inside = [one for one in found if one is not None]

    def _prepare_operands(self) -> None:
        """Operands of elementwise instructions are as many as their results: a number of the row
        becomes so many, and parts of one value that overlap are copied.
        """
        ops: list[Op] = []
        for one in self.inside:
            if one.op in VALUES and self.sizes[one.out] > 1:
                operands: list[int] = []
                for ref in one.ins:
                    operands.append(self._prepared(ref, self.sizes[one.out], operands, ops))
                one = one._replace(ins=tuple(operands))
            ops.append(one)
        self.inside = ops

    def _prepared(self, ref: int, n: int, others: list[int], ops: list[Op]) -> int:
        if ref not in self.reached:
            return ref
        if self.sizes[ref] == 1:
            if (ref, n) not in self._expanded:
                self._expanded[ref, n] = self.new(n)
                ops.append(Op("expand", self._expanded[ref, n], (ref,), (1, n, 1)))
            return self._expanded[ref, n]
        base, at = self.root(ref)
        places = [self.root(other) for other in others if other in self.reached]
        if any(value == base and 0 < abs(at - begin) < n for value, begin in places):
            copy = self.new(n)
            ops.append(Op("copy", copy, (ref,)))
            return copy
        return ref

    def _result(self, ref: int, *, state: bool = False) -> int:
        """A result that a kernel has in its memory; a new state is no old one."""
        if ref in self.reached and not (state and self.root(ref)[0] in self.states):
            return ref
        copy = self.new(self.sizes[ref])
        self.inside.append(Op("copy", copy, (ref,)))
        return copy
