"""The launches of a call as the launch code makes them, with what each costs."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from mlx_ncps.backends.gpu.geometry import APPLE, CUDA, Geometry, apple
from mlx_ncps.backends.gpu.trace import groups_of, runner

from . import chips, costs

SCALARS = 24  # registers of a thread beside its arrays: indices, sums, a gate's temporaries


class Launch(NamedTuple):
    """One kernel of a GPU plan. `registers` is an estimate from the text: the arrays that a thread
    keeps, and SCALARS.
    """

    kernel: str
    groups: int
    threads: int
    threadgroup_bytes: int
    registers: int
    cost: chips.Cost
    count: int

    def resident(self, chip: chips.Chip) -> int:
        """Threadgroups that a core of the chip holds at a time."""
        return chips.resident(chip, self.threads, self.registers, self.threadgroup_bytes)

    def estimate(self, chip: chips.Chip) -> chips.Estimate:
        """All launches of this kind, without the time to launch them."""
        one = chips.estimate(chip, self.cost, self.groups, self.threads, self.resident(chip))
        return one._replace(seconds=one.seconds * self.count)


def geometry_of(chip: chips.Chip) -> Geometry:
    """By which a chip's calls are launched."""
    return apple(chip.architecture) if chip.architecture else CUDA


def gpu_launches(trace, *, geometry: Geometry = APPLE, **facts) -> list[Launch]:
    """The launches of a traced call in their order, equal ones counted."""
    seen: dict[tuple, int] = {}

    def launched(kernel, call):
        key = _launch(kernel, call)
        seen[key] = seen.get(key, 0) + 1

    trace(runner(launched, geometry), **facts)
    return [Launch(*key, count) for key, count in seen.items()]


def seconds(launches, chip: chips.Chip) -> float:
    """Of a whole plan, launches included."""
    count = sum(one.count for one in launches)
    return sum(one.estimate(chip).seconds for one in launches) + count * chips.LAUNCH_SECONDS


def _launch(kernel, call) -> tuple:
    threads, template, groups = call["threadgroup"], dict(call["template"]), groups_of(call)
    buffers = dict(zip(kernel["input_names"], call["inputs"], strict=True))
    entries = buffers.get("sources", buffers.get("targets"))
    lists = 0 if entries is None else entries.size // 32
    matrix = "_matrix" in kernel["name"]
    facts = costs.Facts(buffers["sizes"].tolist(), template, threads, groups, lists, matrix)
    moved = sum(array.size for array in call["inputs"])
    moved += sum(math.prod(shape) for shape in call["output_shapes"])
    cost = costs.of(kernel["name"], facts)._replace(bytes=4 * moved)
    shared, own = _memory(_chosen(kernel["source"], kernel["header"]), template)
    return kernel["name"], groups, math.prod(threads), shared, own + SCALARS, cost


_FLOATS = {"float": 1, "uint": 1, "bool": 1, "LtcSynapseGradient<float>": 4}  # of an element


def _memory(source: str, template: dict) -> tuple[int, int]:
    """(bytes of threadgroup memory, floats of a thread's arrays) that a kernel's text declares."""
    sizes = {name: int(value) for name, value in template.items()}
    shared = own = 0
    kinds = "|".join(_FLOATS)
    pattern = rf"^\s*(threadgroup )?(?:const )?({kinds}) ((?:\w+(?:\[[^\]]+\])+(?:, )?)+)"
    for is_shared, kind, arrays in re.findall(pattern, source, re.MULTILINE):
        for dimensions in re.findall(r"\w+((?:\[[^\]]+\])+)", arrays):
            count = math.prod(_product(d, sizes) for d in re.findall(r"\[([^\]]+)\]", dimensions))
            count *= _FLOATS[kind]
            if is_shared:
                shared += 4 * count
            else:
                own += count
    return shared, own


class _Sizes(dict):
    """Template arguments by name; of other names 0."""

    def __missing__(self, name):
        return 0


def _product(text: str, sizes: dict) -> int:
    """The value of "2", "PER" or "(LAYERS > 1) * WIDTH + 2", which C++ and Python write alike."""
    return eval(text, {"__builtins__": {}}, _Sizes(sizes))


def _chosen(source: str, header: str) -> str:
    """The text that the header's macros of 0 and 1 leave; an #if of anything else stays."""
    macros = dict(re.findall(r"^#define (\w+) ([01])$", header, re.MULTILINE))
    kept, states = [], []
    for line in source.splitlines():
        word, _, name = line.partition(" ")
        if word == "#if":
            states.append(macros.get(name, "1") == "1")
        elif word == "#else":
            states[-1] = not states[-1]
        elif word == "#endif":
            states.pop()
        elif all(states):
            kept.append(line)
    return "\n".join(kept)
