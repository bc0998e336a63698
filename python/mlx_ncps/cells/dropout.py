"""A CfC over a sequence with dropout in its backbone (MATHS 1), step by step in MLX operations;
`CfCCell.sequence` calls it in training.
"""

from __future__ import annotations

import mlx.core as mx

from .. import dispatch
from ..ops import CfCParams, cfc_update, cfc_update_pure, get_activation, shapeless
from ..ops.checks import check_cfc
from ..ops.timespans import normalise_timespans

REASON = "the dropout of the backbone draws anew at each step, which no fused operator does"


def first_dropped(variant: str) -> int:
    """The first backbone layer whose outputs are dropped: in ncps.torch the second, in ncps.keras
    and the paper's code the first.
    """
    return 1 if variant == "torch" else 0


def dropout_sequence(
    inputs, state, ts, params: CfCParams, *, mode, activation, variant, rate
) -> mx.array:
    """As `ops.cfc_sequence`, with a share `rate` of the outputs of the backbone's layers from
    `first_dropped` on set to 0 and the others divided by 1 - rate, drawn from MLX's global random
    state.

    Raises RuntimeError when another backend than the reference is forced.
    """
    _choose_reference()
    shapeless.refuse("cfc", "dropout", length=False)
    B, T, I, H = check_cfc(inputs, state, params, mode, activation, variant)
    ts = normalise_timespans("cfc", ts, B, T)
    if 0 in (B, T):
        return mx.zeros((B, T, H), inputs.dtype)
    (weight, bias), *rest = [_float32(layer) for layer in params.backbone]
    drive = inputs.astype(mx.float32) @ weight[:, :I].T + bias  # [B, T, K] for all steps at once
    first = first_dropped(variant)
    widths = [b.size for _, b in params.backbone[first:]]
    keeps = [mx.random.bernoulli(1 - rate, (B, T, width)) / (1 - rate) for width in widths]
    keeps = [None] * first + keeps
    activate, h, states = get_activation(activation), state.astype(mx.float32), []
    for t in range(T):
        z = activate(drive[:, t] + h @ weight[:, I:].T)
        z = z if keeps[0] is None else z * keeps[0][:, t]
        for (W, b), keep in zip(rest, keeps[1:], strict=True):
            z = activate(z @ W.T + b) * keep[:, t]
        h = _update(z, ts[:, t] if getattr(ts, "ndim", 0) == 2 else ts, params, mode, variant)
        states.append(h)
    return mx.stack(states, axis=1).astype(inputs.dtype)


def _update(z, ts, params: CfCParams, mode: str, variant: str):
    """The heads and the update of one step: z [B, K] -> h' [B, H]."""
    names = ("ff1",) if mode == "pure" else ("ff1", "ff2", "time_a", "time_b")
    layers = (_float32(getattr(params, name)) for name in names)
    heads = [z @ W.T + b for W, b in layers]
    if mode == "pure":
        return cfc_update_pure(*heads, *_float32((params.w_tau, params.A)), ts)
    return cfc_update(*heads, ts, mode=mode, variant=variant)


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
