"""Stages that a step runs several times: places of their values that let one loop run them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .repeats import Repeat
    from .schedule import Stage

# Of a kernel's text: whole numbers that may be another in each turn, names of values that are.
NUMBER = re.compile(r"(?<![\w.])(\d+u?)(?![\w.])")
NAME = re.compile(r"\b([vd])(\d+)\b")


class Turns:
    """The turns of a step, whose stages and values are each like those of the others; none where
    the scheduler made other stages of a turn, or what is carried is a part of another value.
    """

    def __init__(self, stages: list[Stage], ends: list[int], repeat: Repeat | None):
        self.stages: list[list[int]] = []  # of each turn, their numbers
        self.carried: dict[int, int] = {}  # what a turn gives the next: what the first reads
        self.turn: dict[int, int] = {}  # of each value
        self.values: list[list[int]] = []  # of each turn, in the same order
        if repeat is None:
            return
        spans = [range(*span) for span in pairwise(ends[1:-1])]
        values = [[ref for n in span for ref in stages[n].makes] for span in spans]
        if len({len(span) for span in spans}) > 1 or len(set(map(len, values))) > 1:
            return
        if not {given for _, given in repeat.carried} <= set(values[0]):
            return
        self.stages, self.values = list(map(list, spans)), values
        self.turn = {ref: n for n, refs in enumerate(values) for ref in refs}
        self.alikes = {refs[0]: refs for refs in zip(*values, strict=True)}
        self.first = {ref: refs[0] for refs in self.alikes.values() for ref in refs}
        self.carried = {given: start for start, given in repeat.carried}

    def alike(self, refs: set[int], rule: Callable[[Iterable[bool]], bool]) -> set[int]:
        """Values with a property that holds for those of all turns if it does for any, or all."""
        return {
            ref for ref in refs | set(self.turn) if rule(one in refs for one in self.all_like(ref))
        }

    def all_like(self, ref: int) -> tuple[int, ...]:
        """A value and those like it."""
        return self.alikes[self.first[ref]] if ref in self.turn else (ref,)

    def lengthen(self, born: dict[int, int], last: dict[int, int]) -> None:
        """Values of the first turn live so long that those of others may take their places: what is
        carried as long as turns run; the rest to the turn's end, if those like it live longer.
        """
        if not self.turn:
            return
        start, end = self.stages[0][0], self.stages[-1][-1]
        for refs in self.alikes.values():
            first = refs[0]
            if first not in born:
                continue
            if first in self.carried:
                born[first], last[first] = start, max(end, last[first])
                begin = self.carried[first]
                last[begin] = max(end, last[begin])
            elif any(last[ref] > self.stages[n][-1] for n, ref in enumerate(refs)):
                last[first] = max(last[first], self.stages[0][-1])

    def order(self, ref: int, born: int) -> tuple[int, ...]:
        """When a value gets its place: what is carried comes last of its turn, and of what comes
        before the first; so values like each other lie equally far apart.
        """
        if not self.turn:
            return (born, ref)
        begins = list(self.carried.values())
        if ref in self.turn:
            first = self.first[ref]
            place = list(self.carried).index(first) if first in self.carried else -1
            return (self.stages[self.turn[ref]][0], 0, place, self.values[0].index(first))
        if ref in begins:
            return (self.stages[0][0], -1, begins.index(ref), 0)
        return (born, 1 if born > self.stages[-1][-1] else -2, ref, 0)

    def like(self, ref: int) -> int | None:
        """The value whose place another has in a forward; what is carried has two in turn."""
        if ref not in self.turn or self.turn[ref] == 0:
            return None
        first, turn = self.first[ref], self.turn[ref]
        if first not in self.carried:
            return first
        return self.carried[first] if turn % 2 else first


NO_TURNS = Turns([], [], None)


def rolled(turns: list[list[str]]) -> list[str] | None:
    """The loop whose turns are these lines; None where they differ by more than numbers that grow
    steadily or are two in turn.
    """
    texts = [NUMBER.split(_named_alike("\n".join(lines))) for lines in turns]
    pieces = NUMBER.split("\n".join(turns[0]))
    if len(set(map(len, texts))) > 1 or any(t[::2] != texts[0][::2] for t in texts):
        return None
    for place in range(1, len(pieces), 2):
        number = _number([text[place] for text in texts])
        if number is None:
            return None
        pieces[place] = number
    head = f"for (int turn = 0; turn < {len(turns)} + int(none); ++turn) {{"
    return [head, *"".join(pieces).split("\n"), "}"]


def _named_alike(text: str) -> str:
    """A text whose values are named by their order in it."""
    names: dict[str, str] = {}
    return NAME.sub(lambda m: m[1] + names.setdefault(m[2], f"n{len(names)}"), text)


def _number(of_turns: list[str]) -> str | None:
    """A number as an expression of `turn`."""
    numbers = [int(text.removesuffix("u")) for text in of_turns]
    first, second = numbers[:2]
    if len(set(of_turns)) == 1:
        return of_turns[0]
    if numbers == [first + n * (second - first) for n in range(len(numbers))]:
        text = f"({first} + {second - first} * turn)"
    elif numbers == [numbers[n % 2] for n in range(len(numbers))]:
        text = f"(turn % 2 == 0 ? {first} : {second})"
    else:
        return None
    return f"uint{text}" if of_turns[0].endswith("u") else text
