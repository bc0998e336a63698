"""The closed-form continuous-time network (Hasani et al. 2022) of ncps.torch, both directions.

One step reads the inputs x, the state h and the elapsed time ts:

    z = [x, h], then z <- activation(z W^T + b) for every layer of the backbone
    f1 = z W_ff1^T + b_ff1,  and so f2, a (time_a) and b (time_b)
    g = sigmoid(a ts + b)
    default:  h' = tanh(f1) (1 - g) + g tanh(f2)
    no_gate:  h' = tanh(f1) + g tanh(f2)
    pure:     h' = A - A exp(-ts (|w_tau| + |f1|)) f1      (f1 alone; w_tau and A are parameters)

That is the variant torch. The variants keras and paper have g = sigmoid(b - a ts). In place of
tanh(f1) and tanh(f2), keras has f1 and f2, and paper lecun_tanh(f1) and lecun_tanh(f2). The mode
pure is the same in every variant. The gradients are written out in docs/maths.md (MATHS 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .activations import get_activation, get_activation_derivative, lecun_tanh, sigmoid
from .arrays import (
    Numbers,
    as_float64,
    check_cotangents,
    check_shapes,
    timespans_array,
    timespans_column,
    timespans_gradient,
)
from .cfc_params import HEADS, params_as_float64, vector, zero_gradients
from .checks import choice, shaped
from .resets import resets_of

VARIANTS = ("torch", "keras", "paper")
_HEAD_ACTIVATIONS = {"torch": np.tanh, "keras": lambda f: f, "paper": lecun_tanh}
_HEAD_SLOPES = {  # dF/df, from F
    "torch": lambda F: 1.0 - F**2,
    "keras": np.ones_like,
    "paper": lambda F: 0.666 * (1.7159 - F**2 / 1.7159),
}


def cfc_sequence(
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    params: Any,
    *,
    mode: str = "default",
    activation: str = "lecun_tanh",
    variant: str = "torch",
    resets: Any = None,
    reset_state: Any = None,
    training: bool = True,
    dropout: Numbers | None = None,
) -> np.ndarray:
    """Runs a CfC over a sequence and returns the state after every step, [B, T, H] float64.

    Args:
        inputs: [B, T, I].
        state: [B, H], before the first step.
        ts: elapsed time per step: None (1.0), a number, or [T], [B, T], [B, T, 1]. A negative or
            NaN element of an array gives NaN from there on, a negative or NaN number ValueError.
        params: CfCParams, or any object with its fields.
        mode: default, no_gate or pure.
        activation: of the backbone: one of `ops.ACTIVATIONS`.
        variant: torch, keras or paper.
        resets: [B, T], not 0 where the state starts anew before a step; None: nowhere.
        reset_state: [B, H], from which it does; None: from `state`.
        training: a hint to fused backends, without effect here.
        dropout: None, or factors [B, T, D] of what the layers of the backbone give, side by side:
            of layers 2, 3, ... in the variant torch, of all in the others.
    """
    p = params_as_float64(params, mode)
    act = get_activation(activation)
    x, h, ts = _arguments(inputs, state, ts, p)
    factors = _factors(dropout, x, p, variant)
    anew = resets_of("cfc", resets, reset_state, x.shape[1], h)
    return _states(x, h, ts, p, act, factors, anew, mode=mode, variant=variant)[0]


def cfc_step(
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    params: Any,
    *,
    dropout: Numbers | None = None,
    **keywords: Any,
) -> np.ndarray:
    """One time step: inputs [B, I], state [B, H], ts a number, [B] or [B, 1] -> state [B, H].

    dropout: None, or factors [B, D]. The other keywords are those of `cfc_sequence`.
    """
    inputs = shaped("cfc", "inputs", inputs, (None, None))
    if dropout is not None:
        keywords["dropout"] = shaped("cfc", "dropout", dropout, (len(inputs), None))[:, None]
    ts = timespans_column("cfc", ts, len(inputs))
    return cfc_sequence(inputs[:, None], state, ts, params, **keywords)[:, 0]


def cfc_update(
    f1: Numbers,
    f2: Numbers,
    a: Numbers,
    b: Numbers,
    ts: Numbers,
    *,
    mode: str = "default",
    variant: str = "torch",
) -> np.ndarray:
    """The new state [B, H] from the four heads [B, H]: modes default and no_gate.

    ts: None (1.0), a number, or an array [], [B] or [B, 1].
    """
    choice("cfc", "mode", mode, ("default", "no_gate"))
    f1 = shaped("cfc", "f1", f1, (None, None))
    f2, a, b = (
        shaped("cfc", name, head, f1.shape) for name, head in (("f2", f2), ("a", a), ("b", b))
    )
    F1, F2, g = _gated(f1, f2, a, b, timespans_column("cfc", ts, len(f1)), variant)
    if mode == "no_gate":
        return F1 + g * F2
    return F1 * (1.0 - g) + g * F2


def _gated(f1, f2, a, b, ts, variant):
    """F1, F2 and the time gate g, [B, H] each."""
    _check_variant(variant)
    f1, f2, a, b = (as_float64(head) for head in (f1, f2, a, b))
    u = a * ts + b if variant == "torch" else b - a * ts
    return _HEAD_ACTIVATIONS[variant](f1), _HEAD_ACTIVATIONS[variant](f2), sigmoid(u)


def _check_variant(variant):
    choice("cfc", "variant", variant, VARIANTS)


def cfc_update_pure(f1: Numbers, w_tau: Numbers, A: Numbers, ts: Numbers) -> np.ndarray:
    """The new state [B, H] of the pure mode from its head f1 [B, H] and w_tau, A [H].

    ts: None (1.0), a number, or an array [], [B] or [B, 1].
    """
    f1 = shaped("cfc", "f1", f1, (None, None))
    w_tau, A = (vector(name, x, f1.shape[1]) for name, x in (("w_tau", w_tau), ("A", A)))
    ts = timespans_column("cfc", ts, len(f1))
    return A - A * np.exp(-ts * (np.abs(w_tau) + np.abs(f1))) * f1


def _states(x, h, ts, p, act, factors, anew, *, mode, variant):
    """The states after every step and those that it reads, [B, T, H] each."""
    _check_variant(variant)
    states, read = np.empty((2, *x.shape[:2], h.shape[1]))
    for t in range(x.shape[1]):
        (h,) = anew.before(t, h)
        read[:, t] = h
        heads = _heads(_backbone(x[:, t], h, p, act, factors, t)[-1], p)
        if mode == "pure":
            h = cfc_update_pure(heads["ff1"], p.w_tau, p.A, ts[:, t])
        else:
            h = cfc_update(*heads.values(), ts[:, t], mode=mode, variant=variant)
        states[:, t] = h
    return states, read


def _backbone(x, h, p, act, factors, t):
    """[x, h] and the output of each backbone layer; the heads read the last of them."""
    zs = [np.concatenate([x, h], axis=1)]  # [B, I + H]
    for layer, factor in zip(p.backbone, factors, strict=True):
        zs.append(act(_linear(zs[-1], layer)) * factor[:, t])  # [B, K]
    return zs


def _factors(dropout, x, p, variant):
    """The factors [B, T, K] of each backbone layer, [1, T, 1] of 1 for one that isn't dropped."""
    _check_variant(variant)
    first, ones = int(variant == "torch"), np.ones((1, x.shape[1], 1))
    widths = [len(bias) for _, bias in p.backbone[first:]]
    if dropout is None:
        return [ones] * len(p.backbone)
    dropout = shaped("cfc", "dropout", dropout, (*x.shape[:2], sum(widths)))
    ends = np.cumsum(widths, dtype=int)[:-1]
    dropped = np.split(dropout, ends, axis=2) if widths else []
    return [ones] * (len(p.backbone) - len(widths)) + dropped


def _linear(z, layer):
    weight, bias = layer
    return z @ weight.T + bias


def _heads(z, p):
    return {name: _linear(z, getattr(p, name)) for name in HEADS if getattr(p, name) is not None}


def cfc_sequence_backward(
    cotangents: Numbers,
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    params: Any,
    *,
    mode: str = "default",
    activation: str = "lecun_tanh",
    variant: str = "torch",
    resets: Any = None,
    reset_state: Any = None,
    training: bool = True,
    dropout: Numbers | None = None,
) -> Any:
    """The gradient of sum(cotangents * cfc_sequence(...)).

    Args: cotangents [B, T, H], then those of `cfc_sequence`.

    Returns ``(dinputs, dstate, dts, dparams)``: shaped as inputs, state, ts (None for None), and a
    CfCParams of gradients, with None for the fields that the mode does not read. With a reset_state
    dstate is the pair of the gradients of state and reset_state.
    """
    p = params_as_float64(params, mode)
    act, derivative = get_activation(activation), get_activation_derivative(activation)
    given_ts = ts
    x, h, ts = _arguments(inputs, state, ts, p)
    options = {"mode": mode, "variant": variant}
    factors = _factors(dropout, x, p, variant)
    anew = resets_of("cfc", resets, reset_state, x.shape[1], h)
    states, before = _states(x, h, ts, p, act, factors, anew, **options)
    cotangents = shaped("cfc", "cotangents", cotangents, (None, None, None))
    check_cotangents("cfc", cotangents, states)

    dh, dx, dts = np.zeros_like(h), np.zeros_like(x), np.zeros_like(ts)
    grads, dfirst = zero_gradients(p), anew.zeros()
    update_backward = _update_pure_backward if mode == "pure" else _update_backward
    for t in reversed(range(x.shape[1])):
        zs = _backbone(x[:, t], before[:, t], p, act, factors, t)
        dh = dh + cotangents[:, t]
        dheads, dts[:, t] = update_backward(
            dh, _heads(zs[-1], p), ts[:, t, None], p, grads, **options
        )
        dz: Any = sum(
            _linear_backward(d, zs[-1], getattr(p, name), getattr(grads, name))
            for name, d in dheads.items()
        )
        for z, layer, dlayer, factor in reversed(
            list(zip(zs[:-1], p.backbone, grads.backbone, factors, strict=True))
        ):
            dy = dz * factor[:, t] * derivative(_linear(z, layer))
            dz = _linear_backward(dy, z, layer, dlayer)
        dx[:, t], dh = dz[:, : x.shape[2]], dz[:, x.shape[2] :]
        (dh,) = anew.backward(t, dfirst, dh)
    return dx, anew.gradient(dfirst, dh), timespans_gradient(given_ts, dts), grads


def _update_backward(dh, heads, ts, p, grads, *, mode, variant):
    """Gradients of `cfc_update` [B, H]: by its heads, a dict, and by ts, [B]."""
    f1, f2, a, b = heads.values()
    F1, F2, g = _gated(f1, f2, a, b, ts, variant)
    slope, sign = _HEAD_SLOPES[variant], 1.0 if variant == "torch" else -1.0
    dF1 = dh * (1.0 - g) if mode == "default" else dh
    dg = dh * (F2 - F1) if mode == "default" else dh * F2
    du = dg * g * (1.0 - g)  # u = b + sign a ts
    dheads = {
        "ff1": dF1 * slope(F1),
        "ff2": dh * g * slope(F2),
        "time_a": sign * du * ts,
        "time_b": du,
    }
    return dheads, (sign * du * heads["time_a"]).sum(axis=1)


def _update_pure_backward(dh, heads, ts, p, grads, **options):
    """Gradients of `cfc_update_pure` by its head and ts; adds those of w_tau, A to ``grads``."""
    f = heads["ff1"]
    rate = np.abs(p.w_tau) + np.abs(f)
    e = np.exp(-ts * rate)  # [B, H]
    grads.A[...] += (dh * (1.0 - e * f)).sum(axis=0)
    grads.w_tau[...] += (dh * p.A * f * e * ts * np.sign(p.w_tau)).sum(axis=0)
    return {"ff1": -dh * p.A * e * (1.0 - ts * np.abs(f))}, (dh * p.A * f * e * rate).sum(axis=1)


def _linear_backward(dy, z, layer, dlayer):
    """Gradient of `_linear` by z; adds those of weight and bias to ``dlayer``."""
    dweight, dbias = dlayer
    dweight += dy.T @ z
    dbias += dy.sum(axis=0)
    return dy @ layer[0]


def _arguments(inputs, state, ts, p):
    x, h = as_float64(inputs), as_float64(state)
    units = p.ff1[0].shape[0]
    width = (p.backbone[0] if p.backbone else p.ff1)[0].shape[1]
    check_shapes("cfc", x, h, width - units, units)
    return x, h, timespans_array("cfc", ts, *x.shape[:2])
