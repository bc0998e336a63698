"""The column "MLX by hand": MATHS 1 and 3 in MLX operations, rearranged as far as that goes.

LTC: parameters folded once, so that a gate is one fused multiply-add and a sigmoid; the sensory
sums of all time steps at once; both sums over the sources as one batched matrix product; the batch
innermost. CfC: the input half of the first layer for all time steps as one product, the time heads
merged (ts is 1), the heads one product, weights transposed beforehand, which makes MLX's products
on a Linux CPU twice as fast. What runs T or U times is one mx.compile'd function: to compile the
whole sequence gave the same speed, after a much longer first call.
"""

from __future__ import annotations

import mlx.core as mx

from tests.support.cases import make, to_mlx

from . import Program
from .mlx_programs import sequence_program, step_program


def by_hand(row, threads: int) -> Program:
    """The row, eager around the compiled steps; the mode step is one compiled function."""
    call = make(row.case)
    if call.ts is not None or call.keywords.get("implicit_param_constraints"):
        raise ValueError(f"[benchmarks] by_hand has ts = 1, explicit parameters; got {row.name}.")
    if row.mode == "step":
        return step_program(row, (_ltc_cell if row.is_ltc else _cfc_cell)(row), compiled=True)
    if row.is_ltc:
        return sequence_program(row, _ltc_sequence(call.keywords["ode_unfolds"]), compiled=False)
    return sequence_program(row, _cfc_sequence, compiled=False)


# --- LTC ------------------------------------------------------------------------------------------


def _fold(p, prefix, k):
    """Synapses [S, H] as (s, m [H, S, 1], weights [H, 2, S]): gate = sigmoid(s v + m), and
    weights @ gate = k (sum_i a E, sum_i a).
    """
    w, sigma, mu, erev, mask = (
        getattr(p, prefix + name) for name in ("w", "sigma", "mu", "erev", "mask")
    )
    w = k * (w if mask is None else w * mx.abs(mask))
    m = -sigma * mu
    if prefix and p.input_w is not None:  # sensory synapses read x input_w + input_b
        m = m + sigma * p.input_b[:, None]
        sigma = sigma * p.input_w[:, None]
    arrays = sigma.T[..., None], m.T[..., None], mx.stack([w * erev, w]).transpose(2, 0, 1)
    return tuple(map(mx.contiguous, arrays))


def _sums(s, m, weights, v):
    """The product weights @ gates of the sources v [S, B] -> [H, 2, B]."""
    return weights @ mx.sigmoid(s * v + m)


def _unfold(v, cm, num, den, s, m, weights):
    """One unfold: v, num, den [H, B], cm [H, 1] -> v' [H, B].

    As a difference from v: the gradient of (cm v + n) / (cm + d) by cm would be two large sums over
    all unfolds that nearly cancel.
    """
    sums = _sums(s, m, weights, v)
    n, d = num + sums[:, 0], den + sums[:, 1]
    return v + (n - d * v) / (cm + d)


_compiled_sums, _compiled_unfold = mx.compile(_sums), mx.compile(_unfold)


def _drive(p, k, sums):
    """Both num and den [H, ...] but for the recurrent synapses, from sensory sums [H, 2, ...]."""
    gleak, vleak = p.gleak[:, None], p.vleak[:, None]
    return k * gleak * vleak + sums[:, 0], k * (gleak + 1e-8) + sums[:, 1]


def _ltc_sequence(unfolds: int):
    k = 1.0 / unfolds

    def sequence(p, x, v):
        B, T, I = x.shape
        sources = x.transpose(2, 1, 0).reshape(I, T * B)
        num, den = _drive(p, k, _compiled_sums(*_fold(p, "sensory_", k), sources))  # [H, T B]
        num, den = (mx.split(a, T, axis=1) for a in (num, den))
        recurrent, cm, v = _fold(p, "", k), p.cm[:, None], v.T  # [H, B]
        states = []
        for t in range(T):
            for _ in range(unfolds):
                v = _compiled_unfold(v, cm, num[t], den[t], *recurrent)
            states.append(v)
        return mx.stack(states).transpose(2, 0, 1)  # [B, T, H]

    return sequence


def _ltc_cell(row):
    """One step of the cell, parameters folded beforehand."""
    p, unfolds = to_mlx(make(row.case)).params, row.case.unfolds
    k = 1.0 / unfolds
    sensory, recurrent, cm = _fold(p, "sensory_", k), _fold(p, "", k), p.cm[:, None]
    mx.eval(sensory, recurrent)

    def cell(x, v):
        num, den = _drive(p, k, _sums(*sensory, x.T))
        v = v.T
        for _ in range(unfolds):
            v = _unfold(v, cm, num, den, *recurrent)
        return v.T[:, : row.outputs], v.T

    return cell


# --- CfC ------------------------------------------------------------------------------------------


def _lecun_tanh(z):
    return 1.7159 * mx.tanh(0.666 * z)


def _merge(p, inputs: int):
    """(W_x, b) of the inputs, W_h of the state, (W, b) of the heads f1, f2, a + b; right factors.

    One backbone layer, mode default.
    """
    ((weight, bias),) = p.backbone
    heads = (p.ff1, p.ff2, tuple(a + b for a, b in zip(p.time_a, p.time_b, strict=True)))
    W, b = (mx.concatenate([head[i] for head in heads]) for i in (0, 1))
    W_x, W_h, W = (mx.contiguous(w.T) for w in (weight[:, :inputs], weight[:, inputs:], W))
    return (W_x, bias), W_h, (W, b)


def _cfc_step(z, h, W_h, W, b):
    """One step: z [B, K] the input half of the first layer, h [B, H] -> h' [B, H]."""
    heads = mx.addmm(b, _lecun_tanh(mx.addmm(z, h, W_h)), W)
    f1, f2, u = mx.split(heads, 3, axis=-1)
    f1 = mx.tanh(f1)
    return f1 + mx.sigmoid(u) * (mx.tanh(f2) - f1)


_compiled_cfc_step = mx.compile(_cfc_step)


def _cfc_sequence(p, x, h):
    (W_x, b_x), W_h, heads = _merge(p, x.shape[2])
    z = mx.addmm(b_x, x.transpose(1, 0, 2), W_x)  # [T, B, K]
    states = []
    for t in range(x.shape[1]):
        h = _compiled_cfc_step(z[t], h, W_h, *heads)
        states.append(h)
    return mx.stack(states, axis=1)


def _cfc_cell(row):
    """One step of the cell, weights merged beforehand."""
    (W_x, b_x), W_h, heads = _merge(to_mlx(make(row.case)).params, row.case.inputs)
    mx.eval(W_x, b_x, W_h, heads)

    def cell(x, h):
        h = _cfc_step(mx.addmm(b_x, x, W_x), h, W_h, *heads)
        return h, h

    return cell
