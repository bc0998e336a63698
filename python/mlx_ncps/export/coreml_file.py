"""One step of a layer as a Core ML model, straight from its weights, through coremltools."""

# ruff: noqa: D102  the methods of CoreMLOps are those of `graph.Ops`

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from . import graph
from .describe import describe
from .description import Model

if TYPE_CHECKING:
    import os
    from pathlib import Path

BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "real_div"}


class CoreMLOps:
    """`graph.Ops` of coremltools' MIL, whose values know their number of rows."""

    def __init__(self, builder: Any) -> None:
        self._mb = builder

    def constant(self, array: np.ndarray) -> Any:
        return array

    def binary(self, name: str, a: Any, b: Any) -> Any:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.asarray(getattr(np, name)(a, b), np.float32)
        return getattr(self._mb, BINARY[name])(x=a, y=b)

    def unary(self, name: str, a: Any) -> Any:
        return getattr(self._mb, name)(x=a)

    def linear(self, z: Any, weight: np.ndarray, bias: np.ndarray | None) -> Any:
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        return self._mb.linear(x=z, weight=weight, bias=bias)

    def concatenate(self, parts: Sequence[Any]) -> Any:
        return self._mb.concat(values=list(parts), axis=1)

    def columns(self, a: Any, first: int, count: int) -> Any:
        masks = {"begin_mask": [True, False], "end_mask": [True, False]}
        return self._mb.slice_by_index(x=a, begin=[0, first], end=[0, first + count], **masks)

    def gather(self, v: Any, index: np.ndarray) -> Any:
        return self._mb.gather(x=v, indices=index.astype(np.int32), axis=1)

    def sum_last(self, a: Any) -> Any:
        return self._mb.reduce_sum(x=a, axes=[2], keep_dims=False)

    def elapsed(self, ts: Any) -> Any:
        known = self._mb.greater_equal(x=ts, y=np.float32(0))
        return self._mb.select(cond=known, a=ts, b=np.full(ts.shape, np.nan, np.float32))


def to_coreml(layer: Any, path: str | os.PathLike[str], *, batch: int = 1) -> None:
    """Write one step of a layer as a Core ML model; needs the package `coremltools`, on any system.

    Args:
        layer: as in `to_c`; built. It is written as it computes in `eval()`.
        path: of the model, a folder that ends in `.mlpackage`.
        batch: number of rows B.

    Inputs, all float32: `inputs` [B, I], `elapsed` [B, 1], the time since the step before in the
    units of training, and the state `h` [B, H], with mixed memory also `c`; of a stack `h0`, `h1`,
    ... Outputs: `outputs` [B, O] and `new_h`, ... An ML program for macOS 12, iOS 15 and later,
    computed in float32. Running it needs a Mac or another of Apple's devices.

    Raises ValueError as `to_c`, and for another ending; ImportError without `coremltools`.

    Example:
        >>> import pathlib, tempfile
        >>> from mlx_ncps import CfC, export
        >>> path = pathlib.Path(tempfile.mkdtemp(), "policy.mlpackage")
        >>> export.to_coreml(CfC(3, 8), path)
        >>> (path / "Manifest.json").is_file()
        True
    """
    op = "to_coreml"
    file, batch = checks.path(op, "path", path), checks.size(op, "batch", batch)
    if file.suffix != ".mlpackage" or not file.parent.is_dir():
        raise checks.refused(
            op, "path", "a path that ends in .mlpackage, in a folder that exists", path
        )
    model = describe(op, layer)
    try:
        import coremltools
    except ImportError as error:
        raise ImportError(
            "[to_coreml] needs the package coremltools: pip install coremltools."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        _save(coremltools, model, batch, file)
        gc.collect()  # coremltools leaves a temporary folder of the weights to it


def _save(coremltools: Any, model: Model, batch: int, file: Path) -> None:
    target = coremltools.target.iOS15
    converted = coremltools.convert(
        _program(model, batch, target),
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=target,
        skip_model_load=True,
    )
    converted.save(str(file))


def _program(model: Model, batch: int, target: Any) -> Any:
    """The MIL program of a step."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function, Program

    make: Any = Builder  # whose types are narrower than what it takes
    names = [name for name, _ in model.states]
    sizes = {"inputs": model.inputs, "elapsed": 1, **dict(model.states)}
    inputs = {name: make.placeholder(shape=(batch, size)) for name, size in sizes.items()}
    with Function(inputs, opset_version=target) as function:
        x, ts, *states = (function.inputs[name] for name in sizes)
        output, new = graph.step(CoreMLOps(make), model, x, states, ts)
        results = zip((output, *new), ("outputs", *(f"new_{n}" for n in names)), strict=True)
        function.set_outputs([make.identity(x=value, name=name) for value, name in results])
    program = Program()
    program.add_function("main", function)
    return program
