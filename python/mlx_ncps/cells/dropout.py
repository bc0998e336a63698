"""A CfC over a sequence with dropout in its backbone (MATHS 1), step by step in MLX operations;
`CfCCell.sequence` calls it in training.
"""

from __future__ import annotations

import mlx.core as mx

from .. import dispatch
from ..ops import CfCParams, cfc_update, cfc_update_pure, get_activation
from ..ops.checks import check_cfc
from ..ops.timespans import normalise_timespans

REASON = "the dropout of the backbone draws anew at each step, which no fused operator does"


def dropout_sequence(inputs, state, ts, params: CfCParams, *, mode, activation, rate) -> mx.array:
    """As `ops.cfc_sequence`, with a share `rate` of the outputs of backbone layers 2, 3, ... set to
    0 and the others divided by 1 - rate, drawn from MLX's global random state.

    Raises RuntimeError when another backend than the reference is forced.
    """
    _choose_reference()
    B, T, I, H = check_cfc(inputs, state, params, mode, activation)
    ts = normalise_timespans("cfc", ts, B, T)
    if 0 in (B, T):
        return mx.zeros((B, T, H), inputs.dtype)
    (weight, bias), *rest = [_float32(layer) for layer in params.backbone]
    drive = inputs.astype(mx.float32) @ weight[:, :I].T + bias  # [B, T, K] for all steps at once
    keeps = [mx.random.bernoulli(1 - rate, (B, T, b.size)) / (1 - rate) for _, b in rest]
    activate, h, states = get_activation(activation), state.astype(mx.float32), []
    for t in range(T):
        z = activate(drive[:, t] + h @ weight[:, I:].T)
        for (W, b), keep in zip(rest, keeps, strict=True):
            z = activate(z @ W.T + b) * keep[:, t]
        h = _update(z, ts[:, t] if getattr(ts, "ndim", 0) == 2 else ts, params, mode)
        states.append(h)
    return mx.stack(states, axis=1).astype(inputs.dtype)


def _update(z, ts, params: CfCParams, mode: str):
    """The heads and the update of one step: z [B, K] -> h' [B, H]."""
    names = ("ff1",) if mode == "pure" else ("ff1", "ff2", "time_a", "time_b")
    layers = (_float32(getattr(params, name)) for name in names)
    heads = [z @ W.T + b for W, b in layers]
    if mode == "pure":
        return cfc_update_pure(*heads, *_float32((params.w_tau, params.A)), ts)
    return cfc_update(*heads, ts, mode=mode)


def _choose_reference() -> None:
    """Record that the reference runs; an error when another backend is forced."""
    forced = dispatch.selected_backend()
    if forced not in ("auto", "reference"):
        raise RuntimeError(
            f"[cfc_sequence] the backend {forced} can't run this call: {REASON} "
            '(eval() turns the dropout off; use_backend("auto") lets the reference run.)'
        )
    with dispatch.use_backend("reference"):
        dispatch.choose("cfc_sequence")


def _float32(arrays) -> tuple:
    return tuple(array.astype(mx.float32) for array in arrays)
