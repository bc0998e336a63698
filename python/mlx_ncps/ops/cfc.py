"""The CfC operators with their parameters (MATHS 1): check, bring to one form, dispatch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import dispatch
from ..at_once import attempt_call
from ..backends import CfCFacts, reference
from ..checks import flag, is_array, refused
from . import shapeless
from .calls import Call
from .checks import check_array, check_cfc, check_mode, check_variant
from .dropout import first_dropped, without_gradient
from .params import CfCParams
from .resets import checked_resets
from .timespans import normalise_step_timespans, normalise_timespans

if TYPE_CHECKING:
    from .._types import TimespansLike


def cfc_sequence(
    inputs: mx.array,
    state: mx.array,
    ts: TimespansLike,
    params: CfCParams,
    *,
    mode: str = "default",
    activation: str = "lecun_tanh",
    variant: str = "torch",
    resets: mx.array | None = None,
    reset_state: mx.array | None = None,
    training: bool = True,
    dropout: mx.array | None = None,
) -> mx.array:
    """CfC over a sequence -> states [B, T, H] after each step.

    Args:
        inputs: [B, T, I], float32, float16 or bfloat16; the result has this dtype, everything
            inside is float32.
        state: [B, H] before the first step.
        ts: elapsed time per step, in the unit of the model's time: None (1.0), a number >= 0, or an
            array of shape [], [T], [B, T] or [B, T, 1], in which negative elements give NaN from
            there on.
        params: CfCParams.
        mode: "default", "no_gate" or "pure".
        activation: of the backbone: one of `ops.ACTIVATIONS`; gelu is the exact one.
        variant: of the model, without effect in the mode pure. "torch": heads tanh(f1), tanh(f2)
            and gate sigmoid(a ts + b), as ncps.torch. "keras": heads f1, f2 and gate
            sigmoid(b - a ts), as ncps.tf and ncps.keras. "paper": as keras with heads
            lecun_tanh(f1), lecun_tanh(f2), as the paper's code.
        resets: [B, T], not 0 where the state starts anew before a step; None: nowhere.
        reset_state: from which it does, as `state`, and None for the same. On a backend whose
            kernels don't (`RESETS`) such a call runs step by step.
        training: save what the gradient needs; False saves memory, and a gradient still comes out
            the same.
        dropout: factors [B, T, D] of what the backbone's layers give at each step, side by side: of
            layers 2, 3, ... in the variant "torch", of all in the others. None: nothing is dropped.
            They have no gradient.

    Raises ValueError for wrong shapes, dtypes or options; RuntimeError when a forced backend can't
    run.
    Source: Hasani et al. 2022, "Closed-form continuous-time neural networks"; equal to ncps.torch.

    Example:
        >>> params = CfCCell(3, 4).params()  # 3 inputs, 4 neurons
        >>> ops.cfc_sequence(mx.ones((2, 5, 3)), mx.zeros((2, 4)), 0.5, params).shape
        (2, 5, 4)
    """
    call = prepare_cfc(
        inputs,
        state,
        ts,
        params,
        mode=mode,
        activation=activation,
        variant=variant,
        resets=resets,
        reset_state=reset_state,
        training=training,
        dropout=dropout,
    )
    done = None if training or resets is not None else attempt_call(call)
    return call.run() if done is None else done


def prepare_cfc(
    inputs: mx.array,
    state: mx.array,
    ts: TimespansLike,
    params: Any,
    *,
    mode: str,
    activation: str,
    variant: str,
    training: bool,
    dropout: mx.array | None = None,
    resets: Any = None,
    reset_state: Any = None,
    held: mx.array | None = None,
    op: str = "cfc_sequence",
) -> Call:
    """The checked call of `cfc_sequence` with its backend; `op`: what the backend is chosen for.
    held: [B, T], True at steps that leave the state as it is.
    """
    B, T, I, H = check_cfc(inputs, state, params, mode, activation, variant)
    if type(ts) is not float or not ts >= 0:  # what a layer has normalised is
        ts = normalise_timespans("cfc", ts, B, T, inputs)
    widths = tuple([weight.shape[0] for weight, _ in params.backbone])
    if dropout is not None:
        shape = (B, T, sum(widths[first_dropped(variant) :]))
        check_array("cfc", "dropout", dropout, "[B, T, D]", shape)
        dropout = without_gradient(dropout.astype(mx.float32)) if shape[2] else None
    facts = CfCFacts(
        batch=B,
        steps=T,
        inputs=I,
        units=H,
        dtype=inputs.dtype,
        scalar_ts=getattr(ts, "ndim", 0) == 0,
        training=training,
        mode=mode,
        activation=activation,
        variant=variant,
        backbone=widths,
        dropout=dropout is not None,
    )
    backend = dispatch.choose(op, facts)
    keywords = {
        "mode": mode,
        "activation": activation,
        "variant": variant,
        "training": training if type(training) is bool else flag("cfc", "training", training),
    }
    keywords |= checked_resets("cfc", resets, reset_state, state, B, T)
    for name, array in (("dropout", dropout), ("held", held)):
        if array is not None:
            keywords[name] = array
    state, params = state.astype(mx.float32), _float32(params, mode)
    return Call("cfc_sequence", backend, inputs, state, ts, params, keywords)


def cfc_sequence_held(
    held: mx.array | None, inputs: mx.array, state: mx.array, ts: Any, params: Any, **keywords: Any
) -> mx.array:
    """`cfc_sequence` with held steps, as `prepare_cfc` says; None: without."""
    if held is None:
        return cfc_sequence(inputs, state, ts, params, **keywords)
    keywords = (cfc_sequence.__kwdefaults__ or {}) | keywords
    return prepare_cfc(inputs, state, ts, params, held=held, **keywords).run()


def cfc_step(
    inputs: mx.array,
    state: mx.array,
    ts: TimespansLike,
    params: CfCParams,
    *,
    dropout: mx.array | None = None,
    **keywords: Any,
) -> mx.array:
    """One step: inputs [B, I], state [B, H] -> state [B, H], in the dtype of the inputs.

    `ts`: None (1.0), a number >= 0, or an array of shape [], [B] or [B, 1]. `dropout`: None, or
    factors [B, D]. The rest, and the keywords, are those of `cfc_sequence`.

    Example:
        >>> params = CfCCell(3, 4).params()
        >>> ops.cfc_step(mx.ones((2, 3)), mx.zeros((2, 4)), 0.5, params).shape
        (2, 4)
    """
    check_array("cfc", "inputs", inputs, "[B, I]", (None, None))
    if dropout is not None:
        check_array("cfc", "dropout", dropout, "[B, D]", (inputs.shape[0], None))
        keywords["dropout"] = dropout[:, None]
    ts = normalise_step_timespans("cfc", ts, inputs.shape[:1])
    with shapeless.one_step():
        return cfc_sequence(inputs[:, None], state, ts, params, **keywords)[:, 0]


def cfc_update(
    f1: mx.array,
    f2: mx.array,
    a: mx.array,
    b: mx.array,
    ts: TimespansLike,
    *,
    mode: str = "default",
    variant: str = "torch",
) -> mx.array:
    """The pointwise update of one step from its heads f1, f2, a, b, each [..., H] -> h' [..., H].

    `mode` "default": F1 (1 - g) + g F2; "no_gate": F1 + g F2. `variant` "torch": F = tanh(f),
    g = sigmoid(a ts + b); "keras": F = f, g = sigmoid(b - a ts); "paper": F = lecun_tanh(f), g as
    keras. `ts`: None (1.0), a number >= 0, or an array of shape [], [...] or [..., 1].
    Raises ValueError for another mode or variant, or heads of unequal shapes.

    Example:
        >>> one = mx.ones((2, 4))
        >>> ops.cfc_update(0 * one, 0 * one, one, one, 0.5).tolist()[0]
        [0.0, 0.0, 0.0, 0.0]
    """
    check_mode(mode, ("default", "no_gate"))
    check_variant(variant)
    shape = _head_shape(f1)
    for name, head in (("f1", f1), ("f2", f2), ("a", a), ("b", b)):
        check_array("cfc", name, head, "[..., H]", shape)
    ts = normalise_step_timespans("cfc", ts, f1.shape[:-1])
    update = partial(reference.cfc_update, ts=ts, mode=mode, variant=variant)
    return update(*(head.astype(mx.float32) for head in (f1, f2, a, b))).astype(f1.dtype)


def cfc_update_pure(f1: mx.array, w_tau: mx.array, A: mx.array, ts: TimespansLike) -> mx.array:
    """The pointwise update of the mode pure from its head f1 [..., H], w_tau and A [H].

    Returns h' = A - A exp(-ts (|w_tau| + |f1|)) f1, [..., H].
    `ts`: None (1.0), a number >= 0, or an array of shape [], [...] or [..., 1].

    Example:
        >>> ops.cfc_update_pure(mx.zeros((2, 3)), mx.ones(3), mx.ones(3), 0.5).tolist()[0]
        [1.0, 1.0, 1.0]
    """
    check_array("cfc", "f1", f1, "[..., H]", _head_shape(f1))
    for name, x in (("w_tau", w_tau), ("A", A)):
        check_array("cfc", name, x, "[H]", f1.shape[-1:])
    ts = normalise_step_timespans("cfc", ts, f1.shape[:-1])
    update = partial(reference.cfc_update_pure, ts=ts)
    return update(*(x.astype(mx.float32) for x in (f1, w_tau, A))).astype(f1.dtype)


def _head_shape(f1: Any) -> tuple:
    """The shape [..., H] of a head."""
    if not is_array(f1) or f1.ndim == 0:
        raise refused("cfc", "f1", "an mx.array [..., H]", f1)
    return f1.shape


def _float32(params: Any, mode: str) -> CfCParams:
    """Every leaf that the mode reads in float32."""
    backbone = [(w.astype(mx.float32), b.astype(mx.float32)) for w, b in params.backbone]
    heads = (params.ff1,) if mode == "pure" else params[1:5]
    heads: Any = [(w.astype(mx.float32), b.astype(mx.float32)) for w, b in heads]
    if mode != "pure":
        return CfCParams(tuple(backbone), *heads)
    w_tau, A = params.w_tau.astype(mx.float32), params.A.astype(mx.float32)
    return CfCParams(tuple(backbone), *heads, w_tau=w_tau, A=A)
