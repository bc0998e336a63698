"""Finds what a step does several times, such as the unfolds of a solver: so a kernel's text has it
once, in a loop.
"""

from __future__ import annotations

from typing import NamedTuple

from .split import Op, Split

MOST_TRIES = 256  # of places where a repeat may begin: each looks at all instructions


class Operand(NamedTuple):
    """A part of one, as all turns but the first agree on it."""

    back: int  # given so many turns before
    place: int  # of what gave it in its turn; -1: none did
    value: int  # its id, where no turn gives it; else -1
    at: int
    size: int


class Repeat(NamedTuple):
    """Instructions that are the same in each of some turns, but for what the turn before gave."""

    first: int  # instructions before the first turn
    length: int  # instructions of a turn
    turns: int
    carried: tuple[tuple[int, int], ...]  # (id before the first turn, id that the first turn gives)

    def parts(self, ops: list[Op]) -> list[list[Op]]:
        """The instructions before, of each turn, and after."""
        ends = [self.first + n * self.length for n in range(self.turns + 1)]
        edges = zip([0, *ends], [*ends, len(ops)], strict=True)
        return [ops[low:high] for low, high in edges]


def find_repeat(split: Split) -> Repeat | None:
    """The repeat that saves most instructions; None where no products repeat."""
    ops = split.inside
    kinds = [(op.op, op.ints, split.sizes[op.out], len(op.ins)) for op in ops]
    found = []
    for length in range(1, len(ops) // 2 + 1):
        run = 0  # how many from here on are as those `length` later
        for first in reversed(range(len(ops) - length)):
            run = run + 1 if kinds[first] == kinds[first + length] else 0
            if run >= length and any(kind[0] == "matmul" for kind in kinds[first : first + length]):
                turns = run // length + 1
                found.append(((1 - turns) * length, length, first, turns))
    for _, length, first, turns in sorted(found)[:MOST_TRIES]:
        carried = _carried(split, first, length, turns)
        if carried:
            return Repeat(first, length, turns, carried)
    return None


class _Turns:
    """What the instructions of some turns read and give."""

    def __init__(self, split: Split, first: int, length: int, turns: int):
        self.split, self.length = split, length
        self.ops = split.inside[first : first + length * turns]
        self.after = split.inside[first + length * turns :]
        self.made: dict[int, tuple[int, int]] = {}  # by id: the turn, and the place in it
        for n, op in enumerate(self.ops):
            self.made.setdefault(op.out, divmod(n, length))

    def of(self, turn: int) -> list[Op]:
        """The instructions of a turn."""
        return self.ops[turn * self.length : (turn + 1) * self.length]

    def given(self, turn: int) -> list[tuple[int, int]]:
        """Of each result of a turn: how many turns ago its id was first given, and where in it."""
        found = [self.made[op.out] for op in self.of(turn)]
        return [(turn - when, place) for when, place in found]

    def operands(self, turn: int) -> list[Operand]:
        """What a turn reads."""
        found = []
        for op in self.of(turn):
            for part in (part for ref in op.ins for part in self.split.parts(ref)):
                root, at = self.split.root(part)
                when, place = self.made.get(root, (turn, -1))
                value = root if place < 0 else -1
                found.append(Operand(turn - when, place, value, at, self.split.sizes[part]))
        return found

    def reach_out(self, last: int) -> bool:
        """Whether what a turn before the last gives is read after all turns."""
        split = self.split
        ids = [ref for op in self.after for ref in op.ins] + [*split.next, *split.outputs]
        roots = {split.root(part)[0] for ref in ids for part in split.parts(ref)}
        return any(root in self.made and self.made[root][0] < last for root in roots)


def _carried(split: Split, first: int, length: int, turns: int) -> tuple[tuple[int, int], ...]:
    """What turns give to the next, as `Repeat` has it; () where they aren't the same."""
    every = _Turns(split, first, length, turns)
    given, operands = every.given(1), every.operands(1)
    if any(when for when, _ in given) or any(one.back not in (0, 1) for one in operands):
        return ()
    if any(every.given(n) != given or every.operands(n) != operands for n in range(2, turns)):
        return ()
    if every.given(0) != given or every.reach_out(turns - 1):
        return ()
    starts: dict[int, int] = {}  # by the place in a turn: what the first reads in its stead
    for start, one in zip(every.operands(0), operands, strict=True):
        if one.back == 0:
            if start != one:
                return ()
            continue
        end = split.inside[first + one.place].out
        sizes = {one.size, start.size, split.sizes[end]}
        whole = one.at == start.at == 0 and len(sizes) == 1 and start.place < 0
        if not whole or split.sizes[start.value] not in sizes:
            return ()
        if starts.setdefault(one.place, start.value) != start.value:
            return ()
    return tuple((start, split.inside[first + place].out) for place, start in starts.items())


def with_copies(split: Split, repeat: Repeat) -> Repeat:
    """The repeat, after its first turn reads copies of what it begins with: so they may lie where
    turns leave theirs.
    """
    copies = {given: split.new(split.sizes[given]) for _, given in repeat.carried}

    def copied(ref: int, like: int) -> int:
        """An operand of the first turn; `like` is the second's."""
        roots = [split.root(part)[0] for part in split.parts(like)]
        parts = zip(split.parts(ref), roots, strict=True)
        new = tuple(copies.get(root, part) for part, root in parts)
        if new == split.parts(ref):
            return ref
        if ref not in split.joined:
            return new[0]
        row = split.new(split.sizes[ref])
        split.joined[row] = new
        return row

    before, turn, second = repeat.parts(split.inside)[:3]
    changed = []
    for op, like in zip(turn, second, strict=True):
        pairs = zip(op.ins, like.ins, strict=True)
        changed.append(op._replace(ins=tuple(copied(*pair) for pair in pairs)))
    added = [Op("copy", copies[given], (start,)) for start, given in repeat.carried]
    end = repeat.first + repeat.length
    split.inside = [*before, *added, *changed, *split.inside[end:]]
    carried = tuple((copies[given], given) for _, given in repeat.carried)
    return repeat._replace(first=repeat.first + len(added), carried=carried)
