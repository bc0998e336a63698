"""The models as MATHS writes them, in plain MLX operations without a hand-written gradient: the
judge of every other backend, which runs everything and is differentiable to any order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from . import shapeless
from .activations import ACTIVATIONS, HEAD_ACTIVATIONS, TABLE, first_dropped, softplus
from .types import Facts

if TYPE_CHECKING:
    from ..backends.types import Timespans
    from ..ops.synapses import SynapseLists

NAME = "reference"
MIXED_MEMORY = ()
RESETS = ("ltc_sequence", "cfc_sequence")
MASKS = ()


def available() -> tuple[bool, str]:
    """Always: it needs MLX only."""
    return True, "plain MLX operations"


def unsupported(op: str, facts: Facts) -> str:
    """Nothing is unsupported."""
    return ""


# --- CfC, MATHS 1 ---------------------------------------------------------------------------------


def cfc_update(
    f1: mx.array,
    f2: mx.array,
    a: mx.array,
    b: mx.array,
    ts: Timespans,
    *,
    mode: str,
    variant: str = "torch",
) -> mx.array:
    """The pointwise update of the modes default and no_gate; ts broadcasts against the heads."""
    gate = mx.sigmoid(a * ts + b if variant == "torch" else b - a * ts)
    f1, f2 = (TABLE[HEAD_ACTIVATIONS[variant]].function(f) for f in (f1, f2))
    if mode == "no_gate":
        return f1 + gate * f2
    return f1 * (1.0 - gate) + gate * f2


def cfc_update_pure(f1: mx.array, w_tau: mx.array, A: mx.array, ts: Timespans) -> mx.array:
    """The pointwise update of the mode pure; ts broadcasts against the head."""
    return A - A * mx.exp(-ts * (mx.abs(w_tau) + mx.abs(f1))) * f1


def _linear(layer: Any, z: mx.array) -> mx.array:
    weight, bias = layer
    return z @ weight.T + bias


def _cfc_step(
    x: mx.array,
    h: mx.array,
    ts: Timespans,
    *factors: mx.array,
    params: Any,
    mode: str,
    activation: Callable[[mx.array], mx.array],
    variant: str,
) -> mx.array:
    """One step: x [B, I], h [B, H], ts a number or [B, 1], factors [B, D] of dropout or none -> h'
    [B, H].
    """
    z = mx.concatenate([x, h], axis=-1)  # [B, I+H]
    first = 0
    for n, layer in enumerate(params.backbone):
        z = activation(_linear(layer, z))  # [B, K]
        if factors and n >= first_dropped(variant):
            z = z * factors[0][:, first : first + z.shape[1]]
            first += z.shape[1]
    f1 = _linear(params.ff1, z)  # [B, H]
    if mode == "pure":
        return cfc_update_pure(f1, params.w_tau, params.A, ts)
    f2, a, b = (_linear(p, z) for p in (params.ff2, params.time_a, params.time_b))
    return cfc_update(f1, f2, a, b, ts, mode=mode, variant=variant)


def cfc_sequence(
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    params: Any,
    *,
    mode: str,
    activation: str,
    variant: str = "torch",
    training: bool,
    dropout: mx.array | None = None,
    resets: list[mx.array] | None = None,
) -> mx.array:
    """CfC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]."""
    options = {"mode": mode, "activation": ACTIVATIONS[activation], "variant": variant}
    step = partial(_cfc_step, params=params, **options)
    factors = () if dropout is None else (dropout,)
    return _scan("cfc", step, inputs, state, ts, resets, *factors)


# --- LTC, MATHS 3 ---------------------------------------------------------------------------------


def _synapse_sums(
    v: mx.array, w: mx.array, sigma: mx.array, mu: mx.array, erev: mx.array, mask: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Sums over the sources: v [B, S], parameters [S, H] -> N = sum a E and D = sum a, both [B,
    H].
    """
    gate = mx.sigmoid(sigma * (v[:, :, None] - mu))  # [B, S, H]
    a = w * gate if mask is None else w * gate * mx.abs(mask)
    return (a * erev).sum(axis=1), a.sum(axis=1)


Drive = Callable[[mx.array], tuple[mx.array, mx.array]]


def _semi_implicit(
    v: mx.array, k: Timespans, cm: mx.array, drive: Drive, epsilon: float
) -> mx.array:
    """Numerator and denominator multiplied by k = ts/U, so that ts = 0 keeps the state."""
    n, d = drive(v)
    return (cm * v + k * n) / (cm + k * (d + epsilon))


def _explicit(v: mx.array, k: Timespans, cm: mx.array, drive: Drive, epsilon: float) -> mx.array:
    n, d = drive(v)
    return v + k * (n - d * v) / cm


def _runge_kutta(v: mx.array, k: Timespans, cm: mx.array, drive: Drive, epsilon: float) -> mx.array:
    def slope(v: mx.array) -> mx.array:
        n, d = drive(v)
        return (n - d * v) / cm

    f1 = slope(v)
    f2 = slope(v + 0.5 * k * f1)
    f3 = slope(v + 0.5 * k * f2)
    f4 = slope(v + k * f3)
    return v + k * (f1 + 2.0 * (f2 + f3) + f4) / 6.0


SOLVERS = {"semi_implicit": _semi_implicit, "explicit": _explicit, "runge_kutta": _runge_kutta}


def _ltc_step(
    x: mx.array,
    v: mx.array,
    ts: Timespans,
    params: Any,
    ode_unfolds: int,
    epsilon: float,
    implicit: bool,
    solver: str,
) -> mx.array:
    """One step of MATHS 3: x [B, I], v [B, H], ts a number or [B, 1] -> v' [B, H]."""
    p = params
    gleak, cm, w, sensory_w = p.gleak, p.cm, p.w, p.sensory_w
    if implicit:
        gleak, cm, w, sensory_w = (softplus(q) for q in (gleak, cm, w, sensory_w))
    if p.input_w is not None:
        x = x * p.input_w
    if p.input_b is not None:
        x = x + p.input_b
    sensory_n, sensory_d = _synapse_sums(
        x, sensory_w, p.sensory_sigma, p.sensory_mu, p.sensory_erev, p.sensory_mask
    )

    def drive(v: mx.array) -> tuple[mx.array, mx.array]:
        n, d = _synapse_sums(v, w, p.sigma, p.mu, p.erev, p.mask)
        return gleak * p.vleak + n + sensory_n, gleak + d + sensory_d

    for _ in range(ode_unfolds):
        v = SOLVERS[solver](v, ts / ode_unfolds, cm, drive, epsilon)
    return v


def ltc_sequence(
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    params: Any,
    *,
    ode_unfolds: int,
    epsilon: float,
    implicit_param_constraints: bool,
    synapses: SynapseLists | None,
    training: bool,
    ode_solver: str = "semi_implicit",
    resets: list[mx.array] | None = None,
) -> mx.array:
    """LTC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]."""
    step = partial(
        _ltc_step,
        params=params,
        ode_unfolds=ode_unfolds,
        epsilon=epsilon,
        implicit=implicit_param_constraints,
        solver=ode_solver,
    )
    return _scan("ltc", step, inputs, state, ts, resets)


def _scan(
    op: str,
    step: Callable[..., mx.array],
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    resets: list[mx.array] | None,
    *more: mx.array,
) -> mx.array:
    """Run step(x, state, ts, *more) over the time axis in float32; the states in the dtype of the
    inputs. more: arrays [B, T, ...].
    """
    shapeless.refuse(op, "the backend reference", length=False)
    x = inputs.astype(mx.float32)  # [B, T, I]
    spans = ts if isinstance(ts, mx.array) and ts.ndim == 2 else None
    states = []
    for t in range(x.shape[1]):
        if resets is not None:
            at, anew = resets
            state = mx.where(at[:, t, None], anew, state)
        span = ts if spans is None else spans[:, t, None]
        state = step(x[:, t], state, span, *[array[:, t] for array in more])
        states.append(state)
    return mx.stack(states, axis=1).astype(inputs.dtype)
