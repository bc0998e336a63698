"""Shapes, states, time spans and the two call contracts of the recurrent layers; `CfC` and `LTC`
are this and a cell.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import dispatch
from ..cells import LiquidCell
from ..ops.checks import check_array

MERGE_MODES = ("concat", "sum", "mul", "ave", None)


class Contract(NamedTuple):
    """What a call returns."""

    return_sequences: bool
    return_state: bool


def call_contract(cell_first: bool, return_sequences, return_state) -> Contract:
    """The contract of a layer: a cell as first argument follows the MLX guides (last output alone),
    sizes follow ncps.torch (whole sequence and state); an argument that is not None wins.
    """
    default = Contract(False, False) if cell_first else Contract(True, True)
    return Contract(
        default.return_sequences if return_sequences is None else bool(return_sequences),
        default.return_state if return_state is None else bool(return_state),
    )


def check_options(op: str, **options) -> None:
    """Options not implemented yet: each is a pair (given, the only value taken for now)."""
    if "merge_mode" in options and options["merge_mode"][0] not in MERGE_MODES:
        raise ValueError(
            f"[{op}] merge_mode must be one of {MERGE_MODES}, got {options['merge_mode'][0]!r}."
        )
    for name, (given, default) in options.items():
        if given != default:
            raise NotImplementedError(f"[{op}] {name} must be {default!r} for now, got {given!r}.")


def check_cell_alone(op: str, **options) -> None:
    """Options that a cell as first argument has already: each a pair (given, default)."""
    for name, (given, default) in options.items():
        if given != default:
            raise ValueError(
                f"[{op}] {name} must be left out with a cell, which has its own, got {given!r}."
            )


def one_of(op: str, **aliases):
    """The one argument that is not None among several spellings of it, or None."""
    given = [name for name, value in aliases.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"[{op}] one of {', '.join(aliases)} must be given, got {', '.join(given)}."
        )
    return aliases[given[0]] if given else None


class Layout(NamedTuple):
    """How a call's arrays lie; its methods bring them to [B, T, ...] and back."""

    op: str
    batched: bool
    batch_first: bool

    @classmethod
    def of(cls, op: str, inputs, batch_first: bool) -> Layout:
        """The layout of inputs [B, T, I], [T, B, I] unless `batch_first`, or [T, I]."""
        if not isinstance(inputs, mx.array) or inputs.ndim not in (2, 3):
            wanted = f"{'[B, T, I]' if batch_first else '[T, B, I]'} or [T, I]"
            got = inputs.shape if isinstance(inputs, mx.array) else type(inputs).__name__
            raise ValueError(f"[{op}] inputs must be {wanted}, got {got}.")
        return cls(op, inputs.ndim == 3, batch_first)

    def inputs(self, inputs):
        """The inputs as [B, T, I]."""
        if not self.batched:
            return inputs[None]
        return inputs if self.batch_first else inputs.swapaxes(0, 1)

    def timespans(self, ts, batch: int, steps: int):
        """The time spans as None, a number, [], [T] or [B, T]."""
        if not isinstance(ts, (mx.array, np.ndarray)) or ts.shape in ((), (steps,)):
            return ts
        if not self.batched:
            symbols, shape = "[T]", (steps,)
        elif self.batch_first:
            symbols, shape = "[B, T]", (batch, steps)
        else:
            symbols, shape = "[T, B]", (steps, batch)
        if ts.shape not in (shape, (*shape, 1)):
            raise ValueError(f"[{self.op}] timespans must be {symbols} = {shape}, got {ts.shape}.")
        ts = ts.reshape(shape)
        return ts.T if self.batched and not self.batch_first else ts

    def state(self, hx, batch: int, units: int, dtype):
        """hx, or zeros, as [B, H]."""
        if hx is None:
            return mx.zeros((batch, units), dtype)
        symbols, shape = ("[B, H]", (batch, units)) if self.batched else ("[H]", (units,))
        check_array(self.op, "hx", hx, symbols, shape)
        return (hx if self.batched else hx[None]).astype(dtype)

    def sequences(self, output):
        """Output [B, T, O] in the layout of the inputs."""
        if not self.batched:
            return output[0]
        return output if self.batch_first else output.swapaxes(0, 1)

    def single(self, array):
        """Output [B, O] or state [B, H] in the layout of the inputs."""
        return array if self.batched else array[0]


class Plan(NamedTuple):
    """What a call would run: the calls of fused operators in their order, each with the backend and
    the reason.
    """

    calls: tuple  # of (op, dispatch.Choice)

    def __str__(self) -> str:
        return "\n".join(f"{op} over the whole sequence on {choice}" for op, choice in self.calls)


class SequenceLayer(nn.Module):
    """A cell over a sequence: `rnn_cell`, and `fc`, a linear map to `proj_size` outputs, when that
    is given.
    """

    op = "rnn"

    def __init__(self, cell: LiquidCell, contract: Contract, batch_first=True, proj_size=None):
        super().__init__()
        self.rnn_cell = cell
        self.return_sequences, self.return_state = contract
        self.batch_first = batch_first
        self.proj_size = proj_size
        if proj_size is not None:
            self.fc = nn.Linear(cell.output_size, proj_size)

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
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
        """Number of outputs of the cell, before `proj_size`."""
        return self.rnn_cell.output_size

    @property
    def synapse_count(self) -> int:
        """Synapses between neurons."""
        return self.rnn_cell.synapse_count

    @property
    def sensory_synapse_count(self) -> int:
        """Synapses from inputs to neurons."""
        return self.rnn_cell.sensory_synapse_count

    def __call__(
        self,
        inputs,
        hx=None,
        timespans=None,
        *,
        mask=None,
        time_delta=None,
        initial_state=None,
        initial_states=None,
    ):
        """The layer over a sequence; the class says what comes back.

        inputs: [B, T, I], [T, B, I] with batch_first=False, or [T, I]; float32, float16 or
        bfloat16.
        hx: state before the first step, [B, H], or [H] with inputs [T, I]; zeros when None.
            Aliases `initial_state`, `initial_states`.
        timespans: time elapsed before each step: None (1.0), a number, or an array [], [T], [B, T],
            [B, T, 1]; [T, B], [T, B, 1] with batch_first=False. Alias `time_delta`.
        mask: not for now.

        Without any step (T = 0) the state is the initial one, and so is what the last output is
        read from. Raises ValueError for a wrong rank, width, kind or dtype, for timespans of
        another length, and for a number that is negative or NaN; such an element of an array gives
        NaN from its step on.
        """
        if mask is not None:
            raise NotImplementedError(f"[{self.op}] mask must be None for now, got one.")
        hx = one_of(self.op, hx=hx, initial_state=initial_state, initial_states=initial_states)
        timespans = one_of(self.op, timespans=timespans, time_delta=time_delta)
        layout = Layout.of(self.op, inputs, self.batch_first)
        x = layout.inputs(inputs)  # [B, T, I]
        batch, steps = x.shape[:2]
        self.rnn_cell.build(x.shape)
        ts = layout.timespans(timespans, batch, steps)
        state = layout.state(hx, batch, self.state_size, x.dtype)  # [B, H]
        states = self.rnn_cell.sequence(x, state, ts)  # [B, T, H]
        last = states[:, -1] if steps else state
        if self.return_sequences:
            output = layout.sequences(self._project(self.rnn_cell.readout(states)))
        else:
            output = layout.single(self._project(self.rnn_cell.readout(last)))
        return (output, layout.single(last)) if self.return_state else output

    def _project(self, output):
        return self.fc(output).astype(output.dtype) if "fc" in self else output

    def explain(self, shape, *, dtype=mx.float32, scalar_timespans=True) -> Plan:
        """What a call with inputs of this shape would run and why, as a printable `Plan`; computes
        nothing.
        """
        shape = tuple(shape)
        if len(shape) not in (2, 3):
            raise ValueError(f"[{self.op}] shape must be [B, T, I] or [T, I], got {shape}.")
        batch, steps = (1, *shape)[-3:-1]
        if not self.batch_first and len(shape) == 3:
            batch, steps = steps, batch
        self.rnn_cell.build(shape)
        facts = {"batch": batch, "steps": steps, "dtype": dtype, "scalar_ts": scalar_timespans}
        return Plan(
            tuple(
                (op, dispatch.explain(op, **facts, **of_cell))
                for op, of_cell in self.rnn_cell.calls()
            )
        )
