"""What a call of a layer would run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import dispatch
from ..dispatch import FusedCall
from ..ops.resets import resets_are_fused
from ..programs import gpu_choice
from .program_runs import ProgramRun

_AT_ONCE = "computed at once on the CPU, without a graph, where nothing is traced; else:"
_PROGRAM = "step program over the whole sequence on cpu: the operations of a step, traced once"
SEVERAL = "each layer of the wiring would be a call of its own"


class Plan(NamedTuple):
    """What a call would run.

    calls: the calls of fused operators in their order, each with the backend and the reason.
    stepwise: why they are made step by step, "" when each runs over the whole sequence.
    program: "", or why such calls would be made at each step, where the cell's step program runs in
        their place, over the whole sequence: on the CPU, or on a GPU, which `calls` then says.
    launches: of each call how many kernels a GPU would launch, in training for the gradient too;
        None on another backend, for a call that a forced backend can't run, and for sequences
        that are too long to count.
    graph: for each layer why a call is left to a graph, which makes these calls; "" where it is
        computed at once on the CPU, unless mx.compile, a gradient or mx.vmap traces it.
    """

    calls: tuple[tuple[str, dispatch.Choice], ...]
    stepwise: str = ""
    graph: tuple[str, ...] = ()
    launches: tuple[int | None, ...] = ()
    program: str = ""

    def __str__(self) -> str:
        how = "step by step" if self.stepwise else "over the whole sequence"
        lines = [f"not at once: {why}" if why else _AT_ONCE for why in self.graph]
        if len(set(lines)) > 1:
            lines = [f"layer {n}: {line}" for n, line in enumerate(lines)]
        lines = list(dict.fromkeys(lines)) if self.calls or self.program else []
        otherwise = self.program if self.program == SEVERAL else f"step by step: {self.program}"
        if self.program and not self.calls:
            lines.append(f"{_PROGRAM} (else {otherwise})")
        counts = self.launches or (None,) * len(self.calls)
        for (op, choice), count in zip(self.calls, counts, strict=True):
            launched = "" if count is None else f"; kernels launched: {count}"
            lines.append(f"{op} {how} on {choice}{launched}")
        if self.program and self.calls:
            lines.append(f"a step program has its operations, traced once (else {otherwise})")
        if self.stepwise:
            lines.append(f"step by step: {self.stepwise}")
        return "\n".join(lines)


def program_plan(runs: Sequence[ProgramRun | None], why: str, graph: str) -> Plan | None:
    """The Plan of directions that all run as step programs; None where one doesn't."""
    found = [run for run in runs if run is not None]
    if len(found) < len(runs):
        return None
    choice = gpu_choice()
    if choice is None or any(run.launches is None for run in found):
        return Plan((), "", (graph,), (), why)
    calls = tuple(("step_program", choice) for _ in found)
    return Plan(calls, "", (graph,), tuple(run.launches for run in found), why)


def kernels_without_resets(calls: list[FusedCall]) -> str:
    """Why calls that start anew at some steps are made step by step; "" where none is."""
    for op, facts in calls:
        if not resets_are_fused(op, facts):
            name = dispatch.explain(op, facts).backend
            return f"the kernels of {name} don't start anew within a sequence"
    return ""


def make_plan(calls: list[FusedCall], stepwise: str, graph: str, *, own_steps: bool) -> Plan:
    """The Plan of a layer's calls. own_steps: operations of others beside them keep a step where it
    is.
    """
    if stepwise:
        calls = [(op, facts._replace(steps=min(facts.steps, 1))) for op, facts in calls]
    moves = bool(stepwise) and not own_steps
    chosen = tuple((op, dispatch.explain(op, facts, stepwise=moves)) for op, facts in calls)
    pairs = zip(calls, chosen, strict=True)
    launches = tuple(dispatch.launch_count(choice, facts) for (_, facts), (_, choice) in pairs)
    return Plan(chosen, stepwise, (graph,), launches)
