"""The backward of a step program's stages, as lines of a kernel."""

from __future__ import annotations

from . import expressions
from .plan import Layout, Plan
from .recall import Kept, recall
from .schedule import Map, Product, Single, Stage
from .stages import Stages
from .text import BY_COLUMN, BY_ELEMENT, BY_OTHERS, Access, chosen


class BackStages(Stages):
    """Lines of the backward of a plan's stages."""

    def __init__(self, plan: Plan, layout: Layout):
        super().__init__(plan, layout)
        self.recalls = [recall(plan, stage) for stage in plan.stages]
        for stage, one in zip(plan.stages, self.recalls, strict=True):
            if isinstance(stage, Product) and stage.block in plan.private:
                self.kept[stage.block] = one.kept

    def add_gradient(self, ref: int, lines: list[str], value: str) -> None:
        """A loop that adds to the gradient of a value."""
        self.meet(self.access(ref, BY_ELEMENT, True, "g"))
        self.each(self.plan.sizes[ref], [*lines, f"{self.memory(ref, 'g')} += {value};"])

    def back(self, number: int, stage: Stage) -> None:
        """The backward of a stage."""
        if isinstance(stage, Map):
            self._back_map(number, stage)
        elif isinstance(stage, Product):
            left = stage.then is not None and self._back_map(number, stage.then, stage)
            self._back_product(stage, left)
        else:
            getattr(self, f"_back_{stage.op.op}")(number, stage)

    def trail(self, number: int, ref: int, value: str) -> str:
        """A line that leaves the share of a stage of a gradient."""
        return self._leave(self.plan.slots[number, ref].at, value)

    def _leave(self, at: int, value: str) -> str:
        return f"if (real) trail[at * {self.plan.trail_width}u + {at}u + j] = {value};"

    def _back_map(self, number: int, stage: Map, product: Product | None = None) -> bool:
        """The backward of elementwise instructions, behind a product or not. True where it leaves
        the gradients of the product's sums, which nothing else reads.
        """
        plan = self.plan
        recalled, names = self.recalls[number], {}
        own = product if product and product.block in plan.private else None
        lines, accesses = self._recalled(stage, own, recalled.kept, names) if own else ([], [])
        again = [op for op in stage.ops if op.out in recalled.again]
        more, reads = self.map_values(again, names, BY_ELEMENT, recalled.needed)
        lines, accesses = lines + more, accesses + reads
        gradients: dict[int, str] = {}
        for op in stage.ops:
            if op.out in plan.stored:
                accesses.append(self.access(op.out, BY_ELEMENT, False, "g"))
            begin = self.memory(op.out, "g") if op.out in plan.stored else "0.0f"
            gradients[op.out] = f"d{op.out}"
            lines.append(f"float d{op.out} = {begin};")
        for op in reversed(stage.ops):
            operands = [
                self.outer(ref) if plan.is_number(ref) else names.get(ref, "") for ref in op.ins
            ]
            found = expressions.slopes(op.op, operands, names.get(op.out, ""), f"d{op.out}")
            for ref, slope in zip(op.ins, found, strict=True):
                if not slope or plan.is_number(ref):
                    continue
                if ref not in gradients:
                    gradients[ref] = f"d{ref}"
                    lines.append(f"float d{ref} = 0.0f;")
                lines.append(f"d{ref} += {slope};")
        more, writes = self._given_back(number, stage, own, gradients)
        lines, accesses = lines + more, accesses + writes
        self.meet(*accesses)
        self.each(stage.size, lines)
        return own is not None

    def _given_back(
        self, number: int, stage: Map, own: Product | None, gradients: dict[int, str]
    ) -> tuple[list[str], list[Access]]:
        """(lines, writes to memory) that add a stage's shares of gradients to those of what it
        read; own: the product before it, where nothing else reads its sums.
        """
        plan = self.plan
        lines: list[str] = []
        writes: list[Access] = []
        made = {op.out for op in stage.ops}
        sums: dict[int, list[str]] = {}  # by the place of each
        for ref, name in gradients.items():
            root, column = plan.split.root(ref)
            if ref in made:
                continue
            if own and root == own.block:
                sums.setdefault(column, []).append(name)
            elif plan.in_memory(ref):
                writes.append(self.access(ref, BY_ELEMENT, True, "g"))
                lines.append(f"{self.memory(ref, 'g')} += {name};")
            else:
                lines.append(self.trail(number, ref, name))
        if own:
            _, results = plan.product_slots[own.number]
            for column in range(0, own.columns, stage.size):
                low = self.place(own.block) + column
                writes.append(Access("g", low, low + stage.size, BY_ELEMENT, True))
                total = " + ".join(sums.get(column, ["0.0f"]))
                lines.append(f"g[uint({low} * ROWS) + e] = {total};")
                lines.append(self._leave(results.at + column, total))
        return lines, writes

    def _recalled(
        self, stage: Map, own: Product, kept: tuple[Kept, ...], names: dict[int, str]
    ) -> tuple[list[str], list[Access]]:
        """(lines, reads of memory) of what lies in the places of a product's sums."""
        lines: list[str] = []
        reads: list[Access] = []
        for n, (root, which) in enumerate(kept):
            low = self.place(own.block) + n * stage.size
            name = f"v{which}" if root == -1 else f"z{which}"
            lines.append(f"const float {name} = m[uint({low} * ROWS) + e];")
            reads.append(Access("m", low, low + stage.size, BY_ELEMENT, False))
            alike = (which,) if root == -1 else self.plan.sums_at(stage, root, which)
            names |= dict.fromkeys(alike, name)
        return lines, reads

    def _back_product(self, stage: Product, left: bool) -> None:
        """left: the gradients of its sums are."""
        plan, block = self.plan, self.place(stage.block)
        read, results = plan.product_slots[stage.number]
        if not left:
            self.meet(self.access(stage.block, BY_ELEMENT, False, "g"))
            self.each(stage.columns, [self._leave(results.at, self.memory(stage.block, "g"))])
        at = read.at
        for part in stage.parts:
            self.meet(self.access(part, BY_ELEMENT, False))
            self.each(plan.sizes[part], [self._leave(at, self.memory(part))])
            at += plan.sizes[part]
        at = self.weights_at(stage)
        for parts in self._apart(stage.parts):
            accesses, places, column = [], [], 0
            for part in parts:
                low, size = self.place(part), plan.sizes[part]
                shared = f"{BY_COLUMN} {column}" if column else BY_COLUMN
                accesses.append(Access("g", low, low + size, shared, True))
                places.append((low - column, column + size))
                column += size
            self.meet(self.access(stage.block, BY_OTHERS, False, "g"), *accesses)
            products = f"back_weights, {at}, {stage.depth}, g, {block}, {stage.columns}"
            add = f"g[uint({chosen('j', places)} * ROWS) + e] += sum[0][q];"
            self.columns(column, 1, products, [add])
            at += column

    def _apart(self, parts: tuple[int, ...]) -> list[list[int]]:
        """Parts of a row in groups that follow each other, in each of which no two overlap."""
        groups: list[list[int]] = []
        for part in parts:
            spans = [(self.place(p), self.plan.sizes[p]) for p in groups[-1]] if groups else []
            low, size = self.place(part), self.plan.sizes[part]
            if groups and all(low + size <= a or a + n <= low for a, n in spans):
                groups[-1].append(part)
            else:
                groups.append([part])
        return groups

    def _gather(self, number: int, stage: Single, lines: list[str]) -> None:
        """A loop over the elements of the operand, whose gradient is `sum` of these lines."""
        op = stage.op
        if self.plan.is_number(op.ins[0]):
            return
        self.meet(self.access(op.out, BY_OTHERS, False, "g"))
        lines = ["float sum = 0.0f;", *lines]
        if self.plan.in_memory(op.ins[0]):
            self.add_gradient(op.ins[0], lines, "sum")
        else:
            line = self.trail(number, op.ins[0], "sum")
            self.each(self.plan.sizes[op.ins[0]], [*lines, line])

    def _back_move(self, number: int, stage: Single) -> None:
        out, ints, lines = self.place(stage.op.out), stage.op.ints, []
        size = self.plan.sizes[stage.op.ins[0]]
        for n in range(0, len(ints), 4):
            to, at, length, step = ints[n : n + 4]
            if step:
                index = f"({out + to}u + j - {at}u) * uint(ROWS) + r"
                inside = [f"j >= {at}u"] if at else []
                inside += [f"j < {at + length}u"] if at + length < size else []
                only = f"if ({' && '.join(inside)}) " if inside else ""
                lines.append(f"{only}sum += g[{index}];")
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
