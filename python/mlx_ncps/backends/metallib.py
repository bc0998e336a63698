"""The kernels of metal/ compiled ahead of time into mlx_ncps.metallib, behind the names of a
backend. It launches what `metal` launches, but nothing is compiled at first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import mlx.core as mx

from .. import _loader
from .gpu import functions
from .gpu.geometry import apple_here
from .gpu.runner import Runner

NAME = "metallib"
MASKS = MIXED_MEMORY = RESETS = ()  # no variant with them is compiled: `ops` and layers do without


class MissingVariant(RuntimeError):
    """A call needs a kernel that was not compiled into the metallib."""


def function_name(name: str, template: Iterable[tuple[str, int]]) -> str:
    """The name of a kernel's variant in the metallib."""
    return "_".join([name, *(f"{key}{int(value)}" for key, value in template)])


def register(
    *, name: str, input_names: list[str], output_names: list[str], source: str, header: str
) -> Callable[..., list[mx.array]]:
    """As mx.fast.metal_kernel, but the result runs a function of the metallib."""

    def launch(*, inputs, template, grid, threadgroup, output_shapes, output_dtypes, stream):
        native = _loader.native
        assert native is not None, "available() says so first"
        function = function_name(name, template)
        allowed = native.metallib_max_threads(function)
        if allowed < math.prod(threadgroup):
            wanted = f"{math.prod(threadgroup)} threads" if allowed else "this variant"
            raise MissingVariant(
                f"[metallib] {function}: the metallib lacks {wanted}; "
                'use_backend("metal") compiles what a call needs.'
            )
        shapes = [list(shape) for shape in output_shapes]
        return native.metallib_kernel(function, inputs, shapes, grid, threadgroup, stream=stream)

    return launch


run = Runner(NAME, register, mx.gpu, apple_here, any_text=False)
unsupported, ltc_sequence, cfc_sequence = functions(__name__)


def available() -> tuple[bool, str]:
    """Whether the native module was built with a metallib and MLX has a Metal GPU here."""
    if _loader.native is None:
        return False, _loader.reason
    if not _loader.native.metallib_available():
        why = "the native module was built without MLX_NCPS_METALLIB=1"
        return False, f"{why}, or MLX has no Metal GPU here"
    return True, "mlx_ncps.metallib"
