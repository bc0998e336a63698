"""The weights of CfC cells as the op reads them: one operation multiplies the masks of all of them
into their weights, as a training step of a small model takes as long as its operations are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..layers.linear import weights_of
from ..ops import CfCParams
from ..ops.checks import check_array
from ..ops.masks import masked

MASKED = ("ff1", "ff2")


def params_of(cells: Sequence[Any]) -> list[CfCParams]:
    """The CfCParams of each CfCCell, masks applied, quantized weights by their values.

    Raises ValueError when a part is no linear map.
    """
    every = [weights_of(cell.op, cell._parts()) for cell in cells]
    every_mask = [
        (heads, name, _mask(cell, name, heads[name][0]))
        for cell, heads in zip(cells, every, strict=True)
        for name in (MASKED if "sparsity_mask" in cell else ())
        if name in heads
    ]
    weights = masked([heads[name][0] for heads, name, _ in every_mask], [m for *_, m in every_mask])
    for (heads, name, _), weight in zip(every_mask, weights, strict=True):
        heads[name] = weight, heads[name][1]
    return [_named(cell, heads) for cell, heads in zip(cells, every, strict=True)]


def _mask(cell: Any, name: str, weight: mx.array) -> mx.array:
    fan_in = (cell.input_size + cell.hidden_size, *cell.backbone_options.sizes)[-1]
    shape, mask = (cell.hidden_size, fan_in), cell.sparsity_mask
    check_array(cell.op, f"params.{name}[0]", weight, "[H, K]", shape)
    check_array(cell.op, "sparsity_mask", mask, "[H, K]", shape, ())
    return mask


def _named(cell: Any, heads: dict[str, Any]) -> CfCParams:
    backbone = tuple([heads.pop(f"backbone.{n}") for n in range(len(cell.backbone))])
    for name in ("w_tau", "A") if cell.mode == "pure" else ():
        check_array(cell.op, name, cell[name], "[1, H]", (1, cell.hidden_size))
        heads[name] = cell[name].squeeze(0)
    return CfCParams(backbone, **heads)
