"""What a call of a layer would run, for `explain` of the layers."""

from __future__ import annotations

from typing import NamedTuple

from .. import dispatch

_AT_ONCE = "computed at once on the CPU, without a graph, where the inputs are evaluated; else:"


class Plan(NamedTuple):
    """What a call would run.

    calls: the calls of fused operators in their order, each with the backend and the reason.
    stepwise: why they are made step by step, "" when each runs over the whole sequence.
    graph: for each layer why even evaluated inputs are left to a graph, which makes these calls; ""
        where they are computed at once on the CPU, unless masked.
    """

    calls: tuple  # of (op, dispatch.Choice)
    stepwise: str = ""
    graph: tuple = ()

    def __str__(self) -> str:
        how = "step by step" if self.stepwise else "over the whole sequence"
        lines = [f"not at once: {why}" if why else _AT_ONCE for why in self.graph]
        if len(set(lines)) > 1:
            lines = [f"layer {n}: {line}" for n, line in enumerate(lines)]
        lines = list(dict.fromkeys(lines)) if self.calls else []
        lines += [f"{op} {how} on {choice}" for op, choice in self.calls]
        if self.stepwise:
            lines.append(f"step by step: {self.stepwise}")
        return "\n".join(lines)


def make_plan(calls, stepwise: str, graph: str, facts: dict, *, own_steps: bool) -> Plan:
    """The Plan of calls (op, facts of the cell) with these facts of the call. own_steps: operations
    of others beside them keep a step where it is.
    """
    if stepwise:
        facts = facts | {"steps": min(facts["steps"], 1)}
        facts |= {} if own_steps else {"stepwise": True}
    chosen = tuple((op, dispatch.explain(op, **facts, **of_cell)) for op, of_cell in calls)
    return Plan(chosen, stepwise, (graph,))
