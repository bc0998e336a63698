"""Single steps of a cell by its step program: for cells that no kernel of their own packs."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import dispatch
from .program import Declined
from .run import Bound, owned, programs_of, why_none


def step_program(cell: Any, lstm: Any) -> Bound | Declined:
    """The program of one step of a cell of this package, behind an LSTM or not: inputs x [I] and ts
    [1]; states h, with an LSTM or a cell of two states c; one output.
    """
    if why := why_none():
        return Declined(why)
    modules = [cell] if lstm is None else [cell, lstm]
    if not owned(modules):
        return Declined("a part of the cell is none of this package")
    if not getattr(cell, "built", False):
        return Declined("the cell is not built")
    if why := getattr(cell, "_unpacked", str)():
        return Declined(why)
    one: Any = getattr(cell, "_one_step", None)
    sizes = cell.state_size
    states = [*sizes] if isinstance(sizes, tuple) else [sizes, sizes] if lstm else [sizes]
    pair = isinstance(sizes, tuple)

    def step(x: mx.array, ts: mx.array, *states: mx.array) -> tuple[list, list]:
        h: Any
        h, *c = states
        with dispatch.use_backend("reference"):
            if lstm is not None:
                h, *c = lstm._gates(lstm._drive(x), h, *c)
            new = cell.sequence(x[:, None], (h, *c) if pair else h, ts)
            last = [s[:, 0] for s in new] if pair else [new[:, 0], *c]
            output = cell.readout(tuple(last) if pair else last[0])
            return last, [] if output is last[0] else [output]

    step = step if one is None else one
    return programs_of(cell).of(modules, step, [cell.sensory_size, 1], states)
