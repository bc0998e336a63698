"""A CfC over a sequence (MATHS 1), step by step in MLX operations: with modules of a user in place
of its linear maps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .. import dispatch
from ..dispatch import CfCFacts
from ..layers.linear import float32_map, why_called
from ..ops import cfc_update, cfc_update_pure, get_activation, shapeless
from ..ops.checks import CFC_HEADS, check_array, check_cfc
from ..ops.dropout import first_dropped
from ..ops.resets import checked_resets, started_anew
from ..ops.timespans import normalise_timespans


def sequence_by_steps(
    cell: Any,
    inputs: mx.array,
    state: mx.array,
    ts: Any,
    why: str,
    resets: mx.array | None = None,
    reset_state: mx.array | None = None,
) -> mx.array:
    """As `ops.cfc_sequence` with the parts of a CfCCell, each called as it is.

    why: the reason for coming here. Raises RuntimeError when another backend than the reference is
    forced.
    """
    _choose_reference(cell, why)
    shapeless.refuse("cfc", "a call of each step", length=False)
    B, T, H = _check(cell, inputs, state)
    ts = normalise_timespans("cfc", ts, B, T)
    anew = checked_resets("cfc", resets, reset_state, state, B, T).get("resets")
    if 0 in (B, T):
        return mx.zeros((B, T, H), inputs.dtype)
    backbone, update = _backbone(cell, inputs), _heads(cell)
    x, h, states = inputs.astype(mx.float32), state.astype(mx.float32), []
    for t in range(T):
        (h,) = started_anew(anew, t, h)
        z = backbone(mx.concatenate([x[:, t], h], axis=-1), t)
        h = update(z, ts[:, t] if getattr(ts, "ndim", 0) == 2 else ts)
        states.append(h)
    return mx.stack(states, axis=1).astype(inputs.dtype)


def _check(cell: Any, inputs: mx.array, state: mx.array) -> tuple[int, int, int]:
    """Every shape that is known ahead of the calls; returns B, T, H."""
    if not why_called(cell._parts()):
        options = cell.mode, cell.backbone_options.activation, cell.variant
        B, T, _, H = check_cfc(inputs, state, cell.params(), *options)
        return B, T, H
    check_array("cfc", "inputs", inputs, "[B, T, I]", (None, None, cell.input_size))
    B, T, H = *inputs.shape[:2], cell.hidden_size
    check_array("cfc", "state", state, "[B, H]", (B, H))
    return B, T, H


def _backbone(cell: Any, inputs: mx.array) -> Callable[[mx.array, int], mx.array]:
    """The function ([x, h] [B, I + H], t) -> z [B, K] of the hidden layers, dropout included."""
    sizes, name, _ = cell.backbone_options
    activate = get_activation(name)
    maps = [
        float32_map("cfc", f"backbone.{n}", layer, sizes[n])
        for n, layer in enumerate(cell.backbone)
    ]
    factors = cell._dropout(inputs)

    def run(z, t):
        first = 0
        for n, layer in enumerate(maps):
            z = activate(layer(z))
            if factors is not None and n >= first_dropped(cell.variant):
                z = z * factors[:, t, first : first + sizes[n]]
                first += sizes[n]
        return z

    return run


def _heads(cell):
    """The function (z [B, K], ts) -> h' [B, H] of the heads and the update."""
    mask, H = cell.get("sparsity_mask"), cell.hidden_size
    masks = {"ff1": mask, "ff2": mask}
    parts = [(name, part) for name, part in cell._parts().items() if name in CFC_HEADS]
    heads = [float32_map("cfc", name, part, H, masks.get(name)) for name, part in parts]

    def update(z, ts):
        f = [head(z) for head in heads]
        if cell.mode != "pure":
            return cfc_update(*f, ts=ts, mode=cell.mode, variant=cell.variant)
        w_tau, A = (a.astype(mx.float32).squeeze(0) for a in (cell.w_tau, cell.A))
        return cfc_update_pure(f[0], w_tau, A, ts)

    return update


def _choose_reference(cell: Any, why: str) -> None:
    """Record that the reference runs; an error when another backend is forced."""
    forced = dispatch.selected_backend()
    if forced not in ("auto", "reference"):
        raise RuntimeError(
            f"[cfc_sequence] the backend {forced} can't run this call: {why} "
            '(use_backend("auto") lets the reference run.)'
        )
    with dispatch.use_backend("reference"):
        dispatch.choose("cfc_sequence", CfCFacts(cell.input_size, cell.hidden_size))
