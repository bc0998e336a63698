"""The columns of mlx_ncps itself: its fused backend, and its reference of plain MLX operations,
which is written step by step as ncps is, eager and through mx.compile.
"""

from __future__ import annotations

from contextlib import nullcontext

import mlx.core as mx
import numpy as np
from mlx_ncps import LTC, CfC, StreamingSession, _loader, dispatch, ops
from mlx_ncps.cells import CfCCell, LTCCell
from mlx_ncps.wirings import FullyConnected

from tests.support.cases import build_wiring, make

from ..launches import primitives
from . import Missing, Program
from .mlx_programs import sequence_program, step_program


def fused(row, threads: int) -> Program:
    """The backend that `auto` chooses, through the public functions and cells, eager."""
    if dispatch.explain(None).backend == "reference":
        device = mx.default_device()
        raise Missing(f"no fused backend on {device} (native module: {_loader.reason or 'loaded'})")
    if _loader.native is not None:
        _loader.native.set_num_threads(threads)
    program = _program(row, None, compiled=False)

    def check():
        result = program.check()
        if dispatch.last_backend() == "reference":
            raise Missing("the dispatch chose the reference for this row")
        return result

    return program._replace(check=check)


def layer_step(row, threads: int) -> Program:
    """`layer.step`, the state fed back."""
    return _stream(row, threads, lambda layer, state: _Steps(layer, state))


def session(row, threads: int) -> Program:
    """`StreamingSession`."""
    return _stream(row, threads, StreamingSession)


class _Steps:
    """A loop around `layer.step`: keeps the state that each call hands to the next."""

    def __init__(self, layer, state):
        self.layer, self.state = layer, state

    def __call__(self, x):
        output, self.state = self.layer.step(x, self.state)
        mx.eval(output, self.state)
        return output


def _stream(row, threads, make_stream) -> Program:
    if _loader.native is not None:
        _loader.native.set_num_threads(threads)
    call = make(row.case)
    layer = layer_of(row).eval()
    x, state = mx.array(call.inputs[:, 0]), mx.array(call.state)
    mx.eval(layer.parameters(), x, state)
    stream = make_stream(layer, state)

    def check():
        output = make_stream(layer, state)(x)
        return {"output": np.array(output)[:, None]}

    return Program(check, lambda: stream(x), lambda: len(primitives(layer.step(x, state))))


def layer_of(row):
    """The public layer with the parameters of the row's case."""
    c, cell = row.case, _cell(row)
    if row.is_ltc:
        keywords = {"ode_unfolds": c.unfolds, "implicit_param_constraints": c.implicit}
        layer = LTC(c.inputs, cell.wiring, **keywords)
    else:
        layer = CfC(c.inputs, c.units, backbone_units=c.backbone_units, backbone_layers=c.layers)
    layer.rnn_cell.update(cell.parameters())
    return layer


def eager(row, threads: int) -> Program:
    """Plain operations, one kernel each."""
    return _program(row, "reference", compiled=False)


def compiled(row, threads: int) -> Program:
    """The same through mx.compile: the whole call is one compiled function."""
    return _program(row, "reference", compiled=True)


def _program(row, backend: str | None, *, compiled: bool) -> Program:
    make_function = _cell if row.mode == "step" else _sequence
    make_program = step_program if row.mode == "step" else sequence_program
    function = make_function(row)

    def on_backend(*arguments):
        with dispatch.use_backend(backend) if backend else nullcontext():
            return function(*arguments)

    return make_program(row, on_backend, compiled=compiled)


def _sequence(row):
    """sequence(params, x [B, T, I], v [B, H]) -> states [B, T, H]."""
    call = make(row.case)
    op = ops.ltc_sequence if row.is_ltc else ops.cfc_sequence
    keywords = call.keywords | {"training": row.gradients}
    if row.is_ltc and call.params.mask is not None:
        keywords["synapses"] = ops.SynapseLists(call.params.mask, call.params.sensory_mask)
    return lambda params, x, v: op(x, v, call.ts, params, **keywords)


def _cell(row):
    """The public cell with the parameters of the row's case, for inference."""
    c, params = row.case, make(row.case).params
    if row.is_ltc:
        wiring = build_wiring(c) if c.wiring else FullyConnected(c.units)
        cell = LTCCell(wiring, c.inputs, ode_unfolds=c.unfolds)
        for name, value in params._asdict().items():
            if value is not None and "mask" not in name:
                cell[name] = mx.array(value)
    else:
        cell = CfCCell(c.inputs, c.units, backbone_units=[c.backbone_units] * c.layers)
        heads = (cell.ff1, cell.ff2, cell.time_a, cell.time_b)
        layers = (*params.backbone, params.ff1, params.ff2, params.time_a, params.time_b)
        for linear, (weight, bias) in zip((*cell.backbone, *heads), layers, strict=True):
            linear.weight, linear.bias = mx.array(weight), mx.array(bias)
    mx.eval(cell.parameters())
    return cell.eval()
