"""The closed-form continuous-time cell (MATHS 1, Hasani et al. 2022), weights as in ncps.torch;
`rnn.CfC` runs it over sequences and `WiredCfCCell` chains several.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .. import limits
from ..checks import brief, host_numbers, integer, real, refused, size
from ..config import adopted
from ..dispatch import CfCFacts, FusedCall
from ..layers.linear import Linear, arrays_of, check_linear, weight_and_bias, why_called
from ..ops import CfCParams, cfc_mixed_sequence, cfc_sequence, get_activation, xavier_uniform
from ..ops.checks import MODES, VARIANTS, check_array
from ..ops.stepping import CfCStage, Readout, pack_cfc
from ..options import one_of
from ..wirings import Wiring
from .base import LiquidCell
from .cfc_steps import DROPOUT, first_dropped, sequence_by_steps

_HEADS = ("ff1", "ff2", "time_a", "time_b")


class Backbone(NamedTuple):
    """The hidden layers in front of a CfC's heads, and the dropout behind them."""

    sizes: tuple[int, ...]
    activation: str
    dropout: float

    def drops(self, variant: str) -> bool:
        """Whether training drops anything of what the layers give."""
        return self.dropout > 0.0 and len(self.sizes) > first_dropped(variant)


def backbone_options(
    activation, alias, units, layers, dropout, default_layers: int, op: str = "cfc"
) -> Backbone:
    """Check the backbone options of a cell; None stands for 128 units, `default_layers`, 0."""
    if alias is not None:
        get_activation(alias)
    get_activation(activation)
    if alias is not None and activation not in ("lecun_tanh", alias):
        raise ValueError(
            f"[{op}] activation and backbone_activation must be the same, "
            f"got {brief(alias)} and {brief(activation)}."
        )
    activation = activation if alias is None else alias
    dropout = 0.0 if dropout is None else dropout
    dropout = real(op, "backbone_dropout", dropout, "in [0, 1)", lambda share: 0 <= share < 1)
    return Backbone(_backbone_sizes(units, layers, default_layers, op), activation, dropout)


def _backbone_sizes(units, layers, default_layers: int, op: str) -> tuple[int, ...]:
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


def _layer_count(op: str, layers) -> int:
    return integer(op, "backbone_layers", layers, 0, most=limits.MAX_LAYERS)


CFC_OPTIONS = {"mode": one_of(*MODES), "variant": one_of(*VARIANTS)}


class CfCCell(LiquidCell):
    """Closed-form continuous-time cell: `cell(inputs [B, I], state [B, H], ts=1.0)`.

    Returns (output, new state), which are the same [B, H].

    Args:
        input_size: number of inputs I, or a `Wiring`, which gives a `WiredCfCCell`.
        hidden_size: number of neurons H.
        mode: "default", "pure" or "no_gate" (MATHS 1).
        backbone_activation: "lecun_tanh", "tanh", "relu", "gelu" or "silu"; alias `activation`.
        backbone_units: width of the backbone's layers, or one width for each of them. Default 128.
        backbone_layers: number of backbone layers, 0 for none. Default 1; with a wiring and no
            `backbone_units` 0.
        backbone_dropout: share of the outputs of backbone layers 2, 3, ... (as in ncps.torch; the
            first is left alone), in the other variants of every layer (as in ncps.keras), that is
            set to 0 in training, drawn anew at each step from MLX's random state; `eval()` turns it
            off. Training then runs step by step. Default 0.0 in all variants.
        sparsity_mask: [K, H], multiplied into the weights of ff1 and ff2, where K is the last
            backbone width, or I + H without a backbone; it is saved and never trained. Its
            magnitude counts, in the other variants than "torch" its sign too, as in ncps.keras.
        variant: "torch", "keras" or "paper" (`ops.cfc_sequence`); the modes default and no_gate
            differ in heads and gate, pure does not. Weights start as in the original: of "torch"
            biases are uniform and w_tau, A Xavier; of the others biases and w_tau are 0 and A is 1.

    Parameters: `backbone.{n}`, `ff1`, `ff2`, `time_a`, `time_b` with `weight` [out, in] and `bias`
    [out]; in pure mode `ff1`, `w_tau` [1, H] and `A` [1, H]. A quantized map in place of one is
    used fused, any other module or function is called, step by step.
    """

    op = "cfc"
    fixed_keys = ("sparsity_mask",)
    checked_options = CFC_OPTIONS | {"hidden_size": size, "input_size": size}
    fixed_options = frozenset(("mode", "hidden_size", "input_size"))

    def __new__(cls, input_size=None, hidden_size=None, *args, **kwargs):
        """A wiring as the first argument, or as `wiring=`, makes a WiredCfCCell."""
        if cls is CfCCell and "wiring" in kwargs:
            return _wired_cell()(input_size, kwargs.pop("wiring"), *args, **kwargs)
        input_size = adopted(input_size)
        if not isinstance(input_size, Wiring):
            return super().__new__(cls)
        if hidden_size is not None:
            raise refused("cfc", "hidden_size", "None with a wiring", hidden_size)
        return _wired_cell()(input_size, None, *args, **kwargs)

    def __init__(
        self,
        input_size,
        hidden_size=None,
        mode="default",
        backbone_activation="lecun_tanh",
        backbone_units=None,
        backbone_layers=None,
        backbone_dropout=None,
        sparsity_mask=None,
        *,
        activation=None,
        variant="torch",
    ):
        super().__init__()
        self.mode = mode
        self.variant = variant
        self.hidden_size = hidden_size
        self.backbone_options = backbone_options(
            backbone_activation, activation, backbone_units, backbone_layers, backbone_dropout, 1
        )
        self.input_size = input_size
        self.build(self.input_size)
        if sparsity_mask is not None:
            self.sparsity_mask = self._torch_mask(sparsity_mask)

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        return self.hidden_size

    @property
    def units(self) -> int:
        """Number of neurons, H, as the MLX guides call it."""
        return self.hidden_size

    @property
    def sensory_size(self) -> int:
        """Number of inputs, I."""
        return self.input_size

    @property
    def output_size(self) -> int:
        """Number of outputs: every neuron is one."""
        return self.hidden_size

    @property
    def layer_sizes(self) -> list[int]:
        """Neurons of each layer: one layer."""
        return [self.hidden_size]

    @property
    def synapse_count(self) -> int:
        """Pairs of neurons (source, target) that are connected: all, as a CfC without wiring is
        dense, unless it has a mask and no backbone.
        """
        return self._pairs(self.input_size, None)

    @property
    def sensory_synapse_count(self) -> int:
        """Pairs (input, neuron) that are connected, likewise."""
        return self._pairs(0, self.input_size)

    def _pairs(self, first: int, last: int | None) -> int:
        """Pairs (source, neuron) of the sources [inputs, neurons] from `first` on: those in the
        mask, or all when there is none, or one behind a backbone that mixes the sources.
        """
        sources = range(self.input_size + self.hidden_size)[first:last]
        if "sparsity_mask" in self and not self.backbone_options.sizes:
            return int(mx.sum(self["sparsity_mask"][:, first:last] != 0))
        return len(sources) * self.hidden_size

    def _create(self, width: int) -> None:
        hidden, torch = self.hidden_size, self.variant == "torch"
        sizes = (width + hidden, *self.backbone_options.sizes)
        self.backbone = [_linear(n, m, torch) for n, m in pairwise(sizes)]
        self.ff1 = _linear(sizes[-1], hidden, torch)
        if self.mode == "pure":
            self.w_tau = xavier_uniform((1, hidden)) if torch else mx.zeros((1, hidden))
            self.A = xavier_uniform((1, hidden)) if torch else mx.ones((1, hidden))
        else:
            self.ff2 = _linear(sizes[-1], hidden, torch)
            self.time_a = _linear(sizes[-1], hidden, torch)
            self.time_b = _linear(sizes[-1], hidden, torch)

    def _torch_mask(self, mask) -> mx.array:
        """The mask [K, H] of the constructor, as the float32 [H, K] that multiplies a weight."""
        mask, wanted = host_numbers("cfc", "sparsity_mask", mask), self.ff1.weight.shape[::-1]
        if mask.shape != wanted:
            raise ValueError(f"[cfc] sparsity_mask must be [K, H] = {wanted}, got {mask.shape}.")
        mask = np.abs(mask.T) if self.variant == "torch" else mask.T
        return mx.array(np.ascontiguousarray(mask, np.float32))

    def __setitem__(self, key, value):
        if key == "sparsity_mask" and key in self:
            check_array(self.op, key, value, "[H, K]", self[key].shape, ())
        super().__setitem__(key, value)
        owner = self.__dict__.get("_owner")  # of the wiring whose layer this is
        if owner is not None and key == "sparsity_mask":
            owner.sync()

    def heads(self) -> dict:
        """The linear maps behind the backbone, or what is in their place, by name."""
        names = _HEADS[:1] if self.mode == "pure" else _HEADS
        return {name: getattr(self, name) for name in names}

    def _parts(self) -> dict:
        """Every linear map, or what is in its place, by name."""
        if not isinstance(self.backbone, list):
            kind = type(self.backbone).__name__
            raise ValueError(f"[cfc] backbone must be a list of layers, got {kind}.")
        return {f"backbone.{n}": part for n, part in enumerate(self.backbone)} | self.heads()

    def replaced(self) -> str:
        """Which parts are no linear maps, so that each step calls them; "" when all are."""
        return why_called(self._parts())

    def params(self) -> CfCParams:
        """The weights as the op reads them, mask applied, quantized ones by their values.

        Raises ValueError when a part is no linear map.
        """
        check_linear(self.op, self._parts())
        backbone = tuple(_pair(layer) for layer in self.backbone)
        heads = {name: _pair(head) for name, head in self.heads().items()}
        for name in ("ff1", "ff2") if "sparsity_mask" in self else ():
            if name in heads:
                heads[name] = self._masked(name, *heads[name])
        if self.mode == "pure":
            for name in ("w_tau", "A"):
                check_array(self.op, name, self[name], "[1, H]", (1, self.hidden_size))
                heads[name] = self[name].squeeze(0)
        return CfCParams(backbone, **heads)

    def _masked(self, name: str, weight, bias) -> tuple[mx.array, mx.array]:
        fan_in = (self.input_size + self.hidden_size, *self.backbone_options.sizes)[-1]
        shape = (self.hidden_size, fan_in)
        check_array(self.op, f"params.{name}[0]", weight, "[H, K]", shape)
        check_array(self.op, "sparsity_mask", self.sparsity_mask, "[H, K]", shape, ())
        return weight * self.sparsity_mask, bias

    def sequence(self, inputs, state, ts):
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].
        """
        if why := self.stepwise():
            return sequence_by_steps(self, inputs, state, ts, why)
        keywords = self._keywords() | {"training": self.training}
        return cfc_sequence(inputs, state, ts, self.params(), **keywords)

    def mixed_sequence(self, inputs, state, ts, memory):
        """`sequence` without dropout behind the LSTM of `memory`: state (h, c) -> (h, c),
        [B, T, H] each.
        """
        keywords = self._keywords() | {"training": self.training}
        return cfc_mixed_sequence(inputs, state, ts, memory, self.params(), **keywords)

    def _keywords(self) -> dict:
        return {
            "mode": self.mode,
            "activation": self.backbone_options.activation,
            "variant": self.variant,
        }

    def stepwise(self) -> str:
        """Why `sequence` runs step by step now: for dropout in training, or for modules in place of
        the linear maps; or "".
        """
        if self.training and self.backbone_options.drops(self.variant):
            return DROPOUT
        return self.replaced()

    def steps_at_once(self, mixed: bool) -> bool:
        """As `LiquidCell` has it."""
        return type(self) is CfCCell and self.built and not self.stepwise()

    def step_arrays(self) -> list:
        """Every array that a step depends on."""
        arrays = [a for part in self._parts().values() for a in arrays_of(part)]
        return arrays + [self[name] for name in ("w_tau", "A", "sparsity_mask") if name in self]

    def step_options(self) -> tuple:
        """Every option that a step depends on."""
        return (self.mode, self.backbone_options.activation, self.variant)

    def pack_step(self, memory, arrays):
        """As `LiquidCell` has it."""
        stage = CfCStage(self.params(), self.input_size, self.hidden_size, *self.step_options())
        return pack_cfc([stage], memory, arrays, Readout(0, self.hidden_size))

    def calls(self) -> list[FusedCall]:
        """The one fused call of `sequence`, with the facts of this cell; none step by step."""
        if self.stepwise():
            return []
        facts = CfCFacts(
            inputs=self.input_size,
            units=self.hidden_size,
            mode=self.mode,
            activation=self.backbone_options.activation,
            variant=self.variant,
            backbone=self.backbone_options.sizes,
            training=self.training,
        )
        return [("cfc_sequence", facts)]

    def readout(self, states):
        """The states: every neuron is an output."""
        return states


def _pair(part) -> tuple[mx.array, mx.array]:
    """The weight and the bias of a linear map, 0 where it has none."""
    weight, bias = weight_and_bias(part)
    return weight, mx.zeros(weight.shape[:1]) if bias is None else bias


def _linear(inputs: int, outputs: int, torch: bool) -> Linear:
    """A linear map: weight [out, in] Xavier uniform, bias [out] uniform within 1/sqrt(in) as
    ncps.torch starts, or 0 as ncps.keras.
    """
    layer = Linear(inputs, outputs)
    layer.weight = xavier_uniform((outputs, inputs))
    if not torch:
        layer.bias = mx.zeros((outputs,))
    return layer


def _wired_cell() -> type:
    from .wired_cfc import WiredCfCCell  # which imports this module

    return WiredCfCCell
