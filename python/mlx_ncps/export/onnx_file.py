"""A layer as an ONNX model, straight from its weights: one step, or a Scan over sequences."""

# ruff: noqa: D102  the methods of ONNXOps are those of `graph.Ops`

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from . import graph
from .describe import describe
from .description import Model

if TYPE_CHECKING:
    import os

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12, 2022
BINARY = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div"}
UNARY = {n.lower(): n for n in ("Sigmoid", "Tanh", "Exp", "Abs", "Relu", "Erf")}


class ONNXOps:
    """`graph.Ops` of ONNX: a value is a name; nodes and constants are collected."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self._helper, self._numpy_helper = helper, numpy_helper
        self.nodes: list[Any] = []
        self._constants: dict[tuple, tuple[str, Any]] = {}

    @property
    def constants(self) -> list[Any]:
        """Every constant, each once."""
        return [tensor for _, tensor in self._constants.values()]

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The name of the one output of a new node."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name, self._numpy_helper.from_array(array, name)
        return self._constants[key][0]

    def binary(self, name: str, a: str, b: str) -> str:
        return self.node(BINARY[name], a, b)

    def unary(self, name: str, a: str) -> str:
        return self.node(UNARY[name], a)

    def linear(self, z: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        parts = [weight] if bias is None else [weight, bias]
        return self.node("Gemm", z, *map(self.constant, parts), transB=1)

    def concatenate(self, parts: Sequence[str]) -> str:
        return self.node("Concat", *parts, axis=1)

    def columns(self, a: str, first: int, count: int) -> str:
        ends = (np.array([n], np.int64) for n in (first, first + count, 1))
        return self.node("Slice", a, *map(self.constant, ends))

    def gather(self, v: str, index: np.ndarray) -> str:
        return self.node("Gather", v, self.constant(index), axis=1)

    def sum_last(self, a: str) -> str:
        return self.node("ReduceSum", a, self.constant(np.array([2], np.int64)), keepdims=0)

    def elapsed(self, ts: str) -> str:
        known = self.node("GreaterOrEqual", ts, self.constant(np.array(0, np.float32)))
        return self.node("Where", known, ts, self.constant(np.array(np.nan, np.float32)))


def to_onnx(layer: Any, path: str | os.PathLike[str], *, sequence: bool = False) -> None:
    """Write a layer as an ONNX model; needs the package `onnx`.

    Args:
        layer: as in `to_c`: a `CfC`, `LTC`, `CfCRNN`, `LTCRNN` or one of their cells; built. It is
            written as it computes in `eval()`.
        path: of the file.
        sequence: a model of whole sequences, of any length, in place of one of a step.

    Inputs, all float32, of any number of rows B: `inputs` [B, I] (of sequences [B, T, I]),
    `elapsed` [B, 1] ([B, T]), the time before each step in the units of training, and the state:
    `h` [B, H], with mixed memory also `c`; of a stack `h0`, `h1`, ... Outputs: `outputs` [B, O]
    ([B, T, O], of all steps whatever the layer's `return_sequences`) and `new_h`, ..., the state
    after the last step. Operators of opset 17.

    Raises ValueError as `to_c`, ImportError without `onnx`.

    Example:
        >>> import tempfile, onnx
        >>> from mlx_ncps import LTC, export
        >>> from mlx_ncps.wirings import AutoNCP
        >>> path = tempfile.mkdtemp() + "/policy.onnx"
        >>> export.to_onnx(LTC(4, AutoNCP(19, 2)), path)
        >>> [one.name for one in onnx.load(path).graph.input]
        ['inputs', 'elapsed', 'h']
    """
    file = checks.path_to_write("to_onnx", "path", path)
    sequence = checks.flag("to_onnx", "sequence", sequence)
    model = describe("to_onnx", layer)
    try:
        import onnx
    except ImportError as error:
        raise ImportError("[to_onnx] needs the package onnx: pip install onnx.") from error
    graph = (_sequence if sequence else _step)(onnx, model)
    opset = onnx.helper.make_opsetid("", OPSET)
    made = onnx.helper.make_model(graph, opset_imports=[opset], producer_name="mlx-ncps")
    made.ir_version = IR_VERSION
    onnx.checker.check_model(made, full_check=True)
    file.write_bytes(made.SerializeToString())


def _values(onnx: Any, names: Sequence[str], sizes: Sequence[tuple]) -> list[Any]:
    """Float32 tensors as a graph declares them."""
    kind, make = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    return [make(name, kind, size) for name, size in zip(names, sizes, strict=True)]


def _step(onnx: Any, model: Model) -> Any:
    """The graph of one step."""
    ops = ONNXOps(onnx.helper, onnx.numpy_helper)
    names, states = [name for name, _ in model.states], [("batch", n) for _, n in model.states]
    output, new = graph.step(ops, model, "inputs", names, "elapsed")
    results = ["outputs", *(f"new_{name}" for name in names)]
    for value, name in zip((output, *new), results, strict=True):
        ops.node("Identity", value, name=name)
    inputs = [("batch", model.inputs), ("batch", 1), *states]
    return onnx.helper.make_graph(
        ops.nodes,
        "step",
        _values(onnx, ["inputs", "elapsed", *names], inputs),
        _values(onnx, results, [("batch", model.outputs), *states]),
        ops.constants,
    )


def _sequence(onnx: Any, model: Model) -> Any:
    """The graph of a Scan over the steps, whose body is the step."""
    ops = ONNXOps(onnx.helper, onnx.numpy_helper)
    names, states = [name for name, _ in model.states], [("batch", n) for _, n in model.states]
    before, after = ([f"{word}_{name}" for name in names] for word in ("before", "after"))
    axis = ops.constant(np.array([1], np.int64))
    ts = ops.node("Unsqueeze", "step_elapsed", axis, name="step_elapsed_column")
    output, new = graph.step(ops, model, "step_inputs", before, ts)
    for value, name in zip((*new, output), (*after, "step_outputs"), strict=True):
        ops.node("Identity", value, name=name)
    step = [("batch", model.inputs), ("batch",)]
    body = onnx.helper.make_graph(
        ops.nodes,
        "step",
        _values(onnx, [*before, "step_inputs", "step_elapsed"], [*states, *step]),
        _values(onnx, [*after, "step_outputs"], [*states, ("batch", model.outputs)]),
    )
    results = [f"new_{name}" for name in names]
    axes = {"scan_input_axes": [1, 1], "scan_output_axes": [1]}
    scan = onnx.helper.make_node(
        "Scan",
        [*names, "inputs", "elapsed"],
        [*results, "outputs"],
        "scan",
        body=body,
        num_scan_inputs=2,
        **axes,
    )
    inputs = [("batch", "time", model.inputs), ("batch", "time"), *states]
    return onnx.helper.make_graph(
        [scan],
        "sequence",
        _values(onnx, ["inputs", "elapsed", *names], inputs),
        _values(onnx, ["outputs", *results], [("batch", "time", model.outputs), *states]),
        ops.constants,
    )
