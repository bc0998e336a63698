"""The call of the recurrent layers: contract, layout, both directions, state kept between calls,
streaming; `CfC`, `LTC` and `LiquidRNN` are this and a cell.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from .._fork import check_process
from ..cells import LiquidCell
from ..checks import flag, float_dtype, is_array, sizes
from ..config import Configurable
from ..layers.base import drawing_from, output_shape
from ..layers.linear import is_plain
from ..ops import shapeless
from ..ops.checks import check_array
from ..ops.stepping import EVERY, LAST, STEP, linear, why_not_at_once
from ..ops.timespans import normalise_timespans
from ..options import one_of as one_of_these
from .direction import Direction, Result, state_batch
from .layout import Contract, Layout, one_of
from .masks import Seen
from .plan import Plan, make_plan
from .tracing import check_state_captured

MERGE_MODES = ("concat", "sum", "mul", "ave", None)


def merge(mode, first, second):
    """The outputs of both directions as one, or as a pair when `mode` is None."""
    if mode == "concat":
        return mx.concatenate([first, second], axis=-1)
    if mode == "sum":
        return first + second
    if mode == "mul":
        return first * second
    return (first + second) / 2 if mode == "ave" else (first, second)


class SequenceLayer(Configurable, Direction):
    """A cell over sequences, in one direction or both: `rnn_cell`, `lstm`, `fc`, and the same under
    `backward` for the other direction.
    """

    checked_options = Direction.checked_options | {
        **dict.fromkeys(("return_sequences", "return_state", "batch_first"), flag),
        **dict.fromkeys(("bidirectional", "go_backwards", "stateful"), flag),
        "merge_mode": one_of_these(*MERGE_MODES),
    }
    fixed_options = Direction.fixed_options | {"bidirectional"}

    def __init__(
        self,
        cell,
        contract: Contract,
        batch_first=True,
        proj_size=None,
        mixed_memory=False,
        bidirectional=False,
        merge_mode="concat",
        go_backwards=False,
        stateful=False,
        backward_cell=None,
    ):
        super().__init__(cell, proj_size, mixed_memory)
        self.bidirectional = bidirectional
        self.merge_mode = merge_mode
        if backward_cell is not None and not self.bidirectional:
            raise ValueError(f"[{self.op}] backward_cell wants bidirectional=True, got False.")
        self.return_sequences, self.return_state = contract
        self.batch_first = batch_first
        self.go_backwards = go_backwards
        self.stateful = stateful
        self._kept = {}  # of mx.compile's inputs and outputs when `state` is, and never a parameter
        if self.bidirectional:
            self.backward = self.other_direction(backward_cell)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """This layer, and `backward` when it is bidirectional."""
        if not self.bidirectional:
            return (self,)
        if not isinstance(self.backward, Direction):
            kind = type(self.backward).__name__
            raise ValueError(f"[{self.op}] backward must be a layer of this package, got {kind}.")
        return (self, self.backward)

    @property
    def state_size(self):
        """Number of neurons, H, of each direction."""
        return self.rnn_cell.state_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None until the first call when the wiring doesn't know it."""
        return self.rnn_cell.sensory_size

    @property
    def motor_size(self) -> int:
        """Number of motor neurons."""
        return self.rnn_cell.motor_size

    @property
    def output_size(self) -> int:
        """Number of outputs of the cell, before `proj_size` and before directions are merged."""
        return self.rnn_cell.output_size

    @property
    def merged_size(self) -> int:
        """Number of outputs of a call: after `proj_size`, of both directions."""
        size = self.output_size if self.proj_size is None else self.proj_size
        return 2 * size if self.bidirectional and self.merge_mode == "concat" else size

    @property
    def synapse_count(self) -> int:
        """Synapses between neurons."""
        return self.rnn_cell.synapse_count

    @property
    def sensory_synapse_count(self) -> int:
        """Synapses from inputs to neurons."""
        return self.rnn_cell.sensory_synapse_count

    def __call__(
        self,
        inputs,
        hx=None,
        timespans=None,
        *,
        mask=None,
        time_delta=None,
        initial_state=None,
        initial_states=None,
    ):
        """The layer over a sequence; the class says what comes back.

        inputs: [B, T, I], [T, B, I] with batch_first=False, or [T, I]; float32, float16 or
            bfloat16.
        hx: state before the first step, [B, H], or [H] with inputs [T, I]; a pair (h, c) of them
            with mixed memory; (forward, backward) of all that when bidirectional. None: zeros, or
            the state that `stateful` kept. Aliases `initial_state`, `initial_states`.
        timespans: time elapsed before each step: None (1.0), a number, or an array [], [T], [B, T],
            [B, T, 1]; [T, B], [T, B, 1] with batch_first=False. Alias `time_delta`. A direction
            that reads backwards takes each step with its own time span.
        mask: [B, T] ([T, B], [T]), 0 where a step is missing: it is never read, and state and
            output of the step before it stay. Or [B, T, F] ([T, B, F], [T, F]) for inputs of F
            features, 0 where a feature is missing: the cell reads its last seen values and the
            mask, 2 F inputs, or also the time since each was seen, 3 F inputs (`carry_forward`).

        Without any step (T = 0) the state is the initial one, and so is what the last output is
        read from. Raises ValueError for a wrong rank, width, kind or dtype, for timespans of
        another length, and for a number that is negative or NaN; such an element of an array gives
        NaN from its step on.
        """
        hx = one_of(self.op, hx=hx, initial_state=initial_state, initial_states=initial_states)
        timespans = one_of(self.op, timespans=timespans, time_delta=time_delta)
        if mask is None and _lies_at_once(inputs, self.batch_first):
            form = EVERY if self.return_sequences else LAST
            done = self._step_at_once(inputs, hx, timespans, form)
            if done is not None:
                return done if self.return_state else done[0]
        check_process(self.op)
        layout = Layout.of(self.op, inputs, self.batch_first)
        x = layout.inputs(inputs)  # [B, T, F]
        batch, steps, features = x.shape
        check_array(self.op, "inputs", x, "[B, T, I]", x.shape)
        mask = layout.mask(mask, batch, steps, features)
        self.build(self.input_width(features, mask is not None and mask.ndim == 3))
        ts = layout.timespans(timespans, batch, steps)
        ts = normalise_timespans(self.op, ts, batch, steps, x)
        states = self._states(layout, hx, x)
        output, states = self._run(x, states, ts, mask)
        output = layout.sequences(output) if self.return_sequences else layout.single(output)
        return (output, layout.single(states)) if self.return_state else output

    def step(self, x, state=None, ts=None):
        """One step of a stream -> (output [B, O], new state), equal to a sequence cut into steps.

        x: [B, I] or [I].  state: as `hx` of a call; None: zeros, or the state that `stateful` kept.
        ts: time elapsed before the step: None (1.0), a number, or an array [], [B] or [B, 1].
        With float32 arrays that are evaluated, a CfC or an LTC computes the step at once on the
        CPU, without a graph: the result is evaluated too. A large batch is an Apple GPU's.
        Raises ValueError as a call does, and when the layer reads backwards, which a stream can't.
        """
        if self.bidirectional or self.go_backwards:
            option = "bidirectional" if self.bidirectional else "go_backwards"
            raise ValueError(f"[{self.op}] step wants a layer that reads forwards, got {option}.")
        if _ndim(x) not in (1, 2):
            got = x.shape if is_array(x) else type(x).__name__
            raise ValueError(f"[{self.op}] inputs must be [B, I] or [I], got {got}.")
        done = self._step_at_once(x, state, ts, STEP)
        if done is not None:
            return done
        layout = Layout(self.op, x.ndim == 2, True)
        x = x[:, None] if layout.batched else x[None, None]  # [B, 1, I]
        check_array(self.op, "inputs", x, "[B, T, I]", x.shape)
        self.build(x.shape[-1])
        if (is_array(ts) or isinstance(ts, np.ndarray)) and ts.ndim > 0:
            if ts.shape not in (x.shape[:1], (x.shape[0], 1)):
                raise ValueError(f"[{self.op}] ts must be [B] = {x.shape[:1]}, got {ts.shape}.")
            ts = ts[:, None] if ts.ndim == 1 else ts
        ts = normalise_timespans(self.op, ts, x.shape[0], 1)
        states = self._states(layout, state, x)
        with shapeless.one_step():
            result = self.run(x, states[0], ts, None, self._kept_seen(0), sequences=False)
        self._keep([result], x)
        return layout.single(result.output), layout.single(result.state)

    def _step_at_once(self, x, state, ts, form: int):
        """(output, new state) of one step computed now, or None where a graph must."""
        cell, lstm = self.get("rnn_cell"), self.get("lstm")  # a plain function lies elsewhere
        if self.bidirectional or self.go_backwards or (self.mixed_memory and lstm is None):
            return None
        if not isinstance(cell, LiquidCell):
            return None
        if state is None and self._kept:
            if self._kept["seen"]:
                return None
            state = self._kept["states"][0]
        done = cell.step_at_once(x, state, ts, form, lstm)
        if done is None:
            return None
        output, state = done
        if "fc" in self or "fc" in self.__dict__:
            output = self._project_at_once(output)
        if self.stateful:
            batched = tree_map(lambda s: s if s.ndim == 2 else s[None], state)
            self._kept = {"states": [batched], "seen": []}
        return output, state

    def _project_at_once(self, output):
        """`_project` without a graph where the map is a linear one and evaluated."""
        fc, mapped = self.get("fc"), None
        if fc is not None and is_plain(fc):
            mapped = linear(output, fc["weight"], fc.get("bias"))
        wrong = mapped is None or mapped.shape[-1] != self.proj_size
        return self._project(output) if wrong else mapped

    def _run(self, x, states, ts, mask):
        """Both directions over x [B, T, F] -> (output merged, state or pair of states)."""
        results = []
        for n, half in enumerate(self.directions):
            arguments = (x, states[n], ts, mask, self._kept_seen(n))
            if self.go_backwards != (n == 1):
                shapeless.refuse(self.op, "reading backwards", length=False)
                arguments = _reversed(*arguments)
            results.append(half.run(*arguments, sequences=self.return_sequences))
        self._keep(results, x)
        if not self.bidirectional:
            return results[0].output, results[0].state
        outputs = [result.output for result in results]
        if self.return_sequences:
            outputs[1] = outputs[1][:, ::-1]
        return merge(self.merge_mode, *outputs), tuple(result.state for result in results)

    # --- states ---

    def _states(self, layout: Layout, hx, x) -> tuple:
        """The state of each direction before the first step of x [B, T, F], batched."""
        batch = x.shape[0]
        sizes = self.state_sizes
        if hx is None and self._kept:
            return self._kept_states(batch)
        if hx is None and sizes is None:
            return tuple(half.free_initial_state(batch) for half in self.directions)
        if self.bidirectional:
            sizes = {"forward": sizes, "backward": sizes}
        states = layout.state(hx, sizes, x)
        return states if self.bidirectional else (states,)

    def _kept_states(self, batch: int) -> tuple:
        kept = state_batch(self._kept["states"])
        if kept != batch:
            raise ValueError(
                f"[{self.op}] inputs must be of the batch of the kept state, {kept}, got {batch}: "
                "reset_states() starts anew."
            )
        return tuple(self._kept["states"])

    def _kept_seen(self, n: int) -> Seen | None:
        """What direction n knew of each feature at the end of the call before."""
        seen = self._kept.get("seen", ())
        return Seen(*seen[n]) if seen else None

    def _keep(self, results: list[Result], x) -> None:
        """Keep where a call ended, without its past: gradients end at the border of a call."""
        if self.stateful:
            check_state_captured(self.op, self, x)
            seen = [tuple(result.seen) for result in results if result.seen is not None]
            kept = {"states": [result.state for result in results], "seen": seen}
            self._kept = tree_map(mx.stop_gradient, kept)

    def reset_states(self) -> None:
        """Forget the state that `stateful` kept: the next call starts from zeros."""
        self._kept = {}

    # --- shapes, weights, configuration ---

    def compute_output_shape(self, input_shape) -> tuple:
        """The shape of the output, without the state, for inputs of this shape, [B, T, I],
        [T, B, I] or [T, I], where None is any size; a pair of shapes for `merge_mode=None`.

        Raises ValueError for another rank.
        """
        input_shape = sizes(self.op, "input_shape", input_shape, "a tuple of sizes or None", None)
        batched = len(input_shape) != 2
        rank = 3 if batched else 2
        shape = output_shape(self.op, input_shape, rank, None, self.merged_size)
        if not self.return_sequences:
            shape = (shape[0 if self.batch_first else 1], shape[2]) if batched else shape[1:]
        return (shape, shape) if self.bidirectional and self.merge_mode is None else shape

    def redraw(self, key=None) -> None:
        """Draw new weights, in both directions: from `key`, an `mx.random.key`, always the same."""
        with drawing_from(key):
            super().redraw()
            if self.bidirectional:
                self.backward.redraw()

    def _argument_now(self, value):
        now = getattr(self.rnn_cell, "_argument_now", None)  # who has a wiring of these arguments
        return value if now is None else now(value)

    def _built_for(self) -> int | None:
        return self.rnn_cell.sensory_size if getattr(self.rnn_cell, "built", False) else None

    def build(self, input_shape) -> None:
        """Make the weights of both directions for so many inputs, an int, or for inputs of a shape
        that ends with it, [..., I], when the wiring doesn't know the number and no call has told
        it; otherwise nothing. Training wants them to exist.

        Raises ValueError when they exist for another number of inputs.
        """
        for half in self.directions:
            Direction.build(half, input_shape)

    def _build_for(self, width: int) -> None:
        self.build(width)

    # --- what runs ---

    def explain(self, shape, *, dtype=mx.float32, scalar_timespans=True) -> Plan:
        """What a call with inputs of this shape would run and why, as a printable `Plan`; computes
        nothing.
        """
        shape = sizes(self.op, "shape", shape)
        float_dtype(self.op, dtype)
        scalar_timespans = flag(self.op, "scalar_timespans", scalar_timespans)
        if len(shape) not in (2, 3):
            raise ValueError(f"[{self.op}] shape must be [B, T, I] or [T, I], got {shape}.")
        batch, steps = (1, *shape)[-3:-1]
        if not self.batch_first and len(shape) == 3:
            batch, steps = steps, batch
        self.build(shape)
        halves = self.directions
        of_call = {"batch": batch, "steps": steps, "dtype": dtype, "scalar_ts": scalar_timespans}
        calls = [(op, facts._replace(**of_call)) for half in halves for op, facts in half.calls()]
        fused = [call for half in halves for call in half.fused_steps()]
        graph = self._why_not_at_once(len(shape), batch, steps, dtype)
        return make_plan(calls, self.stepwise(), graph, own_steps=not fused)

    def _why_not_at_once(self, ndim: int, batch: int, steps: int, dtype) -> str:
        """Why `__call__` leaves evaluated inputs of this shape to a graph, as it decides it."""
        if self.bidirectional or self.go_backwards:
            return "the layer reads backwards"
        if ndim == 3 and not self.batch_first:
            return "the inputs are [T, B, I]"
        cell, lstm = self.rnn_cell, self.get("lstm")
        if not isinstance(cell, LiquidCell) or (self.mixed_memory and lstm is None):
            return "a part of the layer is none of this package"
        if self._kept and self._kept["seen"]:
            return "the layer keeps the last values of masked features"
        return why_not_at_once(cell, lstm, batch, steps, dtype)


def _lies_at_once(inputs, batch_first: bool) -> bool:
    """Whether inputs are [B, T, I] or [T, I], as they lie where they are computed at once."""
    ndim = _ndim(inputs)
    return ndim == 2 or (ndim == 3 and batch_first)


def _ndim(x) -> int:
    """The rank of an array; 0 for what is none, also for one that was never initialised."""
    try:
        return x.ndim if isinstance(x, mx.array) else 0
    except TypeError:
        return 0


def _reversed(x, state, ts, mask, seen):
    """Inputs, time spans and mask in the opposite order of time."""
    ts = ts[:, ::-1] if isinstance(ts, mx.array) and ts.ndim == 2 else ts
    return x[:, ::-1], state, ts, None if mask is None else mask[:, ::-1], seen
