"""The text of a step program's backward kernel."""

from __future__ import annotations

from functools import lru_cache

from .back_stages import BackStages
from .forward import offsets
from .plan import Plan
from .recall import runs_again
from .text import BY_ELEMENT, BY_OTHERS, PLACES, Access, begin


@lru_cache(maxsize=256)
def backward_text(plan: Plan) -> str:
    """The body: from the last step to the first, each runs again and then its stages from the end.
    m has the values of a step and g their gradients, as [number][row]; carry those of the states
    for the step before, fresh those of `anew`.

    sizes: B, T.  flag RESETS.  in: as the forward, without `fixed` or `weights` where it has none;
    back_weights, each matrix transposed; results, of the forward; dresults, their gradients.  out:
    dstart [B, S]; danew [B, S] if RESETS; trail [B, T, Q], the shares of gradients that each stage
    leaves (`Plan.slots`), and what products read and their results' gradients.
    """
    writer = Backward(plan, plan.backward)
    count, states = plan.backward.size, offsets(plan, plan.states)
    width = plan.total(plan.states)
    sizes = {"m": count, "g": count, "carry": width}
    memory = "\n".join(f"threadgroup float {name}[{n} * ROWS];" for name, n in sizes.items())
    memory += f"\n#if RESETS\nthreadgroup float fresh[{width} * ROWS];\n#endif"
    writer.add(*begin(memory))
    for ref, at in states.items():
        own = f"[uint({at} * ROWS) + e] = 0.0f;"
        writer.each(plan.sizes[ref], [f"carry{own}", "#if RESETS", f"fresh{own}", "#endif"])
    writer.add("for (uint t = T; t-- > 0u;) {", PLACES["at"])
    writer.barrier()
    writer.load(states, width)
    runs, writer.stores = runs_again(plan, writer.recalls)
    writer.run_all(runs, lambda number: writer.run(plan.stages[number]))
    writer.seed(states)
    writer.run_all(
        reversed(range(len(plan.stages))), lambda number: writer.back(number, plan.stages[number])
    )
    writer.finish(states)
    writer.add("}")
    for ref, at in states.items():
        to, own = f"[row * {width}u + {at}u + j]", f"[uint({at} * ROWS) + e];"
        leave = [f"dstart{to} = carry{own}", "#if RESETS", f"danew{to} = fresh{own}", "#endif"]
        writer.each(plan.sizes[ref], ["if (real) {", *leave, "}"])
    return writer.text


class Backward(BackStages):
    """Lines of a backward kernel."""

    def load(self, states: dict[int, int], width: int) -> None:
        """The states that step t reads, and gradients of 0."""
        plan = self.plan
        total, next_at = plan.total(plan.results), 0
        for ref, at in states.items():
            from_start = f"start[row * {width}u + {at}u + j]"
            from_step = f"results[(at - (t > 0u ? 1u : 0u)) * {total}u + {next_at}u + j]"
            h = f"t > 0u ? float({from_step}) : float({from_start})"
            anew = f"float(resets[at]) != 0.0f ? float(anew[row * {width}u + {at}u + j]) : "
            to = self.memory(ref)
            self.meet(self.access(ref, BY_ELEMENT, True))
            self.each(
                plan.sizes[ref],
                ["#if RESETS", f"{to} = {anew}{h};", "#else", f"{to} = {h};", "#endif"],
            )
            next_at += plan.sizes[ref]
        self.meet(Access("g", 0, self.layout.size, BY_OTHERS, True))
        self.each(self.layout.size, ["g[e] = 0.0f;"])

    def seed(self, states: dict[int, int]) -> None:
        """The gradients of the results of step t, and those that the step after it gives."""
        plan, at = self.plan, 0
        total = plan.total(plan.results)
        carried = dict(enumerate(states.values()))
        for number, ref in enumerate(plan.results):
            value = f"float(dresults[at * {total}u + {at}u + j])"
            if number in carried:
                value += f" + carry[uint({carried[number]} * ROWS) + e]"
            self.add_gradient(ref, [], value)
            at += plan.sizes[ref]

    def finish(self, states: dict[int, int]) -> None:
        """What goes on to the step before, or to the state from which this one started anew."""
        for ref, at in states.items():
            own = f"[uint({at} * ROWS) + e]"
            self.meet(self.access(ref, BY_ELEMENT, False, "g"))
            self.each(
                self.plan.sizes[ref],
                [
                    f"const float d = {self.memory(ref, 'g')};",
                    "#if RESETS",
                    "const bool begins = float(resets[at]) != 0.0f;",
                    f"carry{own} = begins ? 0.0f : d;",
                    f"fresh{own} += begins ? d : 0.0f;",
                    "#else",
                    f"carry{own} = d;",
                    "#endif",
                ],
            )
