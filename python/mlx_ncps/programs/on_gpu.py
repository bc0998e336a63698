"""Step programs in the kernels of a GPU's backend, where the CPU runs none."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import _loader, backends, dispatch
from ..backends import shapeless
from .holding import holding
from .program import Declined, Program

if TYPE_CHECKING:
    from ..backends.gpu.runner import Runner


def gpu_choice() -> dispatch.Choice | None:
    """The GPU's backend that is asked for by name, or that `auto` takes; None where it is none."""
    choice = dispatch.explain(None)
    on_gpu = not choice.error and hasattr(getattr(backends, choice.backend), "run")
    return choice if on_gpu else None


def gpu_in_place() -> Runner | None:
    """Of the GPU that runs step programs where the CPU runs none now; or None."""
    return runner_of_gpu() if dispatch.why_no_steps_on_cpu() else None


def runner_of_gpu() -> Runner | None:
    """Of the GPU that is the default device, or that is asked for by the name of a backend."""
    if _loader.native is None or shapeless.length_varies():
        return None
    choice = gpu_choice()
    return None if choice is None else getattr(backends, choice.backend).run


def _kernels() -> Any:
    """What writes and runs kernels of programs, imported when a GPU first asks for it."""
    return import_module("mlx_ncps.backends.gpu.programs")


def why_not_on_gpu(gpu: Runner, text: Program, *, holds: bool = False) -> str:
    """Why a GPU has no kernel of a program, or none that holds steps; "" where it has."""
    return _kernels().unsupported(gpu, holding(text) if holds else text)


def launches_on_gpu(gpu: Runner, text: Program, batch: int, steps: int, training: bool) -> int:
    """How many kernels a call launches, in training for its gradient too."""
    return _kernels().launch_count(gpu, text, batch, steps, training)


def run_on_gpu(
    gpu: Runner,
    text: Program,
    captured: Sequence[mx.array],
    inputs: list[mx.array],
    states: Sequence[mx.array],
    resets: mx.array | None,
    reset_state: Sequence[mx.array] | None,
    held: mx.array | None = None,
) -> tuple[list[mx.array], list[mx.array]] | Declined:
    """All states and outputs [B, T, n] of a program over a sequence, in the dtype of the first of
    its inputs [B, T, n]; the rest as in `run_program`.
    """
    if 0 in inputs[0].shape[:2]:
        return Declined("there is no step")
    if why := why_not_on_gpu(gpu, text, holds=held is not None):
        return Declined(why)
    at: Any = None
    anew: list[mx.array] = []
    if resets is not None:
        at, anew = resets.astype(mx.float32), list(reset_state or states)
    first = list(states)
    if held is not None:  # the outputs before any step are 0
        nothing = [mx.zeros((first[0].shape[0], text.sizes[ref])) for ref in text.outputs]
        text, inputs, first = holding(text), [*inputs, held[..., None]], [*first, *nothing]
        anew += nothing if anew else []
    kernels = _kernels()
    steps = kernels.Steps(inputs, first, at, anew)
    made = kernels.program_sequence(gpu, text, captured, steps)
    made = [a.astype(inputs[0].dtype) for a in made]
    dispatch.record(gpu.name)
    return made[: len(states)], made[len(states) :]
