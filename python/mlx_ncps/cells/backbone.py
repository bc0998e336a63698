"""The hidden layers in front of a cell: the heads of a CfC (MATHS 1) or the synapses of an LTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from .. import limits
from ..checks import brief, integer, real, size
from ..layers.linear import Linear
from ..ops import xavier_uniform
from ..ops.activations import activation_name
from ..ops.dropout import first_dropped


class Backbone(NamedTuple):
    """The hidden layers in front of a CfC's heads, and the dropout behind them."""

    sizes: tuple[int, ...]
    activation: str
    dropout: float

    def dropped(self, variant: str) -> tuple[int, ...]:
        """The widths of the layers of whose outputs training drops a share."""
        return self.sizes[first_dropped(variant) :] if self.dropout > 0.0 else ()


def backbone_options(
    activation: str,
    alias: str | None,
    units: int | Sequence[int] | None,
    layers: int | None,
    dropout: float | None,
    default_layers: int,
    op: str = "cfc",
) -> Backbone:
    """Check the backbone options of a cell; None stands for 128 units, `default_layers`, 0."""
    if alias is not None:
        activation_name(op, "activation", alias)
    activation_name(op, "backbone_activation" if op == "cfc" else "activation", activation)
    if alias is not None and activation not in ("lecun_tanh", alias):
        raise ValueError(
            f"[{op}] activation and backbone_activation must be the same, "
            f"got {brief(alias)} and {brief(activation)}."
        )
    activation = activation if alias is None else alias
    dropout = 0.0 if dropout is None else dropout
    dropout = real(op, "backbone_dropout", dropout, "in [0, 1)", lambda share: 0 <= share < 1)
    return Backbone(_backbone_sizes(units, layers, default_layers, op), activation, dropout)


def _backbone_sizes(units: Any, layers: Any, default_layers: int, op: str) -> tuple[int, ...]:
    """The widths of the backbone's layers, from one width and their number, or from a list."""
    if isinstance(units, (list, tuple)):
        sizes = tuple(units)
        layers = _layer_count(op, len(sizes) if layers is None else layers)
        if layers != len(sizes):
            raise ValueError(
                f"[{op}] backbone_units must be {layers} sizes (backbone_layers), "
                f"got {brief(list(sizes))}."
            )
    else:
        if layers is None:
            layers = default_layers if units is None else 1
        sizes = (128 if units is None else units,) * _layer_count(op, layers)
    return tuple(size(op, "backbone_units", units) for units in sizes)


def _layer_count(op: str, layers: Any) -> int:
    return integer(op, "backbone_layers", layers, 0, most=limits.MAX_LAYERS)


def linear_map(inputs: int, outputs: int, torch: bool = True) -> Linear:
    """A linear map: weight [out, in] Xavier uniform, bias [out] uniform within 1/sqrt(in) as
    ncps.torch starts, or 0 as ncps.keras.
    """
    layer = Linear(inputs, outputs)
    layer.weight = xavier_uniform((outputs, inputs))
    if not torch:
        layer.bias = mx.zeros((outputs,))
    return layer
