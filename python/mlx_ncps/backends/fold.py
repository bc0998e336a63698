"""Parameters in the form that the fused kernels read (MATHS 6), as differentiable MLX operations,
once per call; MLX takes the gradients of a kernel back to the raw parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from .activations import HEAD_ACTIVATIONS

MERGED_AT_MOST = 1e30
LOG2E = math.log2(math.e)


class FoldedLTC(NamedTuple):
    """A synapse is w / (1 + exp2(s2 v + m2)), its current the same with we; sources come first:
    [source, target].
    """

    cm: mx.array  # [H]
    leak_num: mx.array  # [H] gleak vleak
    leak_den: mx.array  # [H] gleak + epsilon
    s2: mx.array  # [H, H] -sigma log2e
    m2: mx.array  # [H, H] sigma mu log2e
    w: mx.array  # [H, H] w |mask|
    we: mx.array  # [H, H] w |mask| erev
    sensory_s2: mx.array  # [I, H] reads the unmapped input
    sensory_m2: mx.array  # [I, H]
    sensory_w: mx.array  # [I, H]
    sensory_we: mx.array  # [I, H]


def _fold_synapses(w, sigma, mu, erev, mask):
    s2 = sigma * -LOG2E
    if mask is not None:
        w = w * mx.abs(mask)
    return s2, -s2 * mu, w, w * erev


def fold_ltc(
    params: Any, implicit: bool, epsilon: float, ode_solver: str = "semi_implicit"
) -> FoldedLTC:
    """LTCParams -> FoldedLTC; `implicit` passes w, sensory_w, cm and gleak through softplus.
    `epsilon` is of the solver semi_implicit alone.
    """
    p = params
    gleak, cm, w, sensory_w = p.gleak, p.cm, p.w, p.sensory_w
    if implicit:
        gleak, cm, w, sensory_w = (mx.logaddexp(a, 0) for a in (gleak, cm, w, sensory_w))
    synapses = _fold_synapses(w, p.sigma, p.mu, p.erev, p.mask)
    s2, m2, *sensory = _fold_synapses(
        sensory_w, p.sensory_sigma, p.sensory_mu, p.sensory_erev, p.sensory_mask
    )
    if p.input_b is not None:  # s2 (x input_w + input_b) + m2
        m2 = m2 + s2 * p.input_b[:, None]
    if p.input_w is not None:
        s2 = s2 * p.input_w[:, None]
    leak_den = gleak + epsilon if ode_solver == "semi_implicit" else gleak
    return FoldedLTC(cm, gleak * p.vleak, leak_den, *synapses, s2, m2, *sensory)


class FoldedCfC(NamedTuple):
    """Layers (weight [out, in], bias [out]) of one CfC; `merged`: one time head stands for time_a
    and time_b.
    """

    backbone: tuple  # of (weight, bias)
    heads: tuple  # ff1, ff2, t when merged | ff1, ff2, time_a, time_b | ff1 in the mode pure
    tail: tuple  # w_tau [H], A [H] in the mode pure, else empty
    merged: bool
    head_activation: str  # of ff1 and ff2: tanh, lecun_tanh or identity

    @property
    def arrays(self) -> list[mx.array]:
        """Every array in the order of the kernels: backbone, heads, tail."""
        return [a for layer in (*self.backbone, *self.heads) for a in layer] + list(self.tail)


def fold_cfc(
    params: Any,
    ts: float | mx.array | None,
    mode: str,
    variant: str = "torch",
    merge: Callable[..., tuple] | None = None,
) -> FoldedCfC:
    """CfCParams -> FoldedCfC; a number `ts` is merged into the time heads, and the sign of time_a
    in the variants "keras" and "paper" into its weights. Not one that could make a weight infinite,
    and not an array, whose value isn't known, nor None, for any value: a ts of infinity makes a
    gate of 0 or 1, not NaN.  merge: what merges the heads, in place of MLX operations.
    """
    p = params
    backbone = tuple(tuple(layer) for layer in p.backbone)
    if mode == "pure":
        return FoldedCfC(backbone, (p.ff1,), (p.w_tau, p.A), False, "identity")
    if ts is None or isinstance(ts, mx.array) or ts > MERGED_AT_MOST:
        time_a = p.time_a if variant == "torch" else tuple(-a for a in p.time_a)
        heads = (p.ff1, p.ff2, time_a, p.time_b)
        return FoldedCfC(backbone, heads, (), False, HEAD_ACTIVATIONS[variant])
    minus = variant != "torch"
    time = (merge or _merge)(p.time_a, p.time_b, ts, minus)
    return FoldedCfC(backbone, (p.ff1, p.ff2, time), (), True, HEAD_ACTIVATIONS[variant])


def _merge(time_a, time_b, ts, minus):
    """The head ts a + b, or b - ts a, without a product when ts is the number 1."""
    if not (isinstance(ts, float) and ts == 1.0):
        time_a = tuple(ts * a for a in time_a)
    pairs = zip(time_a, time_b, strict=True)
    return tuple(b - a if minus else a + b for a, b in pairs)
