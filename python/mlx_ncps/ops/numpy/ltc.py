"""The liquid time-constant network (Hasani et al. 2021), both directions.

One step of length ts is cut into U unfolds of length k = ts/U. The synapse from i to j has the
gate s_ij = sigmoid(sigma_ij (v_i - mu_ij)) and conductance a_ij = w_ij s_ij |mask_ij|. Each unfold:

    n_j  = gleak_j vleak_j + sum_i a_ij erev_ij          (+ the same sum over the sensory synapses)
    d_j  = gleak_j + epsilon + sum_i a_ij                (+ the same sum over the sensory synapses)
    v'_j = (cm_j v_j + k n_j) / (cm_j + k d_j)

ncps divides both sides by k; this form is the same for k > 0 and gives v' = v at k = 0. It is the
solver semi_implicit (MATHS 3); ltc_solvers.py has the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .activations import sigmoid, softplus
from .arrays import (
    Numbers,
    as_float64,
    check_cotangents,
    check_shapes,
    timespans_array,
    timespans_column,
    timespans_gradient,
)
from .checks import choice, integer, number, refused, shaped
from .ltc_solvers import (
    SOLVERS,
    Cell,
    Synapses,
    synapse_sums,
    synapse_sums_backward,
    unfold,
    unfold_backward,
)
from .resets import resets_of

MAX_UNFOLDS = 10_000  # the same as in mlx_ncps.limits, which imports MLX


class LTCParams(NamedTuple):
    """The parameters of an LTC, as ncps stores them; synapses are indexed [source, target]."""

    gleak: Any  # [H] leak conductance
    vleak: Any  # [H] leak potential
    cm: Any  # [H] membrane capacitance
    w: Any  # [H, H] greatest conductance of a synapse
    sigma: Any  # [H, H] steepness of its gate
    mu: Any  # [H, H] midpoint of its gate
    erev: Any  # [H, H] reversal potential
    sensory_w: Any  # [I, H]
    sensory_sigma: Any  # [I, H]
    sensory_mu: Any  # [I, H]
    sensory_erev: Any  # [I, H]
    mask: Any = None  # [H, H], only its magnitude counts; None: every synapse exists
    sensory_mask: Any = None  # [I, H]
    input_w: Any = None  # [I] x <- x input_w + input_b; None: 1
    input_b: Any = None  # [I] None: 0


def ltc_sequence(
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    params: Any,
    *,
    ode_unfolds: int = 6,
    epsilon: float = 1e-8,
    implicit_param_constraints: bool = False,
    ode_solver: str = "semi_implicit",
    synapses: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    training: bool = True,
) -> np.ndarray:
    """Runs an LTC over a sequence and returns the state after every step, [B, T, H] float64.

    Args:
        inputs: [B, T, I].
        state: [B, H], the membrane potentials before the first step.
        ts: elapsed time per step: None (1.0), a number, or [T], [B, T], [B, T, 1]. 0 leaves the
            state as it is; a negative or NaN element of an array gives NaN from there on, a
            negative or NaN number ValueError.
        params: LTCParams, or any object with its fields.
        ode_unfolds: solver steps U per time step.
        epsilon: added to the sum of conductances by the solver semi_implicit.
        implicit_param_constraints: gleak, cm, w and sensory_w pass through softplus.
        ode_solver: semi_implicit, explicit or runge_kutta.
        synapses: a hint to fused backends, without effect here.
        resets: [B, T], not 0 where the state starts anew before a step; None: nowhere.
        reset_state: [B, H], from which it does; None: from `state`.
        training: another such hint.
    """
    p = _float64(params)
    cell = _cell(p, ode_unfolds, epsilon, implicit_param_constraints, ode_solver)
    x, v, ts = _arguments(inputs, state, ts, p)
    anew = resets_of("ltc", resets, reset_state, x.shape[1], v)
    return _states(_map_inputs(x, p), v, ts, cell, anew)[0]


def ltc_step(
    inputs: Numbers, state: Numbers, ts: Numbers, params: Any, **keywords: Any
) -> np.ndarray:
    """One time step: inputs [B, I], state [B, H], ts a number, [B] or [B, 1] -> state [B, H].

    The keywords are those of `ltc_sequence`.
    """
    inputs = shaped("ltc", "inputs", inputs, (None, None))
    ts = timespans_column("ltc", ts, len(inputs))
    return ltc_sequence(inputs[:, None], state, ts, params, **keywords)[:, 0]


def _states(x, v, ts, cell, anew):
    """The states after every step and those that it reads, [B, T, H] each, from mapped inputs
    [B, T, I].
    """
    states, read = np.empty((2, *x.shape[:2], v.shape[1]))
    for t in range(x.shape[1]):
        (v,) = anew.before(t, v)
        read[:, t] = v
        v = _unfold_step(x[:, t], v, ts[:, t], cell)[-1]
        states[:, t] = v
    return states, read


def _unfold_step(x, v, ts, cell):
    """The potentials before the first and after each of the U unfolds: U + 1 arrays [B, H]."""
    k = (ts / cell.unfolds)[:, None]  # [B, 1]
    sensory = synapse_sums(x, cell.sensory)
    potentials = [v]
    for _ in range(cell.unfolds):
        potentials.append(unfold(potentials[-1], k, sensory, cell))
    return potentials


def ltc_sequence_backward(
    cotangents: Numbers,
    inputs: Numbers,
    state: Numbers,
    ts: Numbers,
    params: Any,
    *,
    ode_unfolds: int = 6,
    epsilon: float = 1e-8,
    implicit_param_constraints: bool = False,
    ode_solver: str = "semi_implicit",
    synapses: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    training: bool = True,
) -> Any:
    """The gradient of sum(cotangents * ltc_sequence(...)).

    Args: cotangents [B, T, H], then those of `ltc_sequence`.

    Returns ``(dinputs, dstate, dts, dparams)``: shaped as inputs, state, ts (None for None), and an
    LTCParams of gradients, with None for the masks, which are fixed, and for fields that are None.
    With a reset_state dstate is the pair of the gradients of state and reset_state.
    """
    p = _float64(params)
    cell = _cell(p, ode_unfolds, epsilon, implicit_param_constraints, ode_solver)
    given_ts = ts
    x, v, ts = _arguments(inputs, state, ts, p)
    mapped = _map_inputs(x, p)
    anew = resets_of("ltc", resets, reset_state, x.shape[1], v)
    states, before = _states(mapped, v, ts, cell, anew)
    cotangents = shaped("ltc", "cotangents", cotangents, (None, None, None))
    check_cotangents("ltc", cotangents, states)

    dv, dx, dts = np.zeros_like(v), np.zeros_like(x), np.zeros_like(ts)
    grads, dfirst = _zero_gradients(cell), anew.zeros()
    for t in reversed(range(x.shape[1])):
        potentials = _unfold_step(mapped[:, t], before[:, t], ts[:, t], cell)
        dv, dx[:, t], dts[:, t] = _unfold_step_backward(
            dv + cotangents[:, t], mapped[:, t], potentials, ts[:, t], cell, grads
        )
        (dv,) = anew.backward(t, dfirst, dv)
    dparams = _raw_gradients(grads, p, implicit_param_constraints)
    if p.input_b is not None:
        dparams["input_b"] = dx.sum(axis=(0, 1))
    if p.input_w is not None:
        dparams["input_w"] = (dx * x).sum(axis=(0, 1))
        dx = dx * p.input_w
    return (
        dx,
        anew.gradient(dfirst, dv),
        timespans_gradient(given_ts, dts),
        LTCParams(**{f: dparams.get(f) for f in LTCParams._fields}),
    )


def _unfold_step_backward(dv, x, potentials, ts, cell, grads):
    """Gradients dv [B, H], dx [B, I], dts [B] of one step; the parameters' go into ``grads``."""
    k = (ts / cell.unfolds)[:, None]  # [B, 1]
    sensory = synapse_sums(x, cell.sensory)
    dsensory_n, dsensory_d, dk = np.zeros_like(dv), np.zeros_like(dv), np.zeros_like(k)
    for v in reversed(potentials[:-1]):
        dv, more_k, more_n, more_d = unfold_backward(dv, v, k, sensory, cell, grads)
        dk, dsensory_n, dsensory_d = dk + more_k, dsensory_n + more_n, dsensory_d + more_d
    dx = synapse_sums_backward(dsensory_n, dsensory_d, x, cell.sensory, grads, "sensory_")
    return dv, dx, dk[:, 0] / cell.unfolds


def _raw_gradients(grads, p, implicit):
    """From the gradients of constrained, masked values to those of the raw parameters."""
    for name, mask in (("w", p.mask), ("sensory_w", p.sensory_mask)):
        if mask is not None:
            grads[name] = grads[name] * np.abs(mask)
    if implicit:  # softplus' = sigmoid
        for name in ("gleak", "cm", "w", "sensory_w"):
            grads[name] = grads[name] * sigmoid(getattr(p, name))
    return grads


def _zero_gradients(cell):
    grads = {name: np.zeros_like(getattr(cell, name)) for name in ("gleak", "vleak", "cm")}
    for prefix, synapses in (("", cell.recurrent), ("sensory_", cell.sensory)):
        grads |= {prefix + name: np.zeros_like(array) for name, array in synapses._asdict().items()}
    return grads


def _float64(params):
    H, fields = (None,), {}
    optional = ("mask", "sensory_mask", "input_w", "input_b")
    for name in LTCParams._fields:
        leaf = getattr(params, name, None)
        if leaf is None and name in optional:
            continue
        sizes = {"sensory": (None, *H), "input": (None,)}.get(name.split("_")[0], (*H, *H))
        fields[name] = shaped("ltc", f"params.{name}", leaf, H if len(fields) < 3 else sizes)
        H = fields["gleak"].shape
    inputs = fields["sensory_w"].shape[:1]
    for name, leaf in fields.items():
        if name.startswith(("sensory", "input")):
            shaped("ltc", f"params.{name}", leaf, inputs + H * name.startswith("sensory"))
    return LTCParams(**fields)


def _cell(p, unfolds, epsilon, implicit, solver):
    unfolds = integer("ltc", "ode_unfolds", unfolds, 1, MAX_UNFOLDS)
    epsilon = number("ltc", "epsilon", epsilon, 0)
    choice("ltc", "ode_solver", solver, SOLVERS)
    if not isinstance(implicit, (bool, int, np.bool_)) or implicit not in (0, 1):
        raise refused("ltc", "implicit_param_constraints", "True or False", implicit)
    pos = softplus if implicit else np.asarray
    mask = 1.0 if p.mask is None else np.abs(p.mask)
    sensory_mask = 1.0 if p.sensory_mask is None else np.abs(p.sensory_mask)
    recurrent = Synapses(pos(p.w) * mask, p.sigma, p.mu, p.erev)
    sensory = Synapses(
        pos(p.sensory_w) * sensory_mask, p.sensory_sigma, p.sensory_mu, p.sensory_erev
    )
    leaks = pos(p.gleak), p.vleak, pos(p.cm)
    return Cell(*leaks, recurrent, sensory, unfolds, epsilon, solver)


def _arguments(inputs, state, ts, p):
    x, v = as_float64(inputs), as_float64(state)
    check_shapes("ltc", x, v, *p.sensory_w.shape)
    return x, v, timespans_array("ltc", ts, *x.shape[:2])


def _map_inputs(x, p):
    x = x if p.input_w is None else x * p.input_w
    return x if p.input_b is None else x + p.input_b
