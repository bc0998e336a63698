"""The kernels that the launch plans choose, as C++ for OpenCL: `variants()` asks the launch code,
by mlx_ncps.backends.gpu.trace, over a grid of calls. Needs MLX, but no GPU and no compiler.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mlx_ncps.backends.gpu.runner import THREADS_BOUND
from mlx_ncps.backends.gpu.trace import runner, trace_cfc, trace_ltc
from mlx_ncps.ops import ACTIVATIONS, SynapseLists

from .programs import BATCHES as BATCHES_OF_PROGRAMS
from .programs import PROGRAMS, trace_program

SIZES = ("UNITS", "WIDTH", "CHIP")  # sizes of threadgroup memory alone: they do not change the code
ATTRIBUTES = {  # of Metal's that bodies name, in OpenCL
    "thread_position_in_threadgroup": "get_local_id",
    "threadgroup_position_in_grid": "get_group_id",
    "thread_position_in_grid": "get_global_id",
    "threads_per_threadgroup": "get_local_size",
}
LANE = "const uint thread_index_in_simdgroup = SIMD_LANE;\n"

BATCHES = (1, 16, 32, 64, 128, 256)  # each another number of rows of a threadgroup
CFC_WIDTHS = (  # units, layers: weights on chip or streamed, 4, 2 or 1 threads of a neuron
    *((16, 16), (32, 32), (32, 96), (64, 64), (128, 128), (128, 160), (250, 250), (64, 512)),
    *((8, 100), (8, 160), (4, 300)),
    (400, 400),  # by products
)


class Variant(NamedTuple):
    """A kernel with its template arguments, and the largest threadgroup that a call launches."""

    name: str
    text: str
    threads: int


class Recorder:
    """Hears of launches; each variant once, in its largest launch."""

    def __init__(self):
        self.found: dict[str, Variant] = {}

    def __call__(self, kernel: dict, call: dict) -> None:
        """Take a launch: keywords of mx.fast.metal_kernel and of its call."""
        name, threads = variant_name(kernel, call), math.prod(call["threadgroup"])
        if name not in self.found or self.found[name].threads < threads:
            self.found[name] = Variant(name, self.text(kernel, call), threads)

    def text(self, kernel: dict, call: dict) -> str:
        """The text that is compiled."""
        return opencl(kernel, call)


def variant_name(kernel: dict, call: dict) -> str:
    """The kernel's name and the template arguments that make its code: "cfc_forward ROWS=8 ..."."""
    arguments = (f"{k}={v}" for k, v in call["template"] if k not in SIZES)
    return " ".join([kernel["name"].removeprefix("ncps_"), *arguments])


def opencl(kernel: dict, call: dict) -> str:
    """The text of a launch: the package's own, behind metal.h, with the head that MLX writes."""
    inputs = zip(kernel["input_names"], call["inputs"], strict=True)
    buffers = [_buffer(name, array) for name, array in inputs]
    buffers += [f"__global float* {name}" for name in kernel["output_names"]]
    size = ", ".join(map(str, call["threadgroup"]))
    bound = f"__attribute__((reqd_work_group_size({size}), intel_reqd_sub_group_size(32)))"
    source = kernel["source"]
    named = [
        f"const uint3 {name} = (uint3)({', '.join(f'(uint){ask}({n})' for n in range(3))});\n"
        for name, ask in ATTRIBUTES.items()
        if name in source
    ]
    lines = [
        '#include "metal.h"',
        kernel["header"].removesuffix(THREADS_BOUND),
        *(f"#define {name} {int(value)}" for name, value in call["template"]),
        f"__kernel {bound} void judged({', '.join(buffers)}) {{",
        "SIMD_MEMORY",
        "".join(named) + (LANE if "thread_index_in_simdgroup" in source else ""),
        source,
        "}\n",
    ]
    return "\n".join(lines)


def _buffer(name, array) -> str:
    """As MLX does: small arrays in the address space `constant`."""
    kind = "int" if "int" in str(array.dtype) else "float"
    space = "__constant" if array.size < 8 else "__global const"
    return f"{space} {kind}* {name}"


def star(units: int, into: int, out: int, inputs: int = 8) -> SynapseLists:
    """A sparse wiring whose neuron 0 has `into` sources and `out` targets, the most of all; half of
    the inputs reach it.
    """
    mask, sensory = np.zeros((units, units)), np.zeros((inputs, units))
    mask[:into, 0] = mask[0, :out] = sensory[: inputs // 2, 0] = 1
    return SynapseLists(mask, sensory)


def variants(
    record: Callable[[], Recorder] = Recorder, run: Callable[[Recorder], Any] = runner
) -> list[Variant]:
    """Those to judge, by name: all of an LTC; of a CfC, whose arguments are too many to combine,
    the usual ones and so many that every two arguments of a kernel occur in every two values that a
    call gives them; with dropout, resets and masks likewise, of fewer values.

    run: the Runner that a recorder hears.
    """
    ltc, usual, cfc, beside = record(), record(), record(), record()
    for training in (False, True):
        for facts in itertools.chain(ltc_calls(), ltc_calls_with_more()):
            trace_ltc(run(ltc), **LTC | facts, training=training)
        for facts in usual_cfc_calls():
            trace_cfc(run(usual), **CFC | facts, training=training)
        for facts in cfc_calls():
            trace_cfc(run(cfc), **CFC | facts, training=training)
        for facts in cfc_calls_with_more():
            trace_cfc(run(beside), **CFC | facts, training=training)
    found = cfc.found | usual.found
    more = {name: one for name, one in beside.found.items() if name not in found}
    names = sorted({*ltc.found, *usual.found, *cover(found), *cover(more)})
    return [(ltc.found | found | more)[name] for name in names]


def program_variants() -> list[Variant]:
    """Those of some step programs, named by the layer and not by their text. Nothing is stored of
    them: a text changes with its cell. Needs the native module, which checks programs.
    """
    found = []
    for label in PROGRAMS:
        recorder = Recorder()
        for batch in BATCHES_OF_PROGRAMS:
            trace_program(runner(recorder), label, batch)
        for name, one in recorder.found.items():
            kernel, *arguments = name.split()
            stem = kernel.rsplit("_", 1)[0]
            found.append(one._replace(name=" ".join([f"{stem}_{label}", *arguments])))
    return sorted(found)


def pairs(name: str) -> set[tuple]:
    """Every two arguments of a variant, and its kernel."""
    kernel, *arguments = name.split()
    return {(kernel, *pair) for pair in itertools.combinations(arguments, 2)} | {(kernel,)}


def cover(names) -> list[str]:
    """A few names that together have all pairs: the name with most new pairs is added each time."""
    left = {name: pairs(name) for name in sorted(names, reverse=True)}
    chosen = []
    while left:
        best = max(left, key=lambda name: len(left[name]))
        chosen.append(best)
        new = left.pop(best)
        left = {name: rest - new for name, rest in left.items() if rest - new}
    return chosen


LTC = {"batch": 1, "steps": 2, "inputs": 8, "unfolds": 6}
CFC = {"steps": 2, "inputs": 8}
STARS = (4, 4), (12, 12), (24, 24), (1, 28), (56, 1), (28, 1)  # synapses into and out of a neuron


def ltc_calls():
    """All synapses of a thread in registers, 1 to 16 forward and 1 to 8 backward; of lists,
    1 to 14 and 1 to 7, by parts; streamed, by rows and parts; lists streamed, by rows and SIMD
    groups.
    """
    yield from ({"units": units} for units in range(1, 65))
    yield {"units": 8, "implicit": True}
    for units in (16, 32, 64, 128):
        few = [(1, 2 * n) for n in (1, 3, 5)]  # of two threads
        for into, out in (
            [(4 * n, 1) for n in range(1, 15)] + [(1, 4 * n) for n in range(1, 15)] + few
        ):
            if max(into, out) <= units:
                yield {"units": units, "synapses": star(units, into, out)}
    for units, batch in itertools.product((128, 256, 512), BATCHES):
        yield {"units": units, "batch": batch, "steps": 16}
    for units, batch in itertools.product((32, 80, 160, 600), (1, 16, 64, 256, 512, 1024, 2048)):
        wiring = star(units, min(units, 100), min(units, 100))
        yield {"units": units, "batch": batch, "steps": 16, "synapses": wiring}


def ltc_calls_with_more():
    """Of each kind of recurrence a few, with all that a call may have beside the LTC."""
    few = [{"units": units} for units in (1, 2, 8, 16, 24, 32, 40, 48, 56, 57, 64)]
    for units in (32, 64, 128):
        for into, out in STARS:
            if max(into, out) <= units:
                few.append({"units": units, "synapses": star(units, into, out)})
    for units, batch in itertools.product((128, 256, 512), BATCHES):
        few.append({"units": units, "batch": batch, "steps": 16})
    for units, batch in itertools.product((80, 160), (1, 16, 64, 256, 512)):
        wiring = star(units, min(units, 100), min(units, 100))
        few.append({"units": units, "batch": batch, "steps": 16, "synapses": wiring})
    beside = {"resets": True}, {"memory": True}, {"resets": True, "memory": True}
    yield from (facts | more for facts, more in itertools.product(few, beside))


def usual_cfc_calls():
    """The defaults, with one layer and none; of 100 neurons without matrices."""
    for units, batch, layers in itertools.product((64, 100, 128), BATCHES, (0, 1)):
        facts = {"batch": batch, "units": units, "backbone": (units,) * layers, "scalar_ts": True}
        yield facts | {"mode": "default", "activation": "lecun_tanh"}


def cfc_calls():
    """By rows, parts, layers and heads, each with two activations; modes and variants drawn."""
    draw = random.Random(0)
    for (units, width), batch in itertools.product(CFC_WIDTHS, BATCHES):
        for layers, heads in itertools.product(range(4), (1, 3, 4)):
            for activation in draw.sample(ACTIVATIONS, 2):
                yield {
                    "batch": batch,
                    "units": units,
                    "backbone": (width,) * layers,
                    "scalar_ts": heads == 3,
                    "mode": "pure" if heads == 1 else draw.choice(("default", "no_gate")),
                    "activation": activation,
                    "variant": draw.choice(("torch", "keras", "paper")),
                }


def cfc_calls_with_more():
    """With all that a call may have beside: resets, masks, and dropout of the layers there are."""
    sizes = (32, 64, 128, 250)
    for units, batch, heads in itertools.product(sizes, BATCHES, (1, 3, 4)):
        for layers, variant in ((0, "torch"), (2, "torch"), (2, "keras")):
            yield {
                "batch": batch,
                "units": units,
                "backbone": (units,) * layers,
                "scalar_ts": heads == 3,
                "mode": "pure" if heads == 1 else "default",
                "activation": "gelu" if variant == "torch" else "lecun_tanh",
                "variant": variant,
                "dropout": layers > 0,
                "resets": True,
                "holds": True,
            }
