"""Draws mutants from the kernels, the same ones for the same text and seed: every file has its
share, and within a file the operators take turns.
"""

import hashlib
import random
from pathlib import Path
from typing import NamedTuple

from .operators import OPERATORS, Edit, edits

NO_KERNELS = ("formulas", "kernels", "limits", "maths")  # they list others, or are for benchmarks
SHARED_FILES = ("metal/activations.h", "metal/lstm.h", "metal/ltc.h", "metal/cfc.h")
CUDA_HEADER = "metal/cuda.h"  # no test without an NVIDIA GPU runs it
AT_LEAST = 3  # mutants of the smallest file


class Mutant(NamedTuple):
    """One edit of one file."""

    path: str
    edit: Edit
    line: int
    before: str  # the lines touched, without indentation
    after: str
    key: str  # of the file's text and the edit: equal keys are equal mutants


def kernel_files(root: Path, group: str) -> list[str]:
    """Paths of the kernels that `group` names: "cpu", "metal" or "all"."""
    metal = [f"metal/{path.name}" for path in sorted((root / "metal").iterdir())]
    metal = [path for path in metal if path not in SHARED_FILES and path != CUDA_HEADER]
    texts = sorted((root / "csrc/cpu").glob("*.inl"))
    cpu = [f"csrc/cpu/{path.name}" for path in texts if path.stem not in NO_KERNELS]
    cpu += [f for f in SHARED_FILES if (root / f).is_file()]
    return {"cpu": cpu, "metal": metal, "all": cpu + metal}[group]


def mutant(path: str, text: str, edit: Edit) -> Mutant:
    """The edit with what a report says about it."""
    first = text.rfind("\n", 0, edit.start) + 1
    last = text.find("\n", edit.end)
    last = len(text) if last < 0 else last
    after = text[first : edit.start] + edit.new + text[edit.end : last]
    seed = f"{path}\0{text}\0{edit.start}\0{edit.end}\0{edit.new}"
    return Mutant(
        path,
        edit,
        text.count("\n", 0, edit.start) + 1,
        " ".join(text[first:last].split()),
        " ".join(after.split()),
        hashlib.sha256(seed.encode()).hexdigest()[:16],
    )


def order(path: str, text: str, seed: int) -> list[Mutant]:
    """All mutants of a text: the operators take turns, each in an order drawn with the seed.

    Whoever wants n mutants that compile takes them from the front.
    """
    draw = random.Random(f"{seed} {path}")
    queues = {name: [] for name in OPERATORS}
    for edit in edits(text):
        queues[edit.operator].append(edit)
    for queue in queues.values():
        draw.shuffle(queue)
    names = [name for name in OPERATORS if queues[name]]
    draw.shuffle(names)
    drawn = []
    while any(queues.values()):
        drawn += [queues[name].pop() for name in names if queues[name]]
    return [mutant(path, text, edit) for edit in drawn]


def share(text: str, density: float) -> int:
    """How many mutants a file gives: `density` per 100 lines, and at least AT_LEAST."""
    return max(AT_LEAST, round(density * text.count("\n") / 100))
