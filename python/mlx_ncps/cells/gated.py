"""Gated continuous-time baselines: CT-GRU, ODE-RNN and ODE-LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .. import limits
from ..checks import at_most, size, sizes
from ..layers.linear import Linear
from ..options import positive
from .stepwise import LEAKLESS_OPTIONS, DenseCell, dense, solve, tanh_network

if TYPE_CHECKING:
    pass


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
