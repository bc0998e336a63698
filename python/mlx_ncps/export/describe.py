"""From a layer or cell to its `Model`, or an error that says why not, and what to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np

from ..backends.activations import HEAD_ACTIVATIONS
from ..cells import CfCCell, LSTMCell, LTCCell, WiredCfCCell
from ..cells.ltc_backbone import BackboneLTCCell
from ..convert.memory import KerasMemoryCell
from ..layers.linear import weight_and_bias, why_called
from ..rnn.sequence import SequenceLayer
from ..rnn.stacked import StackedRNN
from .description import (
    CfCStage,
    LayerStep,
    LTCStage,
    Map,
    Memory,
    Model,
    Readout,
    Synapses,
    arrays_of,
)

CELLS = (CfCCell, WiredCfCCell, LTCCell, BackboneLTCCell)
_OR_MLX = "export_step writes such a layer for MLX"
_WITHIN = "give the layer within it, with an nn.Linear behind it as its own map (proj_size)"


def describe(op: str, layer: Any) -> Model:
    """The step of a `CfC`, `LTC`, `CfCRNN`, `LTCRNN`, or of one of their cells, as it is now.

    Raises ValueError for a layer that isn't built, reads backwards, has another cell or other
    modules in place of linear maps, or weights that are not finite.
    """
    parts = layer.layers if isinstance(layer, StackedRNN) else [layer]
    model = Model(tuple(_layer(op, part) for part in parts))
    for array in arrays_of(model):
        if not np.isfinite(array).all():
            raise ValueError(f"[{op}] weights must be finite, got NaN or infinity in some.")
    return model


def _layer(op: str, layer: Any) -> LayerStep:
    cell, lstm, projection = layer, None, None
    if isinstance(layer, SequenceLayer):
        for option in ("bidirectional", "go_backwards"):
            if getattr(layer, option):
                raise ValueError(
                    f"[{op}] {option} must be False, got True: a step can't read what comes later. "
                    "Export whole sequences with export_sequence."
                )
        cell, lstm = layer.rnn_cell, layer.get("lstm")
        if layer.proj_size is not None:
            projection = _map(op, "fc", layer.get("fc", vars(layer).get("fc")))
    feeds = type(cell) is KerasMemoryCell
    if feeds:
        cell, lstm = cell.cell, cell.lstm
    if type(cell) not in CELLS:
        kind, of = type(layer).__name__, type(cell).__name__
        raise ValueError(
            f"[{op}] layer must be a CfC or LTC, a stack of them, or one of their cells, got "
            + (f"{kind}: {_WITHIN}." if cell is layer else f"{kind} of {of}: {_OR_MLX}.")
        )
    if not cell.built or (lstm is not None and not lstm.built):
        raise ValueError(
            f"[{op}] layer must be built, got one without weights: call it once, or "
            "build(input_size)."
        )
    memory = None if lstm is None else _memory(op, lstm, feeds)
    is_ltc = isinstance(cell, LTCCell)
    stages = (_ltc(op, cell),) if is_ltc else _cfc_stages(op, cell)
    readout = _readout(cell, stages, projection)
    states = ("h",) if memory is None else ("c", "h") if feeds else ("h", "c")
    inputs = memory.input_weight.shape[1] if feeds and memory else stages[0].inputs
    return LayerStep(inputs, states, memory, stages, readout)


def _readout(cell: Any, stages: tuple, projection: Map | None) -> Readout:
    first, scale, shift = 0, None, None
    if type(cell) is WiredCfCCell:
        first = cell.state_size - stages[-1].units
    elif isinstance(cell, LTCCell):
        scale, shift = (_numpy(cell[n]) if n in cell else None for n in ("output_w", "output_b"))
    return Readout(first, cell.output_size, scale, shift, projection)


# --- CfC ---


def _cfc_stages(op: str, cell: Any) -> tuple[CfCStage, ...]:
    wired = type(cell) is WiredCfCCell
    for n, part in enumerate(cell._layers() if wired else [cell]):
        name = f"layer_{n}" if wired else "layer"
        if type(part) is not CfCCell:
            raise ValueError(f"[{op}] {name} must be a CfCCell, got {type(part).__name__}.")
        _check_linear(op, part._parts())
    if not wired:
        return (_cfc(cell, cell._checked_params()),)
    cell._sync_wiring()
    layers = zip(cell._layers(), cell._layers_params(), strict=True)
    return tuple(_cfc(layer, params) for layer, params in layers)


def _cfc(cell: Any, params: Any) -> CfCStage:
    heads: dict[str, Any] = {
        name: Map(*map(_numpy, part)) if isinstance(part, tuple) else _numpy(part)
        for name, part in params._asdict().items()
        if name != "backbone" and part is not None
    }
    if "time_a" in heads and cell.variant != "torch":
        heads["time_a"] = Map(*(-array for array in heads["time_a"]))
    return CfCStage(
        inputs=cell.input_size,
        units=cell.hidden_size,
        mode=cell.mode,
        activation=cell.backbone_options.activation,
        head_activation=HEAD_ACTIVATIONS[cell.variant],
        backbone=tuple(Map(*map(_numpy, layer)) for layer in params.backbone),
        **heads,
    )


# --- LTC ---


def _ltc(op: str, cell: Any) -> LTCStage:
    params = cell.params()
    backbone = cell.backbone if type(cell) is BackboneLTCCell else ()
    arrays = {n: None if a is None else _numpy(a) for n, a in params._asdict().items()}
    p: Any = SimpleNamespace(**arrays)  # the fields of LTCParams, in NumPy
    positive = _softplus if cell.implicit_param_constraints else np.asarray
    leak, I = positive(p.gleak), len(p.sensory_w)
    w = np.ones(I) if p.input_w is None else p.input_w.astype(np.float64)
    b = np.zeros(I) if p.input_b is None else p.input_b.astype(np.float64)
    sensory = (p.sensory_sigma, p.sensory_mu, positive(p.sensory_w), p.sensory_erev)
    recurrent = (p.sigma, p.mu, positive(p.w), p.erev)
    return LTCStage(
        inputs=cell.sensory_size or I,
        units=cell.state_size,
        activation=cell.backbone_options.activation,
        backbone=tuple(_map(op, f"backbone.{n}", part) for n, part in enumerate(backbone)),
        unfolds=cell.ode_unfolds,
        epsilon=cell.epsilon,
        solver=cell.ode_solver,
        cm=_float32(positive(p.cm)),
        leak_current=_float32(leak * p.vleak),
        leak=_float32(leak),
        sensory=_synapses(*sensory, p.sensory_mask, w, b),
        recurrent=_synapses(*recurrent, p.mask, np.ones(cell.state_size), np.zeros(1)),
    )


def _synapses(
    sigma: np.ndarray,
    mu: np.ndarray,
    w: np.ndarray,
    erev: np.ndarray,
    mask: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
) -> Synapses:
    """Of matrices [source, target] whose sources are read as v scale + shift."""
    mask = np.ones(sigma.shape) if mask is None else np.abs(mask)
    target, source = np.nonzero(mask.T)
    at = source, target
    slope = sigma.astype(np.float64) * scale[:, None]
    offset = sigma.astype(np.float64) * (shift[:, None] - mu)
    conductance = w * mask.astype(np.float64)
    values = (slope, offset, conductance, conductance * erev)
    first = np.searchsorted(target, np.arange(sigma.shape[1] + 1))
    return Synapses(first, source, *(_float32(value[at]) for value in values))


# --- parts ---


def _memory(op: str, lstm: Any, feeds: bool) -> Memory:
    if type(lstm) is not LSTMCell:
        raise ValueError(f"[{op}] lstm must be an LSTMCell, got {type(lstm).__name__}: {_OR_MLX}.")
    _check_linear(op, lstm._parts())
    weights = lstm.weights()
    return Memory(
        _numpy(weights.input_weight),
        _numpy(weights.bias),
        _numpy(weights.recurrent_weight),
        feeds,
    )


def _check_linear(op: str, parts: dict) -> None:
    if why := why_called(parts):
        name = why.partition(" is ")[0]
        raise ValueError(
            f"[{op}] {name} must be an nn.Linear, got {type(parts[name]).__name__}: merge it into "
            f"a linear map first; {_OR_MLX}."
        )


def _map(op: str, name: str, part: Any) -> Map:
    _check_linear(op, {name: part})
    weight, bias = weight_and_bias(part) or (mx.zeros((0, 0)), None)
    bias = mx.zeros(weight.shape[:1]) if bias is None else bias
    return Map(_numpy(weight), _numpy(bias))


def _numpy(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def _float32(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def _softplus(array: np.ndarray) -> np.ndarray:
    return np.logaddexp(array.astype(np.float64), 0.0)
