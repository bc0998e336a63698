"""Gated continuous-time baselines: CT-GRU, ODE-RNN and ODE-LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .. import limits
from .._fork import check_process
from ..checks import at_most, size, sizes
from ..layers.linear import Linear
from ..ops import shapeless
from ..ops.checks import check_array
from ..ops.resets import checked_resets, started_anew
from ..ops.timespans import normalise_timespans
from ..options import positive
from ..programs import Declined, float32_weights, run_program
from .base import first_state
from .lstm import LSTMCell
from .stepwise import LEAKLESS_OPTIONS, DenseCell, dense, solve, tanh_network

if TYPE_CHECKING:
    from .._types import StateLike, TimespansLike


class CTGRUCell(DenseCell):
    """Continuous-time GRU: each unit keeps M traces that decay at fixed time scales (Mozer et al.
    2017).

        h = sum_i g_i                                            g_i [B, H], i = 1..M
        r_i = softmax_i(-(lnR - ln tau_i)^2)                     lnR = Wr [x, h] + br
        q = tanh(Wq [x, sum_i r_i g_i] + bq)
        s_i = softmax_i(-(lnS - ln tau_i)^2)                     lnS = Ws [x, h] + bs
        g_i <- ((1 - s_i) g_i + s_i q) exp(-ts / tau_i)          tau_i = tau 10^((i-1)/2)

    `cell(inputs [B, I], state [B, H M], ts=1.0) -> (output [B, H], new state [B, H M])`; the output
    is h after the step, the state is [B, H, M] laid out flat. The input acts at once, then the
    traces decay for ts. (The code of Hasani et al. 2021 divides by ln tau_i instead of tau_i, which
    is 0 for the first scale, and learns lnR and lnS for each scale; this is the paper's form.)

    Args:
        input_size: number of inputs I; None: that of the first call.
        hidden_size: number of units H.
        scales: number of traces M.
        tau: the shortest time scale, a number > 0.

    Parameters: `retrieve`, `detect`, `store`, each with `weight` [H, I + H] and `bias` [H].

    Example:
        >>> cell = CTGRUCell(20, 16, scales=3)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 48)), 0.5)
        >>> output.shape, state.shape
        ((8, 16), (8, 48))
    """

    op = "ctgru"
    scales: int
    tau: float
    retrieve: Linear
    detect: Linear
    store: Linear
    _checked_options = DenseCell._checked_options | {"scales": size, "tau": positive}
    _fixed_options = DenseCell._fixed_options | {"scales"}

    def __init__(
        self, input_size: int | None, hidden_size: int, scales: int = 8, tau: float = 1.0
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.scales = scales
        at_most(self.op, "the state", self.hidden_size * self.scales, limits.MAX_SIZE)
        self.tau = tau
        self._build_known()

    @property
    def state_size(self) -> int:
        """Numbers in a state, H M."""
        return self.hidden_size * self.scales

    def state_names(self) -> Any:
        """The name of each entry of the state: "neuron_0_trace_0", ..., in the order [H, M]."""
        return [
            f"neuron_{n}_trace_{m}" for n in range(self.hidden_size) for m in range(self.scales)
        ]

    def _create(self, width: int) -> None:
        self.input_size = width
        for name in ("retrieve", "detect", "store"):
            self[name] = dense(width + self.hidden_size, self.hidden_size)

    def _step(self, drive: mx.array, state: mx.array, ts: float | mx.array) -> mx.array:
        log_tau = np.log(self.tau) + np.log(10.0) / 2.0 * np.arange(self.scales)
        ln, rate = mx.array(log_tau.astype(np.float32)), mx.array(np.exp(-log_tau), mx.float32)
        traces = state.reshape(-1, self.hidden_size, self.scales)  # [B, H, M]
        inputs = mx.concatenate([drive, traces.sum(axis=-1)], axis=-1)

        def share(layer: Callable[[mx.array], mx.array]) -> mx.array:
            return mx.softmax(-mx.square(layer(inputs)[..., None] - ln), axis=-1)  # [B, H, M]

        retrieved = (share(self.retrieve) * traces).sum(axis=-1)
        signal = mx.tanh(self.detect(mx.concatenate([drive, retrieved], axis=-1)))
        stored = share(self.store)
        traces = (1.0 - stored) * traces + stored * signal[..., None]
        span = ts[..., None] if isinstance(ts, mx.array) and ts.ndim else ts
        return (traces * mx.exp(-span * rate)).reshape(state.shape)

    def readout(self, states: mx.array) -> mx.array:
        """Outputs [..., H] of states [..., H M]: the sums of the traces."""
        traces = states.reshape(*states.shape[:-1], self.hidden_size, self.scales)
        return traces.astype(mx.float32).sum(axis=-1).astype(states.dtype)


class FieldCell(DenseCell):
    """Base of the cells that let a state evolve by itself: dh/dt = network(h), a tanh network."""

    _checked_options = DenseCell._checked_options | LEAKLESS_OPTIONS
    field: list[Linear]

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        field_units: Sequence[int] | None = None,
        ode_unfolds: int = 4,
        ode_solver: str = "explicit",
    ) -> None:
        super().__init__(input_size, hidden_size)
        units = (self.hidden_size,) if field_units is None else field_units
        self._field_units = sizes(self.op, "field_units", units, low=1, most=limits.MAX_SIZE)
        self.ode_unfolds = ode_unfolds
        self.ode_solver = ode_solver
        self._build_known()

    def _create_field(self) -> None:
        sizes = [self.hidden_size, *self._field_units, self.hidden_size]
        self.field = [dense(n, m) for n, m in pairwise(sizes)]

    def _evolve(self, h: mx.array, ts: float | mx.array) -> mx.array:
        """The state h [B, H] after a time ts without input."""

        def field(h: mx.array) -> mx.array:
            return tanh_network(self.field, h)

        return solve(field, h, ts, self.ode_solver, self.ode_unfolds)


class ODERNNCell(FieldCell):
    """ODE-RNN: the state evolves by itself until an input comes, and a GRU reads it (Rubanova et
    al. 2019, algorithm 1, with a GRU as RNNCell; Cho et al. 2014).

        h- = h(ts) of dh/dt = network(h)
        r, z = sigmoid(W [x, h-] + b) ;  n = tanh(Wn [x, r h-] + bn) ;  h' = (1 - z) n + z h-

    `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, new state)`, both [B, H]; ts is the time
    elapsed before the input.

    Args:
        input_size: number of inputs I; None: that of the first call.
        hidden_size: number of neurons H.
        field_units: widths of the network's tanh layers; None: one of H.
        ode_unfolds: solver steps per time step.
        ode_solver: "explicit" or "runge_kutta".

    Parameters: `gates.{weight [2H, I + H], bias}`, `candidate.{weight [H, I + H], bias}`,
    `field.{n}.{weight, bias}`.

    Example:
        >>> cell = ODERNNCell(20, 16)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 16)), 0.5)
        >>> output.shape, state.shape
        ((8, 16), (8, 16))
    """

    op = "ode_rnn"
    gates: Linear
    candidate: Linear

    def _create(self, width: int) -> None:
        self.input_size = width
        self.gates = dense(width + self.hidden_size, 2 * self.hidden_size)
        self.candidate = dense(width + self.hidden_size, self.hidden_size)
        self._create_field()

    def _step(self, drive: mx.array, state: mx.array, ts: float | mx.array) -> mx.array:
        h = self._evolve(state, ts)
        r, z = mx.split(mx.sigmoid(self.gates(mx.concatenate([drive, h], axis=-1))), 2, axis=-1)
        n = mx.tanh(self.candidate(mx.concatenate([drive, r * h], axis=-1)))
        return (1.0 - z) * n + z * h


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
        at, *first = anew or [None]
        made = run_program(self, [self], self._program, inputs, ts, state, at, first or None)
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
