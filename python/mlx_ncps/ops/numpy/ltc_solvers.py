"""The three solvers of the liquid time-constant network (MATHS 3), both directions; ltc.py runs
them over a sequence.

One step of length ts is cut into U unfolds of length k = ts/U, from v to v'. With the sums n and d
that `drive` gives, the neurons obey dv/dt = f(v) = (n - d v) / cm, and an unfold is

    semi_implicit   v' = (cm v + k n) / (cm + k (d + epsilon))
    explicit        v' = v + k f(v)
    runge_kutta     v' = v + k (f1 + 2 f2 + 2 f3 + f4) / 6, where f1 = f(v), f2 = f(v + k f1 / 2),
                    f3 = f(v + k f2 / 2), f4 = f(v + k f3)

A backward takes dv' and gives dv [B, H], dk [B, 1] and the gradients of the sensory sums, two [B,
H]; those of the parameters are added to a dict of arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .activations import sigmoid


class Synapses(NamedTuple):
    """One set of synapses with constraint and mask applied: recurrent [H, H] or sensory [I, H]."""

    w: np.ndarray  # pos(w) |mask|
    sigma: np.ndarray
    mu: np.ndarray
    erev: np.ndarray


class Cell(NamedTuple):
    """A cell ready to run, float64, every constraint applied."""

    gleak: np.ndarray  # [H]
    vleak: np.ndarray  # [H]
    cm: np.ndarray  # [H]
    recurrent: Synapses
    sensory: Synapses
    unfolds: int
    epsilon: float
    solver: str


def unfold(v: np.ndarray, k: np.ndarray, sensory: Any, cell: Any) -> np.ndarray:
    """One unfold of the cell's solver: v [B, H], k [B, 1], sensory sums -> v' [B, H]."""
    return SOLVERS[cell.solver][0](v, k, sensory, cell)


def unfold_backward(
    dv: np.ndarray, v: np.ndarray, k: np.ndarray, sensory: Any, cell: Any, grads: dict[str, Any]
) -> tuple[np.ndarray, ...]:
    """The gradients of `unfold` by v, k and the sensory sums, from that by v'."""
    return SOLVERS[cell.solver][1](dv, v, k, sensory, cell, grads)


def drive(v: np.ndarray, sensory: Any, cell: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sums n and d that pull every neuron, [B, H] each, without epsilon."""
    n, d = synapse_sums(v, cell.recurrent)
    return cell.gleak * cell.vleak + n + sensory[0], cell.gleak + d + sensory[1]


def drive_backward(
    dn: np.ndarray, dd: np.ndarray, v: np.ndarray, cell: Any, grads: dict[str, Any]
) -> np.ndarray:
    """Gradient [B, H] of `drive` by v; those by the sensory sums are dn and dd themselves."""
    grads["gleak"] += (dn * cell.vleak + dd).sum(axis=0)
    grads["vleak"] += (dn * cell.gleak).sum(axis=0)
    return synapse_sums_backward(dn, dd, v, cell.recurrent, grads, "")


def synapse_sums(sources: np.ndarray, synapses: Any) -> tuple[np.ndarray, np.ndarray]:
    """sum_i a_ij erev_ij and sum_i a_ij, [B, H] each, from the source values [B, I]."""
    a = synapses.w * _gates(sources, synapses)
    return (a * synapses.erev).sum(axis=1), a.sum(axis=1)


def _gates(sources, synapses):
    return sigmoid(synapses.sigma * (sources[:, :, None] - synapses.mu))  # [B, I, H]


def synapse_sums_backward(
    dn: np.ndarray,
    dd: np.ndarray,
    sources: np.ndarray,
    synapses: Any,
    grads: dict[str, Any],
    prefix: str,
) -> np.ndarray:
    """Gradient [B, I] of `synapse_sums` by its sources; the synapses' go into ``grads``."""
    s = _gates(sources, synapses)
    da = dn[:, None] * synapses.erev + dd[:, None]  # [B, I, H]
    dz = synapses.w * s * (1.0 - s) * da
    grads[prefix + "w"] += (s * da).sum(axis=0)
    grads[prefix + "sigma"] += (dz * (sources[:, :, None] - synapses.mu)).sum(axis=0)
    grads[prefix + "mu"] -= dz.sum(axis=0) * synapses.sigma
    grads[prefix + "erev"] += (synapses.w * s * dn[:, None]).sum(axis=0)
    return (dz * synapses.sigma).sum(axis=2)


def _semi_implicit(v, k, sensory, cell):
    n, d = drive(v, sensory, cell)
    return (cell.cm * v + k * n) / (cell.cm + k * (d + cell.epsilon))


def _semi_implicit_backward(dv, v, k, sensory, cell, grads):
    n, d = drive(v, sensory, cell)
    d = d + cell.epsilon
    after = (cell.cm * v + k * n) / (cell.cm + k * d)
    r = dv / (cell.cm + k * d)  # [B, H]
    dn, dd = k * r, -k * r * after
    grads["cm"] += (r * (v - after)).sum(axis=0)
    dk = (r * (n - after * d)).sum(axis=1, keepdims=True)
    return r * cell.cm + drive_backward(dn, dd, v, cell, grads), dk, dn, dd


def _slope(v, sensory, cell):
    """dv/dt = f(v), [B, H]."""
    n, d = drive(v, sensory, cell)
    return (n - d * v) / cell.cm


def _slope_backward(df, v, sensory, cell, grads):
    """The gradients of `_slope` by v and by the sensory sums, three [B, H]."""
    n, d = drive(v, sensory, cell)
    dn = df / cell.cm
    grads["cm"] -= (dn * (n - d * v) / cell.cm).sum(axis=0)
    return drive_backward(dn, -dn * v, v, cell, grads) - dn * d, dn, -dn * v


def _explicit(v, k, sensory, cell):
    return v + k * _slope(v, sensory, cell)


def _explicit_backward(dv, v, k, sensory, cell, grads):
    dk = (dv * _slope(v, sensory, cell)).sum(axis=1, keepdims=True)
    dv_slope, dn, dd = _slope_backward(k * dv, v, sensory, cell, grads)
    return dv + dv_slope, dk, dn, dd


_REACH = (0.0, 0.5, 0.5, 1.0)  # how far into the unfold, in k, each slope of runge_kutta is taken
_SHARE = (1 / 6, 1 / 3, 1 / 3, 1 / 6)  # weight of each slope in v'


def _slopes(v, k, sensory, cell):
    """The potentials at which f1 .. f4 are taken, and f1 .. f4."""
    points, slopes = [], [np.zeros_like(v)]
    for reach in _REACH:
        points.append(v + reach * k * slopes[-1])
        slopes.append(_slope(points[-1], sensory, cell))
    return points, slopes[1:]


def _runge_kutta(v, k, sensory, cell):
    slopes = _slopes(v, k, sensory, cell)[1]
    return v + k * sum(share * f for share, f in zip(_SHARE, slopes, strict=True))


def _runge_kutta_backward(dv, v, k, sensory, cell, grads):
    points, slopes = _slopes(v, k, sensory, cell)
    dk = (dv * sum(share * f for share, f in zip(_SHARE, slopes, strict=True))).sum(axis=1)
    total, dn, dd = dv, np.zeros_like(v), np.zeros_like(v)
    dpoint = np.zeros_like(v)  # gradient of the next stage's point
    for stage in reversed(range(4)):
        reach = _REACH[stage + 1] if stage < 3 else 0.0
        dk = dk + (reach * dpoint * slopes[stage]).sum(axis=1)
        df = k * (_SHARE[stage] * dv + reach * dpoint)
        dpoint, more_n, more_d = _slope_backward(df, points[stage], sensory, cell, grads)
        total, dn, dd = total + dpoint, dn + more_n, dd + more_d
    return total, dk[:, None], dn, dd


SOLVERS = {
    "semi_implicit": (_semi_implicit, _semi_implicit_backward),
    "explicit": (_explicit, _explicit_backward),
    "runge_kutta": (_runge_kutta, _runge_kutta_backward),
}
