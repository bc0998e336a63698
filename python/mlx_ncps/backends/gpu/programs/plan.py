"""The plan of a step program's kernels: stages, which a threadgroup runs one after the other, and
where each value lies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from .expressions import SLOPES
from .repeats import find_repeat, with_copies
from .schedule import Map, Product, Scheduler, Single, Unsupported
from .split import Split
from .turns import NO_TURNS, Turns

if TYPE_CHECKING:
    from ....programs.program import Program

MOST_STAGES = 256  # of a kernel, whose text is compiled at its first call


class Slot(NamedTuple):
    """Where a backward leaves a share of a gradient: `size` numbers from `at` on of a step's."""

    at: int
    size: int


class Layout(NamedTuple):
    """Where values lie in a threadgroup's memory, by their ids, and numbers of a row in all."""

    at: dict[int, int]
    size: int


class Plan:
    """A program's stages, and what its kernels read and write. Raises Unsupported."""

    def __init__(self, program: Program):
        self.split = split = Split(program)
        self.sizes, self.states = split.sizes, split.states
        self.next, self.outputs = split.next, split.outputs
        repeat = find_repeat(split)
        repeat = with_copies(split, repeat) if repeat else None
        scheduler = Scheduler(split, repeat.parts(split.inside) if repeat else [split.inside])
        self.stages = scheduler.stages
        self.turns = Turns(self.stages, scheduler.ends, repeat) if repeat else NO_TURNS
        different = len(self.stages) - sum(map(len, self.turns.stages[1:]))
        if different > MOST_STAGES:
            raise Unsupported(f"a step is {different} stages, of at most {MOST_STAGES}")
        self.products = [stage for stage in self.stages if isinstance(stage, Product)]
        self.matrices = list({stage.matrix: stage for stage in reversed(self.products)}.values())
        self.matrices.sort(key=lambda stage: stage.matrix)  # a product of each
        self.stored = self.turns.alike(self._stored(), any)
        self.private = self.turns.alike(self._private(), all)
        self._find_inputs()
        self._find_slots()
        self.forward, self.backward = self._layout(True), self._layout(False)

    @property
    def results(self) -> tuple[int, ...]:
        """New states, then outputs."""
        return (*self.next, *self.outputs)

    def is_number(self, ref: int) -> bool:
        """Whether a value stands in the text."""
        return ref in self.split.numbers

    def in_memory(self, ref: int) -> bool:
        """Whether a value is the kernel's own."""
        return ref in self.split.reached

    def bias(self, stage: Product) -> int:
        """The key of what is added to a product, below 0: -1 - the number of its matrix, or of the
        first product to which the same is added at each step.
        """
        if stage.bias != "timed":
            return -1 - stage.matrix
        added = [op.ins[2] for op in stage.ops]
        alike = (s for s in self.products if s.bias == "timed")
        return next(-1 - s.number for s in alike if [op.ins[2] for op in s.ops] == added)

    def sums_at(self, maps: Map, block: int, which: int) -> tuple[int, ...]:
        """Ids under which a stage reads one of the sums of a thread of the product before it."""
        place = block, which * maps.size
        return tuple(ref for ref in sorted(maps.reads) if self.split.root(ref) == place)

    def total(self, ids: tuple[int, ...]) -> int:
        """Numbers of a row of some values side by side."""
        return sum(self.sizes[ref] for ref in ids)

    def weights(self) -> int:
        """Numbers of all matrices."""
        return sum(stage.depth * stage.columns for stage in self.matrices)

    def work(self) -> int:
        """Multiply-adds and numbers of a step."""
        return self.backward.size + sum(s.depth * s.columns for s in self.products)

    def widest(self) -> int:
        """The most columns that a stage shares among threads."""
        wide = [s.size for s in self.stages if isinstance(s, Map)]
        wide += [n for s in self.products for n in (s.depth, s.columns // s.sums)]
        return max(1, *wide)

    def _stored(self) -> set[int]:
        """Values that the threadgroup's memory has: all but what only its own stage reads."""
        split = self.split
        stored = set(self.states) | {split.root(ref)[0] for ref in (*self.results, *split.alias)}
        for stage in self.stages:
            stored |= {split.root(ref)[0] for ref in stage.reads if ref in split.reached}
            if isinstance(stage, Single):
                stored.add(stage.op.out)
        return stored

    def _private(self) -> set[int]:
        """Sums of products that nothing but what follows them reads."""
        readers: dict[int, set[int]] = {}
        for n, stage in enumerate(self.stages):
            for ref in stage.reads:
                readers.setdefault(self.split.root(ref)[0], set()).add(n)
        results = {self.split.root(ref)[0] for ref in self.results}
        own = {n: s.block for n, s in enumerate(self.stages) if isinstance(s, Product) and s.then}
        return {b for n, b in own.items() if readers.get(b, {n}) == {n} and b not in results}

    def _find_inputs(self) -> None:
        """Offsets of what kernels read of each step, and of what is the same for all."""
        self.timed: dict[int, int] = {}  # by id; what is added to products by `bias`
        self.fixed: dict[int, int] = {}  # by id; likewise
        self.timed_width = self.fixed_width = 0
        for stage in self.stages:
            if isinstance(stage, Product) and stage.bias:
                self._read(self.bias(stage), stage.columns, stage.bias == "timed")
            for ref in sorted(stage.reads - self.split.reached - {*self.split.numbers}):
                self._read(ref, self.sizes[ref], self.split.varying[ref])

    def _read(self, key: int, size: int, timed: bool) -> None:
        if timed and key not in self.timed:
            self.timed[key] = self.timed_width
            self.timed_width += size
        elif not timed and key not in self.fixed:
            self.fixed[key] = self.fixed_width
            self.fixed_width += size

    def _find_slots(self) -> None:
        """Where each stage leaves its shares of the gradients of what isn't in its memory."""
        self.trail_width = 0
        self.slots: dict[tuple[int, int], Slot] = {}  # by (number of the stage, id)
        self.product_slots: list[tuple[Slot, Slot]] = []  # of what they read, and of their results
        for n, stage in enumerate(self.stages):
            if isinstance(stage, Product):
                self.product_slots.append((self._slot(stage.depth), self._slot(stage.columns)))
            if isinstance(stage, Single):
                self._leave(n, stage.op.ins[0], self.sizes[stage.op.ins[0]])
                continue
            maps = stage.then if isinstance(stage, Product) else stage
            if maps is None:
                continue
            for op in maps.ops:
                for ref, slope in zip(op.ins, SLOPES.get(op.op, ("",)), strict=False):
                    if slope:
                        self._leave(n, ref, maps.size)

    def _leave(self, number: int, ref: int, size: int) -> None:
        if (ref in self.timed or ref in self.fixed) and (number, ref) not in self.slots:
            self.slots[number, ref] = self._slot(size)

    def _slot(self, size: int) -> Slot:
        self.trail_width += size
        return Slot(self.trail_width - size, size)

    def _layout(self, forward: bool) -> Layout:
        """Places of the stored values. In a forward one is another's, once nothing reads the other,
        and sums that only the same stage reads have none.
        """
        end, without = len(self.stages), self.private if forward else set()
        born: dict[int, int] = dict.fromkeys(self.states, -1)
        last: dict[int, int] = dict.fromkeys(self.states, end)
        for n, stage in enumerate(self.stages):
            for ref in stage.makes:
                if ref in self.stored - without:
                    born.setdefault(ref, n)
                    last[ref] = n
            for ref in stage.reads:
                last[self.split.root(ref)[0]] = n
        last |= dict.fromkeys((self.split.root(ref)[0] for ref in self.results), end)
        last |= dict.fromkeys(self.states, end)
        self.turns.lengthen(born, last)
        at: dict[int, int] = {}
        size = 0
        for ref in sorted(born, key=lambda ref: self.turns.order(ref, born[ref])):
            like = self.turns.like(ref) if forward else None
            if like is not None:
                at[ref] = at[like]
                continue
            taken = sorted(
                (at[other], at[other] + self.sizes[other])
                for other in at
                if not forward or (born[other] <= last[ref] and born[ref] <= last[other])
            )
            place = 0
            for low, high in taken:
                if place + self.sizes[ref] <= low:
                    break
                place = max(place, high)
            at[ref] = place
            size = max(size, place + self.sizes[ref])
        return Layout(at, size)


@lru_cache(maxsize=256)
def plan_of(program: Program) -> Plan | str:
    """The plan of a program, or why there is none."""
    try:
        return Plan(program)
    except Unsupported as error:
        return str(error)
