"""Lines of a step program's kernels: places, loops, operands, and the barriers between accesses."""

from __future__ import annotations

import re
from typing import NamedTuple

from . import expressions
from .plan import Layout, Plan
from .recall import Kept

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
START = """\
constexpr int OWN = ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread, ROWS < PARTS: or none
{memory}
const uint B = uint(sizes[0]), T = uint(sizes[1]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);
const uint r = lane % uint(ROWS);  // the row of all elements e of a thread: ROWS divides threads
{real}
{row}
const uint none = B == 0u ? 1u : 0u;  // 0, which no compiler knows: it leaves a loop a loop
"""
# A row's place in the batch, and past it that of the last one; its step's place in [B, T].
PLACES = {
    "real": "const bool real = first + r < B;",
    "row": "const uint row = first + r < B ? first + r : B - 1u;",
    "at": "const uint at = row * T + t;",
}
NUMBER = "const uint j = e / uint(ROWS);"  # of the element
BY_ELEMENT, BY_COLUMN, BY_OTHERS = "element", "column", ""


def begin(memory: str) -> list[str]:
    """The first lines of a kernel with these arrays in the threadgroup's memory."""
    return START.format(memory=memory, **PLACES).splitlines()


def names(text: str, name: str) -> bool:
    """Whether lines name it."""
    return re.search(rf"\b{name}\b", text) is not None


def with_places(body: list[str]) -> list[str]:
    """Lines for a row r of their own, after the definitions of its places that they name."""
    text, needed = "\n".join(body), []
    for name, line in reversed(PLACES.items()):
        if names(text, name):
            needed.insert(0, line)
            text += line
    return [*needed, *body]


def chosen(index: str, places: list[tuple[int, int]]) -> str:
    """The first of some numbers whose end `index` is below, of (number, end) each; the last's end
    is that of all.
    """
    text = str(places[-1][0])
    for number, end in reversed(places[:-1]):
        text = f"({index} < {end}u ? {number} : {text})"
    return text


def _one_loop(loops: list[tuple[int, list[str]]]) -> list[str]:
    """The loop that does what these do one after the other for each element."""
    if not loops:
        return []
    most, bodies = max(size for size, _ in loops), []
    for size, body in loops:
        part = "" if size == most else f"if (e < uint({size} * ROWS)) "
        bodies += [f"{part}{{", *body, "}"] if len(loops) > 1 else body
    number = [NUMBER] if names("\n".join(bodies), "j") else []
    return [f"NCPS_EACH({most}) {{", *number, *bodies, "}"]


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
        self.stores = plan.stored  # values that stages leave in memory
        self.kept: dict[int, tuple[Kept, ...]] = {}  # what lies in the places of products' sums
        self.lines: list[str] = []
        self.loops: list[tuple[int, list[str]]] = []  # that will be one: (size, body)
        self.waiting: list[Access] = []  # since the last barrier
        self.depth = 0

    @property
    def text(self) -> str:
        """All lines so far."""
        self.add()
        return "\n".join(self.lines) + "\n"

    def add(self, *lines: str) -> None:
        """Lines, indented as far as blocks are open."""
        loops, self.loops = self.loops, []
        for line in [*_one_loop(loops), *lines]:
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
        """A loop over the elements of `size` numbers of each row. Those that follow each other
        without a barrier are one: element e is the same thread's in each.
        """
        self.loops.append((size, body))

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
