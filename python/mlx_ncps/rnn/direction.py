"""One direction of a recurrent layer: a cell over a sequence, with an LSTM in front of it for mixed
memory (MATHS 4) and a linear map after it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import mlx.core as mx
from mlx.utils import tree_map

from .. import dispatch
from ..cells import LSTMCell
from ..checks import flag, size
from ..dispatch import FusedCall
from ..layers.drawing import drawing_from
from ..layers.lazy import LazyWeights
from ..layers.linear import Linear, is_plain
from ..ops import shapeless
from ..ops.checks import check_array
from ..options import CheckedOptions, optional
from ..values import settle
from .any_cell import name_of, runs_sequences, starts_anew, width_of
from .by_steps import (
    Trace,
    is_spans,
    last_output,
    last_state,
    readout_of,
    sequence_trace,
    step_of,
    trace_by_steps,
)
from .held import held_trace
from .masks import Seen, Steps, masked_features, spread_states
from .program_runs import ProgramRun, has_program
from .resets import Resets
from .stepwise import cell_takes_memory, why_steps
from .watched import Run, watched

if TYPE_CHECKING:
    from .._types import ShapeLike


class Result(NamedTuple):
    """What a run gives: outputs [B, T, O] or the last one [B, O], the last state, and what is known
    of each feature.
    """

    output: mx.array
    state: Any
    seen: Seen | None


class Direction(LazyWeights, CheckedOptions):
    """A cell over a sequence: `rnn_cell`; `lstm` with mixed memory; `fc` with `proj_size`."""

    op = "rnn"
    rnn_cell: Any
    lstm: Any
    fc: Any
    proj_size: int | None
    mixed_memory: bool
    _checked_options: ClassVar[dict] = {"proj_size": optional(size), "mixed_memory": flag}
    _fixed_options = frozenset(("mixed_memory",))

    def __init__(self, cell: Any, proj_size: int | None = None, mixed_memory: bool = False):
        super().__init__()
        self.rnn_cell = cell
        self.proj_size = proj_size
        self.mixed_memory = mixed_memory
        if self.mixed_memory:
            if not isinstance(getattr(cell, "state_size", None), int):
                raise ValueError(
                    f"[{self.op}] mixed_memory wants a cell whose state_size is a number, "
                    f"got {getattr(cell, 'state_size', None)}."
                )
            self.lstm = LSTMCell(width_of(cell), cell.state_size)
        if proj_size is not None:
            if getattr(cell, "output_size", None) is None:
                raise ValueError(
                    f"[{self.op}] proj_size wants a cell with an output_size, got {name_of(cell)}."
                )
            self.fc = Linear(cell.output_size, proj_size)

    @property
    def _state_sizes(self) -> int | dict | None:
        """The form of the state, as `Layout.state` reads it."""
        sizes = getattr(self.rnn_cell, "state_size", None)
        if self.mixed_memory:
            return {"h": sizes, "c": sizes}
        if isinstance(sizes, tuple | list):
            return {str(n): size for n, size in enumerate(sizes)}
        return sizes

    def _other_direction(self, cell: Any = None) -> Direction:
        """A Direction of the same options, of `cell` or a copy with weights of its own."""
        if cell is None:
            cell = copy.deepcopy(self.rnn_cell)
            if hasattr(cell, "redraw"):
                cell.redraw()
        twin = Direction(cell, self.proj_size, self.mixed_memory)
        twin.op = self.op
        return twin

    @property
    def cell(self) -> Any:
        """`rnn_cell`, as earlier MLX ports call it."""
        return self.rnn_cell

    def redraw(self, key: mx.array | int | None = None) -> None:
        """Draw new weights of the cell, if it has `redraw()`, of the LSTM and of the map after the
        cell: from `key`, an `mx.random.key`, always the same.
        """
        with drawing_from(key):
            parts: Any = (self.rnn_cell, self.get("lstm"))
            for module in parts:
                if hasattr(module, "redraw"):
                    module.redraw()
            if "fc" in self:
                outputs: Any = self.proj_size
                self.fc = Linear(self.rnn_cell.output_size, outputs)

    def build(self, input_shape: ShapeLike) -> None:
        """Make the weights that the number of inputs was missing for, from that number or a shape
        that ends with it. Raises ValueError when they exist for another number.
        """
        parts: Any = (self.rnn_cell, self.lstm if self.mixed_memory else None)
        for part in parts:
            if hasattr(part, "build"):
                part.build(input_shape)

    def _is_unbuilt(self) -> bool:
        return not getattr(self.rnn_cell, "built", True)

    def _input_width(self, features: int, feature_mask: bool) -> int:
        """The number of inputs of the cell for data of so many features."""
        if not feature_mask:
            return features
        known = width_of(self.rnn_cell)
        return 2 * features if known is None else known

    def _stepwise(self) -> str:
        """Why this runs step by step; "" when it runs over the whole sequence."""
        return why_steps(self)

    def _has_program(self, *call: Any) -> ProgramRun | None:
        """Where a step program runs in place of several calls, if it does."""
        several = self._stepwise() or hasattr(self.rnn_cell, "_gpu_program")
        return has_program(self, self._state_sizes, *call) if several else None

    def _calls(self) -> list[FusedCall]:
        """The fused calls of a run, with what the cell tells of them."""
        calls = getattr(self.rnn_cell, "calls", list)()
        if not self.mixed_memory or self._stepwise():
            return calls
        return [(op.replace("_sequence", "_mixed_sequence"), facts) for op, facts in calls]

    def _free_initial_state(self, batch: int) -> Any:
        """The first state of a cell that doesn't say its `state_size`."""
        if hasattr(self.rnn_cell, "get_initial_state"):
            return self.rnn_cell.get_initial_state(batch_size=batch)
        raise ValueError(
            f"[{self.op}] hx must be given for {name_of(self.rnn_cell)}, which has neither "
            "state_size nor get_initial_state, got None."
        )

    def _run_half(
        self,
        x: mx.array,
        state: Any,
        ts: float | mx.array,
        mask: mx.array | None,
        seen: Seen | None,
        resets: Resets | None = None,
        *,
        sequences: bool,
    ) -> Result:
        """Run over x [B, T, I] from `state`; ts a number, [] or [B, T]; mask None, [B, T] or
        [B, T, I]; `seen` what is known of each feature before; `resets` where an episode begins.

        `sequences`: the outputs of all steps; else that of the last.
        """
        if mask is not None:
            shapeless.refuse(self.op, "a mask", length=False)
        if x.shape[1] == 0:
            shapeless.refuse(self.op, "an empty sequence", length=False)
        settle(self, x, ts, mask, *(state if isinstance(state, tuple | list) else (state,)))
        if mask is not None and mask.ndim == 3:
            width = self._input_width(x.shape[-1], True)
            begins = None if resets is None else resets.at
            x, mask, seen = masked_features(self.op, x, mask, ts, width, seen, begins)
        if mask is None or x.shape[1] == 0:
            trace = self._trace(x, state, ts, resets)
        else:
            trace = self._masked_trace(x, state, ts, mask, resets)
        if watched.runs is not None:
            watched.runs.append(Run(self, x, state, ts, mask, resets, trace.states))
        last = trace.last
        if last is None:
            last = last_state(trace.states, state, x.shape[1])
        if trace.outputs is None:
            output = readout_of(self, trace.states if sequences else last)
        else:
            output = trace.outputs if sequences else last_output(trace.outputs)
        return Result(self._project(output), last, seen)

    def _project(self, output):
        fc = self["fc"] if "fc" in self else vars(self).get("fc")  # a plain function lies there
        if fc is None:
            return output
        if not is_plain(fc):
            return fc(output).astype(output.dtype)
        sizes = (self.proj_size, output.shape[-1])
        check_array(self.op, "fc.weight", fc.weight, "[P, O]", sizes)
        if "bias" in fc:
            check_array(self.op, "fc.bias", fc.bias, "[P]", sizes[:1])
        return shapeless.linear(fc, output).astype(output.dtype)

    def _masked_trace(
        self, x: mx.array, state: Any, ts: Any, mask: Any, resets: Resets | None
    ) -> Trace:
        """As `_trace`; a step that `mask` [B, T] leaves out keeps state and output as they are, or
        as they start where it begins an episode.
        """
        if (held := held_trace(self, x, state, ts, mask, resets)) is not None:
            return held
        steps = Steps.of(mask)
        ts = steps.take(ts, 1.0) if is_spans(ts) else ts
        moved = None if resets is None else resets.moved(steps)
        trace = self._trace(steps.take(x, 0.0), state, ts, moved)
        states, outputs, last = spread_states(steps, trace.states, state), trace.outputs, None
        first = resets.state if resets is not None else state
        if resets is not None:
            states = resets.spread(steps, mask, states, first)
        else:
            last = tree_map(steps.last, trace.states, state)
        # What is read of the states may be less than they are, so that is put back, not they.
        if runs_sequences(self.rnn_cell):
            outputs = readout_of(self, trace.states) if outputs is None else outputs
            nothing, anew = readout_of(self, state), readout_of(self, first)
        else:
            assert outputs is not None  # a step of such a cell gives its own
            nothing = anew = mx.zeros((x.shape[0], *outputs.shape[2:]), outputs.dtype)
        outputs = steps.spread(outputs, nothing)
        if resets is not None:
            outputs = resets.spread(steps, mask, outputs, anew)
        return Trace(states, outputs, last)

    def _trace(self, x: mx.array, state: Any, ts: Any, resets: Resets | None) -> Trace:
        """Run over x [B, T, I] without a mask."""
        if x.shape[1] == 0:
            return self._empty_trace(x, state)
        whole, anew = True, {}
        if resets is not None:
            whole = starts_anew(self.rnn_cell)
            anew = {"resets": resets.at, "reset_state": resets.state}
        if whole and runs_sequences(self.rnn_cell) and not self.mixed_memory:
            return sequence_trace(self, x, state, ts, anew)
        if whole and self.mixed_memory and cell_takes_memory(self):
            memory = self.lstm.weights()
            return Trace(self.rnn_cell.mixed_sequence(x, state, ts, memory, **anew), None)
        return self._step_trace(x, state, ts, resets)

    def _empty_trace(self, x: mx.array, state: Any) -> Trace:
        outputs = None
        if not runs_sequences(self.rnn_cell):  # a step that is never computed tells O
            hidden = state[0] if self.mixed_memory else state
            output = step_of(self, mx.zeros((x.shape[0], x.shape[2]), x.dtype), hidden, 1.0)[0]
            outputs = mx.zeros((x.shape[0], 0, *output.shape[1:]), output.dtype)
        return Trace(tree_map(lambda s: s[:, None][:, :0], state), outputs)

    def _step_trace(self, x: mx.array, state: Any, ts: Any, resets: Resets | None = None) -> Trace:
        """Run step by step, each with one call of the cell, in float32 with mixed memory."""
        with dispatch.stream_of_steps(self._fused_steps()):
            return trace_by_steps(self, x, state, ts, resets)

    def _fused_steps(self) -> list[FusedCall]:
        """The fused calls of each step where all of it but the LSTM is such; else none."""
        fused = runs_sequences(self.rnn_cell) and not self.rnn_cell.stepwise()
        return self.rnn_cell.calls() if fused else []
