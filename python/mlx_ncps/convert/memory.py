"""The mixed memory of ncps.keras as a cell."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..cells import LiquidCell, LSTMCell
from ..checks import size
from ..layers.base import NCPLayer, output_shape
from ..ops.checks import check_array


class KerasMemoryCell(NCPLayer):
    """Mixed memory as ncps.keras computes it: `cell(inputs [B, I], (c, h), ts=1.0) -> (output [B,
    O], (c', h'))`.

    The output of an LSTM (MATHS 4) is the input of the inner cell, which never sees x itself:

        (c', u) = LSTM(x, h, c) ;  (y, h') = cell(u, h, ts)

    In ncps.torch, and in the layers with `mixed_memory=True`, the LSTM changes the state instead
    and the cell reads x: the two models share no weights.

    Args:
        cell: a `CfCCell`, `WiredCfCCell` or `LTCCell` of H neurons and H inputs.
        input_size: number of inputs I; None: that of the first call.

    Parameters: `lstm` (an `LSTMCell`) and `cell`.

    Example:
        >>> layer = LiquidRNN(convert.KerasMemoryCell(CfCCell(4, 4)))
        >>> layer(mx.ones((2, 5, 3))).shape
        (2, 4)
    """

    op = "keras_memory"

    def __init__(self, cell: LiquidCell, input_size: int | None = None) -> None:
        super().__init__()
        if not isinstance(cell, LiquidCell):
            raise ValueError(f"[{self.op}] cell must be a LiquidCell, got {type(cell).__name__}.")
        self.cell = cell
        cell.build(cell.state_size)
        self.lstm = LSTMCell(None, cell.state_size)
        if input_size is not None:
            self.build(size(self.op, "input_size", input_size))

    def _create(self, width: int) -> None:
        self.lstm.build(width)

    def redraw(self, key: mx.array | int | None = None) -> None:
        """Draw new weights of both parts, as `LSTMCell.redraw`."""
        self.lstm.redraw(key)
        self.cell.redraw(key)

    @property
    def state_size(self) -> tuple[int, int]:
        """The sizes of c and h."""
        return (self.cell.state_size, self.cell.state_size)

    @property
    def output_size(self) -> int:
        """Number of outputs, O."""
        return self.cell.output_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self.built_width

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        """[B, I] -> [B, O]."""
        return output_shape(self.op, input_shape, 2, self.sensory_size, self.output_size)

    def call(
        self, inputs: mx.array, state: tuple[mx.array, mx.array], ts: float | mx.array = 1.0
    ) -> tuple[mx.array, tuple[mx.array, mx.array]]:
        """One step; raises ValueError for a wrong shape, as the parts do."""
        check_array(self.op, "inputs", inputs, "[B, I]", (None, None))
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise ValueError(f"[{self.op}] state must be (c, h), got {type(state).__name__}.")
        for name, part in zip("ch", state, strict=True):
            shape = (inputs.shape[0], self.cell.state_size)
            check_array(self.op, f"state {name}", part, "[B, H]", shape)
        c, h = state
        u, (_, c) = self.lstm(inputs, (h, c))
        output, h = self.cell(u, h.astype(u.dtype), ts)
        return output, (c, h)
