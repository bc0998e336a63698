"""Where a layer that runs step by step runs as a step program, as `explain` says it."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from ..programs import (
    Declined,
    gpu_in_place,
    is_too_large,
    launches_on_gpu,
    programs_of,
    runner_of_gpu,
    step_program,
    why_none,
    why_not_on_gpu,
)
from .any_cell import runs_sequences, width_of
from .by_steps import PROGRAM_STEPS, drops_of, modules_of, step_function


class ProgramRun(NamedTuple):
    """Where a step program runs: on the CPU, or on a GPU with so many kernels."""

    backend: str
    launches: int | None = None


def has_program(
    layer: Any, sizes: Any, shape: tuple[int, int, int], dtype: mx.Dtype
) -> ProgramRun | None:
    """Where a call of a layer with inputs of shape [B, T, I] runs as a step program, if it does.
    sizes: of its states, None where they are not known before a call.
    """
    batch, steps, width = shape
    cell, mixed = layer.rnn_cell, layer.mixed_memory
    if 0 in (batch, steps) and gpu_in_place() is not None:
        return None
    whole = getattr(cell, "_gpu_program", None)
    if not mixed and whole is not None:  # all of a cell that else runs in several calls
        made = whole()
        return None if made is None else _on_gpu(layer, runner_of_gpu(), made, batch, steps)
    if runs_sequences(cell) and not mixed and not hasattr(cell, "_program"):
        return None  # its own `sequence` makes the steps
    own = runs_sequences(cell) and not mixed
    if not own and steps < PROGRAM_STEPS:
        return None
    gpu = gpu_in_place()
    made = program_of(layer, width, sizes, mx.float32 if mixed else dtype, gpu)
    if isinstance(made, Declined):
        return None
    if gpu is None and is_too_large(made, batch):
        gpu = runner_of_gpu()
        return None if gpu is None else _on_gpu(layer, gpu, made, batch, steps)
    return ProgramRun("cpu") if gpu is None else _on_gpu(layer, gpu, made, batch, steps)


def _on_gpu(layer: Any, gpu: Any, made: Any, batch: int, steps: int) -> ProgramRun | None:
    if why_not_on_gpu(gpu, made.text):
        return None
    count = launches_on_gpu(gpu, made.text, batch, steps, bool(layer.training))
    return ProgramRun(gpu.name, count)


def program_of(layer: Any, width: int, sizes: Any, dtype: mx.Dtype, gpu: Any) -> Any:
    """The step program of a layer, on a GPU or, for None, on the CPU; or why there is none."""
    if gpu is None:
        made: Any = step_program(layer.rnn_cell, layer.lstm if layer.mixed_memory else None)
        if not isinstance(made, Declined):
            return made
        if why := why_none():
            return Declined(why)
    width = width_of(layer.rnn_cell) or width
    widths = list(sizes.values()) if isinstance(sizes, dict) else [sizes]
    if not all(isinstance(n, int) for n in widths):
        return Declined("the sizes of the cell are not known before a call")
    drops = [width for width, _ in drops_of(layer.rnn_cell)]
    if not drops and (why := getattr(layer.rnn_cell, "_unpacked", str)()):
        return Declined(why)
    step = step_function(layer, tuple if len(widths) > 1 else mx.array, len(drops))
    return programs_of(layer).of(modules_of(layer), step, [width, 1, *drops], widths, dtype)
