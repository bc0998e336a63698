"""Brings the instructions of a step into the form of a `Program`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .operands import Operands
from .program import Instruction, Program


def finish(
    operands: Operands, steps: Sequence[int], states: Sequence[int], results: list[int]
) -> tuple[Program, list[int]]:
    """The program whose results, new states first, are these values; the ids that its captured
    arrays had.
    """
    instructions = _live(
        _with_biases(_live(operands.instructions, results), operands, results), results
    )
    used = dict.fromkeys(value for i in instructions for value in i.ins) | dict.fromkeys(results)
    captured = [value for value in used if value in operands.arrays]
    made = dict.fromkeys(i.out for i in instructions)
    constants = [value for value in used if value in operands.constants]
    order = [*captured, *operands.given, *constants, *made]
    ids = {value: number for number, value in enumerate(order)}
    once, step = [], []
    for op, out, ins, ints in instructions:
        target = step if operands.varying[out] else once
        target.append(Instruction(op, ids[out], tuple([ids[value] for value in ins]), ints))
    arrays = tuple(operands.arrays[value] for value in captured)
    numbers = tuple(ids[value] for value in results)
    program = Program(
        shapes=tuple(tuple(array.shape) for array in arrays),
        steps=tuple(steps),
        states=tuple(states),
        sizes=tuple(operands.sizes[value] for value in order),
        varying=tuple(operands.varying[value] for value in order),
        constants=tuple((ids[value], operands.constants[value]) for value in constants),
        once=tuple(once),
        step=tuple(step),
        next=numbers[: len(states)],
        outputs=numbers[len(states) :],
        captured=arrays,
    )
    return program, captured


def _live(instructions: list[Instruction], results: list[int]) -> list[Instruction]:
    """Those that the results need."""
    wanted, kept = set(results), []
    for instruction in reversed(instructions):
        if instruction.out in wanted:
            wanted.update(instruction.ins)
            kept.append(instruction)
    return kept[::-1]


def _with_biases(
    instructions: list[Instruction], operands: Operands, results: list[int]
) -> list[Instruction]:
    """The same, with each bias that is added to a product, and to nothing else, in the product."""
    uses = Counter(value for i in instructions for value in i.ins)
    uses.update(results)
    products = {i.out: n for n, i in enumerate(instructions) if i.op == "matmul"}
    found: list[Instruction | None] = list(instructions)
    for number, (op, out, ins, _) in enumerate(instructions):
        if op != "add":
            continue
        for product, bias in (ins, ins[::-1]):
            at = products.get(product)
            if at is None or uses[product] != 1 or not operands.varying[out]:
                continue
            if operands.varying[bias] or operands.sizes[bias] != operands.sizes[out]:
                continue
            matmul = instructions[at]
            if operands.sizes[out] == matmul.ints[1]:
                found[at] = None
                found[number] = Instruction("matmul", out, (*matmul.ins, bias), matmul.ints)
                break
    return [instruction for instruction in found if instruction is not None]
