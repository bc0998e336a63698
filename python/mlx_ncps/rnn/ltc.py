"""The LTC layer (Hasani et al. 2021, MATHS 3): an LTC cell over whole sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cells import LTCCell
from ..wirings import Wiring
from .arguments import leading
from .layout import call_contract
from .neurons import Conducting
from .options import check_cell_alone, split_options
from .sequence import SequenceLayer

if TYPE_CHECKING:
    from .._types import Ranges


class LTC(SequenceLayer, Conducting):
    """Liquid time-constant network.

    `LTC(input_size, units, ...)`, as in ncps.torch, returns (output [B, T, O], state [B, H]).
    `LTC(wiring=wiring, ...)` or `LTC(wiring, ...)`, as in earlier MLX ports, returns the output of
    the whole sequence alone; `LTC(cell, ...)` the last output [B, O] alone. Set `return_sequences`
    or `return_state` to override these defaults.

    Args:
        input_size: number of inputs I, None to take it from the wiring or the first call; or an
            `LTCCell`; or a wiring.
        units: number of fully connected neurons H, or a `Wiring`, of which the layer keeps its own
            copy.
        return_sequences: the outputs of all steps, or of the last one.
        batch_first: inputs are [B, T, I], otherwise [T, B, I].
        input_mapping, output_mapping, ode_unfolds, epsilon, implicit_param_constraints: as in
            `LTCCell`.
        proj_size: outputs of a linear map after the cell; None for none.
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
        ode_solver, initialization_ranges: as in `LTCCell`.

    Example:
        >>> layer = LTC(20, AutoNCP(28, 4))  # 20 inputs, 28 neurons, 4 of them outputs
        >>> x, dt = mx.random.normal((8, 50, 20)), mx.random.uniform(0.1, 2.0, (8, 50))
        >>> output, state = layer(x, timespans=dt)
        >>> output.shape, state.shape
        ((8, 50, 4), (8, 28))
    """

    op = "ltc"

    def __init__(
        self,
        input_size: int | LTCCell | Wiring | None = None,
        units: int | Wiring | None = None,
        return_sequences: bool | None = None,
        batch_first: bool = True,
        mixed_memory: bool = False,
        input_mapping: str | None = "affine",
        output_mapping: str | None = "affine",
        ode_unfolds: int = 6,
        epsilon: float = 1e-8,
        implicit_param_constraints: bool = True,
        *,
        ode_solver: str = "semi_implicit",
        initialization_ranges: Ranges | None = None,
        proj_size: int | None = None,
        return_state: bool | None = None,
        bidirectional: bool = False,
        merge_mode: str | None = "concat",
        go_backwards: bool = False,
        stateful: bool = False,
        cell: LTCCell | None = None,
        wiring: Wiring | None = None,
    ) -> None:
        of_cell, of_layer = split_options(LTC.__init__, SequenceLayer.__init__, locals())
        first = leading(self.op, (LTCCell,), input_size, units, wiring, cell)
        made = first.cell
        if made is None:
            made = LTCCell(first.units, first.input_size, **of_cell)
        else:
            check_cell_alone(self.op, LTC.__init__, of_cell)
        contract = call_contract(self.op, first.default, return_sequences, return_state)
        super().__init__(made, contract, **of_layer)

    def apply_weight_constraints(self, ranges: Ranges | None = None) -> None:
        """As `LTCCell.apply_weight_constraints`, in every direction."""
        for half in self._directions:
            half.rnn_cell.apply_weight_constraints(ranges)

    apply_constraints = apply_weight_constraints
