"""The LTC layer (Hasani et al. 2021, MATHS 3): an LTC cell over whole sequences; users call it."""

from __future__ import annotations

from ..cells import LiquidCell, LTCCell
from ..wirings import Wiring
from .layout import call_contract, check_cell_alone, one_of
from .sequence import SequenceLayer


class LTC(SequenceLayer):
    """Liquid time-constant network.

    `LTC(input_size, units, ...)`, as in ncps.torch, returns (output [B, T, O], state [B, H]).
    `LTC(cell, ...)`, as in the MLX guides, returns the last output [B, O] alone. `return_sequences`
    and `return_state`, when given, win in both.

    Args:
        input_size: number of inputs I, None to take it from the wiring or the first call; or an
            `LTCCell`.
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
        cell: another spelling of `input_size` for a cell, as in the MLX guides.
        ode_solver, initialization_ranges: as in `LTCCell`.
    """

    op = "ltc"

    def __init__(
        self,
        input_size=None,
        units=None,
        return_sequences=None,
        batch_first=True,
        mixed_memory=False,
        input_mapping="affine",
        output_mapping="affine",
        ode_unfolds=6,
        epsilon=1e-8,
        implicit_param_constraints=True,
        *,
        ode_solver="semi_implicit",
        initialization_ranges=None,
        proj_size=None,
        return_state=None,
        bidirectional=False,
        merge_mode="concat",
        go_backwards=False,
        stateful=False,
        cell=None,
    ):
        input_size = one_of(self.op, input_size=input_size, cell=cell)
        cell_first = isinstance(input_size, LiquidCell)
        if cell_first:
            check_cell_alone(
                self.op,
                units=(units, None),
                input_mapping=(input_mapping, "affine"),
                output_mapping=(output_mapping, "affine"),
                ode_unfolds=(ode_unfolds, 6),
                epsilon=(epsilon, 1e-8),
                implicit_param_constraints=(implicit_param_constraints, True),
                ode_solver=(ode_solver, "semi_implicit"),
                initialization_ranges=(initialization_ranges, None),
            )
            cell = _checked_cell(input_size)
        else:
            cell = LTCCell(
                _checked_units(input_size, units),
                input_size,
                input_mapping,
                output_mapping,
                ode_unfolds,
                epsilon,
                implicit_param_constraints,
                ode_solver,
                initialization_ranges=initialization_ranges,
            )
        contract = call_contract(self.op, cell_first, return_sequences, return_state)
        super().__init__(
            cell,
            contract,
            batch_first,
            proj_size,
            mixed_memory,
            bidirectional,
            merge_mode,
            go_backwards,
            stateful,
        )

    def apply_weight_constraints(self, ranges=None) -> None:
        """As `LTCCell.apply_weight_constraints`, in every direction."""
        for half in self.directions:
            half.rnn_cell.apply_weight_constraints(ranges)

    apply_constraints = apply_weight_constraints


def _checked_cell(cell):
    if not isinstance(cell, LTCCell):
        raise ValueError(f"[ltc] the cell must be an LTCCell, got {type(cell).__name__}.")
    return cell


def _checked_units(input_size, units):
    if isinstance(input_size, Wiring):
        raise ValueError(
            "[ltc] input_size must be a number of inputs or a cell, got a Wiring: "
            "LTC(input_size, wiring) or LTC(LTCCell(wiring))."
        )
    if units is None:
        raise ValueError("[ltc] units must be a number of neurons or a Wiring, got None.")
    return units
