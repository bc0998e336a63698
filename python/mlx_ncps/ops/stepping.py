"""Single steps of a stream, computed at once by a cell that was packed beforehand, without a graph;
the cells call it.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .. import dispatch
from ..backends import cpu

FORMS = {"step": 0, "every": 1, "last": 2}  # as src/step_cell.cpp numbers them


class Readout(NamedTuple):
    """Which neurons are the outputs: `count` of them from `first`, times w plus b where given."""

    first: int
    count: int
    w: mx.array | None = None
    b: mx.array | None = None


class CfCStage(NamedTuple):
    """One CfC of a chain: its parameters and options, and its number of inputs."""

    params: tuple
    inputs: int
    mode: str
    activation: str
    variant: str


class StepCell:
    """What a cell computes single steps with: the packed parameters, made anew whenever one of the
    arrays or options that they came from is another. Belongs to one cell; copies start empty.
    """

    def __init__(self):
        self._packed = None
        self._options = None

    def __call__(self, x, state, ts, form: str, arrays: list, options: tuple, make):
        """(output, new state) of one step, or None where only a graph can compute it: for arrays
        that are not evaluated, tracers, other dtypes or shapes, and other backends than the CPU's.

        x, state, ts, form: as in `LiquidCell.step_at_once`; arrays, options: all that the packed
        parameters depend on; make(): packs them.
        """
        if not dispatch.runs_steps_on_cpu():
            return None
        if isinstance(ts, np.ndarray | np.generic) and ts.dtype.kind in "fiu":
            ts = mx.array(ts.astype(np.float32))
        done = False
        if self._packed is not None and self._options == options:
            done = self._packed(x, state, ts, arrays, FORMS[form])
        if done is False:
            if not cpu.has_values(x) or any(map(cpu.is_tracer, arrays)):
                return None
            self._packed, self._options = make(), options
            done = self._packed(x, state, ts, arrays, FORMS[form])
        if done is None or done is False:
            return None
        dispatch.record("cpu")
        return done

    def __deepcopy__(self, memo):
        return StepCell()

    def __reduce__(self):
        return StepCell, ()


def pack_ltc(params, memory, arrays, readout: Readout, **options):
    """An LTC packed: `options` are those of `ltc_sequence`; memory: the weights of the LSTM in
    front of it, or none; arrays: all that it must be packed anew for.
    """
    return cpu.ltc_step_cell(_float32(params), memory, arrays, readout, **options)


def pack_cfc(chain: list[CfCStage], memory, arrays, readout: Readout):
    """A chain of CfCs packed, each reading the new state of the one before; the rest as above."""
    return cpu.cfc_step_cell(chain, memory, arrays, readout)


def linear(x, weight, bias):
    """X [..., N] through a linear map at once, or None where an array has no values yet."""
    return cpu.linear(x, weight, bias)


def _float32(params):
    return type(params)(*(p if p is None else p.astype(mx.float32) for p in params))
