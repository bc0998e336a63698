"""LTC kernels, dense, H <= 64, forward and backward, and the same in float64.

They take folded synapses z = s2 v + m2, gate = 1 / (1 + exp2(z)), and sums of the sensory synapses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import mslsim

HERE = Path(__file__).parent
FORWARD = (HERE / "ltc_forward.metal").read_text()
BACKWARD = (HERE / "ltc_backward.metal").read_text()
_FORWARD_INPUTS = [
    *("synapse_s2", "synapse_m2", "synapse_w", "synapse_we", "v0", "cm", "gleak", "vleak"),
    *("ts", "sens_num", "sens_den"),
]
_BACKWARD_INPUTS = [
    *("synapse_s2", "synapse_m2", "synapse_w", "synapse_we", "cm", "ts", "v_saved", "v_end"),
    *("den_saved", "dv_out"),
]
GRADIENTS = ("dv0", "d_num", "d_den", "d_c", "d_s2", "d_m2", "d_w", "d_we")


def problem(batch: int, steps: int, hidden: int, unfolds: int) -> dict[str, np.ndarray]:
    """Random inputs, float64, and the forward pass with all that the backward pass reads."""
    rng = np.random.default_rng(hidden)

    def uniform(low, high, *shape):
        return rng.uniform(low, high, shape)

    synapses = (hidden, hidden)
    sigma, mu, w = uniform(3, 8, *synapses), uniform(0.3, 0.8, *synapses), uniform(0, 1, *synapses)
    p = {
        "s2": -sigma * np.log2(np.e),
        "m2": sigma * mu * np.log2(np.e),
        "w": w,
        "we": w * np.sign(uniform(-1, 1, *synapses)),
        "v0": uniform(-1, 1, batch, hidden),
        "cm": uniform(0.4, 0.6, hidden),
        "gleak": uniform(0.01, 1, hidden),
        "vleak": uniform(-0.2, 0.2, hidden),
        "ts": uniform(0.5, 2, batch, steps),
        "sens_num": uniform(-1, 1, batch, steps, hidden),
        "sens_den": uniform(0, 1, batch, steps, hidden),
        "dv_out": uniform(-1, 1, batch, steps, hidden),
    }
    saved, dens = np.zeros((2, batch, steps, unfolds, hidden))
    v, out = p["v0"], np.zeros((batch, steps, hidden))
    for t in range(steps):
        c = p["cm"] * unfolds / p["ts"][:, t : t + 1]
        for u in range(unfolds):
            s = _gate(p, v)
            num = c * v + p["gleak"] * p["vleak"] + (p["we"] * s).sum(1) + p["sens_num"][:, t]
            den = c + p["gleak"] + (p["w"] * s).sum(1) + p["sens_den"][:, t] + 1e-8
            saved[:, t, u], dens[:, t, u] = v, den
            v = num / den
        out[:, t] = v
    return p | {"v_out": out, "v_saved": saved, "den_saved": dens, "v_end": v}


def _gate(p, v):
    return 1 / (1 + np.exp2(p["s2"] * v[:, :, None] + p["m2"]))  # [B, source, target]


def gradients(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The backward pass of `problem` in float64."""
    batch, steps, unfolds, hidden = p["v_saved"].shape
    d = {name: np.zeros((batch, hidden, hidden)) for name in ("d_s2", "d_m2", "d_w", "d_we")}
    d |= {name: np.zeros((batch, steps, hidden)) for name in ("d_num", "d_den", "d_c")}
    dv, after = np.zeros((batch, hidden)), p["v_end"]
    for t in reversed(range(steps)):
        c = p["cm"] * unfolds / p["ts"][:, t : t + 1]
        dv = dv + p["dv_out"][:, t]
        for u in reversed(range(unfolds)):
            now, r = p["v_saved"][:, t, u], dv / p["den_saved"][:, t, u]
            s, rv = _gate(p, now), r * after
            dz = -np.log(2) * s * (1 - s) * (p["we"] * r[:, None] - p["w"] * rv[:, None])
            d["d_num"][:, t] += r
            d["d_den"][:, t] -= rv
            d["d_c"][:, t] += r * (now - after)
            d["d_we"] += s * r[:, None]
            d["d_w"] -= s * rv[:, None]
            d["d_s2"] += dz * now[:, :, None]
            d["d_m2"] += dz
            dv, after = r * c + (dz * p["s2"]).sum(2), now
    return d | {"dv0": dv}


def _run(name, names, outputs, source, p, shapes, template, threads):
    arrays = [p[n.removeprefix("synapse_")].astype(np.float32) for n in names]
    kernel = mslsim.metal_kernel(name, names, outputs, source)
    found = kernel(
        inputs=arrays,
        template=template,
        grid=(p["v0"].shape[0] * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=shapes,
        output_dtypes=[np.float32] * len(shapes),
    )
    return dict(zip(outputs, found, strict=True))


def _sizes(p):
    _, steps, unfolds, hidden = p["v_saved"].shape
    return [("H", hidden), ("T_STEPS", steps), ("U", unfolds)], -(-hidden // 8) * 8


def run_forward(p, source=FORWARD) -> np.ndarray:
    template, padded = _sizes(p)
    template = [("T", np.float32), *template]
    shapes, names = [p["v_out"].shape], _FORWARD_INPUTS
    out = _run("ltc_forward", names, ["v_out"], source, p, shapes, template, 4 * padded)
    return out["v_out"]


def run_backward(p, parts=4, source=BACKWARD) -> dict[str, np.ndarray]:
    template, padded = _sizes(p)
    template = [*template, ("PARTS", parts)]
    shapes = [gradients(p)[name].shape for name in GRADIENTS]
    threads, outputs = parts * padded, list(GRADIENTS)
    names = _BACKWARD_INPUTS
    return _run("ltc_backward", names, outputs, source, p, shapes, template, threads)
