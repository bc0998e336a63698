"""Step programs that leave out some steps of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from .program import Instruction, Program


@lru_cache(maxsize=256)
def holding(program: Program) -> Program:
    """The program with one more input of each step behind the others, [1]: where it is not 0, every
    state stays as it is. So does every output: they are further states.
    """
    held = len(program.shapes) + len(program.steps)
    computed = held + len(program.states)  # the first id that is no input and no state
    widths = [program.sizes[ref] for ref in program.outputs]

    def moved(ref: int) -> int:
        return ref + (1 if ref >= held else 0) + (len(widths) if ref >= computed else 0)

    def all_moved(instructions: Sequence[Instruction]) -> list[Instruction]:
        return [i._replace(out=moved(i.out), ins=tuple(map(moved, i.ins))) for i in instructions]

    old, varies = program.sizes, program.varying
    sizes = [*old[:held], 1, *old[held:computed], *widths, *old[computed:]]
    more = (True,) * len(widths)
    varying = [*varies[:held], True, *varies[held:computed], *more, *varies[computed:]]
    step, after = all_moved(program.step), []
    for before, ref in enumerate((*program.next, *program.outputs), held + 1):
        after.append(len(sizes))
        step.append(Instruction("select", after[-1], (held, before, moved(ref))))
        sizes.append(sizes[before])
        varying.append(True)
    return replace(
        program,
        steps=(*program.steps, 1),
        states=(*program.states, *widths),
        sizes=tuple(sizes),
        varying=tuple(varying),
        constants=tuple((moved(ref), number) for ref, number in program.constants),
        once=tuple(all_moved(program.once)),
        step=tuple(step),
        next=tuple(after),
        outputs=(),
    )
