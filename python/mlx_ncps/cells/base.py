"""What every cell shares: the one-step call, sizes, the first state. Over sequences a cell is
driven through `sequence` and `readout`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from .._fork import check_process
from ..at_once import BATCH, StepCell, attempt
from ..checks import float_dtype, is_array, refused
from ..dispatch import FusedCall
from ..layers.base import NCPLayer, output_shape
from ..ops import initial_state, shapeless
from ..ops.checks import check_array
from ..shown import Shown
from ..step_plan import StepPlan
from ..values import settle


class SignatureOfInit:
    """`__signature__` of a class whose `__new__` takes anything: that of its `__init__`."""

    def __get__(self, made: Any, kind: type) -> inspect.Signature:
        if made is not None:  # which is called otherwise
            raise AttributeError("__signature__")
        signature = inspect.signature(kind.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class LiquidCell(Shown, NCPLayer):
    """Base of all cells: `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, new state)`.

    The output is [B, O], the new state [B, H]. A subclass gives `op` (its name in errors), the
    sizes, `_create(width)` or `build(input_shape)`, `sequence` and `readout`, and `calls` if it
    makes any.

    Example:
        >>> [isinstance(cell, LiquidCell) for cell in (CfCCell(3, 4), LTCCell(4, 3))]
        [True, True]
        >>> CfCCell(3, 4).state_size, LTCCell(AutoNCP(8, 2), 3).output_size
        (4, 2)
    """

    op = "cell"

    def __init__(self):
        super().__init__()
        self._step_cell = StepCell()

    # --- what a subclass gives ---

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        raise self._must_define("state_size")

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        raise self._must_define("sensory_size")

    @property
    def output_size(self) -> int:
        """Number of outputs, O."""
        raise self._must_define("output_size")

    @property
    def motor_size(self) -> int:
        """Number of motor neurons, which is the number of outputs."""
        return self.output_size

    def _create(self, width: int) -> None:
        """Make the weights for `width` inputs."""
        if type(self).build is NCPLayer.build:
            raise self._must_define("_create(width) or build(input_shape)")

    def sequence(self, inputs: mx.array, state: mx.array, ts: Any) -> mx.array:
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].
        """
        raise self._must_define("sequence()")

    def readout(self, states: mx.array) -> mx.array:
        """Outputs [..., O] of states [..., H]."""
        raise self._must_define("readout()")

    def calls(self) -> list[FusedCall]:
        """The fused calls that `sequence` makes, with what this cell tells of them, for
        `dispatch.explain`; none by default.
        """
        return []

    def stepwise(self) -> str:
        """Why `sequence` runs step by step now; "" when it runs over the whole sequence."""
        return ""

    @classmethod
    def _has_own_call(cls) -> bool:
        """Whether a subclass changed the call of a step but not `sequence`, which then doesn't do
        the same; layers call it step by step.
        """
        owners = [next(c for c in cls.__mro__ if n in vars(c)) for n in ("__call__", "sequence")]
        return cls.__mro__.index(owners[0]) < cls.__mro__.index(owners[1])

    def _step_plan(self, mixed: bool) -> StepPlan | None:
        """What steps, `mixed` behind the LSTM of mixed memory, can be computed at once from now;
        None where a subclass has its own equations, or where they can't.
        """
        return None

    # --- shared ---

    def state_names(self) -> Any:
        """The name of each entry of the state, a list of H; a tuple of such for a tuple of arrays.

        "motor_0" is neuron 0 of a wiring, a motor neuron; without a wiring "neuron_0", ....
        """
        return [f"neuron_{n}" for n in range(self.state_size)]

    def get_initial_state(
        self, inputs: mx.array | None = None, batch_size: int | None = None
    ) -> mx.array:
        """Zeros [B, H], where B is `batch_size` or the first size of `inputs`, whose dtype it
        takes.
        """
        return first_state(self.op, inputs, batch_size, self.state_size)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape (B, O) of the output of a step with inputs of shape (B, I); None is any size.

        Raises ValueError for another rank or width.
        """
        return output_shape(self.op, input_shape, 2, self.sensory_size, self.output_size)

    def __call__(
        self, inputs: mx.array, state: mx.array, ts: float | mx.array | np.ndarray | None = 1.0
    ) -> tuple[mx.array, mx.array]:
        """One step of length `ts`: a number, [B] or [B, 1].

        inputs: [B, I]; state: [B, H]. Returns (output [B, O], new state [B, H]). Raises ValueError
        for a wrong shape, width or dtype, and for a number ts that is negative or NaN.
        """
        done = attempt(self, None, inputs, state, ts, BATCH)
        if done is not None:
            return done
        check_process(self.op)
        check_array(self.op, "inputs", inputs, "[B, I]", (None, None))
        self.build(inputs.shape)
        settle(self, inputs, state, ts)
        batch = inputs.shape[0]
        check_array(self.op, "state", state, "[B, H]", (batch, self.state_size))
        ts = self._step_timespans(ts, batch)
        with shapeless.one_step():
            new_state = self.sequence(inputs[:, None], state, ts)[:, 0]
        return self.readout(new_state), new_state

    def _step_timespans(self, ts: Any, batch: int) -> Any:
        """An array [B] or [B, 1] as [B, T] for one step; all else as it is."""
        if not isinstance(ts, (mx.array, np.ndarray)) or ts.ndim == 0:
            return ts
        if ts.shape not in ((batch,), (batch, 1)):
            raise ValueError(f"[{self.op}] ts must be [B] = ({batch},), got {ts.shape}.")
        return ts[:, None] if ts.ndim == 1 else ts


def first_state(op: str, inputs: Any, batch_size: int | None, sizes: Any) -> Any:
    """Zeros [B, H], or a tuple of them, for `get_initial_state` of every cell."""
    if inputs is None and batch_size is None:
        raise ValueError(f"[{op}] get_initial_state needs inputs or batch_size, got none.")
    if inputs is not None and (not is_array(inputs) or inputs.ndim == 0):
        raise refused(op, "inputs", "an mx.array [B, ...] or None", inputs)
    dtype = float_dtype(op, None if inputs is None else inputs.dtype)
    if batch_size is not None:
        return initial_state(batch_size, sizes, dtype=dtype)
    given: Any = inputs
    zeros = partial(shapeless.zero_state, given)
    if isinstance(sizes, tuple):
        return tuple(zeros(units, dtype) for units in sizes)
    return zeros(sizes, dtype)
