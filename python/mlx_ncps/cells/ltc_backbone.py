"""An LTC cell whose inputs pass through dense layers first, as in earlier MLX ports."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mlx.core as mx

from ..checks import size
from ..ops import LSTMParams, get_activation, shapeless
from ..ops.checks import check_array
from ..ops.mixed_memory import ltc_behind_memory
from ..options import optional
from ..wirings import Wiring
from .backbone import linear_map
from .ltc import LTCCell


class BackboneLTCCell(LTCCell):
    """`LTCCell` behind a backbone: z = activation(W x + b) for each of its layers, and the last z
    [B, K] is what the sensory synapses (and `input_w`, `input_b`) read in place of the inputs.

    The arguments are those of `LTCCell`. The wiring is built for K inputs, the last of
    `backbone_units`; the cell for I. Parameters: `backbone.{n}` with `weight` [out, in] and `bias`
    [out], then those of `LTCCell` with K in place of I. The backbone is computed for all steps at
    once in MLX operations, the LTC after it as always. The LSTM of mixed memory reads the inputs.
    Raises ValueError when the wiring is built for another width than K.

    Example:
        >>> cell = cells.BackboneLTCCell(AutoNCP(28, 4), 20, backbone_units=32)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 28)), 0.5)
        >>> output.shape, state.shape
        ((8, 4), (8, 28))
    """

    def _set_wiring(self, wiring: Wiring, width: int | None) -> None:
        if not self.backbone_options.sizes:
            raise ValueError("[ltc] backbone_units or backbone_layers must be given, got none.")
        width = optional(size)(self.op, self._WIDTH, width)
        self.wiring = wiring.as_given()
        last = self.backbone_options.sizes[-1]
        if self.wiring.input_dim not in (None, last):
            raise ValueError(
                f"[ltc] wiring must be built for the backbone's {last} outputs or not at all, "
                f"got input_dim={self.wiring.input_dim}."
            )
        if width is not None:
            self.build(width)
            wiring.build_by_layer(last)

    def _create(self, width: int) -> None:
        sizes = (width, *self.backbone_options.sizes)
        self.backbone = [linear_map(n, m) for n, m in pairwise(sizes)]
        super()._create(sizes[-1])

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self.built_width

    def sequence(self, inputs: mx.array, state: mx.array, ts: Any, **anew: Any) -> mx.array:
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].  anew: resets and reset_state of `ops.ltc_sequence`.
        """
        return super().sequence(self._features(inputs), state, ts, **anew).astype(inputs.dtype)

    def mixed_sequence(
        self, inputs: mx.array, state: tuple, ts: Any, memory: LSTMParams, **anew: Any
    ) -> tuple[mx.array, mx.array]:
        """`sequence` behind the LSTM of `memory`: state (h, c) -> (h, c), [B, T, H] each."""
        params, keywords = self.params(), self._options()
        keywords |= {"synapses": self._host_masks.lists, "training": self.training} | anew
        z = self._features(inputs)
        h, c = ltc_behind_memory(inputs, z, state, ts, memory, params, **keywords)
        self._stability.check(self, ts)
        return h.astype(inputs.dtype), c.astype(inputs.dtype)

    def _features(self, inputs: mx.array) -> mx.array:
        """Z [B, T, K] of inputs [B, T, I], float32."""
        check_array(self.op, "inputs", inputs, "[B, T, I]", (None, None, self.sensory_size))
        return self._sensed(inputs)

    def _sensed(self, inputs: mx.array) -> mx.array:
        """What the synapses read of inputs [..., I]: [..., K], float32."""
        activate, z = get_activation(self.backbone_options.activation), inputs.astype(mx.float32)
        for layer in self.backbone:
            z = activate(shapeless.linear(layer, z))
        return z


LTCCell._with_backbone = BackboneLTCCell
