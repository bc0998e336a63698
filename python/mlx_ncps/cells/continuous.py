"""Continuous-time baselines whose state follows an ODE while the input is held: CT-RNN, neural ODE,
and the ELTC of earlier MLX ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from .. import limits
from ..checks import flag, size, sizes
from ..layers.linear import Linear
from ..ops import get_activation, shapeless, xavier_uniform
from ..ops.activations import activation_name
from ..options import positive
from ..wirings import FullyConnected, Wiring
from .mask_blocks import whole_masks
from .ncp import NCPRNNCell
from .stepwise import (
    LEAKLESS_OPTIONS,
    SOLVER_OPTIONS,
    DenseCell,
    SteppedCell,
    dense,
    solve,
    tanh_network,
)


class CTRNNCell(DenseCell):
    """Continuous-time RNN: dh/dt = -h / tau + tanh(Wx x + Wh h + b), over ts with x held.

    `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, new state)`, both [B, H]. The model is
    that of Funahashi and Nakamura (1993), with the tanh around the sum as in the comparisons of
    Hasani et al. (2021), who take tau = 1 and 6 explicit steps.

    Args:
        input_size: number of inputs I; None: that of the first call.
        hidden_size: number of neurons H.
        tau: time constant, a number > 0.
        learn_tau: train it, one for each neuron, through its logarithm `log_tau` [H].
        ode_unfolds: solver steps per time step.
        ode_solver: "explicit", "runge_kutta" or "semi_implicit" (the leak is implicit).

    Parameters: `input_map.{weight [H, I], bias [H]}`, `recurrent_map.weight` [H, H], `log_tau`.

    Example:
        >>> cell = CTRNNCell(20, 16, tau=2.0)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 16)), 0.5)
        >>> output.shape, state.shape
        ((8, 16), (8, 16))
    """

    op = "ctrnn"
    tau: float
    learn_tau: bool
    input_map: Linear
    recurrent_map: Linear
    log_tau: mx.array
    _checked_options = (
        DenseCell._checked_options | SOLVER_OPTIONS | {"tau": positive, "learn_tau": flag}
    )
    _fixed_options = DenseCell._fixed_options | {"learn_tau"}

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        tau: float = 1.0,
        learn_tau: bool = False,
        ode_unfolds: int = 6,
        ode_solver: str = "explicit",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.tau = tau
        self.learn_tau = learn_tau
        self.ode_unfolds = ode_unfolds
        self.ode_solver = ode_solver
        self._build_known()

    def _create(self, width: int) -> None:
        self.input_size = width
        self.input_map = dense(width, self.hidden_size)
        self.recurrent_map = dense(self.hidden_size, self.hidden_size, bias=False)
        if self.learn_tau:
            self.log_tau = mx.full((self.hidden_size,), float(np.log(self.tau)))

    def _drive(self, inputs: mx.array) -> mx.array:
        return self.input_map(inputs)

    def _step(self, drive: mx.array, state: mx.array, ts: float | mx.array) -> mx.array:
        leak = mx.exp(-self.log_tau) if self.learn_tau else 1.0 / self.tau

        def field(h: mx.array) -> mx.array:
            return mx.tanh(drive + self.recurrent_map(h))

        return solve(field, state, ts, self.ode_solver, self.ode_unfolds, leak)


class NeuralODECell(DenseCell):
    """Neural ODE: dh/dt = tanh(network([x, h])), over ts with x held (Chen et al. 2018).

    `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, new state)`, both [B, H]. The default,
    one layer and 6 Runge-Kutta steps, is the baseline of Hasani et al. (2021).

    Args:
        input_size: number of inputs I; None: that of the first call.
        hidden_size: number of neurons H.
        field_units: widths of tanh layers between [x, h] and the last layer; none by default.
        ode_unfolds: solver steps per time step.
        ode_solver: "runge_kutta" or "explicit"; there is no leak to be implicit.

    Parameters: `input_map.{weight, bias}` and `recurrent_map.weight`, the first layer;
    `field.{n}.{weight, bias}`, those after it.

    Example:
        >>> cell = NeuralODECell(20, 16, field_units=[32])
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 16)), 0.5)
        >>> output.shape, state.shape
        ((8, 16), (8, 16))
    """

    op = "neural_ode"
    input_map: Linear
    recurrent_map: Linear
    field: list[Linear]
    _checked_options = DenseCell._checked_options | LEAKLESS_OPTIONS

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        field_units: Sequence[int] = (),
        ode_unfolds: int = 6,
        ode_solver: str = "runge_kutta",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self._field_units = sizes(self.op, "field_units", field_units, low=1, most=limits.MAX_SIZE)
        self.ode_unfolds = ode_unfolds
        self.ode_solver = ode_solver
        self._build_known()

    def _create(self, width: int) -> None:
        self.input_size = width
        first, *rest = *self._field_units, self.hidden_size
        self.input_map = dense(width, first)
        self.recurrent_map = dense(self.hidden_size, first, bias=False)
        sizes = [first, *rest]
        self.field = [dense(*pair) for pair in pairwise(sizes)]

    def _drive(self, inputs: mx.array) -> mx.array:
        return self.input_map(inputs)

    def _step(self, drive: mx.array, state: mx.array, ts: float | mx.array) -> mx.array:
        def field(h: mx.array) -> mx.array:
            h = mx.tanh(drive + self.recurrent_map(h))
            return mx.tanh(tanh_network(self.field, h)) if self.field else h

        return solve(field, state, ts, self.ode_solver, self.ode_unfolds)


class ELTCCell(SteppedCell, NCPRNNCell):
    """The "enhanced LTC" of earlier MLX ports: dv/dt = act(x Wx + v W + b) - v, with the synapses
    of a wiring.

    `cell(inputs [B, I], state [B, H], ts=1.0) -> (output [B, O], new state [B, H])`. No paper
    defines it. It is no liquid time-constant network, whose conductances change the time constant
    (`LTCCell` with `ode_solver` is that), but a CT-RNN with tau = 1 and the synapses of a wiring.

    Args:
        wiring: a `Wiring`, of which the cell keeps its own copy, or a number of fully connected
            neurons. Polarities of synapses are not read: weights are of either sign.
        in_features: number of inputs I; None: that of the wiring, or of the first call.
        activation: one of `ops.ACTIVATIONS`.
        ode_solver: "runge_kutta", "explicit" or "semi_implicit" (the leak is implicit).
        ode_unfolds: solver steps per time step.

    Parameters: `w` [H, H] and `sensory_w` [I, H], indexed [source, target], `b` [H].
    `sparsity_mask` [H, H] and `sensory_sparsity_mask` [I, H] are saved and never trained.

    Example:
        >>> cell = ELTCCell(AutoNCP(28, 4), 20)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 28)), 0.5)
        >>> output.shape, state.shape
        ((8, 4), (8, 28))
    """

    op = "eltc"
    activation: str
    ode_unfolds: int
    ode_solver: str
    w: mx.array
    sensory_w: mx.array
    b: mx.array
    sparsity_mask: mx.array
    sensory_sparsity_mask: mx.array
    _checked_options = SOLVER_OPTIONS | {"activation": activation_name}
    fixed_keys = ("sparsity_mask", "sensory_sparsity_mask")

    def __init__(
        self,
        wiring: int | Wiring,
        in_features: int | None = None,
        activation: str = "tanh",
        ode_solver: str = "runge_kutta",
        ode_unfolds: int = 4,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.ode_solver = ode_solver
        self.ode_unfolds = ode_unfolds
        if not isinstance(wiring, Wiring):
            wiring = FullyConnected(size(self.op, "wiring", wiring))
        self._set_wiring(wiring, in_features)

    def _create(self, width: int) -> None:
        wiring = self["wiring"]
        wiring.build(width)
        hidden = self.state_size
        self.w = xavier_uniform((hidden, hidden))
        self.sensory_w = xavier_uniform((width, hidden))
        self.b = mx.zeros((hidden,))
        self.sparsity_mask = _magnitude(wiring.adjacency)
        self.sensory_sparsity_mask = _magnitude(wiring.sensory_adjacency)
        self._tie_wiring(whole_masks(width, hidden))

    def synapse_weights(self, sensory: bool = False) -> mx.array:
        """|w| [H, H], or |sensory_w| [I, H]."""
        return mx.abs(self["sensory_w" if sensory else "w"])

    def _drive(self, inputs: mx.array) -> mx.array:
        if not self._sync_wiring():
            inputs = self._tie.guard(self, inputs)
        return inputs @ (self.sensory_w * self.sensory_sparsity_mask) + self.b

    def _step(self, drive: mx.array, state: mx.array, ts: float | mx.array) -> mx.array:
        weight, activation = self.w * self.sparsity_mask, get_activation(self.activation)

        def field(v: mx.array) -> mx.array:
            return activation(drive + v @ weight)

        return solve(field, state, ts, self.ode_solver, self.ode_unfolds, 1.0)

    def readout(self, states: mx.array) -> mx.array:
        """Outputs [..., O] of states [..., H]: the motor neurons."""
        return shapeless.columns(states, 0, self.output_size)

    @property
    def synapse_count(self) -> int:
        """Synapses between neurons."""
        return self.wiring.synapse_count

    @property
    def sensory_synapse_count(self) -> int:
        """Synapses from inputs to neurons."""
        return self.wiring.sensory_synapse_count


def _magnitude(adjacency: Any) -> mx.array:
    return mx.array(np.abs(np.array(adjacency)).astype(np.float32))
