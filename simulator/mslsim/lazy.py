"""Simulated kernels that MLX evaluates when it needs them, as it does its own: traced by
mx.compile, vmap, gradients and checkpoints, with streams. What evaluates them is a small module of
C++ that only tests build: cmake -DMLX_NCPS_SIMULATOR=ON.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import itertools
import os
from pathlib import Path

import mlx.core as mx
import numpy as np

from . import fast
from .options import current, options

VARIABLE = "MSLSIM_LAZY"  # the module's path
_numbers = itertools.count(1)
_calls: dict = {}  # number -> what evaluates that call


@functools.cache
def module():
    """The module of C++. Raises ImportError where it is not built."""
    path = os.environ.get(VARIABLE)
    if not path:
        folder = Path(__file__).resolve().parents[2] / "build" / "mac"
        path = next(map(str, folder.glob("_mslsim_lazy*.so")), "")
    if not path:
        raise ImportError(
            f"[mslsim] lazy kernels need their module: make build/mac/built, or set {VARIABLE}."
        )
    loader = importlib.machinery.ExtensionFileLoader("_mslsim_lazy", path)
    found = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("_mslsim_lazy", path, loader=loader)
    )
    loader.exec_module(found)
    found.set_evaluate(lambda number, inputs, outputs: _calls[number](inputs, outputs))
    return found


def metal_kernel(*args, **kwargs):
    """As mx.fast.metal_kernel, and as lazy."""
    kernel = fast.metal_kernel(*args, **kwargs)
    return functools.partial(_call, kernel)


def _call(
    kernel, *, inputs, output_shapes, output_dtypes, template=None, stream=None, **launch
) -> list:
    kernel.check_counts(inputs, output_shapes, output_dtypes)
    for number in module().take_gone():
        _calls.pop(number, None)
    arrays = [a if isinstance(a, mx.array) else mx.array(a) for a in inputs]
    given = [(a.shape, fast.dtype_name(a.dtype)) for a in arrays]
    dtypes = [fast.dtype_name(d) for d in output_dtypes]
    shapes = [tuple(map(int, shape)) for shape in output_shapes]
    template = fast.template_values(template)
    settings = current()

    def evaluate(buffers, results):
        host = [
            (np.frombuffer(b, fast.storage(d), count=int(np.prod(s))).reshape(s), d)
            for b, (s, d) in zip(buffers, given, strict=True)
        ]
        with options(**vars(settings)):
            outputs = kernel.run(host, shapes, dtypes, template, **launch)
        for result, output in zip(results, outputs, strict=True):
            result[:] = np.ascontiguousarray(output).reshape(-1).view(np.uint8).data

    number = next(_numbers)
    _calls[number] = evaluate
    return module().call(number, arrays, shapes, list(output_dtypes), stream)
