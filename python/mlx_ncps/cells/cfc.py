"""The closed-form continuous-time cell (MATHS 1, Hasani et al. 2022), weights as in ncps.torch;
`rnn.CfC` runs it over sequences and `WiredCfCCell` chains several.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import checks
from ..checks import brief, host_numbers, integer, real
from ..config import adopted
from ..ops import CfCParams, cfc_mixed_sequence, cfc_sequence, get_activation, xavier_uniform
from ..ops.checks import check_mode, check_variant
from ..ops.stepping import CfCStage, Readout, pack_cfc
from ..wirings import Wiring
from .base import LiquidCell
from .dropout import REASON, dropout_sequence, first_dropped

MAX_LAYERS = 1000  # of a backbone
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
    real(op, "backbone_dropout", dropout, "in [0, 1)", lambda share: 0 <= share < 1)
    return Backbone(_backbone_sizes(units, layers, default_layers, op), activation, dropout)


def _backbone_sizes(units, layers, default_layers: int, op: str) -> tuple[int, ...]:
    """The widths of the backbone's layers, from one width and their number, or from a list."""
    if isinstance(units, (list, tuple)):
        sizes = tuple(units)
        layers = len(sizes) if layers is None else integer(op, "backbone_layers", layers, 0)
        if layers != len(sizes):
            raise ValueError(
                f"[{op}] backbone_units must be {layers} sizes (backbone_layers), "
                f"got {brief(list(sizes))}."
            )
    else:
        if layers is None:
            layers = default_layers if units is None else 1
        layers = integer(op, "backbone_layers", layers, 0)
        if layers > MAX_LAYERS:
            raise checks.refused(op, "backbone_layers", f"at most {MAX_LAYERS}", layers)
        sizes = (128 if units is None else units,) * layers
    return tuple(check_size("backbone_units", size, op) for size in sizes)


def check_size(name: str, size, op: str = "cfc") -> int:
    """`size`, which must be an integer >= 1."""
    return checks.size(op, name, size)


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
    [out]; in pure mode `ff1`, `w_tau` [1, H] and `A` [1, H].
    """

    op = "cfc"
    fixed_keys = ("sparsity_mask",)

    def __new__(cls, input_size=None, hidden_size=None, *args, **kwargs):
        """A wiring as the first argument, or as `wiring=`, makes a WiredCfCCell."""
        if cls is CfCCell and "wiring" in kwargs:
            return _wired_cell()(input_size, kwargs.pop("wiring"), *args, **kwargs)
        input_size = adopted(input_size)
        if not isinstance(input_size, Wiring):
            return super().__new__(cls)
        if hidden_size is not None:
            raise checks.refused("cfc", "hidden_size", "None with a wiring", hidden_size)
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
        check_mode(mode)
        check_variant(variant)
        self.mode = mode
        self.variant = variant
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.backbone_options = backbone_options(
            backbone_activation, activation, backbone_units, backbone_layers, backbone_dropout, 1
        )
        self.input_size = check_size("input_size", input_size)
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
        dense.
        """
        return self.hidden_size**2

    @property
    def sensory_synapse_count(self) -> int:
        """Pairs (input, neuron) that are connected: all."""
        return self.input_size * self.hidden_size

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
        return mx.array(mask.astype(np.float32))

    def params(self) -> CfCParams:
        """The weights as the op reads them, mask applied."""
        backbone = tuple((layer.weight, layer.bias) for layer in self.backbone)
        if self.mode == "pure":
            return CfCParams(
                backbone, self._masked(self.ff1), w_tau=self.w_tau.squeeze(0), A=self.A.squeeze(0)
            )
        heads = (self._masked(self.ff1), self._masked(self.ff2))
        times = ((head.weight, head.bias) for head in (self.time_a, self.time_b))
        return CfCParams(backbone, *heads, *times)

    def _masked(self, head) -> tuple[mx.array, mx.array]:
        weight = head.weight
        if "sparsity_mask" in self:
            weight = weight * self.sparsity_mask
        return weight, head.bias

    def sequence(self, inputs, state, ts):
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].
        """
        keywords = self._keywords()
        if self.stepwise():
            rate = self.backbone_options.dropout
            return dropout_sequence(inputs, state, ts, self.params(), **keywords, rate=rate)
        return cfc_sequence(inputs, state, ts, self.params(), **keywords, training=self.training)

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
        """Why `sequence` runs step by step now, which it does for dropout in training, or ""."""
        return REASON if self.training and self.backbone_options.drops(self.variant) else ""

    def steps_at_once(self, mixed: bool) -> bool:
        """As `LiquidCell` has it."""
        return type(self) is CfCCell and self.built and not self.stepwise()

    def step_arrays(self) -> list:
        """Every array that a step depends on."""
        arrays = [a for layer in self["backbone"] for a in (layer["weight"], layer["bias"])]
        for name in _HEADS:
            if name in self:
                head = self[name]
                arrays += (head["weight"], head["bias"])
        return arrays + [self[name] for name in ("w_tau", "A", "sparsity_mask") if name in self]

    def step_options(self) -> tuple:
        """Every option that a step depends on."""
        return (self.mode, self.backbone_options.activation, self.variant)

    def pack_step(self, memory, arrays):
        """As `LiquidCell` has it."""
        stage = CfCStage(self.params(), self.input_size, *self.step_options())
        return pack_cfc([stage], memory, arrays, Readout(0, self.hidden_size))

    def calls(self) -> list[tuple[str, dict]]:
        """The one fused call of `sequence`, with the facts of this cell; none with dropout."""
        if self.stepwise():
            return []
        facts = {
            "inputs": self.input_size,
            "units": self.hidden_size,
            "mode": self.mode,
            "activation": self.backbone_options.activation,
            "variant": self.variant,
            "backbone": self.backbone_options.sizes,
            "training": self.training,
        }
        return [("cfc_sequence", facts)]

    def readout(self, states):
        """The states: every neuron is an output."""
        return states


def _linear(inputs: int, outputs: int, torch: bool) -> nn.Linear:
    """A linear map: weight [out, in] Xavier uniform, bias [out] uniform within 1/sqrt(in) as
    ncps.torch starts, or 0 as ncps.keras.
    """
    layer = nn.Linear(inputs, outputs)
    layer.weight = xavier_uniform((outputs, inputs))
    if not torch:
        layer.bias = mx.zeros((outputs,))
    return layer


def _wired_cell() -> type:
    from .wired_cfc import WiredCfCCell  # which imports this module

    return WiredCfCCell
