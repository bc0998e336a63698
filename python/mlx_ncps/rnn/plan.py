"""What a call of a layer would run, for `explain` of the layers."""

from __future__ import annotations

from typing import NamedTuple

from .. import dispatch


class Plan(NamedTuple):
    """What a call would run: the calls of fused operators in their order, each with the backend and
    the reason, and why they are made step by step, "" when each runs over the whole sequence.
    """

    calls: tuple  # of (op, dispatch.Choice)
    stepwise: str = ""

    def __str__(self) -> str:
        how = "step by step" if self.stepwise else "over the whole sequence"
        lines = [f"{op} {how} on {choice}" for op, choice in self.calls]
        if self.stepwise:
            lines.append(f"step by step: {self.stepwise}")
        return "\n".join(lines)


def make_plan(calls, stepwise: str, facts: dict) -> Plan:
    """The Plan of calls (op, facts of the cell) with these facts of the call."""
    if stepwise:
        facts = facts | {"steps": min(facts["steps"], 1)}
    chosen = tuple((op, dispatch.explain(op, **facts, **of_cell)) for op, of_cell in calls)
    return Plan(chosen, stepwise)
