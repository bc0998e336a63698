"""What every cell shares: the one-step call, sizes, the first state, arrays that are never
trained; the layers in `rnn` drive cells through `sequence` and `readout`.
"""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np

from .._fork import check_process
from ..checks import float_dtype, is_array, refused, size
from ..dispatch import FusedCall
from ..layers.base import NCPLayer, output_shape
from ..ops import initial_state, shapeless
from ..ops.checks import check_array
from ..ops.stepping import BATCH, STEP, StepCell, settle
from ..options import optional
from ..wirings import Wiring
from .wiring_tie import WiringTie


class LiquidCell(NCPLayer):
    """Base of all cells: `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, new state)`.

    The output is [B, O], the new state [B, H]. A subclass gives `op` (its name in errors), the
    sizes, `_create(width)` or `build(input_shape)`, `sequence` and `readout`, and `calls` if it
    makes any.
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

    def sequence(self, inputs, state, ts):
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].
        """
        raise self._must_define("sequence()")

    def readout(self, states):
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
    def has_own_call(cls) -> bool:
        """Whether a subclass changed the call of a step but not `sequence`, which then doesn't do
        the same; layers call it step by step.
        """
        owners = [next(c for c in cls.__mro__ if n in vars(c)) for n in ("__call__", "sequence")]
        return cls.__mro__.index(owners[0]) < cls.__mro__.index(owners[1])

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

    def _step_timespans(self, ts, batch: int):
        """An array [B] or [B, 1] as [B, T] for one step; all else as it is."""
        if not isinstance(ts, (mx.array, np.ndarray)) or ts.ndim == 0:
            return ts
        if ts.shape not in ((batch,), (batch, 1)):
            raise ValueError(f"[{self.op}] ts must be [B] = ({batch},), got {ts.shape}.")
        return ts[:, None] if ts.ndim == 1 else ts


def first_state(op: str, inputs, batch_size, sizes):
    """Zeros [B, H], or a tuple of them, for `get_initial_state` of every cell."""
    if inputs is None and batch_size is None:
        raise ValueError(f"[{op}] get_initial_state needs inputs or batch_size, got none.")
    if inputs is not None and (not is_array(inputs) or inputs.ndim == 0):
        raise refused(op, "inputs", "an mx.array [B, ...] or None", inputs)
    dtype = float_dtype(op, None if inputs is None else inputs.dtype)
    if batch_size is not None:
        return initial_state(batch_size, sizes, dtype=dtype)
    if isinstance(sizes, tuple):
        return tuple(shapeless.zero_state(inputs, units, dtype) for units in sizes)
    return shapeless.zero_state(inputs, sizes, dtype)


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
        self["wiring"].build(width)
        super()._create(width)

    # --- masks and wiring as one truth: a cell with masks calls `_tie_wiring` in `_create` ---

    @property
    def wiring(self) -> Wiring:
        """The cell's own wiring. An edit of it acts at once, also on the masks, as an edit of the
        masks does on it.
        """
        if "wiring" not in self:
            raise AttributeError("wiring")
        self.sync_wiring(strict=False)
        return self["wiring"]

    @wiring.setter
    def wiring(self, value):  # what is no module comes here
        self["wiring"] = value

    def synapse_weights(self, sensory: bool = False) -> mx.array:
        """The magnitude of each synapse's weight, [source, target]: what a threshold for
        `wiring.prune` may look at. Infinite where the cell reads no single synapse.
        """
        raise self._must_define("synapse_weights()")

    def _tie_wiring(self, blocks: list) -> None:
        """Keep the masks of these `mask_blocks.Block`s and the wiring one truth from now on."""
        self._tie = WiringTie(blocks)
        self._tie.start(self)

    def sync_wiring(self, strict: bool = True, edited: bool = False) -> bool:
        """Let an edit of the wiring reach the masks, and one of the masks the wiring; False where
        they are tracers. `edited`: the user has just set the wiring.

        Raises ValueError where both were edited and disagree, unless not `strict`.
        """
        tie = self.__dict__.get("_tie")
        return tie is None or tie.sync(self, strict, edited)

    def likely_polarities(self, matrix: str, shape: tuple) -> np.ndarray:
        """-1 or 1 [source, target]: what the synapses are that only an edited mask knows."""
        return np.ones(shape, np.int32)

    def polarities_set(self, matrix: str, values, where, only_unset: bool = False) -> None:
        """The wiring got synapses of these polarities `where` this is True, or others for old ones;
        `only_unset`: where the cell's parameters know none.
        """

    def __copy__(self):
        """A shallow copy; its masks and wiring are its own."""
        twin = super().__copy__()
        tie = self.__dict__.get("_tie")
        for part in {"wiring", *(tie.parts() if tie else ())} & self.keys():
            dict.__setitem__(twin, part, copy.copy(self[part]))
        return twin

    def items(self):
        """As a dict has it; whatever walks over the parameters sees masks and wiring agree."""
        self.sync_wiring(strict=False)
        return super().items()

    def __setitem__(self, key, value):
        tied = "_tie" in self.__dict__  # unpickling sets it last, copying first
        if tied and key == "wiring" and key in self:
            value = self._fitting(value)
        super().__setitem__(key, value)
        if tied and (key == "wiring" or key in self._no_grad):
            self.sync_wiring(strict=False, edited=key == "wiring")

    def _fitting(self, wiring) -> Wiring:
        """A copy of a wiring that is to take the place of the cell's."""
        old = self["wiring"]
        if not isinstance(wiring, Wiring) or wiring.units != old.units:
            got = wiring.units if isinstance(wiring, Wiring) else type(wiring).__name__
            raise ValueError(
                f"[{self.op}] wiring must be a Wiring of {old.units} units, got {got}."
            )
        wiring = wiring.as_given()
        wiring.build(old.input_dim)
        return wiring

    def _argument_now(self, value):
        return self.wiring.unless_drawn_by(value) if isinstance(value, Wiring) else value

    def _set_wiring(self, wiring, width: int | None) -> None:
        """Keep a copy of `wiring`, and build both when the number of inputs is known."""
        width = optional(size)(self.op, "input_dim", width)
        self.wiring = wiring.as_given()
        width = self.wiring.input_dim if width is None else width
        if width is not None:
            self.build(width)
            wiring.build_by_layer(width)

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        return self["wiring"].units

    @property
    def units(self) -> int:
        """Number of neurons, H, as the MLX guides call it."""
        return self.state_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self["wiring"].input_dim

    @property
    def output_size(self) -> int:
        """Number of outputs, O: the motor neurons."""
        outputs = self["wiring"].output_dim
        return self.state_size if outputs is None else outputs
