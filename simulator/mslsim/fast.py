"""`metal_kernel` with the call signature of mx.fast.metal_kernel, and its stand-in for a test."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from .kernel import Kernel
from .launch import Buffer, Stats, launch
from .options import current
from .signature import METAL_TYPES, Input, metal_text

MLX_HEADERS = Path(mx.__file__).parent / "include"
PRELUDE = '#include "mlx/backend/metal/kernels/utils.h"\n'  # what MLX compiles custom kernels with
MATH_MODES = ("safe", "relaxed", "fast")

_compiled: dict[tuple, Kernel] = {}


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: dict | None = None,
) -> SimulatedKernel:
    """As mx.fast.metal_kernel; the kernel runs in the simulator, under `mslsim.options`.

    Called with mx arrays it returns mx arrays, and like the original it has no vjp, jvp or vmap of
    its own; called with NumPy arrays it returns NumPy arrays.
    """
    if not output_names:
        raise ValueError("[metal_kernel] Must specify at least one output.")
    mode = (compile_options or {}).get("math_mode", "safe")
    if set(compile_options or {}) - {"math_mode"} or mode not in MATH_MODES:
        raise ValueError(f"[metal_kernel] Invalid compile_options {compile_options}.")
    return SimulatedKernel(
        name,
        tuple(input_names),
        tuple(output_names),
        source,
        header,
        ensure_row_contiguous,
        atomic_outputs,
        mode,
    )


class SimulatedKernel:
    """What `metal_kernel` returns; `stats` tells what the last run did."""

    def __init__(
        self, name, inputs, outputs, source, header, row_contiguous, atomic_outputs, math_mode
    ):
        self.name = name
        self.input_names = inputs
        self.output_names = outputs
        self.source = source
        self.header = header
        self.row_contiguous = row_contiguous
        self.atomic_outputs = atomic_outputs
        self.math_mode = math_mode
        self.stats: Stats | None = None

    def __call__(
        self,
        *,
        inputs: Sequence,
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence,
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream=None,
    ) -> list:
        self.check_counts(inputs, output_shapes, output_dtypes)
        template = template_values(template)
        dtypes = [dtype_name(d) for d in output_dtypes]
        shapes = [tuple(int(n) for n in shape) for shape in output_shapes]

        def run(arrays):
            host = [_to_numpy(a) for a in arrays]
            if verbose:
                print(f"Generated source code for `{self.name}`:")
                print(f"```\n{self.text(host, dtypes, template)[1]}\n```")
            return self.run(host, shapes, dtypes, template, grid, threadgroup, init_value)

        if not any(isinstance(a, mx.array) for a in inputs):
            return run(inputs)

        # Tracers of mx.grad and the like must not be evaluated: MLX hands a custom function the
        # values behind them.
        @mx.custom_function
        def call(*arrays):
            return [_to_mlx(o, d) for o, d in zip(run(arrays), dtypes, strict=True)]

        @call.vjp
        def call_vjp(primals, cotangents, outputs):
            raise ValueError("[Primitive::vjp] Not implemented for CustomKernel.")

        return list(call(*(a if isinstance(a, mx.array) else mx.array(a) for a in inputs)))

    def text(self, inputs, output_dtypes, template, line_marks: bool = False) -> tuple[str, str]:
        """(host name, Metal text) for these inputs, as MLX generates it.

        Inputs are (array, name of its dtype), output_dtypes names.
        """
        described = [
            Input(name, dtype, array.ndim, array.size)
            for name, (array, dtype) in zip(self.input_names, inputs, strict=True)
        ]
        return metal_text(
            self.name,
            described,
            list(zip(self.output_names, output_dtypes, strict=True)),
            template,
            self.source,
            self.header,
            atomic_outputs=self.atomic_outputs,
            line_marks=line_marks,
        )

    def check_counts(self, inputs, output_shapes, output_dtypes) -> None:
        for what, got, names in (
            ("inputs", inputs, self.input_names),
            ("output_shapes", output_shapes, self.output_names),
            ("output_dtypes", output_dtypes, self.output_names),
        ):
            if len(got) != len(names):
                raise ValueError(
                    f"[metal_kernel] Expected `{what}` to have size {len(names)} "
                    f"but got size {len(got)}."
                )

    def _compile(self, inputs, output_dtypes, template) -> Kernel:
        options = current()
        host_name, text = self.text(inputs, output_dtypes, template, line_marks=True)
        checked = options.mode == "checked"
        key = (text, self.math_mode, checked, options.metal_versions, options.lint, options.allow)
        key += (options.unsigned_overflow,)
        if key not in _compiled:
            _compiled[key] = Kernel(
                f'{PRELUDE}#line 1 "{self.name}.generated"\n{text}',
                host_name,
                file=f"{self.name}.prelude",
                user_files=[f"{self.name}.{part}" for part in ("header", "source", "generated")],
                includes=[str(MLX_HEADERS)],
                metal_versions=options.metal_versions,
                checked=checked,
                judge=options.lint,
                allow=options.allow,
                math_mode=self.math_mode,
                unsigned_overflow=options.unsigned_overflow,
            )
        return _compiled[key]

    def run(self, inputs, shapes, dtypes, template, grid, threadgroup, init_value=None) -> list:
        """The outputs of inputs (array, name of its dtype), computed now."""
        kernel = self._compile(inputs, dtypes, template)
        buffers = {}
        for name, (array, _) in zip(self.input_names, inputs, strict=True):
            buffers.update(_input_buffers(name, array, self.row_contiguous))
        outputs = [np.empty(s, storage(d)) for s, d in zip(shapes, dtypes, strict=True)]
        for name, array, dtype in zip(self.output_names, outputs, dtypes, strict=True):
            if init_value is not None:
                array[...] = _initial(init_value, dtype)
            buffers[name] = Buffer(array, output=True, initialised=init_value is not None)
        self.stats = launch(kernel, buffers, grid, threadgroup)
        return outputs


def dtype_name(dtype) -> str:
    """The name of an MLX or NumPy dtype that Metal knows."""
    name = str(dtype).split(".")[-1] if isinstance(dtype, mx.Dtype) else np.dtype(dtype).name
    if name not in METAL_TYPES:
        raise ValueError(f"[metal_kernel] Metal has no {name}.")
    return name


def template_values(template) -> list[tuple]:
    """Template arguments as the text has them."""
    return [(key, _template_value(value)) for key, value in template or ()]


def _template_value(value) -> bool | int | str:
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, (mx.Dtype, np.dtype, type)):
        return dtype_name(value)
    raise ValueError(
        f"[metal_kernel] Invalid template argument. Must be `mlx.core.Dtype`, `int` or `bool`, "
        f"got {value!r}."
    )


def storage(dtype: str) -> np.dtype:
    """The NumPy dtype of its bits."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def _initial(value: float, dtype: str):
    if dtype != "bfloat16":
        return value
    return np.array(mx.array(value, mx.bfloat16).view(mx.uint16))


def _to_numpy(a) -> tuple[np.ndarray, str]:
    """(array, name of its dtype); bfloat16 travels as the bits of uint16."""
    if isinstance(a, mx.array):
        mx.eval(a)
        name = dtype_name(a.dtype)
        return np.array(a.view(mx.uint16) if name == "bfloat16" else a), name
    if isinstance(a, (bool, int, float)):  # as MLX reads Python numbers
        kinds = {bool: np.bool_, int: np.int32, float: np.float32}
        a = np.array(a, kinds[type(a)])
    a = np.asarray(a)
    return a, dtype_name(a.dtype)


def _to_mlx(array: np.ndarray, dtype: str) -> mx.array:
    return mx.array(array).view(mx.bfloat16) if dtype == "bfloat16" else mx.array(array)


def _input_buffers(name: str, array: np.ndarray, row_contiguous: bool) -> dict[str, Buffer]:
    """The input and what a kernel may ask about it: shape, strides (in elements), dimensions."""
    if row_contiguous:
        array = np.ascontiguousarray(array).reshape(array.shape)
    strides = np.array([s // array.itemsize for s in array.strides], np.int64)
    flat = array.reshape(-1)
    if not array.flags.c_contiguous and array.size:
        span = 1 + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
        flat = np.lib.stride_tricks.as_strided(array, (int(span),), (array.itemsize,)).copy()
    facts = {
        "_shape": np.array(array.shape, np.int32),
        "_strides": strides,
        "_ndim": np.array([array.ndim], np.int32),
    }
    small = Input(name, "", array.ndim, array.size).is_constant
    return {
        name: Buffer(flat, constant=small),
        **{name + suffix: Buffer(value, constant=True) for suffix, value in facts.items()},
    }


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Within the block, mx.fast.metal_kernel is the simulator's and Metal counts as available.

    Kernels that were made before the block still call MLX. mx.compile is off meanwhile, since the
    simulator needs values where a compiled function has only their shapes; mx.vmap over a kernel
    raises for the same reason.
    """
    saved = mx.fast.metal_kernel, mx.metal.is_available
    mx.fast.metal_kernel, mx.metal.is_available = metal_kernel, lambda: True
    mx.disable_compile()
    try:
        yield
    finally:
        mx.fast.metal_kernel, mx.metal.is_available = saved
        if not os.environ.get("MLX_DISABLE_COMPILE"):
            mx.enable_compile()
