"""The stages of a step program's forward, as lines of a kernel; a backward runs them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from . import expressions
from .schedule import Map, Product, Single, Stage
from .split import Op
from .text import BY_COLUMN, BY_ELEMENT, BY_OTHERS, Access, Writer, chosen, with_places
from .turns import rolled


class Stages(Writer):
    """Lines of the stages of a plan."""

    def run_all(self, numbers: Iterable[int], run: Callable[[int], None]) -> None:
        """`run` the stages with these numbers in their order, turns as a loop."""
        of_turn = {number: n for n, turn in enumerate(self.plan.turns.stages) for number in turn}
        blocks: list[list[str]] = []
        for turn, group in groupby(numbers, lambda number: of_turn.get(number, -1)):
            if turn < 0:
                self._loop(blocks)
                for number in group:
                    run(number)
                continue
            self.add()
            mark = len(self.lines)
            self.barrier()
            for number in group:
                run(number)
            self.add()
            blocks.append([line.strip() for line in self.lines[mark:]])
            del self.lines[mark:]
        self._loop(blocks)

    def _loop(self, blocks: list[list[str]]) -> None:
        """Add the lines of turns, as one loop where they can be."""
        if blocks:
            lines = rolled(blocks) or [line for block in blocks for line in block]
            blocks.clear()
            self.add(*lines)

    def run(self, stage: Stage) -> None:
        """A stage of the forward."""
        if isinstance(stage, Map):
            self._map(stage)
        elif isinstance(stage, Product):
            self._product(stage)
        else:
            getattr(self, f"_{stage.op.op}")(stage)

    def map_values(
        self, ops: Iterable[Op], names: dict[int, str], shared: str, also: Iterable[int] = ()
    ) -> tuple[list[str], list[Access]]:
        """(lines, reads of memory) of instructions, whose values and operands get `names`; so does
        what is read `also`.
        """
        plan = self.plan
        lines: list[str] = []
        reads: list[Access] = []

        def name(ref: int) -> str:
            if ref not in names:
                if plan.is_number(ref):
                    return self.outer(ref)
                names[ref] = f"v{ref}"
                lines.append(f"const float v{ref} = {self.read(ref)};")
                if plan.in_memory(ref):
                    reads.append(self.access(ref, shared, False))
            return names[ref]

        for op in ops:
            operands = [name(ref) for ref in op.ins]
            names[op.out] = f"v{op.out}"
            lines.append(f"const float v{op.out} = {expressions.value(op.op, operands)};")
        for ref in also:
            name(ref)
        return lines, reads

    def _map(self, stage: Map) -> None:
        lines, accesses = self.map_lines(stage, {}, BY_ELEMENT)
        self.meet(*accesses)
        self.each(stage.size, lines)

    def map_lines(
        self, stage: Map, names: dict[int, str], shared: str
    ) -> tuple[list[str], list[Access]]:
        """(lines, accesses) of a stage's instructions, and of storing what others read."""
        lines, accesses = self.map_values(stage.ops, names, shared)
        for op in stage.ops:
            if op.out in self.stores:
                lines.append(f"{self.memory(op.out)} = {names[op.out]};")
                accesses.append(self.access(op.out, shared, True))
        return lines, accesses

    def columns(self, count: int, sums: int, products: str, body: list[str]) -> None:
        """A loop over columns j that PARTS threads share, `sums` of them side by side, each `count`
        after the one before; body: what is done with sum[n][q] of element e.
        """
        self.add(
            f"for (uint base = 0u; base < {count}u + none; base += slots) {{",
            "const uint j = base + slot;",
            f"const bool live = j < {count}u;",
            f"float sum[{sums}][ROWS];",
            f"NCPS_CLEAR(sum, {sums})",
            f"NCPS_ADD_PRODUCTS(sum, {sums}, {count}, {products}, j)",
            *(f"NCPS_SHARE_ROWS(sum[{n}])" for n in range(sums)),
            "NCPS_UNROLL",
            "for (int q = 0; q < OWN; ++q) {",
            "const uint r = uint(q * PARTS) + part;",
            "if (live && r < uint(ROWS)) {",
            "const uint e = j * uint(ROWS) + r;",
            *with_places(body),
            "}",
            "}",
            "}",
        )

    def weights_at(self, stage: Product) -> int:
        """Where the matrix of a product begins among all weights."""
        return sum(s.depth * s.columns for s in self.plan.matrices[: stage.matrix])

    def added(self, stage: Product, column: int) -> str:
        """What is added to the sum of a product's column `column` + j."""
        plan = self.plan
        if stage.bias == "timed":
            at = plan.timed[plan.bias(stage)] + column
            return f" + float(timed[at * {plan.timed_width}u + {at}u + j])"
        if stage.bias == "fixed":
            return f" + float(fixed[{plan.fixed[plan.bias(stage)] + column}u + j])"
        return ""

    def _product(self, stage: Product) -> None:
        accesses = [self.access(part, BY_OTHERS, False) for part in stage.parts]
        places, depth = [], 0
        for part in stage.parts:
            places.append((self.place(part) - depth, depth + self.plan.sizes[part]))
            depth += self.plan.sizes[part]
        place = chosen("i", places)
        products = f"weights, {self.weights_at(stage)}, {stage.columns}, m, {place}, {depth}"
        count = stage.columns // stage.sums
        body = [
            f"const float z{n} = sum[{n}][q]{self.added(stage, n * count)};"
            for n in range(stage.sums)
        ]
        values = [f"z{n}" for n in range(stage.sums)]
        if stage.then:
            split, names = self.plan.split, {}
            for ref in stage.then.reads:
                block, column = split.root(ref)
                if block == stage.block:
                    names[ref] = f"z{column // count}"
            lines, others = self.map_lines(stage.then, names, BY_COLUMN)
            body, accesses = body + lines, accesses + others
            if stage.block in self.kept:
                kept = self.kept[stage.block]
                values = [f"z{n}" if block >= 0 else names[n] for block, n in kept]
        if stage.block in self.layout.at:
            for n, value in enumerate(values):
                low = self.place(stage.block) + n * count
                body.append(f"m[uint({low} * ROWS) + e] = {value};")
                accesses.append(Access("m", low, low + count, BY_COLUMN, True))
        self.meet(*accesses)
        self.columns(count, stage.sums, products, body)

    def _one(self, stage: Single) -> None:
        """The barrier before a sum, expand or softmax."""
        read = self.access(stage.op.ins[0], BY_OTHERS, False)
        self.meet(read, self.access(stage.op.out, BY_ELEMENT, True))

    def _move(self, stage: Single) -> None:
        op = stage.op
        source, out = op.ins[0], self.place(op.out)
        runs = [op.ints[n : n + 4] for n in range(0, len(op.ints), 4)]
        inner = self.plan.in_memory(source)
        accesses = [self.access(source, BY_OTHERS, False)] if inner else []
        for to, _, length, _ in runs:
            accesses.append(Access("m", out + to, out + to + length, BY_ELEMENT, True))
        self.meet(*accesses)
        for to, at, length, step in runs:
            if inner:
                place = self.place(source) + at
                value = f"m[uint({place} * ROWS) + {'e' if step else 'e % uint(ROWS)'}]"
            else:
                value = self.outer(source, f"{at}u + j" if step else f"{at}u")
            self.each(length, [f"m[uint({out + to} * ROWS) + e] = {value};"])

    def _sum(self, stage: Single) -> None:
        self._one(stage)
        (_, mid, inner), source = stage.op.ints, self.place(stage.op.ins[0])
        index = f"{source}u + (o * {mid}u + k) * {inner}u + i"
        self.each(
            self.plan.sizes[stage.op.out],
            [
                f"const uint o = j / {inner}u, i = j % {inner}u;",
                "float sum = 0.0f;",
                f"for (uint k = 0u; k < {mid}u; ++k) sum += m[({index}) * uint(ROWS) + r];",
                f"{self.memory(stage.op.out)} = sum;",
            ],
        )

    def _expand(self, stage: Single) -> None:
        self._one(stage)
        (_, mid, inner), source = stage.op.ints, self.place(stage.op.ins[0])
        index = f"{source}u + j / {mid * inner}u * {inner}u + j % {inner}u"
        lines = [f"{self.memory(stage.op.out)} = m[({index}) * uint(ROWS) + r];"]
        self.each(self.plan.sizes[stage.op.out], lines)

    def _softmax(self, stage: Single) -> None:
        self._one(stage)
        (_, n), source = stage.op.ints, self.place(stage.op.ins[0])
        term = f"m[({source}u + o * {n}u + k) * uint(ROWS) + r]"
        self.each(
            self.plan.sizes[stage.op.out],
            [
                f"const uint o = j / {n}u;",
                f"float most = m[({source}u + o * {n}u) * uint(ROWS) + r], sum = 0.0f;",
                f"for (uint k = 1u; k < {n}u; ++k) most = ncps_larger({term}, most);",
                f"for (uint k = 0u; k < {n}u; ++k) sum += ncps_exp({term} - most);",
                f"{self.memory(stage.op.out)} = "
                f"ncps_exp(m[uint({source} * ROWS) + e] - most) / sum;",
            ],
        )
