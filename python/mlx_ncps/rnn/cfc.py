"""The CfC layer (Hasani et al. 2022, MATHS 1 and 2): a CfC cell over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cells import CfCCell, WiredCfCCell
from ..checks import flag
from ..wirings import Wiring
from .arguments import leading
from .layout import call_contract
from .neurons import Gated
from .options import check_cell_alone, split_options
from .sequence import SequenceLayer


class CfC(SequenceLayer, Gated):
    """Closed-form continuous-time network.

    `CfC(input_size, units, ...)`, as in ncps.torch, returns (output [B, T, O], state [B, H]).
    `CfC(wiring=wiring, ...)` or `CfC(wiring, ...)`, as in earlier MLX ports, returns the output of
    the whole sequence alone; `CfC(cell, ...)` the last output [B, O] alone. Set `return_sequences`
    or `return_state` to override these defaults.

    Args:
        input_size: number of inputs I, None to take it from the wiring or the first call; or a
            cell; or a wiring.
        units: number of neurons H, or a `Wiring`, of which the layer keeps its own copy.
        proj_size: outputs of a linear map after the cell; None for none.
        return_sequences: the outputs of all steps, or of the last one.
        batch_first: inputs are [B, T, I], otherwise [T, B, I].
        mode: "default", "pure" or "no_gate".
        activation: of the backbone: one of `ops.ACTIVATIONS`.
        backbone_units, backbone_layers, backbone_dropout: as in `CfCCell`; by default 128 x 1, none
            with a wiring, and 0.0.
        return_state: return (output, state).
        mixed_memory: an LSTM in front of the cell (MATHS 4); the state is then (h, c).
        bidirectional: a second cell, `backward`, with weights of its own, reads the whole sequence
            from its end; its outputs are put back in the order of time, and both are merged.
        merge_mode: "concat", "sum", "mul", "ave", or None for a pair (forward, backward).
        go_backwards: read from the end; outputs come in the order of reading.
        stateful: a call starts where the last one ended, until `reset_states()`; gradients end at
            the border of the calls.
        cell: another spelling of `input_size` for a cell, as in earlier MLX ports.
        wiring: another spelling of `units` for a `Wiring`, as in earlier MLX ports.
        variant: "torch", "keras" or "paper", as in `CfCCell`.
        fully_recurrent: with a wiring, neurons of one layer all read each other, whatever it says;
            False: only along its synapses (`WiredCfCCell`).

    Example:
        >>> layer = CfC(20, AutoNCP(28, 4))  # 20 inputs, 28 neurons, 4 of them outputs
        >>> x, dt = mx.random.normal((8, 50, 20)), mx.random.uniform(0.1, 2.0, (8, 50))
        >>> output, state = layer(x, timespans=dt)
        >>> output.shape, state.shape
        ((8, 50, 4), (8, 28))
    """

    op = "cfc"

    def __init__(
        self,
        input_size: int | CfCCell | WiredCfCCell | Wiring | None = None,
        units: int | Wiring | None = None,
        proj_size: int | None = None,
        return_sequences: bool | None = None,
        batch_first: bool = True,
        mixed_memory: bool = False,
        mode: str = "default",
        activation: str = "lecun_tanh",
        backbone_units: int | Sequence[int] | None = None,
        backbone_layers: int | None = None,
        backbone_dropout: float | None = None,
        *,
        variant: str = "torch",
        fully_recurrent: bool = True,
        return_state: bool | None = None,
        bidirectional: bool = False,
        merge_mode: str | None = "concat",
        go_backwards: bool = False,
        stateful: bool = False,
        cell: CfCCell | WiredCfCCell | None = None,
        wiring: Wiring | None = None,
    ) -> None:
        of_cell, of_layer = split_options(CfC.__init__, SequenceLayer.__init__, locals())
        first = leading(self.op, (CfCCell, WiredCfCCell), input_size, units, wiring, cell)
        made = first.cell
        if made is None:
            made = _make_cell(first.input_size, first.units, **of_cell)
        else:
            check_cell_alone(self.op, CfC.__init__, of_cell)
        contract = call_contract(self.op, first.default, return_sequences, return_state)
        super().__init__(made, contract, **of_layer)


def _make_cell(
    size: int | None, units: Any, *, fully_recurrent: bool, **options: Any
) -> CfCCell | WiredCfCCell:
    """The cell of a layer that is given sizes."""
    if isinstance(units, Wiring):
        return WiredCfCCell(size, units, fully_recurrent=fully_recurrent, **options)
    if not flag("cfc", "fully_recurrent", fully_recurrent):
        raise ValueError("[cfc] fully_recurrent=False wants a wiring, got none.")
    return CfCCell(size, units, **options)
