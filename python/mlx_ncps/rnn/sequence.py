"""The call of the recurrent layers: contract, layout, both directions, state kept between calls,
streaming. `CfC`, `LTC` and `LiquidRNN` are this and a cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .._fork import check_process
from ..at_once import EVERY, LAST, STEP
from ..checks import FLOATS, flag, is_array, kind_of
from ..config import Configurable
from ..layers.drawing import drawing_from
from ..ops import shapeless
from ..ops.checks import check_array
from ..ops.timespans import normalise_timespans
from ..options import one_of as one_of_these
from .direction import Direction
from .immediate import Immediate, rank_of
from .layout import Contract, Layout, one_of
from .merge import MERGE_MODES, backwards, merge
from .neurons import Neurons

if TYPE_CHECKING:
    from .._types import ShapeLike

Timespans = float | mx.array | np.ndarray | None


class SequenceLayer(Configurable, Neurons, Immediate):
    """A cell over sequences, in one direction or both: `rnn_cell`, `lstm`, `fc`, and the same under
    `backward` for the other direction.
    """

    _checked_options = Direction._checked_options | {
        **dict.fromkeys(("return_sequences", "return_state", "batch_first"), flag),
        **dict.fromkeys(("bidirectional", "go_backwards", "stateful"), flag),
        "merge_mode": one_of_these(*MERGE_MODES),
    }
    _fixed_options = Direction._fixed_options | {"bidirectional"}

    return_sequences: bool
    return_state: bool
    batch_first: bool
    bidirectional: bool
    merge_mode: str | None
    go_backwards: bool
    stateful: bool
    backward: Any

    def __init__(
        self,
        cell: Any,
        contract: Contract,
        batch_first: bool = True,
        proj_size: int | None = None,
        mixed_memory: bool = False,
        bidirectional: bool = False,
        merge_mode: str | None = "concat",
        go_backwards: bool = False,
        stateful: bool = False,
        backward_cell: Any = None,
    ):
        super().__init__(cell, proj_size, mixed_memory)  # pyright: ignore[reportCallIssue]
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
            self.backward = self._other_direction(backward_cell)

    def __call__(
        self,
        inputs: mx.array,
        hx: Any = None,
        timespans: Timespans = None,
        *,
        mask: mx.array | np.ndarray | None = None,
        resets: mx.array | np.ndarray | None = None,
        reset_state: Any = None,
        time_delta: Timespans = None,
        initial_state: Any = None,
        initial_states: Any = None,
    ) -> Any:
        """The layer over a sequence; the class says what comes back.

        inputs: [B, T, I], [T, B, I] with batch_first=False, or [T, I]; float32, float16 or
            bfloat16.
        hx: state before the first step, [B, H], or [H] with inputs [T, I]; a pair (h, c) of them
            with mixed memory; (forward, backward) of all that when bidirectional. None: zeros, or
            the state that `stateful` kept. Aliases `initial_state`, `initial_states`.
        timespans: time elapsed before each step: None (1.0), a number, or an array [], [T], [B, T],
            [B, T, 1]; [T, B], [T, B, 1] with batch_first=False. Alias `time_delta`. A direction
            that reads backwards takes each step with its own time span.
        mask: [B, T] ([T, B], [T]), 0 where a step is missing: it is never read, state and output
            of the step before it stay, and its time span isn't added to the next one's. Or
            [B, T, F] ([T, B, F], [T, F]) for inputs of F features, 0 where a feature is missing:
            the cell reads its last seen values and the mask, 2 F inputs, or also the time since
            each was seen, 3 F inputs (`carry_forward`).
        resets: [B, T] ([T, B], [T]), not 0 at the first step of an episode: the state starts anew
            before it, and nothing passes from one episode to another, gradients neither. A
            direction that reads backwards starts anew before the last step of an episode.
        reset_state: from which it starts anew, as hx; 0 for zeros. None: hx where it is given,
            else zeros, never what `stateful` kept.

        Without any step (T = 0) the state is the initial one, and so is what the last output is
        read from. Raises ValueError for a wrong rank, width, kind or dtype, for timespans of
        another length, and for a number that is negative or NaN; such an element of an array gives
        NaN from its step on.
        """
        # Long: what it is told of its arguments is what users read.
        if initial_state is not None or initial_states is not None:
            hx = one_of(self.op, hx=hx, initial_state=initial_state, initial_states=initial_states)
        if time_delta is not None:
            timespans = one_of(self.op, timespans=timespans, time_delta=time_delta)
        if resets is None and reset_state is None:
            form = EVERY if self.return_sequences else LAST
            done = self._at_once(inputs, hx, timespans, form, mask)
            if done is not None:
                return done if self.return_state else done[0]
        check_process(self.op)
        layout = Layout.of(self.op, inputs, self.batch_first)
        as_they_lie = layout.batched and self.batch_first
        x = inputs if as_they_lie else layout.inputs(inputs)  # [B, T, F]
        batch, steps, features = x.shape
        if x.dtype not in FLOATS:
            check_array(self.op, "inputs", x, "[B, T, I]", x.shape)
        if mask is not None:
            mask = layout.mask(mask, batch, steps, features)
            features = self._input_width(features, mask is not None and mask.ndim == 3)
        self.build(features)
        if timespans is not None:
            timespans = layout.timespans(timespans, batch, steps)
        ts = normalise_timespans(self.op, timespans, batch, steps, x)
        states = self._states(layout, hx, x)
        episodes = self._episodes(layout, resets, hx, reset_state, x)
        output, states = self._run(x, states, ts, mask, episodes)
        if not as_they_lie:
            output = layout.sequences(output) if self.return_sequences else layout.single(output)
            states = layout.single(states)
        return (output, states) if self.return_state else output

    def step(
        self,
        x: mx.array,
        state: Any = None,
        ts: Timespans = None,
        *,
        resets: Any = None,
        reset_state: Any = None,
    ) -> tuple:
        """One step of a stream -> (output [B, O], new state), equal to a sequence cut into steps.

        x: [B, I] or [I].  state: as `hx` of a call; None: zeros, or the state that `stateful` kept.
        ts: time elapsed before the step: None (1.0), a number, or an array [], [B] or [B, 1].
        resets: [B], or [] or a bool for one sample, not 0 where an episode begins: there the step
        starts from `reset_state`, as `hx` of a call; None or 0: zeros.
        A CfC or an LTC computes the step at once on the CPU, without a graph, after it has
        evaluated what it reads: the result is evaluated too. Not where mx.compile, a gradient or
        mx.vmap traces it, and a large batch is an Apple GPU's.
        Raises ValueError as a call does, and when the layer reads backwards, which a stream can't.
        """
        if self.bidirectional or self.go_backwards:
            option = "bidirectional" if self.bidirectional else "go_backwards"
            raise ValueError(f"[{self.op}] step wants a layer that reads forwards, got {option}.")
        if rank_of(x) not in (1, 2):
            got = x.shape if is_array(x) else kind_of(x)
            raise ValueError(f"[{self.op}] inputs must be [B, I] or [I], got {got}.")
        if resets is not None or reset_state is not None:
            state = self._started_anew(x, state, resets, reset_state)
        done = self._at_once(x, state, ts, STEP)
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
            result = self._run_half(x, states[0], ts, None, self._kept_seen(0), sequences=False)
        if self.stateful:
            self._keep([result], x)
        return layout.single(result.output), layout.single(result.state)

    def _run(self, x, states, ts, mask, episodes):
        """Both directions over x [B, T, F] -> (output merged, state or pair of states)."""
        results = []
        for n, half in enumerate(self._directions if self.bidirectional else (self,)):
            seen = self._kept_seen(n) if self._kept else None
            arguments: Any = (x, states[n], ts, mask, seen, episodes[n])
            if self.go_backwards != (n == 1):
                shapeless.refuse(self.op, "reading backwards", length=False)
                arguments = backwards(*arguments)
            results.append(half._run_half(*arguments, sequences=self.return_sequences))
        if self.stateful:
            self._keep(results, x)
        if not self.bidirectional:
            return results[0].output, results[0].state
        outputs = [result.output for result in results]
        if self.return_sequences:
            outputs[1] = outputs[1][:, ::-1]
        return merge(self.merge_mode, *outputs), tuple(result.state for result in results)

    # --- weights, configuration ---

    def redraw(self, key: mx.array | int | None = None) -> None:
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

    def build(self, input_shape: ShapeLike) -> None:
        """Make the weights of both directions for so many inputs, an int, or for inputs of a shape
        that ends with it, [..., I], when the wiring doesn't know the number and no call has told
        it; otherwise nothing. Training wants them to exist.

        Raises ValueError when they exist for another number of inputs.
        """
        Direction.build(self, input_shape)
        if self.bidirectional:
            Direction.build(self._directions[1], input_shape)

    def _build_for(self, width: int) -> None:
        self.build(width)
