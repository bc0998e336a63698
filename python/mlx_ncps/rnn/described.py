"""What a recurrent layer says of itself: its sizes, the shape of its output, what a call would
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..at_once import why_not
from ..cells import LiquidCell, LSTMCell
from ..checks import flag, float_dtype, sizes
from ..layers.base import output_shape
from .direction import Direction
from .plan import SEVERAL, Plan, kernels_without_resets, make_plan, program_plan
from .stepwise import why_steps_with_resets


class Described(Direction):
    """One direction or both, as a layer that can be asked about its calls."""

    bidirectional: bool
    batch_first: bool
    go_backwards: bool
    return_sequences: bool
    merge_mode: str | None
    _kept: dict

    @property
    def _directions(self) -> tuple[Direction, ...]:
        """This layer, and `backward` when it is bidirectional."""
        if not self.bidirectional:
            return (self,)
        if not isinstance(self.backward, Direction):
            kind = type(self.backward).__name__
            raise ValueError(f"[{self.op}] backward must be a layer of this package, got {kind}.")
        return (self, self.backward)

    @property
    def state_size(self) -> int:
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

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[Any, ...]:
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

    def explain(
        self,
        shape: Sequence[int],
        *,
        dtype: mx.Dtype = mx.float32,
        scalar_timespans: bool = True,
        resets: bool = False,
    ) -> Plan:
        """What a call with inputs of this shape, and with `resets`, would run and why, as a
        printable `Plan`; computes nothing.
        """
        shape = sizes(self.op, "shape", shape)
        float_dtype(self.op, dtype)
        scalar_timespans = flag(self.op, "scalar_timespans", scalar_timespans)
        resets = flag(self.op, "resets", resets)
        if len(shape) not in (2, 3):
            raise ValueError(f"[{self.op}] shape must be [B, T, I] or [T, I], got {shape}.")
        batch, steps = (1, *shape)[-3:-1]
        if not self.batch_first and len(shape) == 3:
            batch, steps = steps, batch
        self.build(shape)
        halves = self._directions
        of_call = {"batch": batch, "steps": steps, "dtype": dtype, "scalar_ts": scalar_timespans}
        calls = [(op, facts._replace(**of_call)) for half in halves for op, facts in half._calls()]
        fused = [call for half in halves for call in half._fused_steps()]
        graph, stepwise = self._why_not_at_once(batch, steps), self._stepwise()
        if resets:
            graph = "the call has resets"
        runs = [half._has_program((batch, steps, shape[-1]), dtype) for half in halves]
        if (plan := program_plan(runs, stepwise or SEVERAL, graph)) is not None:
            return plan
        if resets:
            stepwise = why_steps_with_resets(self)
            if not stepwise and (stepwise := kernels_without_resets(calls)):
                return make_plan(calls, stepwise, graph, own_steps=True)
        return make_plan(calls, stepwise, graph, own_steps=not fused)

    def _why_not_at_once(self, batch: int, steps: int) -> str:
        """Why `__call__` leaves inputs of so many rows and steps to a graph, as it decides it."""
        if self.bidirectional or self.go_backwards:
            return "the layer reads backwards"
        cell, lstm = self.rnn_cell, self.get("lstm")
        if self.mixed_memory and lstm is None:
            return "a part of the layer is none of this package"
        if not isinstance(cell, LiquidCell | LSTMCell):
            return "the cell is none of this package; pure ones are computed at once all the same"
        return why_not(cell, lstm, batch, steps)
