"""Counts what a call launches: MLX's primitives, PyTorch's operators."""

from __future__ import annotations

import io
import re

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import use_backend
from mlx_ncps.backends import metal
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner

# Primitives that only change how an array is read: they run no kernel.
VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "ExpandDims", "Flatten", "Reshape", "Slice",
    "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten",
}  # fmt: skip


def primitives(outputs) -> list[str]:
    """Names of the primitives of arrays that are not evaluated yet, views left out."""
    text = io.StringIO()
    mx.export_to_dot(text, *(array for _, array in tree_flatten(outputs)))
    names = re.findall(r'label ="(\w+)"', text.getvalue())
    return [name for name in names if name not in VIEWS]


UNSEEN = {"Copy", "CustomTransforms"}  # of a gradient's graph; they share their input's buffer


def on_gpu(call) -> list[str]:
    """What call() launches on an Apple GPU: the names of our kernels, of MLX's primitives, and a
    "copy" for each of a kernel's inputs that lies otherwise than kernels read. No GPU is needed,
    values are none: kernels give zeros.
    """
    kernels, read = [], []

    def register(**kernel):
        def launch(*, inputs, output_shapes, **_):
            kernels.append(kernel["name"])
            read.extend(inputs)
            return [mx.array(np.zeros(shape, np.float32)) for shape in output_shapes]

        return launch

    kept = metal.run, metal.available
    metal.run = Runner(metal.NAME, register, mx.cpu, APPLE)
    metal.available = lambda: (True, "kernels that are only counted")
    try:
        with use_backend(metal.NAME):
            outputs = call()
    finally:
        metal.run, metal.available = kept
    found = [name for name in primitives([outputs, read]) if name not in UNSEEN]
    mx.eval(read)
    copies = sum(not memoryview(array).c_contiguous for array in read)
    return kernels + found + ["copy"] * copies


def torch_operators(run) -> int:
    """How many operators PyTorch dispatches in run(), views left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Counter.count += not getattr(function, "is_view", False)
            return function(*args, **(kwargs or {}))

    with Counter():
        run()
    return Counter.count
