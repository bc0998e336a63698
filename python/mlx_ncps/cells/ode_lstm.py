"""ODE-LSTM: an LSTM whose hidden state evolves between inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .._fork import check_process
from ..at_once import BATCH, attempt
from ..ops import shapeless
from ..ops.checks import check_array
from ..ops.resets import checked_resets, started_anew, where_and_from
from ..ops.timespans import normalise_timespans
from ..programs import Declined, float32_weights, run_program
from .base import first_state
from .gated import FieldCell
from .lstm import LSTMCell

if TYPE_CHECKING:
    from .._types import StateLike, TimespansLike


class ODELSTMCell(FieldCell):
    """ODE-LSTM: an LSTM reads the input, then its output evolves by itself for ts, which leaves the
    memory c alone (Lechner and Hasani 2020).

        (h*, c') = LSTM(x, (h, c))  (`LSTMCell`) ;  h' = h(ts) of dh/dt = network(h) from h*

    `cell(inputs [B, I], state (h, c), ts=1.0) -> (output, (h', c'))`, output = h', all [B, H]; with
    ts = 0 it is the LSTM.

    Args:
        input_size: number of inputs I; None: that of the first call.
        hidden_size: number of neurons H.
        field_units: widths of the network's tanh layers; None: one of H.
        ode_unfolds: solver steps per time step.
        ode_solver: "explicit" or "runge_kutta".

    Parameters: `lstm.{input_map.{weight, bias}, recurrent_map.weight}`, `field.{n}.{weight, bias}`.

    Example:
        >>> cell = ODELSTMCell(20, 16)
        >>> output, (h, c) = cell(mx.ones((8, 20)), (mx.zeros((8, 16)), mx.zeros((8, 16))), 0.5)
        >>> output.shape, c.shape
        ((8, 16), (8, 16))
    """

    op = "ode_lstm"
    lstm: LSTMCell

    @property
    def state_size(  # pyright: ignore[reportIncompatibleMethodOverride]  the state is a pair
        self,
    ) -> tuple[int, int]:
        """The sizes of h and c."""
        return (self.hidden_size, self.hidden_size)

    def state_names(self) -> Any:
        """The names of the entries of h and of c."""
        numbers = range(self.hidden_size)
        return [f"neuron_{n}" for n in numbers], [f"memory_neuron_{n}" for n in numbers]

    def _create(self, width: int) -> None:
        self.input_size = width
        self.lstm = LSTMCell(width, self.hidden_size)
        self._create_field()

    def get_initial_state(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: mx.array | None = None, batch_size: int | None = None
    ) -> tuple[mx.array, mx.array]:
        """Zeros (h, c), each [B, H], where B is `batch_size` or the first size of `inputs`, whose
        dtype they take.
        """
        states: Any = first_state(self.op, inputs, batch_size, self.state_size)
        return states

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: mx.array, state: StateLike, ts: TimespansLike = 1.0
    ) -> tuple[mx.array, tuple[mx.array, mx.array]]:
        """One step of length `ts`: a number, [B] or [B, 1].

        inputs: [B, I]; state: (h, c), each [B, H]. Returns (output [B, H], (h', c')). Raises
        ValueError for a wrong shape, width or dtype, and for a number ts that is negative or NaN.
        """
        done: Any = attempt(self, None, inputs, state, ts, BATCH)
        if done is not None:
            return done
        check_array(self.op, "inputs", inputs, "[B, I]", (None, None))
        self.build(inputs.shape)
        span = self._step_timespans(ts, inputs.shape[0])
        h, c = (states[:, 0] for states in self.sequence(inputs[:, None], state, span))
        return h, (h, c)

    def sequence(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: mx.array,
        state: StateLike,
        ts: TimespansLike,
        resets: mx.array | None = None,
        reset_state: StateLike | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Run over a sequence: inputs [B, T, I], state (h, c), ts None, a number or [B, T] -> all
        h and all c, each [B, T, H], in the dtype of the inputs.  resets, reset_state: as in
        `ops.cfc_mixed_sequence`.
        """
        check_process(self.op)
        check_array(self.op, "inputs", inputs, "[B, T, I]", (None, None, None))
        shapeless.refuse(self.op, "a cell of MLX operations", length=False)
        batch, steps, width = inputs.shape
        self.build(width)
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise ValueError(f"[{self.op}] state must be (h, c), got {type(state).__name__}.")
        for name, part in zip("hc", state, strict=True):
            check_array(self.op, f"state {name}", part, "[B, H]", (batch, self.hidden_size))
        if type(self.lstm) is not LSTMCell:
            kind = type(self.lstm).__name__
            raise ValueError(f"[{self.op}] lstm must be an LSTMCell, got {kind}.")
        ts = normalise_timespans(self.op, ts, batch, steps)
        anew = checked_resets(self.op, resets, reset_state, state, batch, steps).get("resets")
        made = run_program(self, [self], self._program, inputs, ts, state, *where_and_from(anew))
        if not isinstance(made, Declined):
            h, c = made[0]
            return h, c
        h, c = (part.astype(mx.float32) for part in state)
        with float32_weights([self]):
            drive, states = self.lstm._drive(inputs), [(h, c)]
            for t in range(steps):
                h, c = started_anew(anew, t, h, c)
                span = ts[:, t : t + 1] if isinstance(ts, mx.array) and ts.ndim else ts
                h, c = self.lstm._gates(drive[:, t], h, c)
                h = self._evolve(h, span)
                states.append((h, c))
        h, c = (mx.stack(list(part), axis=1)[:, 1:] for part in zip(*states, strict=True))
        return h.astype(inputs.dtype), c.astype(inputs.dtype)

    def _program(  # pyright: ignore[reportIncompatibleMethodOverride]  of two states
        self, x: mx.array, ts: mx.array, h: mx.array, c: mx.array
    ) -> tuple[list, list]:
        """As `SteppedCell` has it."""
        h, c = self.lstm._gates(self.lstm._drive(x), h, c)
        return [self._evolve(h, ts), c], []

    def readout(self, states: StateLike) -> mx.array:
        """Outputs [..., H] of states (h, c): h."""
        return states[0]
