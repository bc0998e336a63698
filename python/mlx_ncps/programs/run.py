"""Runs the step program of a cell over sequences, and keeps it for later calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .. import _loader, dispatch
from ..backends import shapeless
from ..values import is_tracer, lies_plain, step_trace
from .memo import Memo
from .modules import is_ours
from .on_gpu import gpu_in_place, run_on_gpu, runner_of_gpu, why_not_on_gpu
from .program import Declined, Program
from .trace import Step, trace, trace_checked

_KEPT = 8  # programs of one cell: for inputs of other widths, other options
_AXES = 3  # of a captured array, as the extension checks it; one of more is flat
_PLAIN = (int, float, str, type(None))
# Multiply-adds of one step from which an Apple GPU's own operations are quicker than the CPU.
_LARGE_STEP = 50_000_000
_NONE_HELD = "the CPU holds no steps"


class Bound(NamedTuple):
    """A program of the native module, the arrays that it captured, now, and its text, without
    them.
    """

    program: Any
    captured: list[mx.array]
    text: Program


class Programs:
    """The programs of one cell; copies start empty."""

    __slots__ = ("kept", "known", "memos")

    def __init__(self) -> None:
        self.kept: dict = {}  # signature -> (native program or Declined, text, sources of arrays)
        self.memos: dict = {}  # of a user's step, by its widths
        self.known: dict = {}  # text -> (native program, text)

    def __deepcopy__(self, memo: dict) -> Programs:
        return Programs()

    def __reduce__(self) -> tuple:
        return Programs, ()

    def of(
        self,
        modules: Sequence[Any],
        step: Step,
        steps: Sequence[int],
        states: Sequence[int],
        dtype: mx.Dtype = mx.float32,
    ) -> Bound | Declined:
        """The program of `step`, which reads these modules, for inputs and states of these widths
        and this dtype; traced where it is not known yet, at each call of a cell that is not this
        package's.
        """
        for module in modules:  # edits of a wiring reach the masks, which are captured
            if "_tie" in getattr(module, "__dict__", {}):
                module._sync_wiring()
        leaves = Leaves(modules)
        leaves.settle()
        if not leaves.ours:
            with step_trace():
                _forget(self.memos)
                memo = self.memos.setdefault((tuple(steps), tuple(states), dtype), Memo())
                made = trace_checked(step, steps, states, modules, memo, dtype)
            if isinstance(made, Declined):
                return made
            made_before = self.known.get(made)
            if made_before is None:
                _forget(self.known)
                text = replace(made, captured=())
                made_before = self.known[text] = native(made), text
            return Bound(made_before[0], [_flat(a) for a in made.captured], made_before[1])
        key = (step.__qualname__, tuple(steps), tuple(states), dtype, leaves.signature())
        known = self.kept.get(key)
        if known is None:
            with step_trace():
                known = self._make(leaves, trace(step, steps, states, modules, dtype=dtype))
            _forget(self.kept)
            self.kept[key] = known
        program, text, sources = known
        if isinstance(program, Declined):
            return program
        arrays = [leaves.arrays[s] if isinstance(s, int) else s for s in sources]
        return Bound(program, [_flat(a) for a in arrays], text)

    def _make(self, leaves: Leaves, made: Program | Declined) -> tuple:
        if isinstance(made, Declined):
            return made, None, []
        numbers = {_loader.native.array_id(a): n for n, a in enumerate(leaves.arrays)}
        sources = [numbers.get(_loader.native.array_id(a), a) for a in made.captured]
        return native(made), replace(made, captured=()), sources


def _flat(array: mx.array) -> mx.array:
    return array if array.ndim <= _AXES else array.reshape(-1)


def _forget(kept: dict) -> None:
    if len(kept) >= _KEPT:
        kept.clear()


class Leaves:
    """All arrays of some modules in a fixed order, and what tells two states of a module apart:
    classes, options, and the arrays' shapes.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self.arrays: list[mx.array] = []
        self.ours = True
        self._signs: list = []
        self._seen: set[int] = set()
        self._known: dict[int, int] = {}
        for module in modules:
            self._walk(module)

    def settle(self) -> None:
        """Compute what is no tracer: how it came about is no part of a step."""
        late = [a for a in self.arrays if not lies_plain(a) and not is_tracer(a)]
        if late:
            mx.eval(late)

    def signature(self) -> tuple:
        """Equal for modules whose steps are one program."""
        return tuple(self._signs)

    def _walk(self, value: Any) -> None:
        if isinstance(value, mx.array):
            self._array(value)
        elif isinstance(value, dict | list | tuple):
            if id(value) in self._seen:
                return
            self._seen.add(id(value))
            self._signs.append((type(value), len(value)))
            if isinstance(value, nn.Module):
                self._options(value)
            items = dict.items(value) if isinstance(value, dict) else enumerate(value)
            for key, part in items:
                self._signs.append(key)
                self._walk(part)
        elif isinstance(value, _PLAIN):
            self._signs.append(value)
        else:
            self.ours = self.ours and is_ours(value)

    def _array(self, value: mx.array) -> None:
        # Two places of one array are one captured array; a number is part of the program.
        first = self._known.setdefault(_loader.native.array_id(value), len(self.arrays))
        self._signs.append((value.shape, value.dtype, first))
        self.arrays.append(value)
        self.ours = self.ours and value.ndim > 0

    def _options(self, module: nn.Module) -> None:
        self.ours = self.ours and is_ours(module)
        for name, value in vars(module).items():
            if isinstance(value, _PLAIN) or (isinstance(value, tuple) and _is_plain(value)):
                self._signs.append((name, value))


def _is_plain(value: tuple) -> bool:
    return all(_is_plain(v) if isinstance(v, tuple) else isinstance(v, _PLAIN) for v in value)


def programs_of(owner: Any) -> Programs:
    """The programs that a module keeps."""
    return vars(owner).setdefault("_programs", Programs())


def owned(modules: Sequence[Any]) -> bool:
    """Whether all parts of these modules are of this package, or linear maps of MLX."""
    return Leaves(modules).ours


def native(made: Program) -> Any:
    """The program as the extension runs it."""
    return _loader.native.Program(
        captured=[[*s] if len(s) <= _AXES else [prod(s)] for s in made.shapes],
        steps=list(made.steps),
        states=list(made.states),
        sizes=list(made.sizes),
        varying=list(made.varying),
        constants=list(made.constants),
        once=[_row(i) for i in made.once],
        step=[_row(i) for i in made.step],
        next=list(made.next),
        outputs=list(made.outputs),
    )


def _row(instruction: Any) -> tuple:
    op, out, ins, ints = instruction
    return op, out, list(ins), list(ints)


def why_none() -> str:
    """Why no step programs run now, whatever the cell; "" where they do."""
    if why := dispatch.why_no_steps_on_cpu():
        return why
    return "mx.compile(shapeless=True) traces" if shapeless.length_varies() else ""


def is_too_large(bound: Bound, batch: int) -> bool:
    """Whether a step of so many rows is better left to the default device, a GPU."""
    return dispatch.beside_gpu() and batch * bound.program.work > _LARGE_STEP


def run_program(
    owner: Any,
    modules: Sequence[Any],
    step: Step,
    x: mx.array,
    ts: Any,
    states: Sequence[mx.array],
    resets: mx.array | None = None,
    reset_state: Sequence[mx.array] | None = None,
    more: Sequence[mx.array] = (),
    gpu: Any = None,
    dtype: mx.Dtype = mx.float32,
    held: mx.array | None = None,
) -> tuple[list[mx.array], list[mx.array]] | Declined:
    """All states and outputs [B, T, n] of a cell over a sequence, in the dtype of x, by its step
    program: on the CPU, or in one kernel of a GPU.

    owner: the module that keeps the program.
    step: the function (x [N, I], ts [N, 1], *more [N, n], *states [N, n]) -> (new states, outputs);
    modules: what it reads.  x: [B, T, I].  ts: a number or an array [] or [B, T].  states: [B, n]
    each.  more: further inputs of each step, [B, T, n].
    resets: [B, T], True where the states start anew before a step, from reset_state, [B, n] each,
    or from `states` if it is None.  dtype: in which the step computes.
    gpu: the Runner of a GPU that is to run it; None: one does where the CPU runs none.
    held: [B, T], True at steps that leave states and outputs as they are, 0 outputs before any
    step; for a GPU alone.
    """
    gpu = gpu or gpu_in_place()
    if gpu is None and (why := why_none() or ("" if held is None else _NONE_HELD)):
        return Declined(why)
    if any(s.ndim != 2 for s in states):
        return Declined("a state is no array [B, n]")
    widths = [x.shape[-1], 1, *(a.shape[-1] for a in more)]
    bound = programs_of(owner).of(modules, step, widths, [s.shape[-1] for s in states], dtype)
    if isinstance(bound, Declined):
        return bound
    for module in modules:
        if "_tie" in getattr(module, "__dict__", {}) and not module._sync_wiring():
            x = module._tie.guard(module, x)
    batch, length, _ = x.shape
    if gpu is None and is_too_large(bound, batch):
        gpu = runner_of_gpu()
        if gpu is None or why_not_on_gpu(gpu, bound.text):
            return Declined("a step is large, and the default device a GPU")
    spans = ts if isinstance(ts, mx.array) else mx.array(ts, mx.float32)
    spans = spans[..., None] if spans.ndim else mx.broadcast_to(spans, (batch, length, 1))
    if gpu is not None:
        inputs = [x, spans, *more]
        anew = resets, reset_state
        return run_on_gpu(gpu, bound.text, bound.captured, inputs, states, *anew, held)
    made = _loader.native.program_sequence(
        bound.program,
        [x, spans, *more],
        list(states),
        bound.captured,
        resets,
        None if reset_state is None else list(reset_state),
    )
    dispatch.record("cpu")
    return made[: len(states)], made[len(states) :]
