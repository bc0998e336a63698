"""What a step costs as compiled: the loops of a kernel's machine code, each with the turns that a
call gives it. `python -m tools.agx.loops` in the place of tools/agx/run's last step prints the table
of docs/agx.md.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

# Cycles that an instruction keeps a scheduler (metal-benchmarks); of all others 1.
CYCLES = {"exp2": 4, "rcp": 6, "imul": 4, "imadd": 4, "wait": 0}
LINE = re.compile(r"^\s*([0-9a-f]+): ([0-9a-f]+)\s+(\S+)\s*(.*)$")


class Loop(NamedTuple):
    """Instructions of a loop but not of those within, and these, in their order."""

    mix: Counter
    inner: list[Loop]
    bytes: int  # with those within

    @property
    def cycles(self) -> int:
        """Of one turn of a SIMD group, without the loops within."""
        return sum(count * CYCLES.get(name, 1) for name, count in self.mix.items())

    def cost(self, turns) -> float:
        """Cycles with the loops within, of (turns, [the same of these]). Raises ValueError where the
        code has other loops.
        """
        count, inner = turns
        if len(inner) != len(self.inner):
            raise ValueError(f"{len(self.inner)} loops within, not {len(inner)}")
        within = sum(one.cost(t) for one, t in zip(self.inner, inner, strict=True))
        return count * (self.cycles + within)


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
