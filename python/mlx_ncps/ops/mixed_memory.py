"""Mixed memory (MATHS 4, Lechner and Hasani 2020): an LSTM in front of a CfC or LTC, over whole
sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import backends, dispatch
from ..backends import Facts
from . import shapeless
from .calls import Call
from .cfc import cfc_sequence, prepare_cfc
from .checks import LTC_OPTIONS, check_array, check_ltc_options, check_memory, check_params
from .ltc import ltc_sequence, prepare_ltc
from .params import CfCParams, LSTMParams, LTCParams
from .resets import checked_resets, started_anew

if TYPE_CHECKING:
    from .._types import TimespansLike


def cfc_mixed_sequence(
    inputs: mx.array,
    state: Any,
    ts: TimespansLike,
    memory: LSTMParams,
    params: CfCParams,
    **keywords: Any,
) -> tuple[mx.array, mx.array]:
    """A CfC behind an LSTM over a sequence -> (h, c) after each step, [B, T, H] each.

    Step t: z = W_input x + b + W_recurrent h, split into i, ig, fg, og; c' = c sigmoid(fg + 1) +
    tanh(i) sigmoid(ig); h* = tanh(c') sigmoid(og); h' = one step of the CfC from h*.

    Args:
        inputs: [B, T, I], float32, float16 or bfloat16; the results have this dtype, everything
            inside is float32.
        state: (h, c) before the first step, [B, H] each.
        ts: as in `cfc_sequence`.
        memory: LSTMParams.
        params: CfCParams.
        **keywords: those of `cfc_sequence`, reset_state (h, c), and so is what is raised.

    One fused call where the backend has one (`mixed_memory_is_fused`), else step by step.

    Example:
        >>> memory = ops.LSTMParams(mx.ones((16, 3)), mx.zeros(16), mx.ones((16, 4)))
        >>> state = (mx.zeros((2, 4)), mx.zeros((2, 4)))
        >>> params = CfCCell(3, 4).params()
        >>> h, c = ops.cfc_mixed_sequence(mx.ones((2, 5, 3)), state, 0.5, memory, params)
        >>> h.shape, c.shape
        ((2, 5, 4), (2, 5, 4))
    """
    h, c = _check("cfc", state)
    keywords = (cfc_sequence.__kwdefaults__ or {}) | keywords
    anew = [keywords.pop(name) for name in ("resets", "reset_state")]
    call = prepare_cfc(inputs, h, ts, params, **keywords, op="cfc_mixed_sequence")
    return _run("cfc", call, c, memory, anew)


def ltc_mixed_sequence(
    inputs: mx.array,
    state: Any,
    ts: TimespansLike,
    memory: LSTMParams,
    params: LTCParams,
    **keywords: Any,
) -> tuple[mx.array, mx.array]:
    """An LTC behind an LSTM over a sequence -> (h, c) after each step, [B, T, H] each; h are the
    membrane potentials.

    The LSTM, its memory (LSTMParams), inputs, state and reset_state are as in `cfc_mixed_sequence`;
    ts, params and the keywords are those of `ltc_sequence`.

    Example:
        >>> memory = ops.LSTMParams(mx.ones((16, 3)), mx.zeros(16), mx.ones((16, 4)))
        >>> state = (mx.zeros((2, 4)), mx.zeros((2, 4)))
        >>> params = LTCCell(4, 3).params()
        >>> h, c = ops.ltc_mixed_sequence(mx.ones((2, 5, 3)), state, 0.5, memory, params)
        >>> h.shape, c.shape
        ((2, 5, 4), (2, 5, 4))
    """
    return ltc_behind_memory(None, inputs, state, ts, memory, params, **keywords)


def ltc_behind_memory(
    own: mx.array | None,
    inputs: mx.array,
    state: Any,
    ts: TimespansLike,
    memory: LSTMParams,
    params: LTCParams,
    **keywords: Any,
) -> tuple[mx.array, mx.array]:
    """`ltc_mixed_sequence` whose LSTM reads inputs [B, T, M] of its own: `own`, if not None."""
    h, c = _check("ltc", state)
    keywords = (ltc_sequence.__kwdefaults__ or {}) | keywords
    options = check_ltc_options(**{name: keywords.pop(name) for name in LTC_OPTIONS})
    anew = [keywords.pop(name) for name in ("resets", "reset_state")]
    call = prepare_ltc(inputs, h, ts, params, options, **keywords, op="ltc_mixed_sequence")
    return _run("ltc", call, c, memory, anew, own)


def mixed_memory_is_fused(op: str, facts: Facts) -> bool:
    """Whether the backend that runs a call of `op` ("cfc_sequence" or "ltc_sequence") behind an
    LSTM with these facts has both in one kernel.
    """
    mixed = op.replace("_sequence", "_mixed_sequence")
    return op in getattr(backends, dispatch.explain(mixed, facts).backend).MIXED_MEMORY


def lstm_gates(z: mx.array, c: mx.array) -> tuple[mx.array, mx.array]:
    """One step of the LSTM: z = W_input x + b + W_recurrent h [B, 4H], c [B, H] -> (h*, c')."""
    i, ig, fg, og = mx.split(z, 4, axis=-1)  # each [B, H]
    c = c * mx.sigmoid(fg + 1.0) + mx.tanh(i) * mx.sigmoid(ig)
    return mx.tanh(c) * mx.sigmoid(og), c


def _check(op: str, state: Any) -> Sequence[mx.array]:
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(f"[{op}] state must be (h, c), got {type(state).__name__}.")
    return state


def _run(
    op: str, call: Call, c: mx.array, memory: Any, anew: list, own: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    B, T, H = call.shape
    read = call.inputs if own is None else own
    check_array(op, "state c", c, "[B, H]", (B, H))
    check_array(op, "inputs of the memory", read, "[B, T, M]", (B, T, None))
    check_params(op, "memory", memory, LSTMParams)
    check_memory(op, memory, read.shape[2], H)
    resets = checked_resets(op, anew[0], anew[1], (call.state, c), B, T)
    if 0 in call.shape:
        return call.run(), call.run()
    c, memory = c.astype(mx.float32), LSTMParams(*(a.astype(mx.float32) for a in memory))
    backend = call.backend
    if call.op not in backend.MIXED_MEMORY or (resets and call.op not in backend.RESETS):
        return _steps(call, c, memory, read, resets.get("resets"))
    arrays = [c, *memory] if own is None else [c, *memory, own]
    keywords = call.keywords | {"memory": arrays} | resets
    h, c = call._replace(keywords=keywords).run()
    return h, c


def _steps(
    call: Call, c: mx.array, memory: LSTMParams, read: mx.array, resets: list | None
) -> tuple[mx.array, mx.array]:
    """The same with one call of the backend for each step; `read` is what the LSTM reads."""
    shapeless.refuse(call.op, "running step by step")
    x, h = call.inputs.astype(mx.float32), call.state
    drive = read.astype(mx.float32) @ memory.input_weight.T + memory.bias  # [B, T, 4H]
    states = []
    for t in range(x.shape[1]):
        h, c = started_anew(resets, t, h, c)
        h, c = lstm_gates(drive[:, t] + h @ memory.recurrent_weight.T, c)
        h = call.step(t, h).run()[:, 0]
        states.append((h, c))
    h, c = (mx.stack(list(part), axis=1) for part in zip(*states, strict=True))
    return h.astype(call.inputs.dtype), c.astype(call.inputs.dtype)
