"""Steps and sequences of a layer as `.mlxfn` files, which MLX imports without this package, in
Python, C++ or Swift, on the CPU or the GPU.
"""

# ruff: noqa: D102  the methods of MLXOps are those of `graph.Ops`

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from .. import checks
from ..cells import LiquidCell
from ..function_files import export_function
from ..rnn.any_cell import width_of
from ..rnn.sequence import SequenceLayer
from ..rnn.stacked import StackedRNN
from . import graph
from .describe import describe
from .description import Model

if TYPE_CHECKING:
    import os


class MLXOps:
    """`graph.Ops` of MLX: of operations alone whose shape follows that of their inputs when MLX
    takes another number of rows.
    """

    def constant(self, array: np.ndarray) -> mx.array:
        return mx.array(array)

    def binary(self, name: str, a: mx.array, b: mx.array) -> mx.array:
        return getattr(mx, name)(a, b)

    def unary(self, name: str, a: mx.array) -> mx.array:
        return mx.maximum(a, 0) if name == "relu" else getattr(mx, name)(a)

    def linear(self, z: mx.array, weight: np.ndarray, bias: np.ndarray | None) -> mx.array:
        y = z @ mx.array(np.ascontiguousarray(weight.T))
        return y if bias is None else y + mx.array(bias)

    def concatenate(self, parts: Sequence[mx.array]) -> mx.array:
        return mx.concatenate(list(parts), axis=-1)

    def columns(self, a: mx.array, first: int, count: int) -> mx.array:
        return mx.take_along_axis(a, mx.arange(first, first + count)[None], axis=-1)

    def gather(self, v: mx.array, index: np.ndarray) -> mx.array:
        taken = mx.take_along_axis(v, mx.array(index.reshape(1, -1), mx.int32), axis=-1)
        return mx.unflatten(taken, -1, index.shape)

    def sum_last(self, a: mx.array) -> mx.array:  # MLX 0.32 crashes in some sums of other shapes
        return (a @ mx.ones((a.shape[-1], 1))).squeeze(-1)

    def elapsed(self, ts: mx.array) -> mx.array:
        return mx.where(ts >= 0, ts, mx.array(float("nan")))


def export_step(layer: Any, path: str | os.PathLike[str], *, batch: int | None = None) -> None:
    """Write one step of a layer as a file that `mx.import_function` reads without this package.

    Args:
        layer: a recurrent layer that reads forwards, or a cell; built. It is written as it computes
            in `eval()`.
        path: of the file, by custom `.mlxfn`.
        batch: number of rows B that the file is for; None: any, which a CfC, an LTC, stacks and
            cells of them have.

    The function in the file is f(x [B, I], states [B, H]..., ts [B, 1]) -> [output [B, O], new
    states...], all float32, ts in the units of training. The states are those of the layer's step,
    flat and in their order: h, with mixed memory h and c, layer after layer of a stack. It holds
    MLX's own operations only: no fused kernel.

    Raises ValueError for a layer that isn't built or reads backwards, and without `batch` for one
    that is no CfC or LTC.

    Example:
        >>> import tempfile, mlx.core as mx
        >>> from mlx_ncps import CfC, export
        >>> layer, path = CfC(3, 8), tempfile.mkdtemp() + "/step.mlxfn"
        >>> export.export_step(layer, path)
        >>> y, h = mx.import_function(path)(mx.ones((5, 3)), mx.zeros((5, 8)), mx.ones((5, 1)))
        >>> y.shape
        (5, 8)
    """
    op = "export_step"
    path = checks.path_to_write(op, "path", path)
    if batch is not None:
        batch = checks.size(op, "batch", batch)
        return _export_layer(op, layer, path, batch, None)
    model = _any_batch(op, layer)

    def step(x: mx.array, *rest: mx.array) -> list[mx.array]:
        output, states = graph.step(MLXOps(), model, x, rest[:-1], rest[-1])
        return [output, *states]

    rows = 2
    arrays = [mx.zeros((rows, model.inputs)), *_states(model, rows), mx.ones((rows, 1))]
    return export_function(path, step, *arrays, shapeless=True)


def export_sequence(
    layer: Any, path: str | os.PathLike[str], steps: int, *, batch: int | None = None
) -> None:
    """Write a layer over sequences of `steps` steps as a file that `mx.import_function` reads
    without this package.

    Args:
        layer: as in `export_step`; with `batch` it may also read backwards or both ways.
        path: of the file.
        steps: number of steps T, which the file keeps, as MLX has no loop in a graph: the steps
            are unrolled. For other lengths write several files, or use `export_step`.
        batch: as in `export_step`.

    The function is f(inputs [B, T, I], states [B, H]..., ts [B, T]) -> [outputs [B, T, O], last
    states...], all float32; the states as in `export_step`, of a bidirectional layer forward, then
    backward. Outputs of all steps, whatever the layer's `return_sequences`.

    Raises ValueError as `export_step`, and for steps < 1.

    Example:
        >>> import tempfile, mlx.core as mx
        >>> from mlx_ncps import CfC, export
        >>> layer, path = CfC(3, 8), tempfile.mkdtemp() + "/sequence.mlxfn"
        >>> export.export_sequence(layer, path, 4)
        >>> y, h = mx.import_function(path)(mx.ones((5, 4, 3)), mx.zeros((5, 8)), mx.ones((5, 4)))
        >>> y.shape
        (5, 4, 8)
    """
    op = "export_sequence"
    path = checks.path_to_write(op, "path", path)
    steps = checks.size(op, "steps", steps)
    if batch is not None:
        batch = checks.size(op, "batch", batch)
        return _export_layer(op, layer, path, batch, steps)
    model = _any_batch(op, layer)

    def sequence(inputs: mx.array, *rest: mx.array) -> list[mx.array]:
        states, outputs = list(rest[:-1]), []
        for t in range(steps):
            x = mx.take_along_axis(inputs, mx.array([[[t]]]), axis=1).squeeze(1)
            ts = mx.take_along_axis(rest[-1], mx.array([[t]]), axis=1)
            output, states = graph.step(MLXOps(), model, x, states, ts)
            outputs.append(output)
        return [mx.stack(outputs, axis=1), *states]

    rows = 2
    arrays = [mx.zeros((rows, steps, model.inputs)), *_states(model, rows)]
    return export_function(path, sequence, *arrays, mx.ones((rows, steps)), shapeless=True)


def _any_batch(op: str, layer: Any) -> Model:
    """The step of a layer, for any number of rows."""
    try:
        return describe(op, layer)
    except ValueError as error:
        if isinstance(layer, (SequenceLayer, StackedRNN, LiquidCell)):
            raise ValueError(f"{error} With batch=... this layer can be exported too.") from None
        raise


def _states(model: Model, rows: int) -> list[mx.array]:
    return [mx.zeros((rows, size)) for _, size in model.states]


# --- any layer, for one number of rows: through its own call ---


def _export_layer(op: str, layer: Any, path: Any, batch: int, steps: int | None) -> None:
    run, width, example = _callable(op, layer, batch, steps is not None)
    states = [array for _, array in tree_flatten(example)]

    def function(x: mx.array, *rest: mx.array) -> list[mx.array]:
        left = list(rest[:-1])
        state = tree_map(lambda _: left.pop(0), example)
        leaves: Any = tree_flatten(run(x, state, rest[-1]))
        return [array for _, array in leaves]

    sizes = (batch, width) if steps is None else (batch, steps, width)
    ts = mx.ones((batch, 1 if steps is None else steps))
    export_function(path, function, mx.zeros(sizes), *states, ts)


def _callable(op: str, layer: Any, batch: int, sequences: bool) -> tuple[Any, int, Any]:
    """(function (x, state, ts) -> (output, state), number of inputs, first state) of a layer."""
    recurrent = isinstance(layer, (SequenceLayer, StackedRNN))
    if not recurrent and (sequences or not isinstance(layer, LiquidCell)):
        kind, cells = type(layer).__name__, "" if sequences else " or a cell"
        raise ValueError(
            f"[{op}] layer must be a recurrent layer{cells}, got {kind}: export_function writes "
            "any function of arrays."
        )
    parts = _parts(layer)
    width = width_of(getattr(parts[0], "rnn_cell", parts[0]))
    if width is None or layer._is_unbuilt():
        raise ValueError(
            f"[{op}] layer must be built, got one without weights: call it once, or "
            "build(input_size)."
        )
    if not recurrent:
        layer = copy.deepcopy(layer).eval()
        return layer, width, layer.get_initial_state(batch_size=batch)
    if not sequences and any(part.bidirectional or part.go_backwards for part in parts):
        raise ValueError(
            f"[{op}] layer must read forwards, got one that doesn't: a step can't read what comes "
            "later. Export whole sequences with export_sequence."
        )
    layer = _plain_copy(layer)
    states = tuple(_first_state(part, batch) for part in _parts(layer))
    state = states if isinstance(layer, StackedRNN) else states[0]
    return (layer if sequences else layer.step), width, state


def _parts(layer: Any) -> list:
    return layer.layers if isinstance(layer, StackedRNN) else [layer]


def _plain_copy(layer: Any) -> Any:
    """A copy that gives the outputs of all steps and the state, and keeps nothing."""
    layer = copy.deepcopy(layer).eval()
    for part in {id(one): one for one in (layer, *_parts(layer))}.values():
        part.return_state = True
        if isinstance(part, SequenceLayer):
            part.return_sequences = part.batch_first = True
            part.stateful = False
            part.reset_states()
    return layer


def _first_state(layer: Any, batch: int) -> Any:
    """Zeros of the form that a layer's call takes, for both directions if there are two."""
    sizes = layer._state_sizes
    if sizes is None:
        state = layer._free_initial_state(batch)
    elif isinstance(sizes, dict):
        state = tuple(mx.zeros((batch, size)) for size in sizes.values())
    else:
        state = mx.zeros((batch, sizes))
    return (state, state) if layer.bidirectional else state
