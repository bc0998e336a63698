"""Layers of any cell: `LiquidRNN`, also of a user's own cell, and `MMRNN` with mixed memory (MATHS
4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checks import refused
from .layout import Contract, call_contract
from .options import OptionsSignature, split_options
from .sequence import SequenceLayer

if TYPE_CHECKING:
    from .._types import Cell


class LiquidRNN(SequenceLayer):
    """Any cell over sequences; like `CfC(cell)` and `LTC(cell)` it returns the last output [B, O],
    or what `return_sequences` and `return_state` say.

    Args:
        cell: a `LiquidCell`, which runs over the whole sequence at once; or any callable
            `cell(inputs [B, I], state, ts) -> (output [B, O], new state)`, a plain function too,
            which is called once for each step, with ts a number or [B, 1]. One that takes
            `(inputs, state)` alone can't be given time spans. A state is an array [B, ...] or a
            tuple of arrays. Zeros of `cell.state_size`, a number or a tuple of them, or
            `cell.get_initial_state(batch_size=B)` start it; without either a call needs hx.
            Without a step the output is zeros.
        return_sequences: the outputs of all steps, or of the last one.
        return_state: return (output, state).
        batch_first: inputs are [B, T, I], otherwise [T, B, I].
        proj_size: outputs of a linear map after the cell; None for none.
        mixed_memory: an LSTM in front of the cell (MATHS 4); the state is then (h, c).
        bidirectional, merge_mode, go_backwards, stateful: as in `CfC`.
        backward_cell: the cell of the other direction; None: a copy of `cell`, with weights drawn
            anew if it has `redraw()`, as all cells of this package do.

    Example:
        >>> layer = LiquidRNN(CTRNNCell(20, 16), return_sequences=True)
        >>> layer(mx.zeros((8, 50, 20)), timespans=0.5).shape
        (8, 50, 16)
    """

    def __init__(
        self,
        cell: Cell,
        return_sequences: bool | None = None,
        return_state: bool | None = None,
        batch_first: bool = True,
        *,
        proj_size: int | None = None,
        mixed_memory: bool = False,
        bidirectional: bool = False,
        merge_mode: str | None = "concat",
        go_backwards: bool = False,
        stateful: bool = False,
        backward_cell: Cell | None = None,
    ) -> None:
        _, of_layer = split_options(LiquidRNN.__init__, SequenceLayer.__init__, locals())
        for name, given in (("cell", cell), ("backward_cell", backward_cell)):
            if not callable(given) and (given is not None or name == "cell"):
                raise ValueError(
                    f"[{self.op}] {name} must be callable as cell(inputs, state, ts), "
                    f"got {type(given).__name__}."
                )
        contract = call_contract(self.op, Contract(False, False), return_sequences, return_state)
        super().__init__(cell, contract, **of_layer)


class MMRNN(LiquidRNN):
    """Mixed memory for any cell: a `LiquidRNN` with an LSTM in front of the cell (MATHS 4, Lechner
    and Hasani 2020). The state is (h, c), each [B, H]; the arguments are those of `LiquidRNN`.

    Example:
        >>> layer = MMRNN(CTRNNCell(20, 16), return_state=True)
        >>> output, (h, c) = layer(mx.zeros((8, 50, 20)))
        >>> output.shape, h.shape, c.shape
        ((8, 16), (8, 16), (8, 16))
    """

    op = "mmrnn"
    __signature__ = OptionsSignature(lambda cls: LiquidRNN, without=("mixed_memory",))

    def __init__(
        self,
        cell: Cell,
        return_sequences: bool | None = None,
        return_state: bool | None = None,
        batch_first: bool = True,
        **options: Any,
    ) -> None:
        mixed = options.pop("mixed_memory", True)
        if mixed is not True:
            raise refused("mmrnn", "mixed_memory", "True or left out", mixed)
        super().__init__(
            cell, return_sequences, return_state, batch_first, mixed_memory=True, **options
        )
