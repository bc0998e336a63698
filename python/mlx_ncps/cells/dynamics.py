"""What a cell's neurons do within a step: conductances and time constants of an LTC (MATHS 3),
gates and time constants of a CfC (MATHS 1). In MLX operations, differentiable, without dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from ..layers.linear import float32_map
from ..ops import get_activation
from .cfc import CfCCell
from .ltc import LTCCell
from .ltc_backbone import BackboneLTCCell
from .ncp import NCPRNNCell

_BLOCK = 1 << 22  # synapses whose gates lie in memory at the same time


class Conductances(NamedTuple):
    """Conductances of the neurons of an LTC, each [..., H]: of the leak, of the synapses from other
    neurons and of those from the inputs, summed. `total` is their sum, d in MATHS (3.5).
    """

    leak: mx.array
    recurrent: mx.array
    sensory: mx.array

    @property
    def total(self) -> mx.array:
        """Leak + recurrent + sensory, [..., H]."""
        return self.leak + self.recurrent + self.sensory


class Moment(NamedTuple):
    """Steps to look at, N of them: inputs x [N, I], the states before and after [N, H], and the
    time elapsed, a number or [N, 1].
    """

    x: mx.array
    before: mx.array
    after: mx.array
    ts: Any


def conductances(cell: LTCCell, moment: Moment) -> Conductances:
    """Those of an LTC at the states before the steps."""
    p, positive, x = cell.params(), _positive(cell), moment.x
    if isinstance(cell, BackboneLTCCell):
        x = cell._sensed(x)
    x = x if p.input_w is None else x * p.input_w
    x = x if p.input_b is None else x + p.input_b
    recurrent = _opened(moment.before, positive(p.w), p.sigma, p.mu, p.mask)
    sensory = _opened(x, positive(p.sensory_w), p.sensory_sigma, p.sensory_mu, p.sensory_mask)
    leak = mx.broadcast_to(positive(p.gleak), recurrent.shape)
    return Conductances(leak, recurrent, sensory)


def time_constants(cell: Any, moment: Moment) -> mx.array:
    """Those of an LTC or a CfC, [N, H], in the unit of the elapsed times."""
    if isinstance(cell, LTCCell):
        return _positive(cell)(cell.params().cm) / conductances(cell, moment).total
    return _per_layer(cell, moment, _cfc_time_constants)


def gates(cell: Any, moment: Moment) -> mx.array:
    """Those of a CfC, [N, H], each in [0, 1]."""
    return _per_layer(cell, moment, _cfc_gates)


def _positive(cell: LTCCell) -> Any:
    implicit = cell.implicit_param_constraints
    return (lambda a: mx.logaddexp(a, 0)) if implicit else (lambda a: a)


def _opened(v: mx.array, w: Any, sigma: Any, mu: Any, mask: Any) -> mx.array:
    """sum_i w s(v_i) |m|: v [N, S], parameters [S, H] -> [N, H], block by block."""
    if mask is not None:
        w = w * mx.abs(mask)
    rows, parts = max(1, _BLOCK // max(1, w.size)), []
    for first in range(0, max(1, v.shape[0]), rows):
        some = v[first : first + rows, :, None]
        parts.append((w * mx.sigmoid(sigma * (some - mu))).sum(axis=1))
    return mx.concatenate(parts)


def _per_layer(cell: Any, moment: Moment, function: Callable) -> mx.array:
    """`function` of each CfCCell of a CfC with the moment as that one sees it, side by side."""
    if isinstance(cell, CfCCell):
        return function(cell, moment)
    if not isinstance(cell, NCPRNNCell):
        raise ValueError(f"[cfc] every layer must be a CfCCell here, got {type(cell).__name__}.")
    cell._sync_wiring()
    wired: Any = cell
    parts, start, x = [], 0, moment.x
    for n, layer in enumerate(wired._layers()):
        own = slice(start, start + layer.state_size)
        if wired.backbone_options.sizes:
            x = x * wired._source_mask(n, x.shape[-1])
        seen = Moment(x, moment.before[:, own], moment.after[:, own], moment.ts)
        parts.append(_per_layer(layer, seen, function))
        start, x = own.stop, seen.after
    return mx.concatenate(parts, axis=-1)


def _heads(cell: CfCCell, moment: Moment, *names: str) -> list[mx.array]:
    """The outputs [N, H] of these heads."""
    sizes, activation, _ = cell.backbone_options
    activate, parts = get_activation(activation), cell._parts()
    z = mx.concatenate([moment.x, moment.before], axis=-1)
    for n, size in enumerate(sizes):
        z = activate(float32_map("cfc", f"backbone.{n}", parts[f"backbone.{n}"], size)(z))
    mask = cell.get("sparsity_mask")
    masks: dict[str, Any] = {"ff1": mask, "ff2": mask}
    return [float32_map("cfc", h, parts[h], cell.hidden_size, masks.get(h))(z) for h in names]


def _cfc_time_constants(cell: CfCCell, moment: Moment) -> mx.array:
    if cell.mode == "pure":
        (f1,) = _heads(cell, moment, "ff1")
        return 1.0 / (mx.abs(cell.w_tau) + mx.abs(f1))
    return 1.0 / mx.abs(_heads(cell, moment, "time_a")[0])


def _cfc_gates(cell: CfCCell, moment: Moment) -> mx.array:
    if cell.mode == "pure":
        return 1.0 - mx.exp(-moment.ts / _cfc_time_constants(cell, moment))
    a, b = _heads(cell, moment, "time_a", "time_b")
    return mx.sigmoid(a * moment.ts + b if cell.variant == "torch" else b - a * moment.ts)
