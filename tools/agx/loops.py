"""What a step costs as compiled: the loops of a kernel's machine code, each with the turns that a
call gives it. `tools/agx/run --loops` stores those that tools/plans/compiled.py asks for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .judge import MESA, Root

FILE = Path(__file__).with_name("loops.json")
# Cycles that an instruction keeps a scheduler (metal-benchmarks); of all others 1.
CYCLES = {"exp2": 4, "rcp": 6, "imul": 4, "imadd": 4, "wait": 0}
LINE = re.compile(r"^\s*([0-9a-f]+): ([0-9a-f]+)\s+(\S+)\s*(.*)$")


class Loop(NamedTuple):
    """Instructions of a loop but not of those within, and these, in their order."""

    mix: Counter
    inner: list[Loop]
    bytes: int  # with those within

    @property
    def instructions(self) -> int:
        """Of the code, those within too."""
        return sum(self.mix.values()) + sum(one.instructions for one in self.inner)

    @property
    def cycles(self) -> int:
        """Of one turn of a SIMD group, without the loops within."""
        return sum(count * CYCLES.get(name, 1) for name, count in self.mix.items())

    def count(self, name: str) -> int:
        """Instructions of this name, those within too."""
        return self.mix[name] + sum(one.count(name) for one in self.inner)

    def cost(self, turns: Callable[[Loop], float] = lambda _: 1) -> float:
        """Cycles of one turn with the loops within, of which each has `turns(loop)`."""
        return self.cycles + sum(turns(one) * one.cost(turns) for one in self.inner)


def read(log: str) -> Loop:
    """The loops of the largest kernel in the disassembly (AGX_MESA_DEBUG=shaders); its own
    instructions are a loop of one turn.
    """
    kernels, last = [[]], -1
    for found in map(LINE.match, log.splitlines()):
        if found:
            at = int(found[1], 16)
            if at <= last:
                kernels.append([])
            kernels[-1].append((at, len(found[2]) // 2, found[3], found[4]))
            last = at
    code = max(kernels, key=len)
    ends = [
        (at + int(rest.split()[0]), at + size)
        for at, size, name, rest in code
        if name == "jmp_any" and int(rest.split()[0]) < 0
    ]
    return _loop(code, (0, code[-1][0] + code[-1][1]), ends)


def _loop(code, span, ends) -> Loop:
    within = [e for e in ends if e != span and span[0] <= e[0] and e[1] <= span[1]]
    outer = [e for e in within if not any(o != e and o[0] <= e[0] and e[1] <= o[1] for o in within)]
    own = (
        name
        for at, _, name, _ in code
        if span[0] <= at < span[1] and not any(a <= at < b for a, b in outer)
    )
    inner = [_loop(code, e, within) for e in sorted(outer)]
    return Loop(Counter(own), inner, span[1] - span[0])


def of(root: Root, text: str) -> Loop:
    """The loops of a variant, compiled for an M1."""
    root.spirv({"loops": text})
    debug = {"AGX_CHIP": "m1", **MESA, "AGX_MESA_DEBUG": "shaders"}
    done = root.run(["/agx/judge", "compile", "loops.spv"], **debug)
    return read(done.stdout)  # of all that it prints, ours is the largest


def save(found: dict[str, Loop], file: Path = FILE) -> None:
    """Store loops, a line for each variant."""
    rows = (f"{json.dumps(name)}: {json.dumps(one)}" for name, one in found.items())
    file.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def load(file: Path = FILE) -> dict[str, Loop]:
    """The stored loops."""

    def loop(mix, inner, size):
        return Loop(Counter(mix), [loop(*one) for one in inner], size)

    return {name: loop(*one) for name, one in json.loads(file.read_text("utf-8")).items()}
