"""The text of a step program's forward kernel."""

from __future__ import annotations

from functools import lru_cache

from .plan import Plan
from .stages import Stages
from .text import BY_ELEMENT, PLACES, Writer, begin


@lru_cache(maxsize=256)
def forward_text(plan: Plan) -> str:
    """The body: all steps of ROWS batch rows in one threadgroup, the values of a step in its memory
    as [number][row]. A barrier stands before each stage that reads what other threads wrote.

    sizes: B, T.  flag RESETS.  in: timed [B, T, W], fixed [F], weights, start [B, S], resets [B, T]
    and anew [B, S] if RESETS.  out: results [B, T, new states and outputs side by side].
    """
    writer = Stages(plan, plan.forward)
    starts = offsets(plan, plan.states)
    width = plan.total(plan.states)
    writer.add(*begin(f"threadgroup float m[{plan.forward.size} * ROWS];"))
    writer.add("{", "const uint at = row * T;")
    for ref, at in starts.items():
        writer.each(plan.sizes[ref], load_state(writer, ref, width, at))
    writer.add("}", "for (uint t = 0u; t < T; ++t) {", PLACES["at"])
    writer.barrier()
    writer.run_all(range(len(plan.stages)), lambda number: writer.run(plan.stages[number]))
    _finish(writer, starts, width)
    writer.add("}")
    return writer.text


def offsets(plan: Plan, ids: tuple[int, ...]) -> dict[int, int]:
    """Where each of some values begins, side by side."""
    found, at = {}, 0
    for ref in ids:
        found[ref] = at
        at += plan.sizes[ref]
    return found


def load_state(writer: Writer, ref: int, width: int, at: int) -> list[str]:
    """Lines that read a state before the first step t."""
    to = writer.memory(ref)
    return [
        f"const uint from = row * {width}u + {at}u + j;",
        "#if RESETS",
        f"{to} = float(resets[at]) != 0.0f ? float(anew[from]) : float(start[from]);",
        "#else",
        f"{to} = float(start[from]);",
        "#endif",
    ]


def _finish(writer: Writer, starts: dict[int, int], width: int) -> None:
    """The results of a step leave, and the states become those that the next step reads."""
    plan = writer.plan
    total, at = plan.total(plan.results), plan.total(plan.next)
    for ref in plan.outputs:
        writer.meet(writer.access(ref, BY_ELEMENT, False))
        line = f"if (real) results[at * {total}u + {at}u + j] = {writer.memory(ref)};"
        writer.each(plan.sizes[ref], [line])
        at += plan.sizes[ref]
    for (state, at), ref in zip(starts.items(), plan.next, strict=True):
        writer.meet(writer.access(ref, BY_ELEMENT, False), writer.access(state, BY_ELEMENT, True))
        writer.each(
            plan.sizes[ref],
            [
                f"const float h = {writer.memory(ref)};",
                f"if (real) results[at * {total}u + {at}u + j] = h;",
                "#if RESETS",
                "const bool more = t + 1u < T;",
                "const bool fresh = more && float(resets[at + (more ? 1u : 0u)]) != 0.0f;",
                f"{writer.memory(state)} = fresh ? float(anew[row * {width}u + {at}u + j]) : h;",
                "#else",
                f"{writer.memory(state)} = h;",
                "#endif",
            ],
        )
