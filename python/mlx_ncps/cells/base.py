"""What every cell shares: the one-step call, sizes, the first state, arrays that are never
trained; the layers in `rnn` drive cells through `sequence` and `readout`.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..checks import float_dtype, integer, is_array, refused
from ..layers.base import NCPLayer, output_shape
from ..ops import initial_state
from ..ops.checks import check_array
from ..ops.stepping import BATCH, STEP, StepCell
from ..wirings import Wiring


class FrozenKeys(set):
    """A module's frozen keys; the `fixed` ones outlive `unfreeze()`, which clears the set."""

    def __init__(self, fixed=()):
        super().__init__(fixed)
        self.fixed = frozenset(fixed)

    def clear(self):
        """Remove all keys that are not fixed."""
        super().clear()
        self.update(self.fixed)

    def difference_update(self, *others):
        """Remove the keys of `others` that are not fixed."""
        super().difference_update(*others)
        self.update(self.fixed)


class LiquidCell(NCPLayer):
    """Base of all cells: `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, new state)`.

    The output is [B, O], the new state [B, H]. A subclass gives `op` (its name in errors), the
    sizes, `_create(width)` or `build(input_shape)`, `sequence` and `readout`, and `calls` if it
    makes any. Array names in `fixed_keys` are saved with the weights and never trained.
    """

    op = "cell"
    fixed_keys: tuple = ()

    def __init__(self):
        super().__init__()
        self._no_grad = FrozenKeys(self.fixed_keys)
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

    def sequence(self, inputs, state, ts):
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].
        """
        raise self._must_define("sequence()")

    def readout(self, states):
        """Outputs [..., O] of states [..., H]."""
        raise self._must_define("readout()")

    def calls(self) -> list[tuple[str, dict]]:
        """The fused calls that `sequence` makes, as (op, facts of this cell), for
        `dispatch.explain`; none by default.
        """
        return []

    def stepwise(self) -> str:
        """Why `sequence` runs step by step now; "" when it runs over the whole sequence."""
        return ""

    def steps_at_once(self, mixed: bool) -> bool:
        """Whether a step, `mixed` behind the LSTM of mixed memory, can be computed without a graph
        now, with `step_arrays`, `step_options` and `pack_step`; False where a subclass has its own
        equations.
        """
        return False

    def step_arrays(self) -> list:
        """Every array that a step depends on."""
        raise self._must_define("step_arrays()")

    def step_options(self) -> tuple:
        """Every option that a step depends on."""
        raise self._must_define("step_options()")

    def pack_step(self, memory, arrays):
        """The packed cell behind the LSTM of the weights `memory`, if there are any, to be made
        anew when one of `arrays` is another.
        """
        raise self._must_define("pack_step()")

    # --- shared ---

    def step_at_once(self, inputs, state, ts, form=STEP, lstm=None):
        """One step or a few computed now, without a graph: (output, last state), or None where that
        can't be.

        inputs: [B, I] or [I] with the form STEP, [B, I] alone with BATCH; with the others a
        sequence [B, T, I] or [T, I], for outputs [B, T, O] or [T, O] (EVERY), [B, O] or [O] (LAST).
        state: [B, H], [H], or None for zeros; a pair (h, c) of them with `lstm`, the LSTM of mixed
        memory in front of the cell. ts: None, a number, or an array as the form has it. None is the
        answer for arrays that are not evaluated, within mx.compile and gradients, for other dtypes
        than float32, for wrong shapes, long sequences, cells that don't implement it, and where
        another backend than the CPU's is asked for.
        """
        return self._step_cell.run(self, lstm, inputs, state, ts, form)

    def get_initial_state(self, inputs=None, batch_size=None) -> mx.array:
        """Zeros [B, H], where B is `batch_size` or the first size of `inputs`, whose dtype it
        takes.
        """
        return first_state(self.op, inputs, batch_size, self.state_size)

    def compute_output_shape(self, input_shape) -> tuple:
        """The shape (B, O) of the output of a step with inputs of shape (B, I); None is any size.

        Raises ValueError for another rank or width.
        """
        return output_shape(self.op, input_shape, 2, self.sensory_size, self.output_size)

    def __call__(self, inputs, state, ts=1.0):
        """One step of length `ts`: a number, [B] or [B, 1].

        inputs: [B, I]; state: [B, H]. Returns (output [B, O], new state [B, H]). Raises ValueError
        for a wrong shape, width or dtype, and for a number ts that is negative or NaN.
        """
        done = self._step_cell.run(self, None, inputs, state, ts, BATCH)
        if done is not None:
            return done
        check_array(self.op, "inputs", inputs, "[B, I]", (None, None))
        self.build(inputs.shape)
        batch = inputs.shape[0]
        check_array(self.op, "state", state, "[B, H]", (batch, self.state_size))
        new_state = self.sequence(inputs[:, None], state, self._step_timespans(ts, batch))[:, 0]
        return self.readout(new_state), new_state

    def _step_timespans(self, ts, batch: int):
        """An array [B] or [B, 1] as [B, T] for one step; all else as it is."""
        if not isinstance(ts, (mx.array, np.ndarray)) or ts.ndim == 0:
            return ts
        if ts.shape not in ((batch,), (batch, 1)):
            raise ValueError(f"[{self.op}] ts must be [B] = ({batch},), got {ts.shape}.")
        return ts.reshape(batch, 1)


def first_state(op: str, inputs, batch_size, sizes):
    """Zeros [B, H], or a tuple of them, for `get_initial_state` of every cell."""
    if inputs is None and batch_size is None:
        raise ValueError(f"[{op}] get_initial_state needs inputs or batch_size, got none.")
    if inputs is not None and (not is_array(inputs) or inputs.ndim == 0):
        raise refused(op, "inputs", "an mx.array [B, ...] or None", inputs)
    if batch_size is None:
        batch_size = inputs.shape[0]
    dtype = None if inputs is None else float_dtype(op, inputs.dtype)
    batch_size = integer(op, "batch_size", batch_size, 0)
    return initial_state(batch_size, sizes, dtype=dtype)


class NCPRNNCell(LiquidCell):
    """Base of the cells that follow a wiring: `wiring` is the cell's own copy, saved and never
    trained.

    A user's own cell calls `super().__init__(wiring)`, makes its weights in `build(input_shape)`
    after `super().build(input_shape)`, which builds the wiring, and reads `wiring.adjacency` and
    `wiring.sensory_adjacency` as masks.
    """

    def __init__(self, wiring=None):
        super().__init__()
        if wiring is not None:
            if not isinstance(wiring, Wiring):
                raise refused(self.op, "wiring", "a Wiring or None", wiring)
            self.wiring = wiring.as_given()

    def _create(self, width: int) -> None:
        self.wiring.build(width)
        super()._create(width)

    def _set_wiring(self, wiring, width: int | None) -> None:
        """Keep a copy of `wiring`, and build both when the number of inputs is known."""
        self.wiring = wiring.as_given()
        width = self.wiring.input_dim if width is None else width
        if width is not None:
            self.build(width)
            wiring.build_by_layer(width)

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        return self.wiring.units

    @property
    def units(self) -> int:
        """Number of neurons, H, as the MLX guides call it."""
        return self.state_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self.wiring.input_dim

    @property
    def output_size(self) -> int:
        """Number of outputs, O: the motor neurons."""
        return self.state_size if self.wiring.output_dim is None else self.wiring.output_dim
