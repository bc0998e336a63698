"""A cell over a sequence step by step, one call for each: any cell, or one behind an LSTM that no
kernel has in front of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_map

from ..cells import LSTMCell
from ..ops import shapeless
from .any_cell import name_of, runs_sequences, takes_time
from .resets import Resets


class Trace(NamedTuple):
    """All states of a run, [B, T, ...] each, and its outputs; None: they are the cell's readout."""

    states: Any
    outputs: mx.array | None


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
    memory: Any = None
    if layer.mixed_memory:
        x = x.astype(mx.float32)
        state = tree_map(lambda s: s.astype(mx.float32), state)
        memory = _memory(layer, x)
    states, outputs = [], []
    for t in range(x.shape[1]):
        span = ts[:, t : t + 1] if is_spans(ts) else ts
        state = state if resets is None else resets.before(t, state)
        if layer.mixed_memory:
            h, c = memory(t, *state)
            output, h = step_of(layer, x[:, t], h, span)
            state = (h, c)
        else:
            output, state = step_of(layer, x[:, t], state, span)
        states.append(state)
        outputs.append(output)
    states = tree_map(lambda *parts: mx.stack(list(parts), axis=1), *states)
    if layer.mixed_memory:
        states = tree_map(lambda s: s.astype(dtype), states)
    if runs_sequences(layer.rnn_cell):
        return Trace(states, None)
    return Trace(states, mx.stack(outputs, axis=1).astype(dtype))


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
    """One step of any cell -> (output, new state); the output is left out where `readout` gives
    it.
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
    return result
