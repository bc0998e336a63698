"""Puts the instructions of a step program's kernel into stages, which a threadgroup runs one after
the other.
"""

from __future__ import annotations

from typing import NamedTuple

from .expressions import VALUES
from .split import Op, Split

MOST_RUNS = 16  # of a move: each is a loop of its own
MOST_SUMS = 4  # columns that a thread sums side by side


class Unsupported(ValueError):
    """Why a program has no kernel, in words for a user."""


class Map(NamedTuple):
    """Elementwise instructions of one size: a thread runs all of them for an element."""

    size: int
    ops: tuple[Op, ...]

    @property
    def reads(self) -> set[int]:
        """What it does not make itself."""
        return {ref for op in self.ops for ref in op.ins} - {op.out for op in self.ops}

    @property
    def makes(self) -> list[int]:
        """Values that may be stored."""
        return [op.out for op in self.ops]


class Product(NamedTuple):
    """Products of one row, which may be of several parts, with several matrices side by side; and
    elementwise instructions that read each sum at its own place (`then`).
    """

    parts: tuple[int, ...]
    depth: int
    columns: int
    ops: tuple[Op, ...]
    block: int  # the value that their results are parts of
    number: int  # among the products of a plan
    matrix: int  # among their different matrices
    bias: str  # what is added: "fixed", for all rows, "timed", of each step, or ""
    then: Map | None = None

    @property
    def reads(self) -> set[int]:
        """Values of rows; not the matrices."""
        return {*self.parts, *(self.then.reads if self.then else ())}

    @property
    def makes(self) -> list[int]:
        """Values that may be stored."""
        return [self.block, *(self.then.makes if self.then else ())]

    @property
    def sums(self) -> int:
        """Columns that a thread sums side by side."""
        return self.columns // self.then.size if self.then else 1


class Single(NamedTuple):
    """A move, sum, expand or softmax."""

    op: Op

    @property
    def reads(self) -> set[int]:
        """Its operand."""
        return set(self.op.ins)

    @property
    def makes(self) -> list[int]:
        """Its result."""
        return [self.op.out]


Stage = Map | Product | Single


class Scheduler:
    """Puts the instructions of a kernel into stages: as many elementwise ones together as can be,
    then others, and products only when nothing else is left, so that most of them join. Groups of
    instructions follow each other; `ends` are the numbers of stages after each.
    """

    def __init__(self, split: Split, groups: list[list[Op]]):
        self.split, self.sizes = split, split.sizes
        self.left: list[Op] = []
        self.done = set(split.states)
        self.stages: list[Stage] = []
        self.products = 0
        self.matrices: dict[tuple, int] = {}
        self.ends = [0]
        for group in groups:
            self.left = list(group)
            while self.left:
                if not self._map() and not self._single():
                    self._products()
            self.ends.append(len(self.stages))

    def _take(self, ops: list[Op]) -> None:
        taken = set(map(id, ops))
        self.left = [op for op in self.left if id(op) not in taken]
        waiting = {op.out for op in self.left}  # of values that several moves write
        self.done |= {op.out for op in ops} - waiting

    def _known(self, value: int) -> bool:
        parts = [self.split.root(part)[0] for part in self.split.parts(value)]
        return value not in self.split.reached or self.done.issuperset(parts)

    def _map(self) -> bool:
        maps = [op for op in self.left if op.op in VALUES]
        ready = [op for op in maps if all(map(self._known, op.ins))]
        if not ready:
            return False
        size = self.sizes[ready[0].out]
        ops: list[Op] = []
        made: set[int] = set()
        read: dict[int, set[int]] = {}  # of values in memory, from where
        for op in maps:  # each is known before it is read
            if self.sizes[op.out] != size or not all(
                ref in made or self._known(ref) for ref in op.ins
            ):
                continue
            outer = [ref for ref in op.ins if ref in self.split.reached and ref not in made]
            places = [self.split.root(ref) for ref in outer]
            if any(0 < abs(at - b) < size for value, at in places for b in read.get(value, ())):
                continue  # each gradient is one thread's within a stage
            for value, at in places:
                read.setdefault(value, set()).add(at)
            ops.append(op)
            made.add(op.out)
        self._add_map(Map(size, tuple(ops)), read)
        self._take(ops)
        return True

    def _add_map(self, stage: Map, read: dict[int, set[int]]) -> None:
        """A stage of its own, or what follows the products whose sums it reads."""
        last = self.stages[-1] if len(self.stages) > self.ends[-1] else None
        if isinstance(last, Product) and last.then is None and last.block in read:
            sums, rest = divmod(last.columns, stage.size)
            places = [at % stage.size for at in read[last.block]]
            if rest == 0 and sums <= MOST_SUMS and not any(places):
                self.stages[-1] = last._replace(then=stage)
                return
        self.stages.append(stage)

    def _single(self) -> bool:
        for op in self.left:
            if op.op not in VALUES and op.op != "matmul" and all(map(self._known, op.ins)):
                if op.op == "move" and len(op.ints) > 4 * MOST_RUNS:
                    raise Unsupported(f"a step moves numbers in more than {MOST_RUNS} runs")
                self.stages.append(Single(op))
                self._take([op])
                return True
        return False

    def _products(self) -> None:
        ready = [op for op in self.left if op.op == "matmul" and self._known(op.ins[0])]
        assert ready, "every instruction reads what is known before it"
        groups: dict[tuple, list[Op]] = {}
        for op in ready:
            parts = self.split.parts(op.ins[0])
            places = tuple((*self.split.root(part), self.sizes[part]) for part in parts)
            groups.setdefault((places, self._is_timed(op)), []).append(op)
        for (places, timed), ops in groups.items():
            columns = sum(op.ints[1] for op in ops)
            block, at = self.split.new(columns), 0
            for op in ops:
                self.split.alias[op.out] = block, at
                at += op.ints[1]
            fixed = any(len(op.ins) == 3 for op in ops)
            bias = "timed" if timed else "fixed" if fixed else ""
            parts, depth = self.split.parts(ops[0].ins[0]), sum(size for *_, size in places)
            key = tuple((op.ins[1:2] if timed else op.ins[1:], op.ints) for op in ops)
            matrix = self.matrices.setdefault(key, len(self.matrices))
            numbers = self.products, matrix
            self.stages.append(Product(parts, depth, columns, tuple(ops), block, *numbers, bias))
            self.products += 1
            self.done.add(block)
        self._take(ready)

    def _is_timed(self, op: Op) -> bool:
        """Whether what is added to a product is another at each step."""
        return len(op.ins) == 3 and self.split.varying[op.ins[2]]
