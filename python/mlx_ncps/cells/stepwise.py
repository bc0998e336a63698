"""What the baselines from the literature share: solvers, sizes, running step by step in MLX
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import mlx.core as mx

from .._fork import check_process
from ..checks import size
from ..layers.linear import Linear
from ..ops import shapeless, xavier_uniform
from ..ops.checks import check_array
from ..ops.resets import checked_resets, started_anew, where_and_from
from ..ops.timespans import normalise_timespans
from ..options import one_of, optional, unfolds
from ..programs import Declined, float32_weights, run_program
from .base import LiquidCell

if TYPE_CHECKING:
    from .._types import TimespansLike
    from ..options import Check

Field = Callable[[mx.array], mx.array]  # a function of the state, as a slope

SOLVERS = ("explicit", "runge_kutta", "semi_implicit")
SOLVER_OPTIONS = {"ode_unfolds": unfolds, "ode_solver": one_of(*SOLVERS)}
LEAKLESS_OPTIONS = {"ode_unfolds": unfolds, "ode_solver": one_of(*SOLVERS[:2])}


def solve(
    field: Field,
    h: mx.array,
    ts: float | mx.array,
    solver: str,
    unfolds: int,
    leak: float | mx.array | None = None,
) -> mx.array:
    """The state h [B, H] after `unfolds` steps of ts / unfolds of dh/dt = field(h) - leak h.

    ts: a number or [B, 1]; leak: a number or [H], or None: no leak.  solver: "explicit" is Euler's
    method (order 1), "runge_kutta" the classical one (order 4), "semi_implicit" Euler's with an
    implicit leak, stable for any step (order 1).
    """
    dt = ts / unfolds

    def slope(h: mx.array) -> mx.array:
        return field(h) if leak is None else field(h) - leak * h

    for _ in range(unfolds):
        if solver == "semi_implicit":
            assert leak is not None, "a cell without leak refuses this solver"
            h = (h + dt * field(h)) / (1.0 + dt * leak)
        elif solver == "explicit":
            h = h + dt * slope(h)
        else:
            k1 = slope(h)
            k2 = slope(h + 0.5 * dt * k1)
            k3 = slope(h + 0.5 * dt * k2)
            k4 = slope(h + dt * k3)
            h = h + dt / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)
    return h


def dense(inputs: int, outputs: int, bias: bool = True) -> Linear:
    """A linear map, Xavier weights and a bias of 0."""
    layer = Linear(inputs, outputs, bias=bias)
    layer.weight = xavier_uniform((outputs, inputs))
    if bias:
        layer.bias = mx.zeros((outputs,))
    return layer


def tanh_network(layers: Sequence[Field], x: mx.array) -> mx.array:
    """Linear maps with tanh between them."""
    for layer in layers[:-1]:
        x = mx.tanh(layer(x))
    return layers[-1](x)


class SteppedCell(LiquidCell):
    """Base of cells whose `sequence` is one `_step` after the other in float32: on the CPU as a
    step program, elsewhere in MLX operations.
    """

    def stepwise(self) -> str:
        """Why `sequence` runs step by step."""
        return f"{type(self).__name__} is a reference cell of MLX operations"

    def readout(self, states: mx.array) -> mx.array:
        """Outputs [..., H] of states [..., H]: the states."""
        return states

    def sequence(
        self,
        inputs: mx.array,
        state: mx.array,
        ts: TimespansLike,
        resets: mx.array | None = None,
        reset_state: mx.array | None = None,
    ) -> mx.array:
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H], in the dtype of the inputs.  resets, reset_state: as in
        `ops.cfc_sequence`.
        """
        check_process(self.op)
        check_array(self.op, "inputs", inputs, "[B, T, I]", (None, None, None))
        shapeless.refuse(self.op, "a cell of MLX operations", length=False)
        batch, steps, width = inputs.shape
        self.build(width)
        self._check_state(state, batch)
        ts = normalise_timespans(self.op, ts, batch, steps)
        anew = checked_resets(self.op, resets, reset_state, state, batch, steps).get("resets")
        made = run_program(self, [self], self._program, inputs, ts, [state], *where_and_from(anew))
        if not isinstance(made, Declined):
            return made[0][0]
        state, states = state.astype(mx.float32), []
        with float32_weights([self]):
            drive = self._drive(inputs.astype(mx.float32))
            for t in range(steps):
                (state,) = started_anew(anew, t, state)
                span = ts[:, t : t + 1] if isinstance(ts, mx.array) and ts.ndim else ts
                state = self._step(drive[:, t], state, span)
                states.append(state)
        states = mx.stack(states, axis=1) if steps else state[:, None][:, :0]
        return states.astype(inputs.dtype)

    def _program(self, x: mx.array, ts: mx.array, h: mx.array) -> tuple[list, list]:
        """A step as `programs` trace it."""
        return [self._step(self._drive(x), h, ts)], []

    def _check_state(self, state: mx.array, batch: int) -> None:
        check_array(self.op, "state", state, "[B, H]", (batch, self.state_size))

    def _drive(self, inputs: mx.array) -> mx.array:
        """What a step reads of the inputs [B, T, I], for all steps at once."""
        return inputs

    def _step(self, drive: mx.array, state: mx.array, ts: float | mx.array) -> mx.array:
        """One step of length ts, a number or [B, 1]: drive [B, ...], state [B, H] -> state."""
        raise self._must_define("_step()")


class DenseCell(SteppedCell):
    """Base of the baselines without a wiring: sizes, and building at the first call."""

    _checked_options: ClassVar[dict[str, Check]] = {
        "hidden_size": size,
        "input_size": optional(size),
    }
    _fixed_options: ClassVar[frozenset[str]] = frozenset(_checked_options)

    hidden_size: int
    input_size: int | None
    ode_unfolds: int
    ode_solver: str

    def __init__(self, input_size: int | None, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.input_size = input_size

    def _build_known(self) -> None:
        """Build when the number of inputs is known; the last line of a constructor."""
        if self.input_size is not None:
            self.build(self.input_size)

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        return self.hidden_size

    @property
    def output_size(self) -> int:
        """Number of outputs, H."""
        return self.hidden_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self.input_size
