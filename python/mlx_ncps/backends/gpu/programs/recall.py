"""What a backward recalls of the elementwise instructions of a stage: values that its run of the
step keeps, and those that it computes again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from .expressions import CHEAP, slopes_need
from .schedule import Map, Product, Single, Stage

if TYPE_CHECKING:
    from .plan import Plan
    from .split import Op

Kept = tuple[int, int]  # a sum: (block of a product, which of the sums of a thread); or (-1, id)


class Recall(NamedTuple):
    """Of a stage."""

    needed: tuple[int, ...]  # ids that the slopes of its instructions name
    again: frozenset[int]  # ids that are computed again
    kept: tuple[Kept, ...]  # what lies in the places of a product's sums, as many at most


def recall(plan: Plan, stage: Stage) -> Recall:
    """What the backward of a stage recalls. A product whose sums nothing else reads keeps what
    makes all that is needed cheap to compute, if it has the places; else sums.
    """
    maps = stage.then if isinstance(stage, Product) else stage
    if not isinstance(maps, Map):
        return Recall((), frozenset(), ())
    needed = tuple(dict.fromkeys(ref for op in maps.ops for ref in _needed(plan, op)))
    product = stage if isinstance(stage, Product) and stage.block in plan.private else None
    search = _Search(plan, maps, product.block if product else None)
    if product is None:
        again, _ = search.ways(needed, set(search.ops))
        return Recall(needed, frozenset(again), ())
    dear: set[int] = set()  # computed again all the same
    again, kept = search.ways(needed, dear)
    while len(kept) > product.sums:
        for place in sorted(kept):
            others = search.ways(needed, dear | {place[1]})
            if place[0] == -1 and len(others[1]) < len(kept):
                dear, (again, kept) = dear | {place[1]}, others
                break
        else:
            again, kept = search.ways(needed, set(search.ops))
    return Recall(needed, frozenset(again), tuple(sorted(kept)))


def _needed(plan: Plan, op: Op) -> list[int]:
    """What the slopes of an instruction name, without numbers of the text."""
    found = slopes_need(op.op, op.ins, op.out, plan.split.numbers)
    return [ref for ref in (*op.ins, op.out) if ref in found and not plan.is_number(ref)]


class _Search:
    """Ways to the values of one stage."""

    def __init__(self, plan: Plan, maps: Map, block: int | None):
        self.plan, self.block = plan, block
        self.ops = {op.out: op for op in maps.ops}
        self.size = maps.size

    def ways(self, needed: Iterable[int], dear: set[int]) -> tuple[set[int], set[Kept]]:
        """(what is computed again, what is kept) for `needed`; `dear`: what is computed again
        though it isn't cheap.
        """
        again: set[int] = set()
        kept: set[Kept] = set()
        seen: set[int] = set()
        todo = list(needed)
        while todo:
            ref = todo.pop()
            if ref in seen or not self.plan.in_memory(ref):
                continue
            seen.add(ref)
            root, column = self.plan.split.root(ref)
            if ref not in self.ops:
                if root == self.block:
                    kept.add((root, column // self.size))
            elif ref in self.plan.stored:
                continue
            elif self.ops[ref].op in CHEAP or ref in dear:
                again.add(ref)
                todo += self.ops[ref].ins
            else:
                kept.add((-1, ref))
        return again, kept


def runs_again(plan: Plan, recalls: list[Recall]) -> tuple[list[int], set[int]]:
    """What a backward that recalls this runs of the forward: (numbers of stages, values that they
    leave in memory).
    """
    wanted: set[int] = set()

    def want(refs: Iterable[int]) -> None:
        wanted.update(plan.split.root(ref)[0] for ref in refs if plan.in_memory(ref))

    for stage, one in zip(plan.stages, recalls, strict=True):
        maps = stage.then if isinstance(stage, Product) else stage
        if isinstance(maps, Map):
            read = {ref for op in maps.ops if op.out in one.again for ref in op.ins}
            want((read | set(one.needed)) - one.again)
        if isinstance(stage, Product):
            want(stage.parts)
        elif isinstance(stage, Single) and stage.op.op == "softmax":
            want([stage.op.out])
    runs: list[int] = []
    known = -1
    while known < len(wanted):  # a turn runs what any other does
        wanted.update(plan.turns.alike(wanted, any))
        known = len(wanted)
        runs.clear()
        for number in reversed(range(len(plan.stages))):
            stage = plan.stages[number]
            if recalls[number].kept or not wanted.isdisjoint(stage.makes):
                runs.append(number)
                want(stage.reads)
    return runs[::-1], wanted & plan.stored
