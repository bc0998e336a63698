"""Steps of a stream, computed at once by a cell that was packed beforehand, without a graph;
the cells call it.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .. import dispatch
from .._fork import check_process
from ..backends import FusedCall, cpu
from ..checks import is_array
from .checks import check_cfc_params, check_ltc_params, check_memory

STEP, EVERY, LAST, BATCH = range(4)  # forms of a call, as src/step_cell.cpp numbers them


class Readout(NamedTuple):
    """Which neurons are the outputs: `count` of them from `first`, times w plus b where given."""

    first: int
    count: int
    w: mx.array | None = None
    b: mx.array | None = None


class CfCStage(NamedTuple):
    """One CfC of a chain: its parameters and options, and its numbers of inputs and neurons."""

    params: tuple
    inputs: int
    units: int
    mode: str
    activation: str
    variant: str


class StepCell:
    """What a cell computes steps and short sequences with: the packed parameters, made anew
    whenever one of the arrays or options that they came from is another. Belongs to one cell;
    copies start empty.
    """

    __slots__ = ("_made",)

    def __init__(self):
        self._made = None  # (the extension's StepCell, the options that it was made with)

    def run(self, cell, lstm, x, state, ts, form: int):
        """(output, last state) of one step or a few, or None where only a graph can compute it: for
        arrays that are not evaluated, tracers, other dtypes or shapes, long sequences, and other
        backends than the CPU's.

        cell: whose parameters they are; the rest as in `LiquidCell.step_at_once`.
        """
        if not dispatch.runs_steps_on_cpu():
            return None
        made = self._made
        done = False if made is None else made[0](cell, lstm, x, state, ts, form)
        if done is True:  # large: asking for the device takes as long as a tenth of a small step
            done = None if dispatch.beside_gpu() else made[0](cell, lstm, x, state, ts, form, True)
        if done is None and isinstance(ts, (np.ndarray, np.generic)) and ts.dtype.kind in "fiu":
            return self.run(cell, lstm, x, state, mx.array(ts.astype(np.float32)), form)
        if done is False and cpu.has_values(x) and _can_pack(cell, lstm):
            packed, no_gpu = self._packed(cell, lstm), not dispatch.beside_gpu()
            done = packed is not None and packed(cell, lstm, x, state, ts, form, no_gpu)
        if not done or done is True:
            return None
        dispatch.record("cpu")
        return done

    def _packed(self, cell, lstm):
        """The extension's StepCell of what the cell is made of now, or None among tracers and
        where a parameter is still being computed.
        """
        check_process(cell.op)  # packing waits for MLX
        places = cpu.places(cell, lstm)  # before they are read, so that no change is missed
        if not places.complete:
            return None
        try:
            return self._packed_of(cell, lstm, places)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None  # a weight of a wrong shape or kind: the graph's code says which

    def _packed_of(self, cell, lstm, places):
        memory = () if lstm is None else lstm.weights()
        arrays = [*cell.step_arrays(), *memory]
        options = (*cell.step_options(), len(memory))
        if any(cpu.is_tracer(a) or cpu.is_pending(a) for a in arrays):
            return None
        made = self._made
        if made is None or made[1] != options or not made[0].made_from(arrays):
            made = (cell.pack_step(memory, arrays), options)
        made[0].watch(places)
        self._made = made
        return made[0]

    def __deepcopy__(self, memo):
        return StepCell()

    def __reduce__(self):
        return StepCell, ()


def _can_pack(cell, lstm) -> bool:
    """Whether both can be packed now; what is no LSTMCell doesn't know."""
    memory = lstm is None or getattr(lstm, "steps_at_once", bool)()
    return memory and cell.steps_at_once(lstm is not None)


def why_not_at_once(cell, lstm, batch: int, steps: int, dtype) -> str:
    """Why a call with evaluated inputs of this shape is left to a graph; "" when it is computed at
    once. steps: 1 for a single step too.
    """
    if why := dispatch.why_no_steps_on_cpu():
        return why
    if dtype != mx.float32:
        return f"the inputs are {str(dtype).removeprefix('mlx.core.')}, not float32"
    if batch == 0 or steps == 0:
        return "there is nothing to compute"
    if not _can_pack(cell, lstm):
        why = cell.stepwise() or getattr(lstm, "stepwise", str)()
        return why or f"{type(cell).__name__} has no packed form" + " behind an LSTM" * bool(lstm)
    if not cpu.places(cell, lstm).complete:
        return "the cell is made of too many objects"
    return why_too_large(cell.calls(), lstm is not None, batch, steps)


def why_too_large(calls: list[FusedCall], lstm: bool, batch: int, steps: int) -> str:
    """The same of a packed cell that stands for these calls, behind an LSTM or not."""
    if why := dispatch.why_no_steps_on_cpu():
        return why
    for op, facts in calls:
        if why := cpu.unsupported(op, facts):
            return why
    return cpu.left_to_graph(batch, steps, cpu.step_work(calls, lstm), dispatch.beside_gpu())


def pack_ltc(params, inputs: int, units: int, memory, arrays, readout: Readout, **options):
    """An LTC packed: `options` are those of `ltc_sequence`; memory: the weights of the LSTM in
    front of it, or none; arrays: all that it must be packed anew for. Raises ValueError for a wrong
    shape or dtype, as a sequence does.
    """
    check_ltc_params(params, inputs, units)
    if memory:
        check_memory("ltc", memory, inputs, units)
    return cpu.ltc_step_cell(_float32(params), memory, arrays, readout, **options)


def pack_cfc(chain: list[CfCStage], memory, arrays, readout: Readout):
    """A chain of CfCs packed, each reading the new state of the one before; the rest as above."""
    for stage in chain:
        check_cfc_params(stage.params, stage.mode, stage.inputs, stage.units)
    if memory:
        check_memory("cfc", memory, chain[0].inputs, chain[0].units)
    stages = [(s.params, s.inputs, s.mode, s.activation, s.variant) for s in chain]
    return cpu.cfc_step_cell(stages, memory, arrays, readout)


def is_tracing() -> bool:
    """Whether mx.compile, a gradient or mx.vmap traces a function now."""
    return cpu.is_tracing()


def linear(x, weight, bias):
    """X [..., N] through a linear map at once, or None where an array has no values yet."""
    return cpu.linear(x, weight, bias)


def seen(arrays: list):
    """What tells by `are(arrays)` whether all of them are still these, not edited in place either;
    None without the native module.
    """
    return cpu.seen(arrays)


def is_tracer(array: mx.array) -> bool:
    """Whether `array` stands for a value within mx.compile, a gradient or vmap; without the native
    module only whether it has none.
    """
    if cpu.available()[0]:
        return cpu.is_tracer(array)
    for evaluate in (mx.async_eval, mx.eval):  # the first waits for nothing, but refuses in mx.grad
        try:
            evaluate(array)
        except ValueError:
            continue
        return False
    return True


def settle(module, *read) -> None:
    """If one of the arrays `read` is a tracer without a value, make every array that a module keeps
    evaluated and row-contiguous: mx.export_function writes constants as they lie in memory.
    """
    lacks_values = cpu.may_lack_values if cpu.available()[0] else is_tracer
    if not any(is_array(a) and lacks_values(a) for a in read):
        return
    for part in module.modules():
        for key, value in list(part.items()):
            if isinstance(value, mx.array) and not cpu.lies_plain(value) and not is_tracer(value):
                plain = mx.contiguous(value)
                mx.eval(plain)
                dict.__setitem__(part, key, plain)


def _float32(params):
    return type(params)(*(p if p is None else p.astype(mx.float32) for p in params))
