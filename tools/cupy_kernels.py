"""The kernels of the backend cuda through CuPy, where MLX itself does not start on an NVIDIA GPU:
MLX computes what is around them on the CPU.
"""

from __future__ import annotations

import math
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
from mlx_ncps.backends import cuda
from mlx_ncps.backends.gpu.geometry import CUDA
from mlx_ncps.backends.gpu.runner import Runner

from tests.support.as_cuda import cuda_text

DTYPES = {mx.float32: "float32", mx.int32: "int32"}


def register(*, name: str, input_names, output_names, source: str, header: str):
    """As mx.fast.cuda_kernel, but a launch computes at once."""
    import cupy

    kernels = {}

    def launch(*, inputs, template, grid, threadgroup, output_shapes, **_):
        unique = "_".join(["custom_kernel", name, *(str(value) for _, value in template)])
        if unique not in kernels:
            buffers = [(n, a.dtype) for n, a in zip(input_names, inputs, strict=True)]
            text = cuda_text(unique, header, source, buffers, output_names, template)
            module = cupy.RawModule(
                code=text, options=("--std=c++17",), name_expressions=[f"mlx::core::cu::{unique}"]
            )
            kernels[unique] = module.get_function(f"mlx::core::cu::{unique}")
        given = [cupy.asarray(np.array(a, DTYPES[a.dtype], order="C")) for a in inputs]
        found = [cupy.empty(shape, "float32") for shape in output_shapes]
        groups = tuple(math.ceil(g / t) for g, t in zip(grid, threadgroup, strict=True))
        kernels[unique](groups, tuple(threadgroup), (*given, *found))
        return [mx.array(cupy.asnumpy(array)) for array in found]

    return launch


@contextmanager
def installed():
    """Within it the backend cuda runs so. Raises ImportError without CuPy, RuntimeError without a
    GPU that it sees.
    """
    import cupy

    if not cupy.cuda.is_available():
        raise RuntimeError("CuPy sees no GPU here")
    kept = cuda.run, cuda.available
    cuda.run = Runner(cuda.NAME, register, mx.cpu, CUDA, cuda=True)
    cuda.available = lambda: (True, "CuPy, where MLX does not start")
    try:
        yield
    finally:
        cuda.run, cuda.available = kept


def device_name() -> str:
    """The name of the GPU that CuPy sees."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
