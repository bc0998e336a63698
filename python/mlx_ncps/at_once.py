"""Computed at once: a step of a stream or a short sequence runs in the extension on the calling
thread, without a graph.

`attempt` is for cells and layers, `attempt_call` for the operator. In this order both ask: is the
CPU's backend the one to run (`dispatch`), is the work small enough (csrc/at_once.cpp has the
limits), has every array a value, and, of a cell, are the parameters still those that were packed.
Where nothing is traced, `attempt` evaluates the arrays without values, and reads half precision and
masks too (csrc/loose_call.cpp). Where one answer is no, the result is None: a graph computes the
call.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from . import _loader, dispatch
from ._fork import check_process
from .backends import Facts, FusedCall, LTCFacts, cpu
from .programs import Declined, step_program
from .step_plan import CfCStage, LTCStage, ProgramStage, Readout, StepPlan

# Forms of a call: one step [B, I] or [I]; a sequence [B, T, I] or [T, I] for the outputs of every
# step or of the last one; one step [B, I] alone.
STEP: int = getattr(_loader.native, "STEP", 0)
EVERY: int = getattr(_loader.native, "EVERY", 0)
LAST: int = getattr(_loader.native, "LAST", 0)
BATCH: int = getattr(_loader.native, "BATCH", 0)


class StepCell:
    """What a cell computes steps with: its packed parameters, made anew whenever one of the arrays
    or options that they came from is another. Belongs to one cell; copies start empty.
    """

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: tuple | None = None  # (the extension's StepCell, what else it was made with)

    def __deepcopy__(self, memo: dict) -> StepCell:
        return StepCell()

    def __reduce__(self) -> tuple:
        return StepCell, ()


class More(NamedTuple):
    """What a call may have beside inputs, state and time spans.

    mask: [B, T], or [B, T, F] of features. seen: (last seen values [B, F], time since then [B, F])
    of the features before the call, or None for zeros. time_first: the inputs, a mask and time
    spans of each row lie [T, B, ...].
    """

    mask: mx.array | None
    seen: tuple | None
    time_first: bool


class Cell(Protocol):
    """What `attempt` asks of a cell."""

    op: str
    _step_cell: StepCell

    def _step_plan(self, mixed: bool) -> StepPlan | None: ...


def attempt(
    cell: Cell,
    lstm: Any,
    x: Any,
    state: Any,
    ts: Any,
    form: int,
    more: More | None = None,
    root: Any = None,
) -> tuple | None:
    """(output, last state) of one step or a few, after a call with a mask of features also
    `More.seen`; None where a graph must compute it.

    lstm: of mixed memory in front of the cell, or None; the state is a pair (h, c) then.
    x: inputs as `form` has them; for STEP and BATCH the output is [B, O] or [O], for EVERY [B, T,
        O] or [T, O], for LAST [B, O] or [O].
    state: [B, H], [H], or None for zeros.  ts: None, a number, or an array as the form has it.
    """
    if not dispatch.runs_steps_on_cpu():
        return None
    made = cell._step_cell.made
    if root is None:
        root = cell
    if made is None:
        done = False
    elif more is None:
        done = made[0](root, lstm, x, state, ts, form)
    else:
        done = made[0].loosely(root, lstm, x, state, ts, form, False, *more)
    # True: large, or something to wait for. Asking for the device takes as long as a tenth of a
    # small step.
    if done is True and made is not None:
        done = (
            None if dispatch.beside_gpu() else _run(made[0], root, lstm, x, state, ts, form, more)
        )
    if done is False:  # what the parameters depend on may have changed
        if _await_trace(state, ts, more):
            return None
        packed = _packed(cell, root, lstm, x, form, more)
        if packed is None:
            return None
        done = _run(packed, root, lstm, x, state, ts, form, more, not dispatch.beside_gpu())
    if done is None and isinstance(ts, (np.ndarray, np.generic)) and ts.dtype.kind in "fiu":
        spans: Any = ts.astype(np.float32)
        return attempt(cell, lstm, x, state, mx.array(spans), form, more, root)
    if not done or done is True:
        return None
    dispatch.record("cpu")
    return done


def _run(packed, root, lstm, x, state, ts, form, more, no_gpu=True):
    if more is None:
        return packed(root, lstm, x, state, ts, form, no_gpu)
    return packed.loosely(root, lstm, x, state, ts, form, no_gpu, *more)


def _await_trace(state: Any, ts: Any, more: More | None) -> bool:
    """Whether a graph will compute the call, as what is traced gives one of these, however the cell
    is packed.
    """
    if not _loader.native.is_tracing():
        return False
    every = [*state] if isinstance(state, tuple) else [state]
    every += [ts] if more is None else [ts, more.mask, *(more.seen or ())]
    return any(map(_loader.native.awaits_trace, every))


def _packed(cell: Cell, root: Any, lstm: Any, x: Any, form: int, more: More | None) -> Any:
    """The extension's StepCell of what the cell is made of now, or None: for too large a call, and
    among tracers.
    """
    mixed = lstm is not None
    if not _loader.native.may_be_read(x):
        return None
    try:
        plan = _plan_of(cell, lstm)
        if plan is None or not _fits(plan, mixed, x, form, more is not None and more.time_first):
            return None
        check_process(cell.op)  # packing waits for MLX
        places = _loader.native.Places(root, lstm)
        plan = _plan_of(cell, lstm)  # read when the places are known: no change is missed
        memory = _memory(lstm)
        if not places.complete or plan is None or memory is None:
            return None
        return _made(cell._step_cell, plan, memory, places)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # a weight of a wrong shape or kind: the graph's code says which


def _plan_of(cell: Any, lstm: Any) -> StepPlan | None:
    """The cell's own plan, or one of its step program."""
    plan = cell._step_plan(lstm is not None)
    if plan is not None:
        return plan
    bound = step_program(cell, lstm)
    if isinstance(bound, Declined):
        return None
    sizes = cell.state_size
    units = sizes[0] if isinstance(sizes, tuple) else sizes
    stage = ProgramStage(cell.sensory_size, units, bound.program)
    readout = Readout(0, units)
    return StepPlan((stage,), bound.captured, readout, lambda: [bound.captured])


def _fits(plan: StepPlan, mixed: bool, x: mx.array, form: int, time_first: bool) -> bool:
    if plan.unsupported():
        return False
    beside_gpu = dispatch.beside_gpu()
    return _loader.native.fits(x, form, plan.work(mixed), beside_gpu, time_first)


def _made(kept: StepCell, plan: StepPlan, memory: tuple, places: Any) -> Any:
    arrays, key = [*plan.arrays, *memory], (plan.stages, plan.readout[:2], len(memory))
    if any(cpu.is_tracer(a) for a in arrays):
        return None
    made = kept.made
    if made is None or made[1] != key or not made[0].made_from(arrays):
        made = (_pack(plan, memory, arrays), key)
    made[0].watch(places)
    kept.made = made
    return made[0]


def _pack(plan: StepPlan, memory: tuple, arrays: list) -> Any:
    """The extension's StepCell, to be made anew for other `arrays`."""
    stages = list(zip(plan.stages, plan.weights(), strict=True))
    stage = plan.stages[0]
    if isinstance(stage, ProgramStage):
        captured = plan.weights()[0]
        return cpu.program_step_cell(stage.program, captured, arrays, plan.readout)
    if isinstance(stage, LTCStage):
        return cpu.ltc_step_cell(*stages[0], memory, arrays, plan.readout)
    return cpu.cfc_step_cell(stages, memory, arrays, plan.readout)


def _memory(lstm: Any) -> tuple | None:
    """The weights of the LSTM in front of a cell, () without one; None of one that can't be packed,
    as what is no LSTMCell.
    """
    return () if lstm is None else getattr(lstm, "_step_weights", lambda: None)()


def attempt_call(call: Any) -> mx.array | None:
    """The states [B, T, H] of a checked `ops` call of `cfc_sequence` in inference, packed for this
    call alone; None where a graph must compute it, also for one with more to fold than time spans.
    """
    keywords = call.keywords
    if call.backend is not cpu or keywords["variant"] != "torch" or keywords["training"]:
        return None
    if "dropout" in keywords:
        return None
    if not _loader.native.has_values(call.inputs):
        return None
    no_gpu = mx.default_device().type is mx.DeviceType.cpu
    stage = call.inputs.shape[-1], keywords["mode"], keywords["activation"], "torch"
    return cpu.cfc_at_once(call.inputs, call.state, call.ts, call.params, stage, no_gpu)


def why_not(cell: Any, lstm: Any, batch: int, steps: int) -> str:
    """Why a call with inputs of this shape is left to a graph where nothing is traced; "" when it
    is computed at once. steps: 1 for a single step too.
    """
    if why := dispatch.why_no_steps_on_cpu():
        return why
    if batch == 0 or steps == 0:
        return "there is nothing to compute"
    plan = _plan_of(cell, lstm)
    if plan is None or _memory(lstm) is None:
        why = cell.stepwise() or getattr(cell, "_unpacked", str)()
        why = why or getattr(lstm, "stepwise", str)()
        return why or f"{type(cell).__name__} has no packed form" + " behind an LSTM" * bool(lstm)
    if not _loader.native.Places(cell, lstm).complete:
        return "the cell is made of too many objects"
    return _why_unfit(plan, lstm is not None, batch, steps)


def why_too_large(calls: list[FusedCall], mixed: bool, batch: int, steps: int) -> str:
    """The same of a packed cell that stands for these calls, behind an LSTM or not."""
    if why := dispatch.why_no_steps_on_cpu():
        return why
    stages: Any = tuple(_stage(facts) for _, facts in calls)
    return _why_unfit(StepPlan(stages, [], Readout(0, 0), list), mixed, batch, steps)


def _why_unfit(plan: StepPlan, mixed: bool, batch: int, steps: int) -> str:
    if why := plan.unsupported():
        return why
    return cpu.left_to_graph(batch, steps, plan.work(mixed), dispatch.beside_gpu())


def _stage(facts: Facts) -> CfCStage | LTCStage:
    if isinstance(facts, LTCFacts):
        sizes = facts.inputs, facts.units, facts.ode_unfolds
        return LTCStage(*sizes, 0.0, False, facts.ode_solver)
    options = facts.mode, facts.activation, facts.variant
    return CfCStage(facts.inputs, facts.units, facts.backbone, *options)


def linear(x: mx.array, weight: Any, bias: Any) -> mx.array | None:
    """The linear map behind a cell, x [..., O] by weight [P, O] and bias [P] or None, in the dtype
    of x; None where something is traced.
    """
    done: Any = cpu.linear(x, weight, bias)
    return done
