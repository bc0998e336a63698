"""The extension's fused CPU primitives behind the names of a backend, on a CPU
stream whatever the default device is.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import _loader
from . import shapeless
from .activations import first_dropped
from .fold import fold_cfc
from .primitives import merge_heads
from .types import Facts, LTCFacts, Timespans

if TYPE_CHECKING:
    from ..ops.params import CfCParams, LTCParams
    from ..ops.synapses import SynapseLists

NAME = "cpu"
MIXED_MEMORY = RESETS = ("ltc_sequence", "cfc_sequence")
MASKS = ()
MAX_LAYERS: int = getattr(_loader.native, "max_cfc_layers", 0)  # of a CfC
_handles = weakref.WeakKeyDictionary()  # SynapseLists -> the extension's own


def available() -> tuple[bool, str]:
    """Whether the native module is loaded, and if not why, as the loader says it."""
    if _loader.native is None:
        return False, _loader.reason
    return True, "the native module is loaded"


def unsupported(op: str, facts: Facts) -> str:
    """The depth of a CfC's backbone."""
    return "" if isinstance(facts, LTCFacts) else too_deep(facts.backbone)


def too_deep(backbone: tuple[int, ...]) -> str:
    """Why the kernels can't run a CfC of these backbone layers; or ""."""
    if len(backbone) > MAX_LAYERS:
        return f"it has at most {MAX_LAYERS} backbone layers, got {len(backbone)}"
    return ""


def ltc_sequence(
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    params: LTCParams,
    *,
    ode_unfolds: int,
    epsilon: float,
    implicit_param_constraints: bool,
    synapses: SynapseLists | None,
    training: bool,
    ode_solver: str = "semi_implicit",
    memory: list[mx.array] | None = None,
    resets: list[mx.array] | None = None,
) -> Any:
    """LTC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for
    the gradient. `memory` and `resets`: as `backends` says.
    """
    with mx.stream(mx.cpu):
        folded = _fold_ltc(params, implicit_param_constraints, epsilon, ode_solver)
        return _loader.native.ltc_sequence(
            inputs,
            state,
            shapeless.timespans(ts, inputs),
            folded,
            unfolds=int(ode_unfolds),
            solver=ode_solver,
            synapses=_handle(synapses),
            memory=memory,
            resets=_float32(resets),
            save=training,
            stream=mx.cpu,
        )


def cfc_sequence(
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    params: CfCParams,
    *,
    mode: str,
    activation: str,
    variant: str = "torch",
    training: bool,
    memory: list[mx.array] | None = None,
    dropout: mx.array | None = None,
    resets: list[mx.array] | None = None,
) -> Any:
    """CfC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for
    the gradient. `memory`, `dropout` and `resets`: as `backends` says.
    """
    with mx.stream(mx.cpu):
        folded = fold_cfc(params, ts, mode, variant, merge_heads)
        return _loader.native.cfc_sequence(
            inputs,
            state,
            None if folded.merged else shapeless.timespans(ts, inputs),
            folded.arrays,
            layers=len(folded.backbone),
            mode=mode,
            activation=activation,
            head_activation=folded.head_activation,
            merged=folded.merged,
            memory=memory,
            dropout=dropout,
            first_dropped=first_dropped(variant),
            resets=_float32(resets),
            save=training,
            stream=mx.cpu,
        )


def dropout_factors(key: mx.array, shape: tuple[int, ...], rate: float) -> mx.array:
    """What mx.random.bernoulli(1 - rate, shape, key) / (1 - rate) is, bit for bit."""
    with mx.stream(mx.cpu):
        return _loader.native.dropout_factors(key, shape, rate, stream=mx.cpu)


def _float32(resets):
    return None if resets is None else [a.astype(mx.float32) for a in resets]


def ltc_step_cell(
    stage: Any, weights: tuple, memory: Iterable[mx.array], arrays: list[mx.array], readout: tuple
) -> Any:
    """The extension's StepCell of an LTC, of its LTCStage and its (LTCParams, SynapseLists, the
    elapsed time from which on it leaves steps to a graph, and what the program in front captured).

    memory: the LSTM's weights or none; arrays: what it must be made anew for.
    """
    params, synapses, longest, *captured = weights
    front = None
    if stage.front is not None:
        front = _loader.native.FrontLayers(stage.front, _plain(captured[0]))
    params = type(params)(*(p if p is None else p.astype(mx.float32) for p in params))
    constraints, solver = stage.implicit_param_constraints, stage.ode_solver
    folded = _plain(_fold_ltc(params, constraints, stage.epsilon, solver))
    mx.eval(arrays)
    lists, of_memory, outputs = _handle(synapses), _plain(memory), _readout(readout)
    return _loader.native.StepCell.ltc(
        folded, stage.ode_unfolds, lists, of_memory, outputs, arrays, solver, longest, front
    )


def _fold_ltc(params, implicit, epsilon, ode_solver="semi_implicit"):
    """The arrays of a FoldedLTC by one primitive, to the bit those of `fold.fold_ltc`."""
    *weights, mask, sensory_mask, input_w, input_b = params
    return _loader.native.fold_ltc(
        weights,
        mask=mask,
        sensory_mask=sensory_mask,
        input_w=input_w,
        input_b=input_b,
        implicit=implicit,
        epsilon=epsilon if ode_solver == "semi_implicit" else 0.0,
        stream=mx.cpu,
    )


def cfc_step_cell(
    chain: list[tuple], memory: Iterable[mx.array], arrays: list[mx.array], readout: tuple
) -> Any:
    """The extension's StepCell of a chain of (CfCStage, CfCParams); the rest as above."""
    stages = [
        _cfc_stage(params, s.inputs, s.mode, s.activation, s.variant, _plain) for s, params in chain
    ]
    mx.eval(arrays)
    return _loader.native.StepCell.cfc(stages, _plain(memory), _readout(readout), arrays)


def program_step_cell(
    program: Any, captured: list[mx.array], arrays: list[mx.array], readout: tuple
) -> Any:
    """The extension's StepCell of a step program and the arrays that it captured."""
    mx.eval(arrays)
    return _loader.native.StepCell.program(program, _plain(captured), _readout(readout), arrays)


def cfc_at_once(
    inputs: mx.array, state: mx.array, ts: Any, params: Any, stage: tuple, no_gpu: bool
) -> mx.array | None:
    """The states [B, T, H] of `cfc_sequence`, computed now by weights packed for this call, or None
    where a graph must. stage: (inputs, mode, activation, variant).
    """
    inputs_size, mode, activation, variant = stage
    packed = _cfc_stage(params, inputs_size, mode, activation, variant, list)
    done: Any = _loader.native.cfc_at_once(inputs, state, ts, packed, no_gpu)
    return None if done is None else done[0]


def _cfc_stage(params, inputs, mode, activation, variant, kept):
    """The extension's CfcStage, of kept(arrays); its time heads are not merged."""
    folded = fold_cfc(params, None, mode, variant)
    return _loader.native.CfcStage(
        kept(folded.arrays),
        inputs=inputs,
        layers=len(folded.backbone),
        mode=mode,
        activation=activation,
        head_activation=folded.head_activation,
    )


def left_to_graph(batch: int, steps: int, work: int, beside_gpu: bool) -> str:
    """Why a call of so much work for each row and step is not computed at once; or ""."""
    return _loader.native.left_to_graph(batch, steps, work, beside_gpu)


def _plain(arrays: Iterable[mx.array]) -> list:
    """Evaluated, row-contiguous and float32, as the extension reads memory."""
    with mx.stream(mx.cpu):
        plain = [mx.contiguous(a.astype(mx.float32)) for a in arrays]
        mx.eval(plain)
    return plain


def _readout(readout):
    mx.eval([a for a in readout[2:] if a is not None])
    return _loader.native.Readout(*readout)


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array | None:
    """A linear map of x [..., N] at once, or None where something is traced."""
    mapped: Any = _loader.native.linear(x, weight, bias)
    return mapped


def is_tracer(a: mx.array) -> bool:
    """Whether `a` stands for a value within mx.compile, a gradient or vmap."""
    return _loader.native.is_tracer(a)


def _handle(synapses):
    """The extension's lists of `synapses`, made once for equal ones."""
    if synapses is None:
        return None
    handle = _handles.get(synapses)
    if handle is None:
        s = synapses
        handle = _handles[s] = _loader.native.SynapseLists(
            s.source, s.target, s.sensory_source, s.sensory_target, inputs=s.inputs, units=s.units
        )
    return handle
