"""Writes the Metal source of mlx_ncps.metallib: the kernels of metal/ in the variants that common
sizes launch, each as a function with the buffers of its launch. CMake runs it where Xcode's `metal`
exists, a test runs it on Linux.

    python build_backend/metallib_source.py OUT.metal

The launch code itself is asked: mlx_ncps.backends.gpu.trace hears every launch, and each becomes a
function. Nothing is evaluated.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LTC_UNITS = (*range(4, 65, 4), *range(96, 257, 32), 384, 512)  # all variants up to 64 neurons
CFC_UNITS = (32, 64, 96, 128, 256)
BATCHES = (1, 16, 32, 64, 128)  # each another number of rows per threadgroup
BACKBONES = ((), (128,))

ATTRIBUTES = {  # Metal attributes that bodies may name, with their types
    "simdgroup_index_in_threadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_threadgroup": "uint3",
}


class Source:
    """The functions of the metallib, by name."""

    def __init__(self, shared: str, threads_bound: str, function_name):
        self.shared, self.threads_bound = shared, threads_bound
        self.function_name = function_name
        self.functions: dict[str, str] = {}

    def add(self, kernel: dict, call: dict) -> None:
        """Take a launch: keywords of mx.fast.metal_kernel and of its call."""
        name = self.function_name(kernel["name"], call["template"])
        if name in self.functions:
            return
        buffers = [
            f"const device {'int' if 'int' in str(a.dtype) else 'float'}* {n}"
            for n, a in zip(kernel["input_names"], call["inputs"], strict=True)
        ]
        buffers += [f"device float* {n}" for n in kernel["output_names"]]
        header = kernel["header"].removesuffix(self.threads_bound)
        macros = header.removeprefix(self.shared).splitlines()
        text = _function(name, buffers, call["template"], macros, kernel["source"])
        self.functions[name] = text

    def text(self, only=None) -> str:
        """The source file, of all functions or of those named in `only`."""
        start = ["#include <metal_stdlib>", "using namespace metal;", self.shared]
        functions = [f for name, f in self.functions.items() if only is None or name in only]
        return "\n".join([*start, *functions, ""])


def _function(function, buffers, template, macros, source) -> str:
    parameters = [f"    {b} [[buffer({i})]]" for i, b in enumerate(buffers)]
    parameters += [
        f"    {kind} {name} [[{name}]]"
        for name, kind in ATTRIBUTES.items()
        if re.search(rf"\b{name}\b", source)
    ]
    constants = [f"constexpr int {name} = {int(value)};" for name, value in template]
    undo = [f"#undef {line.split()[1]}" for line in macros]
    bound = f"max_total_threads_per_threadgroup({dict(template)['THREADS']})"
    head = f"[[kernel, {bound}]] void {function}(\n" + ",\n".join(parameters) + ") {"
    return "\n".join([*macros, head, *constants, source, "}", *undo])


def record() -> Source:
    """Every variant that LTC and CfC launch, forward and backward, for the sizes above."""
    from mlx_ncps.backends import metallib
    from mlx_ncps.backends.gpu.runner import THREADS_BOUND, header
    from mlx_ncps.backends.gpu.trace import runner, trace_cfc, trace_ltc

    source = Source(header(), THREADS_BOUND, metallib.function_name)
    run = runner(source.add)
    for batch, training in itertools.product(BATCHES, (False, True)):
        facts = {"batch": batch, "steps": 2, "inputs": 8, "training": training}
        for units in LTC_UNITS:
            trace_ltc(run, **facts, units=units, unfolds=2)
        trace_ltc(run, **facts, units=LTC_UNITS[0], unfolds=2, implicit=True)
        for units, backbone, scalar in itertools.product(CFC_UNITS, BACKBONES, (False, True)):
            options = {"mode": "default", "activation": "lecun_tanh", "scalar_ts": scalar}
            trace_cfc(run, **facts, units=units, backbone=backbone, **options)
    return source


if __name__ == "__main__":
    # The build itself: the native module is not there yet, also where it is required afterwards.
    os.environ.pop("MLX_NCPS_REQUIRE_NATIVE", None)
    os.environ["MLX_NCPS_DISABLE_NATIVE"] = "1"
    sys.path.insert(0, str(ROOT / "python"))  # never another release that is installed
    source = record()
    Path(sys.argv[1]).write_text(source.text(), encoding="utf-8")
    print(f"{sys.argv[1]}: {len(source.functions)} functions")
