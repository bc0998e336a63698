"""Checks the tool itself: whether it counts costs as others measured them on an M1, whether it sees
faults planted on purpose, and whether the kernels' SPIR-V computes the right values on a CPU.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from .judge import CHIPS, POCL, Figures, Root
from .variants import opencl

HEAD = '#include "metal.h"\n'
KERNEL = (
    HEAD + "__kernel __attribute__((reqd_work_group_size({threads},1,1)))\n"
    "void judged(__global float* y, __global const float* x) {{\n"
    "  const uint i = get_global_id(0);\n{body}}}\n"
)

# An operation, cycles of 128 lanes that metal-benchmarks (P. Turner) measured on an M1, and the
# count that shows them.
COSTS = {
    "multiply-add": ("v = fma(v, a, b);", 1, "alu"),
    "addition": ("v = v + a;", 1, "alu"),
    "exp2": ("v = metal::precise::exp2(v);", 4, "ic"),
    "reciprocal": ("v = native_recip(v) + a;", 6, "ic"),
    "reciprocal root": ("v = native_rsqrt(v) + a;", 8, "ic"),
}

DIVISIONS = {"fast": "v = metal::fast::divide(b, v) + a;", "precise": "v = b / v + a;"}


def _chain(operation: str, count: int) -> str:
    """A kernel that does an operation a number of times in a row."""
    lines = "  float v = x[i], a = x[i + 1], b = x[i + 2];\n" + f"  {operation}\n" * count
    return KERNEL.format(threads=256, body=lines + "  y[i] = v;\n")


def _hoard(count: int, threads: int) -> str:
    """A kernel that keeps a number of floats in use over a loop."""
    body = f"""  float kept[{count}];
  _Pragma("clang loop unroll(full)")
  for (int n = 0; n < {count}; ++n) kept[n] = x[i + n];
  for (int t = 0; t < (int)x[0]; ++t) {{
    _Pragma("clang loop unroll(full)")
    for (int n = 0; n < {count}; ++n) kept[n] = fma(kept[n], kept[(n + 1) % {count}], x[t + n]);
  }}
  _Pragma("clang loop unroll(full)")
  for (int n = 0; n < {count}; ++n) y[i + n] = kept[n];
"""
    return KERNEL.format(threads=threads, body=body)


def _private() -> str:
    """A kernel whose array is indexed at run time, so that it stays in memory."""
    body = "  float kept[64];\n  for (int n = 0; n < 64; ++n) kept[n] = x[i * n];\n"
    return KERNEL.format(threads=256, body=body + "  y[i] = kept[(int)x[i] & 63];\n")


def texts() -> dict[str, str]:
    """All kernels of the check by name."""
    chains = {name: operation for name, (operation, _, _) in COSTS.items()} | DIVISIONS
    found = {f"{name} {n}": _chain(text, n) for name, text in chains.items() for n in (32, 64)}
    found |= {f"keeps {n} in {t}": _hoard(n, t) for n, t in ((12, 1024), (80, 1024), (120, 256))}
    return found | {"private array": _private()}


def judged(found: dict[str, Figures], chip: str) -> list[tuple[str, bool]]:
    """(what was seen, whether it is as it must be) of one chip."""
    lines = []

    def each(name, key):
        return (getattr(found[f"{name} 64"], key) - getattr(found[f"{name} 32"], key)) / 32

    for name, (_, want, key) in COSTS.items():
        cycles = each(name, key)
        lines.append((f"{name}: {cycles:g} {key} cycles, measured {want}", cycles == want))
    fast, precise = ((each(name, "alu"), each(name, "ic")) for name in DIVISIONS)
    text = "division: ALU, IC cycles: {:g}, {:g} fast; {:g}, {:g} written `/`"
    lines.append((text.format(*fast, *precise), precise > fast))
    few, many = found["keeps 12 in 1024"], found["keeps 80 in 1024"]
    lines.append((f"12 floats in 1024 threads: {few.spills} spills", few.spills == 0))
    lines.append((f"80 floats in 1024 threads: {many.spills} spills", many.spills > 0))
    lines.append((f"of {many.scratch} bytes", many.scratch > 0))
    wide = found["keeps 120 in 256"]
    text = f"120 floats in 256 threads: {wide.registers} registers, {wide.allowed} threads allowed"
    lines.append((text, wide.registers >= 120 and wide.allowed < 512))
    array = found["private array"]
    seen = array if isinstance(array, str) else f"{array.scratch} bytes of scratch"
    lines.append((f"an array in memory: {seen}", isinstance(array, str) or array.scratch > 0))
    return [(f"{chip}: {text}", right) for text, right in lines]


class Pocl:
    """A stand-in for mx.fast.metal_kernel that runs the SPIR-V on the CPU."""

    def __init__(self, root: Root):
        self.root = root
        self.stems: dict[str, str] = {}
        self.names: set[str] = set()

    def register(self, **kernel):
        """As mx.fast.metal_kernel."""

        def launch(**call):
            text = "#define POCL\n" + opencl(kernel, call)
            stem = self.stems.get(text)
            if stem is None:
                stem = self.stems[text] = f"pocl{len(self.stems)}"
                self.root.spirv({stem: text})
            self.names.add(kernel["name"].removeprefix("ncps_"))
            return self._run(stem, call)

        return launch

    def _run(self, stem, call):
        arguments, files = [], []
        for n, array in enumerate(call["inputs"]):
            np.array(array).tofile(self.root.work / f"in{n}")
            arguments.append(f"in{n}")
        for n, shape in enumerate(call["output_shapes"]):
            files.append((self.root.work / f"out{n}", shape))
            arguments.append(f"+{4 * math.prod(shape)}:out{n}")
        sizes = (",".join(map(str, call[key])) for key in ("grid", "threadgroup"))
        done = self.root.run(["/agx/judge", "run", f"{stem}.spv", *sizes, *arguments], **POCL)
        if done.returncode:
            raise RuntimeError(f"{stem}.spv did not run:\n{done.stderr[-2000:]}")
        return [mx.array(np.fromfile(path, np.float32).reshape(s)) for path, s in files]


def values(root: Root) -> list[tuple[str, bool]]:
    """Calls of the tests' table and their gradients, computed by the SPIR-V, against float64."""
    from dataclasses import replace

    from mlx_ncps.backends import metal
    from mlx_ncps.backends.gpu.geometry import APPLE
    from mlx_ncps.backends.gpu.runner import Runner

    from tests.support.cases import CfcCase, LtcCase
    from tests.support.running import check_gradients, check_states

    pocl = Pocl(root)
    plain = replace(APPLE, matrix=False)  # the stand-in of matrices has not their values
    run = Runner("metal", pocl.register, mx.cpu, plain)
    metal.run, metal.available = run, lambda: (True, "PoCL")
    calls = [
        (LtcCase(units=17, unfolds=3), {}),
        (LtcCase(units=33, density=0.2, unfolds=2), {"synapses": True}),
        (LtcCase(batch=17, units=65, unfolds=2, steps=2), {}),
        (LtcCase(units=100, unfolds=2, steps=2, density=0.1), {"synapses": True}),
        (CfcCase(timespans="per_batch"), {}),
        (CfcCase(batch=17, units=33, backbone_units=40, layers=2, activation="silu"), {}),
        (CfcCase(units=100, mode="pure", layers=0), {}),
    ]
    lines = []
    for case, keywords in calls:
        try:
            check_states(case, "metal", **keywords)
            check_gradients(case, "metal", **keywords)
            lines.append((f"{case}: states and gradients as float64", True))
        except AssertionError as error:
            lines.append((f"{case}: {str(error)[:300]}", False))
    lines.append((f"kernels that ran: {', '.join(sorted(pocl.names))}", len(pocl.names) > 10))
    return lines


def main(root: Root) -> int:
    """Print what was seen; 1 when something is not as it must be."""
    named = dict(enumerate(texts().items()))
    stems = {f"check{n}": name for n, (name, _) in named.items()}
    root.spirv({f"check{n}": text for n, (_, text) in named.items()})
    lines = []
    for chip in CHIPS:
        found = root.machine_code(list(stems), chip)
        lines += judged({name: found[stem] for stem, name in stems.items()}, chip)
    lines += values(root)
    for text, right in lines:
        print(f"{'ok   ' if right else 'WRONG'} {text}")
    print(f"{len(lines)} checks, {sum(not right for _, right in lines)} wrong")
    return int(not all(right for _, right in lines))
