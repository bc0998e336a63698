"""Masks over steps that kernels of a GPU follow by themselves: a CfC's, and step programs."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..ops.dropout import all_drawn
from ..ops.masks import kernels_hold, masks_are_fused
from ..programs import Declined, gpu_in_place, why_not_on_gpu
from .any_cell import has_program_of_sequence, holds_steps, runs_sequences
from .by_steps import PROGRAM_STEPS, Trace, drops_of, is_spans, trace_by_program
from .program_runs import program_of
from .resets import Resets
from .stepwise import cell_takes_memory


def held_trace(
    layer: Any, x: mx.array, state: Any, ts: Any, mask: mx.array, resets: Resets | None
) -> Trace | None:
    """The Trace of x [B, T, I] in kernels that keep states and outputs as they are at the steps
    that `mask` [B, T] leaves out; None where there are none.
    """
    own = _cell_holds(layer, x, ts)
    if not own and not _program_holds(layer, x):
        return None
    held = ~mask
    x = mx.where(mask[:, :, None], x, mx.array(0.0, x.dtype))
    ts = mx.where(mask, ts, 1.0) if is_spans(ts) else ts
    if own:
        anew = {} if resets is None else {"resets": resets.at, "reset_state": resets.state}
        return Trace(layer.rnn_cell.sequence(x, state, ts, held=held, **anew), None)
    factors = all_drawn(drops_of(layer.rnn_cell), x.shape[0], x.shape[1], held)
    return trace_by_program(layer, x, state, ts, factors, resets, held)


def _cell_holds(layer: Any, x: mx.array, ts: Any) -> bool:
    """Whether the cell's `sequence` holds steps, and the kernels that it takes do."""
    if layer.mixed_memory or not kernels_hold() or not holds_steps(layer.rnn_cell):
        return False
    batch, steps, _ = x.shape
    scalar = getattr(ts, "ndim", 0) == 0
    of_call = {"batch": batch, "steps": steps, "dtype": x.dtype, "scalar_ts": scalar}
    calls = layer.rnn_cell.calls()
    return masks_are_fused([(op, facts._replace(**of_call)) for op, facts in calls])


def _program_holds(layer: Any, x: mx.array) -> bool:
    """Whether a GPU may run the layer's step program, as it does without a mask."""
    cell, mixed, gpu = layer.rnn_cell, layer.mixed_memory, gpu_in_place()
    batch, steps, width = x.shape
    if gpu is None or batch == 0 or steps < PROGRAM_STEPS or (mixed and cell_takes_memory(layer)):
        return False
    if runs_sequences(cell) and not mixed and not has_program_of_sequence(cell):
        return False
    if not drops_of(cell):
        return True
    made = program_of(layer, width, layer._state_sizes, mx.float32, gpu)  # before any draw
    return not isinstance(made, Declined) and not why_not_on_gpu(gpu, made.text, holds=True)
