"""The closed-form continuous-time cell (MATHS 1, Hasani et al. 2022), weights as in ncps.torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx
import numpy as np

from ..checks import host_numbers, refused, size
from ..dispatch import CfCFacts, FusedCall
from ..layers.linear import Linear, arrays_of, why_called
from ..ops import CfCParams, LSTMParams, cfc_mixed_sequence, xavier_uniform
from ..ops.cfc import cfc_sequence_held
from ..ops.checks import CFC_HEADS, MODES, VARIANTS, check_array, check_cfc_params
from ..ops.dropout import drawn_factors, of_steps_not_held
from ..options import one_of
from ..recording import adopted
from ..step_plan import CfCStage, Readout, StepPlan
from ..wirings import Wiring
from .backbone import Backbone, backbone_options, linear_map
from .base import LiquidCell, SignatureOfInit
from .cfc_params import params_of
from .cfc_steps import sequence_by_steps

DROPOUT = "the dropout of the backbone draws anew at each step, which no packed cell does"
CFC_OPTIONS = {"mode": one_of(*MODES), "variant": one_of(*VARIANTS)}


class CfCCell(LiquidCell):
    """Closed-form continuous-time cell: `cell(inputs [B, I], state [B, H], ts=1.0)`.

    Returns (output, new state), which are the same [B, H].

    Args:
        input_size: number of inputs I, or a `Wiring`, which gives a `WiredCfCCell`.
        hidden_size: number of neurons H.
        mode: "default", "pure" or "no_gate" (MATHS 1).
        backbone_activation: one of `ops.ACTIVATIONS`; alias `activation`.
        backbone_units: width of the backbone's layers, or one width for each of them. Default 128.
        backbone_layers: number of backbone layers, 0 for none. Default 1; with a wiring and no
            `backbone_units` 0.
        backbone_dropout: share of the outputs of backbone layers 2, 3, ... (as in ncps.torch; the
            first is left alone), in the other variants of every layer (as in ncps.keras), that is
            set to 0 in training, drawn anew at each step from MLX's random state; `eval()` turns it
            off. Default 0.0 in all variants.
        sparsity_mask: [K, H], multiplied into the weights of ff1 and ff2, where K is the last
            backbone width, or I + H without a backbone; it is saved and never trained. Its
            magnitude counts, in the other variants than "torch" its sign too, as in ncps.keras.
        variant: "torch", "keras" or "paper" (`ops.cfc_sequence`); the modes default and no_gate
            differ in heads and gate, pure does not. Weights start as in the original: of "torch"
            biases are uniform and w_tau, A Xavier; of the others biases and w_tau are 0 and A is 1.

    Parameters: `backbone.{n}`, `ff1`, `ff2`, `time_a`, `time_b` with `weight` [out, in] and `bias`
    [out]; in pure mode `ff1`, `w_tau` [1, H] and `A` [1, H]. A quantized map in place of one is
    used fused, any other module or function is called, step by step.

    Example:
        >>> cell = CfCCell(20, 16)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 16)), 0.5)
        >>> output.shape, state.shape
        ((8, 16), (8, 16))
    """

    op = "cfc"
    input_size: int
    hidden_size: int
    mode: str
    variant: str
    backbone: list[Linear]
    ff1: Linear
    ff2: Linear
    time_a: Linear
    time_b: Linear
    w_tau: mx.array
    A: mx.array
    sparsity_mask: mx.array
    fixed_keys = ("sparsity_mask",)
    _checked_options = CFC_OPTIONS | {"hidden_size": size, "input_size": size}
    _fixed_options = frozenset(("mode", "hidden_size", "input_size"))

    _with_wiring: ClassVar[type]  # what the constructor makes of a wiring; that class sets it
    __signature__ = SignatureOfInit()

    if not TYPE_CHECKING:

        def __new__(cls, input_size=None, hidden_size=None, *args, **kwargs):
            """A wiring as the first argument, or as `wiring=`, makes a WiredCfCCell."""
            if cls is CfCCell and "wiring" in kwargs:
                return cls._with_wiring(input_size, kwargs.pop("wiring"), *args, **kwargs)
            input_size = adopted(input_size)
            if not isinstance(input_size, Wiring):
                return super().__new__(cls)
            if hidden_size is not None:
                raise refused("cfc", "hidden_size", "None with a wiring", hidden_size)
            return cls._with_wiring(input_size, None, *args, **kwargs)

    def __init__(
        self,
        input_size: int | Wiring | None,
        hidden_size: int | None = None,
        mode: str = "default",
        backbone_activation: str = "lecun_tanh",
        backbone_units: int | Sequence[int] | None = None,
        backbone_layers: int | None = None,
        backbone_dropout: float | None = None,
        sparsity_mask: Any = None,
        *,
        activation: str | None = None,
        variant: str = "torch",
    ):
        super().__init__()
        self.mode = mode
        self.variant = variant
        self.hidden_size = hidden_size  # pyright: ignore[reportAttributeAccessIssue]  checked as it is set
        self.backbone_options: Backbone = backbone_options(
            backbone_activation, activation, backbone_units, backbone_layers, backbone_dropout, 1
        )
        self.input_size = input_size  # pyright: ignore[reportAttributeAccessIssue]  checked as it is set
        self.build(self.input_size)
        if sparsity_mask is not None:
            self.sparsity_mask = self._torch_mask(sparsity_mask)

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        return self.hidden_size

    @property
    def units(self) -> int:
        """Number of neurons, H, as earlier MLX ports call it."""
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
        self.backbone = [linear_map(n, m, torch) for n, m in pairwise(sizes)]
        self.ff1 = linear_map(sizes[-1], hidden, torch)
        if self.mode == "pure":
            self.w_tau = xavier_uniform((1, hidden)) if torch else mx.zeros((1, hidden))
            self.A = xavier_uniform((1, hidden)) if torch else mx.ones((1, hidden))
        else:
            self.ff2 = linear_map(sizes[-1], hidden, torch)
            self.time_a = linear_map(sizes[-1], hidden, torch)
            self.time_b = linear_map(sizes[-1], hidden, torch)

    def _torch_mask(self, mask: Any) -> mx.array:
        """The mask [K, H] of the constructor, as the float32 [H, K] that multiplies a weight."""
        mask, wanted = host_numbers("cfc", "sparsity_mask", mask), self.ff1.weight.shape[::-1]
        if mask.shape != wanted:
            raise ValueError(f"[cfc] sparsity_mask must be [K, H] = {wanted}, got {mask.shape}.")
        mask = np.abs(mask.T) if self.variant == "torch" else mask.T
        return mx.array(np.ascontiguousarray(mask, np.float32))

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "sparsity_mask" and key in self:
            check_array(self.op, key, value, "[H, K]", self[key].shape, ())
        super().__setitem__(key, value)
        owner = self.__dict__.get("_owner")  # of the wiring whose layer this is
        if owner is not None and key == "sparsity_mask":
            owner.sync()

    def _parts(self) -> dict:
        """Every linear map, or what is in its place, by name."""
        if not isinstance(self.backbone, list):
            kind = type(self.backbone).__name__
            raise ValueError(f"[cfc] backbone must be a list of layers, got {kind}.")
        parts = {f"backbone.{n}": part for n, part in enumerate(self.backbone)}
        for name in CFC_HEADS[:1] if self.mode == "pure" else CFC_HEADS:
            parts[name] = getattr(self, name)
        return parts

    def params(self) -> CfCParams:
        """The weights as the op reads them, mask applied, quantized ones by their values.

        Raises ValueError when a part is no linear map.
        """
        return params_of([self])[0]

    def sequence(self, inputs: mx.array, state: mx.array, ts: Any, **anew: Any) -> mx.array:
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].  anew: resets, reset_state and held of `ops.cfc.prepare_cfc`.
        """
        if why := self.stepwise():
            return sequence_by_steps(self, inputs, state, ts, why, **anew)
        return self._fused(inputs, state, ts, self.params(), **anew)

    def _fused(
        self,
        inputs: mx.array,
        state: mx.array,
        ts: Any,
        params: CfCParams,
        held: mx.array | None = None,
        **anew: Any,
    ) -> mx.array:
        """`sequence` with `params()`."""
        dropout = of_steps_not_held(self._dropout(inputs), held)
        keywords: dict[str, Any] = self._keywords() | {"dropout": dropout} | anew
        return cfc_sequence_held(held, inputs, state, ts, params, **keywords)

    def mixed_sequence(
        self, inputs: mx.array, state: tuple, ts: Any, memory: LSTMParams, **anew: Any
    ) -> tuple[mx.array, mx.array]:
        """`sequence` behind the LSTM of `memory`; a state is (h, c)."""
        keywords: dict[str, Any] = self._keywords() | {"dropout": self._dropout(inputs)} | anew
        return cfc_mixed_sequence(inputs, state, ts, memory, self.params(), **keywords)

    def _keywords(self) -> dict:
        return {
            "mode": self.mode,
            "activation": self.backbone_options.activation,
            "variant": self.variant,
            "training": self.training,
        }

    def stepwise(self) -> str:
        """Why `sequence` runs step by step now: for modules in place of the linear maps; or ""."""
        return why_called(self._parts())

    def _dropout(self, inputs: mx.array) -> mx.array | None:
        """The factors of dropout [B, T, D] for inputs [B, T, I], drawn with one key; or None."""
        for width, rate in self._drops():  # one or none
            check_array("cfc", "inputs", inputs, "[B, T, I]", (None, None, self.input_size))
            return drawn_factors((*inputs.shape[:2], width), rate)
        return None

    def _drops(self) -> list[tuple[int, float]]:
        """(D, rate) of each array of factors [B, T, D] that `sequence` draws now, in its order."""
        options = self.backbone_options
        widths = options.dropped(self.variant) if options.dropout and self.training else ()
        return [(sum(widths), options.dropout)] if widths else []

    def _unpacked(self) -> str:
        """Why a cell that runs fused has no packed form now, or ""."""
        return DROPOUT if self._drops() else ""

    def _step_plan(self, mixed: bool) -> StepPlan | None:
        """As `LiquidCell` has it."""
        if type(self) is not CfCCell or not self.built or self._drops() or self.stepwise():
            return None
        arrays = [a for part in self._parts().values() for a in arrays_of(part)]
        arrays += [self[name] for name in ("w_tau", "A", "sparsity_mask") if name in self]
        readout = Readout(0, self.hidden_size)
        return StepPlan((self._stage(),), arrays, readout, lambda: [self._checked_params()])

    def _stage(self) -> CfCStage:
        sizes, activation, _ = self.backbone_options
        sizes = self.input_size, self.hidden_size, sizes
        return CfCStage(*sizes, self.mode, activation, self.variant)

    def _checked_params(self) -> CfCParams:
        params = self.params()
        check_cfc_params(params, self.mode, self.input_size, self.hidden_size)
        return params

    def calls(self) -> list[FusedCall]:
        """The one fused call of `sequence`, with the facts of this cell; none step by step."""
        if self.stepwise():
            return []
        sizes = self.input_size, self.hidden_size, self.backbone_options.sizes
        facts = CfCFacts(*sizes, **self._keywords(), dropout=bool(self._drops()))
        return [("cfc_sequence", facts)]

    def readout(self, states: mx.array) -> mx.array:
        """The states: every neuron is an output."""
        return states
