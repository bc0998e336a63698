"""The kernels of metal/ compiled ahead of time into mlx_ncps.metallib, behind the names of a
backend; `dispatch` calls it where it is asked for. It launches what `metal` launches, but nothing
is compiled at first use.
"""

from __future__ import annotations

import math

import mlx.core as mx

from .. import _loader
from ._gpu import MIXED_MEMORY, functions, unsupported  # noqa: F401  the names of a backend
from ._kernels import Runner

NAME = "metallib"


class MissingVariant(RuntimeError):
    """A call needs a kernel that was not compiled into the metallib."""


def function_name(name: str, template) -> str:
    """The name of a kernel's variant in the metallib; build_backend/metallib_source.py uses it."""
    return "_".join([name, *(f"{key}{int(value)}" for key, value in template)])


def register(*, name, input_names, output_names, source, header):
    """As mx.fast.metal_kernel, but the result runs a function of the metallib."""

    def launch(*, inputs, template, grid, threadgroup, output_shapes, output_dtypes, stream):
        function = function_name(name, template)
        allowed = _loader.native.metallib_max_threads(function)
        if allowed < math.prod(threadgroup):
            wanted = f"{math.prod(threadgroup)} threads" if allowed else "this variant"
            raise MissingVariant(
                f"[metallib] {function}: the metallib lacks {wanted}; "
                'use_backend("metal") compiles what a call needs.'
            )
        shapes = [list(shape) for shape in output_shapes]
        return _loader.native.metallib_kernel(
            function, inputs, shapes, grid, threadgroup, stream=stream
        )

    return launch


run = Runner(NAME, register, mx.gpu)
ltc_sequence, cfc_sequence = functions(lambda: run)


def available() -> tuple[bool, str]:
    """Whether the native module was built with a metallib and MLX has a Metal GPU here."""
    if _loader.native is None:
        return False, _loader.reason
    if not _loader.native.metallib_available():
        why = "the native module was built without MLX_NCPS_METALLIB=1"
        return False, f"{why}, or MLX has no Metal GPU here"
    return True, "mlx_ncps.metallib"
