"""The text of a step program's backward kernel."""

from __future__ import annotations

from functools import lru_cache

from . import expressions
from .forward import offsets
from .plan import Plan
from .schedule import Map, Product, Single, Stage
from .stages import Stages
from .text import BY_COLUMN, BY_ELEMENT, BY_OTHERS, PLACES, Access, begin


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
    for stage in plan.stages:
        writer.run(stage)
    writer.seed(states)
    for number in reversed(range(len(plan.stages))):
        writer.back(number, plan.stages[number])
    writer.finish(states)
    writer.add("}")
    for ref, at in states.items():
        to, own = f"[row * {width}u + {at}u + j]", f"[uint({at} * ROWS) + e];"
        leave = [f"dstart{to} = carry{own}", "#if RESETS", f"danew{to} = fresh{own}", "#endif"]
        writer.each(plan.sizes[ref], ["if (real) {", *leave, "}"])
    return writer.text


class Backward(Stages):
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
            self._add(ref, [], value)
            at += plan.sizes[ref]

    def _add(self, ref: int, lines: list[str], value: str) -> None:
        """A loop that adds to the gradient of a value."""
        self.meet(self.access(ref, BY_ELEMENT, True, "g"))
        self.each(self.plan.sizes[ref], [*lines, f"{self.memory(ref, 'g')} += {value};"])

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

    # ---- stages

    def back(self, number: int, stage: Stage) -> None:
        """The backward of a stage."""
        if isinstance(stage, Map):
            self._back_map(number, stage)
        elif isinstance(stage, Product):
            if stage.then:
                self._back_map(number, stage.then)
            self._back_product(stage)
        else:
            getattr(self, f"_back_{stage.op.op}")(number, stage)

    def trail(self, number: int, ref: int, value: str) -> str:
        """A line that leaves the share of a stage of a gradient."""
        return self._leave(self.plan.slots[number, ref].at, value)

    def _leave(self, at: int, value: str) -> str:
        return f"if (real) trail[at * {self.plan.trail_width}u + {at}u + j] = {value};"

    def _back_map(self, number: int, stage: Map) -> None:
        plan = self.plan
        names: dict[int, str] = {}
        lines, accesses = self.map_values(stage, True, names)
        gradients: dict[int, str] = {}
        made = {op.out for op in stage.ops}
        for op in stage.ops:
            if op.out in plan.stored:
                accesses.append(self.access(op.out, BY_ELEMENT, False, "g"))
            begin = self.memory(op.out, "g") if op.out in plan.stored else "0.0f"
            gradients[op.out] = f"d{op.out}"
            lines.append(f"float d{op.out} = {begin};")
        for op in reversed(stage.ops):
            operands = [names[ref] if ref in names else self.outer(ref) for ref in op.ins]
            found = expressions.slopes(op.op, operands, names[op.out], f"d{op.out}")
            for ref, slope in zip(op.ins, found, strict=True):
                if not slope or plan.is_number(ref):
                    continue
                if ref not in gradients:
                    gradients[ref] = f"d{ref}"
                    lines.append(f"float d{ref} = 0.0f;")
                lines.append(f"d{ref} += {slope};")
        for ref, name in gradients.items():
            if ref in made:
                continue
            if plan.in_memory(ref):
                accesses.append(self.access(ref, BY_ELEMENT, True, "g"))
                lines.append(f"{self.memory(ref, 'g')} += {name};")
            else:
                lines.append(self.trail(number, ref, name))
        self.meet(*accesses)
        self.each(stage.size, lines)

    def _back_product(self, stage: Product) -> None:
        read, results = self.plan.product_slots[stage.number]
        self.meet(self.access(stage.block, BY_ELEMENT, False, "g"))
        self.each(stage.columns, [self._leave(results.at, self.memory(stage.block, "g"))])
        left = read.at
        for part in stage.parts:
            self.meet(self.access(part, BY_ELEMENT, False))
            self.each(self.plan.sizes[part], [self._leave(left, self.memory(part))])
            left += self.plan.sizes[part]
        block, at = self.place(stage.block), self.weights_at(stage)
        for part in stage.parts:
            size = self.plan.sizes[part]
            self.meet(
                self.access(stage.block, BY_OTHERS, False, "g"),
                self.access(part, BY_COLUMN, True, "g"),
            )
            products = f"back_weights, {at}, {stage.depth}, g, {block}, {stage.columns}"
            self.columns(size, 1, [products], [f"{self.memory(part, 'g')} += sum[0][q];"])
            at += size

    def _gather(self, number: int, stage: Single, lines: list[str]) -> None:
        """A loop over the elements of the operand, whose gradient is `sum` of these lines."""
        op = stage.op
        if self.plan.is_number(op.ins[0]):
            return
        self.meet(self.access(op.out, BY_OTHERS, False, "g"))
        lines = ["float sum = 0.0f;", *lines]
        if self.plan.in_memory(op.ins[0]):
            self._add(op.ins[0], lines, "sum")
        else:
            line = self.trail(number, op.ins[0], "sum")
            self.each(self.plan.sizes[op.ins[0]], [*lines, line])

    def _back_move(self, number: int, stage: Single) -> None:
        out, ints, lines = self.place(stage.op.out), stage.op.ints, []
        for n in range(0, len(ints), 4):
            to, at, length, step = ints[n : n + 4]
            if step:
                inside = f"j >= {at}u && j < {at + length}u"
                inside = f"j < {length}u" if at == 0 else inside
                index = f"({out + to}u + j - {at}u) * uint(ROWS) + r"
                lines.append(f"if ({inside}) sum += g[{index}];")
            else:
                index = f"({out + to}u + k) * uint(ROWS) + r"
                loop = f"for (uint k = 0u; k < {length}u; ++k) sum += g[{index}];"
                lines += [f"if (j == {at}u) {{", loop, "}"]
        self._gather(number, stage, lines)

    def _back_sum(self, number: int, stage: Single) -> None:
        _, mid, inner = stage.op.ints
        out = self.place(stage.op.out)
        index = f"({out}u + j / {mid * inner}u * {inner}u + j % {inner}u) * uint(ROWS) + r"
        self._gather(number, stage, [f"sum = g[{index}];"])

    def _back_expand(self, number: int, stage: Single) -> None:
        _, mid, inner = stage.op.ints
        index = f"{self.place(stage.op.out)}u + (o * {mid}u + k) * {inner}u + i"
        line = f"for (uint k = 0u; k < {mid}u; ++k) sum += g[({index}) * uint(ROWS) + r];"
        self._gather(number, stage, [f"const uint o = j / {inner}u, i = j % {inner}u;", line])

    def _back_softmax(self, number: int, stage: Single) -> None:
        _, n = stage.op.ints
        op, out = stage.op, self.place(stage.op.out)
        index = f"[({out}u + o * {n}u + k) * uint(ROWS) + r]"
        self.meet(self.access(op.out, BY_OTHERS, False))
        lines = [
            f"const uint o = j / {n}u;",
            f"for (uint k = 0u; k < {n}u; ++k) sum += m{index} * g{index};",
            f"sum = {self.memory(op.out)} * ({self.memory(op.out, 'g')} - sum);",
        ]
        self._gather(number, stage, lines)
