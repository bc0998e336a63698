"""Reads what nvdisasm prints: the instructions of a kernel, its loops, and their kinds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

# An instruction; a predicate before its name: "/*00a0*/ @!P0 MUFU.EX2 R3, R3 ;"
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"^\s*(\.L_x?_?\d+|\.L_\w+):")
SIZE = 16  # bytes of an instruction

# A kind, and the names that begin so.
KINDS = {
    "special": ("MUFU",),
    "multiply-add": ("FFMA",),
    "float": ("FADD", "FMUL", "FSEL", "FSETP", "FMNMX", "FCHK", "FSWZADD", "FSET", "I2F", "F2I"),
    "threadgroup": ("LDS", "STS"),
    "memory": ("LDG", "STG", "LD.", "ST.", "LDC", "ULDC", "LDL", "STL"),
    "shuffle": ("SHFL",),
    "control": (
        *("BRA", "BAR", "WARPSYNC", "BSSY", "BSYNC", "EXIT", "NOP", "BREAK", "CALL", "RET"),
        *("YIELD", "DEPBAR"),
    ),
}
OTHER = "integer, moves"


class Instruction(NamedTuple):
    """An instruction at its address; a branch also has the address where it goes."""

    at: int
    name: str
    to: int | None


class Loop(NamedTuple):
    """The innermost loop with most work: how many instructions, of which kinds, and its work."""

    instructions: int
    mix: dict[str, int]
    work: int  # exp2 of an LTC's gates, multiply-adds of a CfC's products


def read(listing: str) -> list[Instruction]:
    """The instructions of a listing with one kernel (nvdisasm -c)."""
    code, labels, waiting, branches = [], {}, [], {}
    for line in listing.splitlines():
        if label := LABEL.match(line):
            waiting.append(label[1])
        elif found := LINE.search(line):
            at = int(found[1], 16)
            labels |= dict.fromkeys(waiting, at)
            waiting = []
            if found[2].startswith("BRA") and (target := re.search(r"\.L_\w+", found[3])):
                branches[at] = target[0]
            code.append((at, found[2]))
    return [Instruction(at, name, labels.get(branches.get(at, ""))) for at, name in code]


def kind(name: str) -> str:
    """The kind of an instruction."""
    return next((k for k, heads in KINDS.items() if name.startswith(heads)), OTHER)


def loops(code: Iterable[Instruction]) -> list[list[Instruction]]:
    """The instructions of each loop within which there is no other. A branch back to itself, the
    code's end, is none.
    """
    code = list(code)
    spans = {(one.to, one.at) for one in code if one.to is not None and one.to < one.at}
    inner = [
        (first, last)
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans)
    ]
    return [[one for one in code if a <= one.at <= b] for a, b in sorted(inner)]


def hottest(code: Iterable[Instruction], work: str) -> Loop | None:
    """The loop with most instructions whose name begins with `work`; None without any."""
    counted = [(sum(one.name.startswith(work) for one in loop), loop) for loop in loops(code)]
    count, loop = max(counted, key=lambda pair: pair[0], default=(0, []))
    if not count:
        return None
    return Loop(len(loop), dict(Counter(kind(one.name) for one in loop)), count)
