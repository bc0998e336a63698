"""The columns of JAX: MATHS 1 and 3 as jit + lax.scan in float32, plain and rearranged.

Both compute the sensory sums (LTC) or the input half of the first layer (CfC) of all time steps
before the scan, and fold parameters once; the CfC's time heads are merged and its heads are one
product. `by_hand` also puts an LTC's batch innermost, so that both sums over the sources are one
batched product, and recomputes an unfold in the backward pass instead of saving its gates: that is
2 to 3 times as fast on a CPU. For the CfC it keeps activations transposed.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mlx.core as mx
import numpy as np
from jax import lax

from tests.support.cases import make, named_leaves

from . import Missing, Program
from .mlx_programs import LEARNING_RATE


def plain(row, threads: int) -> Program:
    """The equations as they are written."""
    return _program(row, _ltc_plain if row.is_ltc else _cfc_plain)


def by_hand(row, threads: int) -> Program:
    """Rearranged as far as that goes."""
    return _program(row, _ltc_by_hand if row.is_ltc else _cfc_by_hand)


def _program(row, sequence) -> Program:
    _choose_device()
    call = make(row.case)
    if call.ts is not None or call.keywords.get("implicit_param_constraints"):
        raise ValueError(f"[benchmarks] jax has ts = 1, explicit parameters; got {row.name}.")
    leaves = {k: v for k, v in call.params._asdict().items() if v is not None}
    masks = {k: leaves.pop(k) for k in tuple(leaves) if "mask" in k}
    trained = jax.tree.map(jnp.asarray, leaves)
    x, state = jnp.asarray(call.inputs), jnp.asarray(call.state)
    extra = {"unfolds": row.case.unfolds} if row.is_ltc else {}

    def states(trained, x, v):
        return sequence(trained | masks, x, v, **extra)

    if row.mode == "step":
        return _step_program(row, jax.jit(states), trained, x, state)
    weights = jnp.asarray(call.cotangents[..., : row.outputs])
    return _sequence_program(row, states, trained, (x, state), weights)


def _choose_device() -> None:
    """The kind of MLX's default device. Raises Missing where JAX has no such device."""
    kind = mx.default_device().type.name
    try:
        jax.config.update("jax_default_device", jax.devices(kind)[0])
    except RuntimeError as error:
        raise Missing(f"JAX has no {kind} here: {str(error).splitlines()[0]}") from None


def _sequence_program(row, states, trained, arguments, weights) -> Program:
    def loss(trained, x, v):
        y = states(trained, x, v)[..., : row.outputs]
        return (y * weights).sum(), y

    if row.mode == "fwd":
        f = jax.jit(lambda trained, x, v: states(trained, x, v)[..., : row.outputs])

        def outputs():
            return {"output": np.asarray(f(trained, *arguments))}

        return Program(outputs, lambda: jax.block_until_ready(f(trained, *arguments)))
    gradient = jax.value_and_grad(loss, has_aux=True)
    f = jax.jit(gradient)

    def check():
        (_, y), gradients = f(trained, *arguments)
        named = {"output": np.asarray(y)}
        for name, leaf in gradients.items():
            named |= {k: np.asarray(v) for k, v in named_leaves(leaf, f"params.{name}").items()}
        return named

    if row.mode == "fwd+bwd":
        return Program(check, lambda: jax.block_until_ready(f(trained, *arguments)))
    zeros = jax.tree.map(jnp.zeros_like, trained)
    kept = [_Adam(trained, zeros, zeros, jnp.zeros(()))]
    step = jax.jit(lambda adam, *arguments: adam.step(gradient(adam.params, *arguments)[1]))

    def train():
        kept[0] = jax.block_until_ready(step(kept[0], *arguments))
        return kept[0].params

    return Program(check, train)


class _Adam(NamedTuple):
    """Parameters, the moments of their gradients, and the number of steps so far."""

    params: dict
    first: dict
    second: dict
    count: jax.Array

    def step(self, gradients) -> _Adam:
        """The same after one more step, with the usual rates and correction of bias."""
        count = self.count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, self.second, gradients)
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)

        def move(p, m, v):
            return p - rate * m / (jnp.sqrt(v) + 1e-8)

        return _Adam(jax.tree.map(move, self.params, first, second), first, second, count)


def _step_program(row, f, trained, x, start) -> Program:
    state = start

    def run():
        nonlocal state
        state = jax.block_until_ready(f(trained, x, state))[:, 0]

    return Program(lambda: {"output": np.asarray(f(trained, x, start))[..., : row.outputs]}, run)


# --- LTC ------------------------------------------------------------------------------------------


def _fold(p, prefix):
    """Synapses [S, H] as (s, m, w E, w): gate = sigmoid(s v + m)."""
    w, sigma, mu, erev = (p[prefix + name] for name in ("w", "sigma", "mu", "erev"))
    if prefix + "mask" in p:
        w = w * jnp.abs(p[prefix + "mask"])
    m = -sigma * mu
    if prefix and "input_w" in p:  # sensory synapses read x input_w + input_b
        m = m + sigma * p["input_b"][:, None]
        sigma = sigma * p["input_w"][:, None]
    return sigma, m, w * erev, w


def _ltc_plain(p, x, v, unfolds):
    """Gates [B, S, H], and one contraction of them for both sums over the sources."""
    k = 1.0 / unfolds

    def fold(prefix):
        s, m, we, w = _fold(p, prefix)
        return s, m, jnp.stack([we, w], -1)  # [S, H, 2]

    def sums(synapses, v):  # [B, S] -> [2, B, H]
        s, m, weights = synapses
        return jnp.einsum("bij,ijs->sbj", jax.nn.sigmoid(v[:, :, None] * s + m), weights)

    def step(v, drive):
        for _ in range(unfolds):
            num, den = sums(recurrent, v) + drive
            v = (p["cm"] * v + k * num) / (p["cm"] + k * den)
        return v, v

    sensory, recurrent = fold("sensory_"), fold("")
    drive = lax.map(partial(sums, sensory), x.swapaxes(0, 1))  # [T, 2, B, H]
    leak = jnp.stack([p["gleak"] * p["vleak"], p["gleak"] + 1e-8])[:, None]
    return lax.scan(step, v, drive + leak)[1].swapaxes(0, 1)


def _ltc_by_hand(p, x, v, unfolds):
    """The batch innermost: gates [H, S, B], and weights [H, 2, S] @ gates for both sums."""
    k = 1.0 / unfolds

    def fold(prefix):
        s, m, we, w = _fold(p, prefix)
        return s.T[..., None], m.T[..., None], jnp.stack([we, w]).transpose(2, 0, 1)

    def sums(synapses, v):  # [S, B] -> [H, 2, B]
        s, m, weights = synapses
        return weights @ jax.nn.sigmoid(s * v + m)

    @jax.checkpoint
    def unfold(v, drive, recurrent, cm):
        both = sums(recurrent, v) + drive
        return (cm * v + k * both[:, 0]) / (cm + k * both[:, 1])

    def step(v, drive):
        drive = drive + leak
        for _ in range(unfolds):
            v = unfold(v, drive, recurrent, cm)
        return v, v

    sensory, recurrent, cm = fold("sensory_"), fold(""), p["cm"][:, None]
    leak = jnp.stack([p["gleak"] * p["vleak"], p["gleak"] + 1e-8], -1)[..., None]
    drives = lax.map(partial(sums, sensory), x.transpose(1, 2, 0))  # [T, H, 2, B]
    return lax.scan(step, v.T, drives)[1].transpose(2, 0, 1)


# --- CfC ------------------------------------------------------------------------------------------


def _merge(p, inputs: int):
    """(W_x, W_h, b) of the first layer, (W, b) of the heads f1, f2, a + b; one backbone layer."""
    ((weight, bias),) = p["backbone"]
    times = tuple(a + b for a, b in zip(p["time_a"], p["time_b"], strict=True))
    heads = (p["ff1"], p["ff2"], times)
    W, b = (jnp.concatenate([head[i] for head in heads]) for i in (0, 1))
    return weight[:, :inputs], weight[:, inputs:], bias, W, b


def _update(f1, f2, u):
    f1 = jnp.tanh(f1)
    return f1 + jax.nn.sigmoid(u) * (jnp.tanh(f2) - f1)


def _lecun_tanh(z):
    return 1.7159 * jnp.tanh(0.666 * z)


def _cfc_plain(p, x, h):
    W_x, W_h, b_x, W, b = _merge(p, x.shape[2])

    def step(h, z):
        heads = _lecun_tanh(z + h @ W_h.T) @ W.T + b
        h = _update(*jnp.split(heads, 3, -1))
        return h, h

    z = x.swapaxes(0, 1) @ W_x.T + b_x  # [T, B, K]
    return lax.scan(step, h, z)[1].swapaxes(0, 1)


def _cfc_by_hand(p, x, h):
    """Activations [features, B], so that no product has a transposed factor."""
    W_x, W_h, b_x, W, b = _merge(p, x.shape[2])

    def step(h, z):
        heads = W @ _lecun_tanh(z + W_h @ h) + b[:, None]
        h = _update(*jnp.split(heads, 3, 0))
        return h, h

    z = jnp.einsum("ki,bti->tkb", W_x, x) + b_x[:, None]
    return lax.scan(step, h.T, z)[1].transpose(2, 0, 1)
