"""A cell over a sequence step by step, one call for each: any cell, or one behind an LSTM that no
kernel has in front of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_map

from .. import dispatch
from ..cells import LSTMCell
from ..ops import shapeless
from ..ops.dropout import all_drawn, given_factors
from ..programs import HALVES, Declined, float32_weights, run_program
from .any_cell import has_program_of_sequence, name_of, runs_sequences, takes_time
from .resets import Resets

PROGRAM_STEPS = 4  # of a sequence, from which tracing a user's cell is worth it


class Trace(NamedTuple):
    """All states of a run, [B, T, ...] each, its outputs, and the last states where they are had
    for less than all; outputs None: they are the cell's readout.
    """

    states: Any
    outputs: mx.array | None
    last: Any = None


def is_spans(ts: Any) -> bool:
    """Whether time spans are an array [B, T], one for each step."""
    return isinstance(ts, mx.array) and ts.ndim == 2


def last_state(states: Any, before: Any, steps: int) -> Any:
    """The last of states [B, T, ...], `before` [B, ...] where there is none."""
    if shapeless.length_varies():
        return tree_map(shapeless.last_step, states, before)
    if isinstance(states, mx.array):
        return states[:, -1] if steps else before
    return tree_map(lambda s: s[:, -1], states) if steps else before


def last_output(outputs: mx.array) -> mx.array:
    """The last of outputs [B, T, O]; zeros when there is none."""
    if outputs.shape[1]:
        return outputs[:, -1]
    return mx.zeros((outputs.shape[0], *outputs.shape[2:]), outputs.dtype)


def trace_by_steps(
    layer: Any, x: mx.array, state: Any, ts: Any, resets: Resets | None = None
) -> Trace:
    """The Trace of x [B, T, I], each step one call of the cell, in float32 with mixed memory."""
    shapeless.refuse(layer.op, "running step by step")
    dtype = x.dtype
    factors = all_drawn(drops_of(layer.rnn_cell), x.shape[0], x.shape[1])
    made = trace_by_program(layer, x, state, ts, factors, resets)
    if made is not None:
        return made
    with float32_weights(modules_of(layer)):
        states, outputs = _each_step(layer, x, state, ts, factors, resets)
    states = tree_map(lambda *parts: mx.stack(list(parts), axis=1), *states)
    if layer.mixed_memory:
        states = tree_map(lambda s: s.astype(dtype), states)
    if runs_sequences(layer.rnn_cell):
        return Trace(states, None)
    return Trace(states, mx.stack(outputs, axis=1).astype(dtype))


def drops_of(cell: Any) -> list[tuple[int, float]]:
    """(D, rate) of each array of factors of dropout [B, T, D] that a cell reads now."""
    return getattr(cell, "_drops", list)()


def _each_step(
    layer: Any, x: mx.array, state: Any, ts: Any, factors: list[mx.array], resets: Resets | None
) -> tuple[list, list]:
    """The states and outputs after each step."""
    memory: Any = None
    if layer.mixed_memory:
        x = x.astype(mx.float32)
        state = tree_map(lambda s: s.astype(mx.float32), state)
        memory = _memory(layer, x)
    states, outputs = [], []
    for t in range(x.shape[1]):
        span = ts[:, t : t + 1] if is_spans(ts) else ts
        state = state if resets is None else resets.before(t, state)
        with given_factors([f[:, t] for f in factors]):
            if layer.mixed_memory:
                h, c = memory(t, *state)
                output, h = step_of(layer, x[:, t], h, span)
                state = (h, c)
            else:
                output, state = step_of(layer, x[:, t], state, span)
        states.append(state)
        outputs.append(output)
    return states, outputs


def trace_by_program(
    layer: Any,
    x: mx.array,
    state: Any,
    ts: Any,
    factors: list[mx.array],
    resets: Resets | None,
    held: mx.array | None = None,
) -> Trace | None:
    """The same by the step program of the cell and the LSTM; None where there is none. held: as in
    `run_program`.
    """
    cell, mixed = layer.rnn_cell, layer.mixed_memory
    if runs_sequences(cell) and not mixed and not hasattr(cell, "_program"):
        return None
    states = list(state) if isinstance(state, tuple | list) else [state]
    if not all(isinstance(s, mx.array) for s in states) or x.shape[1] < PROGRAM_STEPS:
        return None
    if type(state) not in (mx.array, tuple, list):  # a form that a step must get back
        return None
    spans = isinstance(ts, mx.array) or ts != 1.0
    if not _takes_spans(cell) and spans:
        return None  # an error, raised where the step is called
    if not mixed and not all(a.dtype == x.dtype for a in states):
        return None
    if not factors and getattr(cell, "_unpacked", str)():  # it draws at each step
        return None
    step, modules = step_function(layer, type(state), len(factors)), modules_of(layer)
    anew: tuple[Any, Any] = (None, None)
    if resets is not None:
        first = resets.state
        anew = resets.at, list(first) if isinstance(first, tuple | list) else [first]
    dtype, full = x.dtype, x.astype(mx.float32)
    computes = mx.float32 if mixed else dtype
    call = full, ts, states, *anew, factors
    made = run_program(layer, modules, step, *call, dtype=computes, held=held)
    if isinstance(made, Declined):
        return None
    return _rounded(layer, type(state), *made, dtype)


def sequence_trace(layer: Any, x: mx.array, state: Any, ts: Any, anew: dict) -> Trace:
    """The Trace of a cell that runs over sequences; anew: what `sequence` is told of resets."""
    cell, dtype = layer.rnn_cell, x.dtype
    if dtype not in HALVES or not has_program_of_sequence(cell):
        return Trace(cell.sequence(x, state, ts, **anew), None)
    x, state, anew = tree_map(_in_float32, (x, state, anew))
    states = cell.sequence(x, state, ts, **anew)
    kind = type(states)
    return _rounded(layer, kind, list(states) if kind is tuple else [states], [], dtype)


def _in_float32(value: Any) -> Any:
    halves = isinstance(value, mx.array) and value.dtype in HALVES
    return value.astype(mx.float32) if halves else value


def _rounded(layer: Any, kind: type, states: list, outputs: list, dtype: mx.Dtype) -> Trace:
    """The Trace of a program's float32 results; what is read of half states is rounded last."""
    if dtype == mx.float32:
        return Trace(_state_of(kind, states), outputs[0] if outputs else None)
    last = _state_of(kind, [s[:, -1].astype(dtype) for s in states])
    read = outputs[0] if outputs else readout_of(layer, _state_of(kind, states))
    return Trace(_state_of(kind, [s.astype(dtype) for s in states]), read.astype(dtype), last)


def readout_of(layer: Any, states: Any) -> mx.array:
    """The outputs of a cell that runs over sequences, of its states [..., H]."""
    return layer.rnn_cell.readout(states[0] if layer.mixed_memory else states)


def modules_of(layer: Any) -> list:
    """What a step of a layer reads."""
    return [layer.rnn_cell, layer.lstm] if layer.mixed_memory else [layer.rnn_cell]


def _takes_spans(cell: Any) -> bool:
    return runs_sequences(cell) or takes_time(cell)


def _state_of(kind: type, parts: Any) -> Any:
    return kind(parts) if kind in (tuple, list) else parts[0]


def step_function(layer: Any, kind: type, drops: int = 0) -> Callable:
    """(x [N, I], ts [N, 1], *factors [N, D], *states [N, n]) -> (new states, outputs), of a state
    that is an array, a tuple or a list, and so many factors of dropout.
    """
    timed, mixed = _takes_spans(layer.rnn_cell), layer.mixed_memory

    def step(x: mx.array, ts: mx.array, *arrays: mx.array) -> tuple[list, list]:
        span: Any = ts if timed else 1.0
        factors, states = list(arrays[:drops]), arrays[drops:]
        with dispatch.use_backend("reference"), given_factors(factors):
            if mixed:
                h, c = _memory(layer, x[:, None])(0, *states)
                output, h = step_of(layer, x, h, span)
                new: Any = [h, c]
            else:
                output, new = step_of(layer, x, _state_of(kind, states), span)
                new = list(new) if isinstance(new, tuple | list) else [new]
        if output is not None and output.ndim != 2:
            raise ValueError("an output is no array [B, O]")
        return new, [] if output is None else [output]

    return step


def _memory(layer: Any, x: mx.array) -> Callable:
    """The function (t, h, c) -> (h*, c') of the LSTM over x [B, T, I]."""
    lstm = layer.lstm
    if type(lstm) is LSTMCell:
        drive = lstm._drive(x)  # [B, T, 4H]
        return lambda t, h, c: lstm._gates(drive[:, t], h, c)

    def call(t, h, c):
        result = lstm(x[:, t], (h, c))
        if not isinstance(result, tuple) or len(result) != 2 or len(result[1]) != 2:
            raise ValueError(
                f"[{layer.op}] lstm must return (output, (h, c)), got {type(result).__name__} "
                f"from {name_of(lstm)}."
            )
        return tuple(part.astype(mx.float32) for part in result[1])

    return call


def step_of(layer: Any, x: mx.array, state: Any, ts: Any) -> tuple:
    """One step of any cell -> (output, new state), in half precision for inputs in it; the output
    is left out where `readout` gives it.
    """
    if runs_sequences(layer.rnn_cell):
        with shapeless.one_step():
            states = layer.rnn_cell.sequence(x[:, None], state, ts)
        if isinstance(states, mx.array):
            return None, states[:, 0]
        return None, tree_map(lambda s: s[:, 0], states)
    if takes_time(layer.rnn_cell):
        result = layer.rnn_cell(x, state, ts)
    elif is_spans(ts) or isinstance(ts, mx.array) or ts != 1.0:
        raise ValueError(
            f"[{layer.op}] timespans must be left out for {name_of(layer.rnn_cell)}, "
            "which is called as cell(inputs, state), got some."
        )
    else:
        result = layer.rnn_cell(x, state)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            f"[{layer.op}] {name_of(layer.rnn_cell)} must return (output, state), "
            f"got {type(result).__name__}."
        )
    if x.dtype not in HALVES:
        return result
    return tree_map(lambda a: a.astype(x.dtype) if _is_float32(a) else a, result)


def _is_float32(value: Any) -> bool:
    """Whether something is an array of float32, as time spans in that dtype make a state."""
    return isinstance(value, mx.array) and value.dtype == mx.float32
