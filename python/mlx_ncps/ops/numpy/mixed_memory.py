"""Mixed memory (Lechner and Hasani 2020): an LSTM in front of a CfC or LTC, both directions.

One step reads the inputs x, the state (h, c) and the elapsed time ts:

    z = x W_input^T + b + h W_recurrent^T, split into i, ig, fg, og
    c' = c sigmoid(fg + 1) + tanh(i) sigmoid(ig)
    h* = tanh(c') sigmoid(og)
    h' = cell(x, h*, ts)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .activations import sigmoid
from .arrays import (
    Numbers,
    as_float64,
    check_cotangents,
    check_shapes,
    timespans_array,
    timespans_gradient,
)
from .cfc import cfc_sequence, cfc_sequence_backward
from .checks import refused, shaped
from .ltc import ltc_sequence, ltc_sequence_backward
from .resets import resets_of


class LSTMParams(NamedTuple):
    """The weights of the LSTM; the 4H rows are i, ig, fg, og."""

    input_weight: Any  # [4H, I]
    bias: Any  # [4H]
    recurrent_weight: Any  # [4H, H]


def cfc_mixed_sequence(
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    memory: Any,
    params: Any,
    **keywords: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a CfC behind an LSTM over a sequence and returns (h, c) after every step, [B, T, H]
    each.

    Args: inputs [B, T, I]; state (h, c), [B, H] each; memory an LSTMParams; ts, params and the
    keywords are those of `cfc_sequence`, reset_state (h, c).
    """
    arguments = inputs, state, ts, memory, params
    h, c, *_ = _run("cfc", cfc_sequence, *arguments, *_anew(keywords))
    return h, c


def ltc_mixed_sequence(
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    memory: Any,
    params: Any,
    **keywords: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs an LTC behind an LSTM over a sequence and returns (h, c) after every step, [B, T, H]
    each.

    Args: inputs [B, T, I]; state (h, c), [B, H] each; memory an LSTMParams; ts, params and the
    keywords are those of `ltc_sequence`, reset_state (h, c).
    """
    arguments = inputs, state, ts, memory, params
    h, c, *_ = _run("ltc", ltc_sequence, *arguments, *_anew(keywords))
    return h, c


def cfc_mixed_sequence_backward(
    cotangents: Numbers,
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    memory: Any,
    params: Any,
    **keywords: Any,
) -> Any:
    """The gradient of sum(dh * h) + sum(dc * c) for cotangents (dh, dc), [B, T, H] each.

    Args: cotangents, then those of `cfc_mixed_sequence`.

    Returns ``(dinputs, dstate, dts, dmemory, dparams)``: shaped as inputs, state and ts (None for
    None), an LSTMParams, and dparams as `cfc_sequence_backward` returns them.
    """
    functions = cfc_sequence, cfc_sequence_backward
    arguments = inputs, state, ts, memory, params
    return _run_backward("cfc", functions, cotangents, arguments, keywords)


def ltc_mixed_sequence_backward(
    cotangents: Numbers,
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    memory: Any,
    params: Any,
    **keywords: Any,
) -> Any:
    """The same of `ltc_mixed_sequence`; dparams as `ltc_sequence_backward` returns them."""
    functions = ltc_sequence, ltc_sequence_backward
    arguments = inputs, state, ts, memory, params
    return _run_backward("ltc", functions, cotangents, arguments, keywords)


def _anew(keywords):
    """The keywords of the cell and those of the resets."""
    names = ("resets", "reset_state")
    rest = {name: value for name, value in keywords.items() if name not in names}
    return rest, {name: keywords.get(name) for name in names}


def _run(op, sequence, inputs, state, ts, memory, params, keywords, resets):
    """h, c and h* of every step, and the h and c that it reads, [B, T, H] each."""
    x, h, c, ts, m = _arguments(op, inputs, state, ts, memory)
    anew = resets_of(op, *resets.values(), x.shape[1], h, c)
    states = np.empty((5, *x.shape[:2], h.shape[1]))
    for t in range(x.shape[1]):
        h, c = anew.before(t, h, c)
        states[3:, :, t] = h, c
        i, ig, fg, og = _gates(x[:, t], h, m)
        c = c * fg + i * ig
        driven = np.tanh(c) * og
        options = _at_step(keywords, t)
        h = sequence(x[:, t : t + 1], driven, ts[:, t : t + 1], params, **options)[:, 0]
        states[:3, :, t] = h, c, driven
    return tuple(states)


def _at_step(keywords, t):
    """The keywords of the cell's step t; the dropout [B, T, D] is cut to it."""
    if keywords.get("dropout") is None:
        return keywords
    return keywords | {"dropout": as_float64(keywords["dropout"])[:, t : t + 1]}


def _gates(x, h, m):
    """tanh(i), sigmoid(ig), sigmoid(fg + 1), sigmoid(og), [B, H] each."""
    i, ig, fg, og = np.split(x @ m.input_weight.T + m.bias + h @ m.recurrent_weight.T, 4, axis=1)
    return np.tanh(i), sigmoid(ig), sigmoid(fg + 1.0), sigmoid(og)


def _run_backward(op, functions, cotangents, arguments, keywords):
    sequence, sequence_backward = functions
    inputs, state, given_ts, memory, params = arguments
    keywords, resets = _anew(keywords)
    h, c, driven, h_before, c_before = _run(
        op, sequence, inputs, state, given_ts, memory, params, keywords, resets
    )
    x, h0, c0, ts, m = _arguments(op, inputs, state, given_ts, memory)
    dh_out, dc_out = _pair(op, "cotangents", cotangents)
    check_cotangents(op, dh_out, h)
    check_cotangents(op, dc_out, c)
    anew = resets_of(op, *resets.values(), x.shape[1], h0, c0)
    dfirst = anew.zeros()
    dx, dts, dh, dc = np.zeros_like(x), np.zeros(ts.shape), np.zeros_like(h0), np.zeros_like(c0)
    dm = LSTMParams(*(np.zeros_like(w) for w in m))
    none = _at_step(keywords, x.shape[1])
    dparams = sequence_backward(h[:, :0], x[:, :0], h0, ts[:, :0], params, **none)[3]  # zeros
    for t in reversed(range(x.shape[1])):
        now = slice(t, t + 1)
        dh = (dh + dh_out[:, t])[:, None]
        dx[:, now], ddriven, dts[:, now], dcell = sequence_backward(
            dh, x[:, now], driven[:, t], ts[:, now], params, **_at_step(keywords, t)
        )
        dparams = _add(dparams, dcell)
        gates = _gates(x[:, t], h_before[:, t], m)
        dz, dc = _gates_backward(ddriven, dc + dc_out[:, t], gates, c_before[:, t], c[:, t])
        dm.input_weight[...] += dz.T @ x[:, t]
        dm.bias[...] += dz.sum(axis=0)
        dm.recurrent_weight[...] += dz.T @ h_before[:, t]
        dx[:, t] += dz @ m.input_weight
        dh, dc = anew.backward(t, dfirst, dz @ m.recurrent_weight, dc)
    return dx, anew.gradient(dfirst, dh, dc), timespans_gradient(given_ts, dts), dm, dparams


def _gates_backward(ddriven, dc, gates, c_before, c):
    """Gradients of one step's LSTM: by z, [B, 4H], and by the c before it, [B, H]."""
    i, ig, fg, og = gates
    squashed = np.tanh(c)
    dc = dc + ddriven * og * (1.0 - squashed**2)
    dz = (
        dc * ig * (1.0 - i**2),
        dc * i * ig * (1.0 - ig),
        dc * c_before * fg * (1.0 - fg),
        ddriven * squashed * og * (1.0 - og),
    )
    return np.concatenate(dz, axis=1), dc * fg


def _add(a, b):
    """The sum of nested (named) tuples of arrays; None stays."""
    if a is None or isinstance(a, np.ndarray):
        return None if a is None else a + b
    parts = [_add(p, q) for p, q in zip(a, b, strict=True)]
    return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)


def _pair(op, name, pair):
    """(h, c) in float64."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or any(part is None for part in pair):
        raise refused(op, name, "(h, c)", pair)
    return tuple(as_float64(part) for part in pair)


def _arguments(op, inputs, state, ts, memory):
    x, (h, c) = as_float64(inputs), _pair(op, "state", state)
    if not all(hasattr(memory, name) for name in LSTMParams._fields):
        raise refused(op, "memory", "LSTMParams", memory)
    recurrent = shaped(op, "memory.recurrent_weight", memory.recurrent_weight, (None, None))
    rows, units = recurrent.shape
    recurrent = shaped(op, "memory.recurrent_weight", recurrent, (4 * units, units))
    weight = shaped(op, "memory.input_weight", memory.input_weight, (rows, None))
    m = LSTMParams(weight, shaped(op, "memory.bias", memory.bias, (rows,)), recurrent)
    width = weight.shape[1]
    for part in (h, c):
        check_shapes(op, x, part, width, units)
    return x, h, c, timespans_array(op, ts, *x.shape[:2]), m
