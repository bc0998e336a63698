"""A chain of CfC cells along the layers of a wiring (MATHS 2): inter, command, motor for an NCP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import flag, integer
from ..dispatch import FusedCall
from ..ops import CfCParams, shapeless
from ..ops.checks import check_array
from ..step_plan import Readout, StepPlan
from ..wirings import Wiring
from ..wirings._matrices import MATRICES
from .backbone import backbone_options
from .base import LiquidCell
from .cfc import CFC_OPTIONS, DROPOUT, CfCCell
from .cfc_params import params_of
from .mask_blocks import OWN, PAIRS, SOURCES, Block, synapses_into
from .ncp import NCPRNNCell
from .wired_program import program_on_gpu, run_wired


class WiredCfCCell(NCPRNNCell):
    """CfC cells wired as an NCP: `cell(inputs [B, I], state [B, H], ts=1.0) -> (output [B, O],
    state [B, H])`.

    Args:
        input_size: number of inputs I, or the wiring itself. None: that of the wiring, or of the
            first call.
        wiring: a `Wiring`; the cell keeps its own copy.
        mode: "default", "pure" or "no_gate" (MATHS 1).
        backbone_activation, backbone_units, backbone_layers, backbone_dropout, activation: as in
            `CfCCell`, with no backbone unless `backbone_units` or `backbone_layers` is given. With
            one, each layer of the wiring has its own dense backbone, and reads only those sources
            that have a synapse into the layer.
        fully_recurrent: neurons of one layer all read each other; False: only along the wiring's
            synapses.
        variant: as in `CfCCell`; in the variants "keras" and "paper" the polarity of a synapse
            multiplies its weights, as in ncps.keras.

    `layer_{l}` is the CfCCell of layer l. The state is the concatenation of the layers' states in
    their order; the output is the last layer's state, or the first `output_dim` neurons of a wiring
    without layers.

    Example:
        >>> cell = WiredCfCCell(20, AutoNCP(28, 4))
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 28)), 0.5)
        >>> output.shape, state.shape
        ((8, 4), (8, 28))
    """

    op, _WIDTH = "cfc", "input_size"
    _checked_options = CFC_OPTIONS | {"fully_recurrent": flag}
    _fixed_options = frozenset((*_checked_options, "backbone_options"))
    _gpu_program = program_on_gpu

    def __init__(
        self,
        input_size: int | Wiring | None = None,
        wiring: Wiring | None = None,
        mode: str = "default",
        backbone_activation: str = "lecun_tanh",
        backbone_units: int | Sequence[int] | None = None,
        backbone_layers: int | None = None,
        backbone_dropout: float | None = None,
        *,
        activation: str | None = None,
        fully_recurrent: bool = True,
        variant: str = "torch",
    ):
        super().__init__()
        if isinstance(input_size, Wiring) and wiring is None:
            input_size, wiring = None, input_size
        if not isinstance(wiring, Wiring):
            raise ValueError(f"[cfc] wiring must be a Wiring, got {type(wiring).__name__}.")
        self.mode = mode
        self.variant = variant
        self.fully_recurrent = flag(self.op, "fully_recurrent", fully_recurrent)
        self.backbone_options = backbone_options(
            backbone_activation, activation, backbone_units, backbone_layers, backbone_dropout, 0
        )
        if self.backbone_options.sizes and not self.fully_recurrent:
            raise ValueError("[cfc] fully_recurrent=False wants no backbone, got one.")
        self._set_wiring(wiring, input_size)  # pyright: ignore[reportArgumentType]  checks it

    def state_names(self) -> Any:
        """As `NCPRNNCell` has it, but in the order of the layers."""
        layers = map(self["wiring"].get_neurons_of_layer, range(self.num_layers))
        return self._names_of(n for layer in layers for n in layer)

    @property
    def layer_sizes(self) -> list[int]:
        """Neurons of each layer."""
        wiring = self["wiring"]
        return [len(wiring.get_neurons_of_layer(n)) for n in range(self.num_layers)]

    @property
    def num_layers(self) -> int:
        """Layers of the wiring."""
        return self["wiring"].num_layers

    @property
    def output_size(self) -> int:
        """Number of outputs: the last layer, or `output_dim` of a wiring without layers."""
        return self.layer_sizes[-1] if self.num_layers > 1 else super().output_size

    @property
    def synapse_count(self) -> int:
        """Synapses between neurons."""
        return self.wiring.synapse_count

    @property
    def sensory_synapse_count(self) -> int:
        """Synapses from inputs to neurons."""
        return self.wiring.sensory_synapse_count

    def _create(self, width: int) -> None:
        self["wiring"].build(width)
        if sum(self.layer_sizes) != self.state_size:
            raise ValueError(
                f"[cfc] the layers of a wiring must have {self.state_size} neurons in all, "
                f"got {self.layer_sizes}."
            )
        sizes, activation, dropout = self.backbone_options
        source_masks = [f"source_mask_{n}" for n in range(self.num_layers)] if sizes else []
        self._no_grad.fix(source_masks)
        for n, hidden in enumerate(self.layer_sizes):
            mask = self.synapses_into(n)  # [in + H_n, H_n]
            inputs = mask.shape[0] - hidden
            self[f"layer_{n}"] = CfCCell(
                inputs,
                hidden,
                self.mode,
                activation,
                sizes,
                len(sizes),
                dropout,
                None if sizes else mask,
                variant=self.variant,
            )
            if sizes:
                self[source_masks[n]] = mx.array(np.any(mask[:inputs], axis=1).astype(np.float32))
        self._tie_wiring([block for n in range(self.num_layers) for block in self._blocks(n)])

    def _blocks(self, layer: int) -> list[Block]:
        """How the masks of a layer and the wiring hang together."""
        own = tuple(self["wiring"].get_neurons_of_layer(layer))
        matrix, sources = "sensory_adjacency_matrix", tuple(range(self["wiring"].input_dim))
        if layer > 0:
            matrix = "adjacency_matrix"
            sources = tuple(self["wiring"].get_neurons_of_layer(layer - 1))
        if self.backbone_options.sizes:
            return [Block("", f"source_mask_{layer}", matrix, sources, own, kind=SOURCES)]
        part, key, kind = f"layer_{layer}", "sparsity_mask", OWN if self.fully_recurrent else PAIRS
        signed = self.variant != "torch"
        return [
            Block(part, key, matrix, sources, own, 0, True, signed),
            Block(part, key, "adjacency_matrix", own, own, len(sources), True, signed, kind),
        ]

    def synapse_weights(self, sensory: bool = False) -> mx.array:
        """The larger of |ff1| and |ff2|, [H, H] or [I, H]; infinite for a synapse that the cell
        doesn't read. Raises ValueError with a backbone, whose weights belong to no synapse.
        """
        if self.backbone_options.sizes:
            raise ValueError("[cfc] synapse_weights wants a cell without backbone, got one.")
        matrix = MATRICES[bool(sensory)]
        weights = np.full(self["wiring"][matrix].shape, np.inf, np.float32)
        for block in (b for b in self._tie.blocks if b.matrix == matrix and b.kind == PAIRS):
            heads = [self[block.part][h].weight for h in ("ff1", "ff2") if h in self[block.part]]
            largest = np.abs(np.array([h.astype(mx.float32) for h in heads])).max(axis=0)
            block.put(weights, block.of(largest))
        return mx.array(weights)

    @property
    def _UNREAD(self) -> str:
        """Which synapses of its wiring a cell doesn't read."""
        if self.backbone_options.sizes:
            return "with a backbone a layer reads whole sources, those that have a synapse into it"
        own = "" if self.fully_recurrent else ", and within a layer"
        return f"a CfC reads its wiring from the inputs to layer 0 and from layer to layer{own}"

    def synapses_into(self, layer: int) -> np.ndarray:
        """How layer n's sources [inputs of the layer, own neurons] reach its neurons: [in + H_n,
        H_n] of -1, 0, 1.
        """
        layer, wiring = integer(self.op, "layer", layer, 0, self.num_layers), self["wiring"]
        if layer == 0 and not wiring.is_built():
            raise ValueError(
                f"[{self.op}] synapses_into(0) wants a cell that is built, got one that isn't: "
                "call it once before, or build(input_size)."
            )
        return synapses_into(wiring, layer, self.fully_recurrent)

    def sequence(self, inputs: mx.array, state: mx.array, ts: Any, **anew: Any) -> mx.array:
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H], layer after layer.  anew: as in `CfCCell.sequence`.
        """
        check_array(self.op, "inputs", inputs, "[B, T, I]", (None, None, None))
        check_array(self.op, "state", state, "[B, H]", (inputs.shape[0], self.state_size))
        if (made := run_wired(self, inputs, state, ts, anew)) is not None:
            return made
        dtype, inputs = inputs.dtype, inputs.astype(mx.float32)  # no rounding between the layers
        if not self._sync_wiring():
            inputs = self._tie.guard(self, inputs)
        if (first := anew.get("reset_state")) is not None:
            check_array(self.op, "reset_state", first, "[B, H]", state.shape)
        states, start, layers = [], 0, self._layers()
        fused = [layer for layer in layers if type(layer) is CfCCell and not layer.stepwise()]
        params = dict(zip(map(id, fused), params_of(fused), strict=True))
        for n, layer in enumerate(layers):
            hidden = layer.state_size
            if self.backbone_options.sizes:
                inputs = inputs * self._source_mask(n, inputs.shape[-1])
            layer_state = shapeless.columns(state, start, hidden)
            if first is not None:
                anew["reset_state"] = shapeless.columns(first, start, hidden)
            if id(layer) in params:
                own = params[id(layer)]
                inputs = layer._fused(inputs, layer_state, ts, own, **anew)  # [B, T, H_n]
            else:
                inputs = layer.sequence(inputs, layer_state, ts, **anew)
            states.append(inputs)
            start += hidden
        return mx.concatenate(states, axis=-1).astype(dtype)

    def _source_mask(self, n: int, inputs: int) -> mx.array:
        name = f"source_mask_{n}"
        check_array(self.op, name, self[name], "[in]", (inputs,), ())
        return self[name]

    def _layers(self) -> list:
        layers = [getattr(self, f"layer_{n}") for n in range(self.num_layers)]
        for n, layer in enumerate(layers):
            if not isinstance(layer, LiquidCell) or layer._has_own_call():
                kind = type(layer).__name__
                raise ValueError(
                    f"[cfc] layer_{n} must be a CfCCell, or a LiquidCell with a `sequence` of its "
                    f"own, got {kind}."
                )
        return layers

    def _step_plan(self, mixed: bool) -> StepPlan | None:
        """As `LiquidCell` has it."""
        if type(self) is not WiredCfCCell or not self.built or mixed or self.stepwise():
            return None
        layers = self._layers()
        if any(type(layer) is not CfCCell for layer in layers) or not self._sync_wiring():
            return None
        plans = [layer._step_plan(mixed) for layer in layers]
        if None in plans:
            return None
        arrays = [array for plan in plans for array in plan.arrays]
        masks = [f"source_mask_{n}" for n in range(len(layers))]
        arrays += [self[mask] for mask in masks if mask in self]
        last = layers[-1].hidden_size
        readout = Readout(self.state_size - last, last if len(layers) > 1 else self.output_size)
        stages = tuple(plan.stages[0] for plan in plans)
        return StepPlan(stages, arrays, readout, self._layers_params)

    def _layers_params(self) -> list[CfCParams]:
        """The checked parameters of each layer, a mask on its inputs in its first weight."""
        every = []
        for n, layer in enumerate(self._layers()):
            params = layer._checked_params()
            if f"source_mask_{n}" in self:
                (weight, bias), *rest = params.backbone
                mask = self._source_mask(n, layer.input_size)
                sources = mx.concatenate([mask, mx.ones(layer.hidden_size)])
                params = params._replace(backbone=((weight * sources, bias), *rest))
            every.append(params)
        return every

    def stepwise(self) -> str:
        """Why layers run step by step now: for modules in place of parts of theirs, while the
        layers without any run fused; or "".
        """
        layers = enumerate(self._layers() if self.built else ())
        return "; ".join(f"layer_{n}: {why}" for n, layer in layers if (why := layer.stepwise()))

    def _unpacked(self) -> str:
        """As `CfCCell._unpacked`."""
        drops = self.training and self.backbone_options.dropped(self.variant)
        return DROPOUT if drops else ""

    def _drops(self) -> list[tuple[int, float]]:
        """As `CfCCell._drops`, of one layer after the other."""
        layers = self._layers() if self.built else ()
        return [drop for layer in layers for drop in getattr(layer, "_drops", list)()]

    def calls(self) -> list[FusedCall]:
        """The fused calls of `sequence`, one per layer that has any."""
        return [call for layer in self._layers() for call in layer.calls()]

    def readout(self, states: mx.array) -> mx.array:
        """Outputs [..., O] of states [..., H]."""
        last = self[f"layer_{self.num_layers - 1}"].state_size
        outputs = last if self.num_layers > 1 else self.output_size
        return shapeless.columns(states, self.state_size - last, outputs)


CfCCell._with_wiring = WiredCfCCell
