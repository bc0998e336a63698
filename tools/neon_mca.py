"""Judges the inner loops of the NEON kernels statically: cycles by LLVM's machine-code analyser, on
any machine.

    apt-get install clang-19 llvm-19 g++-aarch64-linux-gnu     # Debian
    python -m tools.neon_mca

Nothing is run. clang compiles csrc/cpu/kernels_baseline.cpp for the M1; of each kernel the
innermost loop with most divisions, or multiply-adds, goes through llvm-mca. LLVM has no model of an
M1: for `apple-m1` it takes that of Apple's first 64-bit core, which has three vector pipes where an
M1 has four; `neoverse-v2` has four pipes of 128 bits as well, and a slower division. The floor is
the vector instructions over four pipes: no schedule is better. Loads are taken to hit the L1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "csrc/cpu/kernels_baseline.cpp"
# The options of CMakeLists.txt for the kernels, for the CPU that Apple's clang compiles for.
OPTIONS = ["--target=aarch64-linux-gnu", "-mcpu=apple-m1", "-std=c++20", "-O3", "-S",
           "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
           "-fno-stack-protector"]  # fmt: skip
MODELS = ("apple-m1", "neoverse-v2")
PIPES = 4  # vector pipes of a performance core of an M1
ITERATIONS = 200
MULTIPLY_ADD = re.compile(r"\s+fml[as]\s+v\d+\.4s")
DIVISION = re.compile(r"\s+fdiv\s+v\d+\.4s")
VECTOR = re.compile(r"\s+(?!ld|st)\w+\s+[vqds]\d+\b")  # without loads and stores


class Loop(NamedTuple):
    """An innermost loop: the function's symbol and the instructions between label and branch."""

    symbol: str
    lines: tuple[str, ...]

    def count(self, pattern: re.Pattern) -> int:
        """Instructions that match."""
        return sum(bool(pattern.match(line)) for line in self.lines)


class Kernel(NamedTuple):
    """A row of the table: part of the function's symbol, and the instruction that is counted."""

    name: str
    symbol: str
    counted: re.Pattern
    unit: str


KERNELS = (
    Kernel("gates alone", "run_gates", DIVISION, "gate"),
    Kernel("LTC, lanes are neurons, forward", "ltc_dense_forward", DIVISION, "gate"),
    Kernel("LTC, lanes are neurons, backward of inputs", "backward_sensory", DIVISION, "gate"),
    Kernel("LTC, lanes are neurons, backward", "backward_recurrent", DIVISION, "gate"),
    Kernel("LTC, lanes are rows, forward", "ltc_lists_forward", DIVISION, "gate"),
    Kernel("LTC, lanes are rows, backward", "backward_inputs", DIVISION, "gate"),
    Kernel("CfC, product of 8 rows", "gemm_from", MULTIPLY_ADD, "product"),
)


def innermost_loops(assembly: str) -> list[Loop]:
    """Every range from a label to a branch back to it that holds no other such range."""
    lines, labels, symbol, found = assembly.splitlines(), {}, "", []
    for at, line in enumerate(lines):
        if label := re.match(r"([\w.$]+):", line):
            if not label[1].startswith(".L"):
                symbol, labels = label[1], {}
            labels[label[1]] = at
        branch = re.match(r"\s+(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.L\w+)$", line)
        if branch and branch[1] in labels:
            start = labels[branch[1]]
            if not any(start <= inner and owner == symbol for inner, owner, _ in found):
                body = tuple(x for x in lines[start + 1 : at + 1] if re.match(r"\s+[a-z]", x))
                found.append((start, symbol, body))
    return [Loop(symbol, body) for _, symbol, body in found]


def choose(loops, kernel: Kernel) -> Loop:
    """The kernel's loop with the highest count; of equal ones the shortest."""
    own = [loop for loop in loops if kernel.symbol in loop.symbol]
    if not own:
        raise SystemExit(f"neon_mca: no loop in a function named {kernel.symbol}")
    return max(own, key=lambda loop: (loop.count(kernel.counted), -len(loop.lines)))


def compiled(clang: str) -> str:
    """The kernels' assembly."""
    command = [clang, *OPTIONS, "-I.", SOURCE, "-o", "-"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def cycles(loop: Loop, mca: str, model: str) -> float:
    """Cycles of one pass by llvm-mca."""
    command = [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={model}", f"-iterations={ITERATIONS}"]
    text = "\n".join(line for line in loop.lines if not re.match(r"\s+(b\s|b\.|bl|cb|tb)", line))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / ITERATIONS


def table(assembly: str, mca: str) -> list[str]:
    """The table in Markdown: cycles for each vector of four gates or products."""
    head = ["loop", "vectors of 4", *(f"cycles each, {m}" for m in MODELS), "floor", "bound"]
    lines = [head, ["---"] * len(head)]
    loops = innermost_loops(assembly)
    for kernel in KERNELS:
        loop = choose(loops, kernel)
        count = loop.count(kernel.counted)
        each = [cycles(loop, mca, model) / count for model in MODELS]
        floor = loop.count(VECTOR) / PIPES / count
        times = [f"{x:.2f}" for x in (*each, floor)]
        lines.append([kernel.name, f"{count} {kernel.unit}s", *times,
                      f"{loop.count(VECTOR) / count:.1f} vector instructions"])  # fmt: skip
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def main(argv=None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clang", default="clang++-19")
    parser.add_argument("--mca", default="llvm-mca-19")
    options = parser.parse_args(argv)
    print(*table(compiled(options.clang), options.mca), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
