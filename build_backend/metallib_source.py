"""Writes the Metal source of mlx_ncps.metallib: the kernels of metal/ in the variants that common
sizes launch, each as a function with the buffers of its launch. CMake runs it where Xcode's `metal`
exists, a test runs it on Linux.

    python build_backend/metallib_source.py OUT.metal

The launch code itself is asked: the operators are traced on the CPU with a recorder in the place of
mx.fast.metal_kernel, and every launch that it sees becomes a function. Nothing is evaluated.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LTC_UNITS = (*range(4, 65, 4), *range(96, 257, 32), 384, 512)  # all variants up to 64 neurons
CFC_UNITS = (32, 64, 96, 128, 256)
BATCHES = (1, 32, 64, 128)  # each another number of rows per threadgroup
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


class Recorder:
    """Stands in for mx.fast.metal_kernel: remembers each variant, answers zeros."""

    def __init__(self, shared: str, function_name, zeros):
        self.shared, self.function_name, self.zeros = shared, function_name, zeros
        self.functions: dict[str, str] = {}  # name -> text

    def __call__(self, *, name, input_names, output_names, source, header):
        """Register a kernel; the result launches it."""
        macros = header.removeprefix(self.shared).splitlines()

        def launch(*, inputs, template, output_shapes, output_dtypes, **_):
            function = self.function_name(name, template)
            if function not in self.functions:
                types = [
                    "const device int*" if "int" in str(a.dtype) else "const device float*"
                    for a in inputs
                ]
                buffers = [f"{t} {n}" for t, n in zip(types, input_names, strict=True)]
                buffers += [f"device float* {n}" for n in output_names]
                self.functions[function] = _function(function, buffers, template, macros, source)
            return [self.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return launch

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
    head = f"[[kernel]] void {function}(\n" + ",\n".join(parameters) + ") {"
    return "\n".join([*macros, head, *constants, source, "}", *undo])


def record() -> Recorder:
    """Every variant that LTC and CfC launch, forward and backward, for the sizes above."""
    os.environ.setdefault("MLX_NCPS_DISABLE_NATIVE", "1")
    if str(ROOT / "python") not in sys.path:
        sys.path.insert(0, str(ROOT / "python"))
    import mlx.core as mx
    from mlx_ncps.backends import _kernels, metallib

    recorder = Recorder(_kernels.header(), metallib.function_name, mx.zeros)
    run = _kernels.Runner("metallib", recorder, mx.cpu)
    for batch in BATCHES:
        for units in LTC_UNITS:
            _trace_ltc(mx, run, batch, units)
        for units in CFC_UNITS:
            for backbone in BACKBONES:
                for timed in (False, True):
                    _trace_cfc(mx, run, batch, units, backbone, timed)
    return recorder


def _trace(mx, call, arrays):
    """Forward for inference, then forward and backward of training."""
    call(False)(*arrays)
    states = call(True)(*arrays)
    mx.vjp(call(True), arrays, [mx.zeros(states.shape)])


def _trace_ltc(mx, run, batch, units):
    from mlx_ncps.backends import _ltc_kernels
    from mlx_ncps.ops import LTCParams

    inputs, steps, unfolds = 8, 2, 2
    one, square, sensory = (units,), (units, units), (inputs, units)
    shapes = [one] * 3 + [square] * 4 + [sensory] * 4
    options = {"unfolds": unfolds, "epsilon": 1e-8, "implicit": False, "synapses": None}

    def call(training):
        def f(x, v, ts, *leaves):
            return _ltc_kernels.ltc_sequence(
                run, x, v, ts, LTCParams(*leaves), training=training, **options
            )

        return f

    arrays = [(batch, steps, inputs), (batch, units), (batch, steps), *shapes]
    _trace(mx, call, [mx.zeros(s) for s in arrays])


def _trace_cfc(mx, run, batch, units, backbone, timed):
    from mlx_ncps.backends import _cfc_kernels
    from mlx_ncps.ops import CfCParams

    inputs, steps = 8, 2
    widths = [inputs + units, *backbone]
    layers = [((n, m), (n,)) for m, n in zip(widths, backbone, strict=False)]
    layers += [((units, widths[-1]), (units,))] * 4
    options = {"mode": "default", "activation": "lecun_tanh"}

    def call(training):
        def f(x, h, ts, *flat):
            pairs = list(zip(flat[::2], flat[1::2], strict=True))
            params = CfCParams(tuple(pairs[: len(backbone)]), *pairs[len(backbone) :])
            spans = ts if timed else 1.0
            return _cfc_kernels.cfc_sequence(run, x, h, spans, params, training=training, **options)

        return f

    arrays = [(batch, steps, inputs), (batch, units), (batch, steps)]
    arrays += [shape for pair in layers for shape in pair]
    _trace(mx, call, [mx.zeros(s) for s in arrays])


if __name__ == "__main__":
    recorder = record()
    Path(sys.argv[1]).write_text(recorder.text(), encoding="utf-8")
    print(f"{sys.argv[1]}: {len(recorder.functions)} functions")
