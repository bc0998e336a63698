"""What a step costs as compiled: the loops of a kernel's machine code, each with the turns that a
call gives it. `tools/agx/run --loops` stores those of NAMES.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .judge import MESA, Root

FILE = Path(__file__).with_name("loops.json")
_CFC = "LAYERS=1 HEADS=3 MODE=0 ACTIVATION=0 HEAD_ACTIVATION=1"
NAMES = (
    *(f"cfc_forward_save {_CFC} ROWS={n} PARTS=4 THREADS=512" for n in (1, 8, 16)),
    *(f"cfc_backward {_CFC} ROWS={n} PARTS=4 THREADS=512" for n in (1, 8)),
    *(f"cfc_forward_save_matrix {_CFC} ROWS={n} PARTS=4 THREADS=512" for n in (8, 16)),
    f"cfc_backward_matrix {_CFC} ROWS=8 PARTS=4 THREADS=512",
    "ltc_dense_forward_save PER=16 PARTS=4 THREADS=256",
    "ltc_dense_backward PER=8 PARTS=8 THREADS=512",
    "ltc_streamed_forward_save ROWS=8 PARTS=4 THREADS=512",
    "ltc_streamed_backward ROWS=8 PARTS=4 THREADS=512",
)

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

    def cost(self, turns) -> float:
        """Cycles with the loops within, of (turns, [the same of these]). Raises ValueError where
        the code has other loops.
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
