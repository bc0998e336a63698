"""Lines of a step program's kernels: places, loops, operands, and the barriers between accesses."""

from __future__ import annotations

import re
from typing import NamedTuple

from . import expressions
from .plan import Layout, Plan

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
START = """\
constexpr int OWN = ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread, ROWS < PARTS: or none
{memory}
const uint B = uint(sizes[0]), T = uint(sizes[1]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);
"""
# What a loop over elements may name, where it does: the row of the batch, past it the last one.
NAMES = {
    "r": "const uint r = e % uint(ROWS);",
    "j": "const uint j = e / uint(ROWS);",
    "real": "const bool real = first + r < B;",
    "row": "const uint row = first + r < B ? first + r : B - 1u;",
    "at": "const uint at = row * T + t;",
}
BY_ELEMENT, BY_COLUMN, BY_OTHERS = "element", "column", ""


def with_names(body: list[str]) -> list[str]:
    """Lines after the definitions of what they name."""
    text, needed = "\n".join(body), []
    for name in reversed(NAMES):
        if re.search(rf"\b{name}\b", text):
            needed.insert(0, NAMES[name])
            text += NAMES[name]
    return [*needed, *body]


class Access(NamedTuple):
    """Numbers [low, high) of a threadgroup's array that a stage reads or writes, and how they are
    shared among threads: those that begin at one place and are shared in the same way are of the
    same thread each.
    """

    array: str
    low: int
    high: int
    shared: str
    write: bool

    def meets(self, other: Access) -> bool:
        """Whether a barrier must be between them."""
        if self.array != other.array or not (self.write or other.write):
            return False
        if self.low >= other.high or other.low >= self.high:
            return False
        alike = self.shared == other.shared != BY_OTHERS
        return not (alike and self.low == other.low)


class Writer:
    """Lines of a kernel of a plan, with barriers where they are needed."""

    def __init__(self, plan: Plan, layout: Layout):
        self.plan, self.layout = plan, layout
        self.lines: list[str] = []
        self.waiting: list[Access] = []  # since the last barrier
        self.depth = 0

    def add(self, *lines: str) -> None:
        """Lines, indented as far as blocks are open."""
        for line in lines:
            self.depth -= line.startswith("}")
            self.lines.append("  " * self.depth + line if not line.startswith("#") else line)
            self.depth += line.endswith("{")

    def barrier(self) -> None:
        """A barrier, whatever came before."""
        self.add(BARRIER)
        self.waiting = []

    def meet(self, *accesses: Access) -> None:
        """A barrier if one of these accesses needs it."""
        if any(one.meets(other) for one in accesses for other in self.waiting):
            self.barrier()
        self.waiting += accesses

    def place(self, ref: int) -> int:
        """Where a value begins in memory."""
        root, offset = self.plan.split.root(ref)
        return self.layout.at[root] + offset

    def access(self, ref: int, shared: str, write: bool, array: str = "m") -> Access:
        """That of a whole value."""
        low = self.place(ref)
        return Access(array, low, low + self.plan.sizes[ref], shared, write)

    def each(self, size: int, body: list[str]) -> None:
        """A loop over the elements of `size` numbers of each row."""
        self.add(f"NCPS_EACH({size}) {{", *with_names(body), "}")

    # ---- operands

    def memory(self, ref: int, array: str = "m") -> str:
        """Element e of a value in memory."""
        return f"{array}[uint({self.place(ref)} * ROWS) + e]"

    def outer(self, ref: int, index: str = "j") -> str:
        """A number of a value that is not in memory."""
        plan, one = self.plan, self.plan.sizes[ref] == 1
        if plan.is_number(ref):
            return expressions.number(plan.split.numbers[ref])
        more = "" if one else f" + {index}"
        if ref in plan.timed:
            return f"float(timed[at * {plan.timed_width}u + {plan.timed[ref]}u{more}])"
        return f"float(fixed[{plan.fixed[ref]}u{more}])"

    def read(self, ref: int) -> str:
        """Element e of an operand."""
        return self.memory(ref) if self.plan.in_memory(ref) else self.outer(ref)
