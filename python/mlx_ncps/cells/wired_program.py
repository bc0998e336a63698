"""A wired CfC over a sequence in one kernel of a GPU: all layers of the wiring as one step
program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .. import dispatch
from ..ops.dropout import all_drawn, given_factors
from ..ops.resets import checked_resets, where_and_from
from ..ops.timespans import normalise_timespans
from ..programs import Declined, programs_of, run_program, runner_of_gpu, why_not_on_gpu


def program_on_gpu(cell: Any, *, holds: bool = False) -> Any:
    """The program of a wired CfC, or None where no GPU runs it; `holds`: with steps held."""
    gpu = runner_of_gpu()
    if gpu is None or not cell.built or cell.stepwise():
        return None
    widths = [cell.sensory_size, 1, *(n for n, _ in cell._drops())]
    try:
        made = programs_of(cell).of([cell], _step_of(cell), widths, [cell.state_size])
    except RecursionError:  # of what a user nested in the cell
        return None
    if isinstance(made, Declined) or why_not_on_gpu(gpu, made.text, holds=holds):
        return None
    return made


def run_wired(cell: Any, inputs: mx.array, state: mx.array, ts: Any, anew: dict) -> Any:
    """The states [B, T, H] of `WiredCfCCell.sequence`, whose arguments these are; None where no
    GPU runs the program.
    """
    held = anew.get("held")
    batch, steps, width = inputs.shape
    gpu = None if 0 in (batch, steps) or width != cell.sensory_size else runner_of_gpu()
    if gpu is None or program_on_gpu(cell, holds=held is not None) is None:  # before any draw
        return None
    ts = normalise_timespans(cell.op, ts, batch, steps, inputs)
    first = anew.get("reset_state")
    resets = checked_resets(cell.op, anew.get("resets"), first, state, batch, steps).get("resets")
    factors = all_drawn(cell._drops(), batch, steps, held)
    call = inputs, ts, [state], *where_and_from(resets), factors, gpu
    made = run_program(cell, [cell], _step_of(cell), *call, held=held)
    assert not isinstance(made, Declined), made
    return made[0][0]


def _step_of(cell: Any) -> Callable:
    """The step (x [N, I], ts [N, 1], *factors [N, D], h [N, H]) -> ([new h], [])."""

    def wired_step(x: mx.array, ts: mx.array, *arrays: mx.array) -> tuple[list, list]:
        *factors, h = arrays
        with dispatch.use_backend("reference"), given_factors(factors):
            return [cell.sequence(x[:, None], h, ts)[:, 0]], []

    return wired_step
