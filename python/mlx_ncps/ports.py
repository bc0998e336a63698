"""Layers under the names of earlier MLX ports, `CTRNN`, `CTGRU`, `ELTC` and `NODE`: our cells from
the literature with these ports' arguments. `mlx_ncps.alias` puts them into `ncps.mlx`.

They return the whole sequence [B, T, O], and (output, state) with `return_state=True`. What is
computed is our cells' (MATHS 8), with the real elapsed time; the ports' CTRNN, CTGRU and NODE take
steps of their own length and no time.
"""

from __future__ import annotations

from typing import Any

from .cells import CTGRUCell, CTRNNCell, ELTCCell, NeuralODECell
from .checks import choice, refused
from .rnn.layout import Contract, call_contract
from .rnn.sequence import SequenceLayer
from .wirings import Wiring

__all__ = ["CTGRU", "CTRNN", "ELTC", "NODE"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__


class PortLayer(SequenceLayer):
    """Base of these layers."""

    def _made(self, cell: Any, sequences: Any, state: Any, batch_first: bool, more: dict) -> None:
        contract = call_contract(self.op, Contract(True, False), sequences, state)
        super().__init__(cell, contract, batch_first, **more)


class CTRNN(PortLayer):
    """A CT-RNN over a sequence, the output [B, T, H] of all steps: `CTRNNCell` in a layer.

    Args:
        input_size: number of inputs I; None: that of the first call.
        units: number of neurons H.
        activation: "tanh".
        return_sequences: the outputs of all steps, or of the last one. Default True.
        return_state: return (output, state [B, H]). Default False.
        batch_first: inputs are [B, T, I], otherwise [T, B, I].
        tau, learn_tau, ode_unfolds, ode_solver: as in `CTRNNCell`.
        layer: further options of `LiquidRNN`, as `bidirectional`.

    Raises ValueError for another activation.

    Example:
        >>> import mlx.core as mx
        >>> from mlx_ncps.ports import CTRNN
        >>> CTRNN(3, 8)(mx.zeros((2, 5, 3)), timespans=0.5).shape
        (2, 5, 8)
    """

    op = "ctrnn"

    def __init__(
        self,
        input_size: int | None = None,
        units: int | None = None,
        activation: str = "tanh",
        return_sequences: bool = True,
        return_state: bool = False,
        batch_first: bool = True,
        *,
        tau: float = 1.0,
        learn_tau: bool = False,
        ode_unfolds: int = 6,
        ode_solver: str = "explicit",
        **layer: Any,
    ) -> None:
        choice(self.op, "activation", activation, ("tanh",))
        cell = CTRNNCell(
            input_size, _units(self.op, units), tau, learn_tau, ode_unfolds, ode_solver
        )
        self._made(cell, return_sequences, return_state, batch_first, layer)


class CTGRU(PortLayer):
    """A CT-GRU over a sequence, the output [B, T, H] of all steps: `CTGRUCell` in a layer.

    Args:
        input_size, units, return_sequences, return_state, batch_first: as in `CTRNN`.
        cell_clip: None; our traces are bounded already.
        scales, tau: as in `CTGRUCell`.
        layer: further options of `LiquidRNN`.

    Raises ValueError for another cell_clip.

    Example:
        >>> import mlx.core as mx
        >>> from mlx_ncps.ports import CTGRU
        >>> CTGRU(3, 8)(mx.zeros((2, 5, 3))).shape
        (2, 5, 8)
    """

    op = "ctgru"

    def __init__(
        self,
        input_size: int | None = None,
        units: int | None = None,
        return_sequences: bool = True,
        return_state: bool = False,
        batch_first: bool = True,
        cell_clip: None = None,
        *,
        scales: int = 8,
        tau: float = 1.0,
        **layer: Any,
    ) -> None:
        if cell_clip is not None:
            raise refused(self.op, "cell_clip", "None, as the traces are bounded", cell_clip)
        cell = CTGRUCell(input_size, _units(self.op, units), scales, tau)
        self._made(cell, return_sequences, return_state, batch_first, layer)


class NODE(PortLayer):
    """A neural ODE over a sequence, the output [B, T, H] of all steps: `NeuralODECell` in a layer.

    Args:
        input_size, units, return_sequences, return_state, batch_first: as in `CTRNN`.
        field_units, ode_unfolds, ode_solver: as in `NeuralODECell`.
        layer: further options of `LiquidRNN`.

    Example:
        >>> import mlx.core as mx
        >>> from mlx_ncps.ports import NODE
        >>> NODE(3, 8)(mx.zeros((2, 5, 3))).shape
        (2, 5, 8)
    """

    op = "neural_ode"

    def __init__(
        self,
        input_size: int | None = None,
        units: int | None = None,
        return_sequences: bool = True,
        return_state: bool = False,
        batch_first: bool = True,
        *,
        field_units: Any = (),
        ode_unfolds: int = 6,
        ode_solver: str = "runge_kutta",
        **layer: Any,
    ) -> None:
        known = _units(self.op, units)
        cell = NeuralODECell(input_size, known, field_units, ode_unfolds, ode_solver)
        self._made(cell, return_sequences, return_state, batch_first, layer)


class ELTC(PortLayer):
    """The ports' "enhanced LTC" over a sequence, the output [B, T, O] of all steps: `ELTCCell` in a
    layer.

    Args:
        input_size: number of inputs I; None: that of the wiring, or of the first call.
        wiring: a `Wiring`, or a number of fully connected neurons.
        return_sequences, return_state, batch_first: as in `CTRNN`.
        solver: "rk4" or "explicit"; the ports' "semi_implicit" is Heun's method, which ours isn't.
        ode_unfolds: solver steps per time step.
        activation: one of `ops.ACTIVATIONS`.
        layer: further options of `LiquidRNN`.

    Raises ValueError for another solver.

    Example:
        >>> import mlx.core as mx
        >>> from mlx_ncps.ports import ELTC
        >>> from mlx_ncps.wirings import AutoNCP
        >>> ELTC(3, AutoNCP(8, 2), solver="explicit")(mx.zeros((2, 5, 3))).shape
        (2, 5, 2)
    """

    op = "eltc"

    def __init__(
        self,
        input_size: int | None = None,
        wiring: Wiring | int | None = None,
        return_sequences: bool = True,
        return_state: bool = False,
        batch_first: bool = True,
        solver: str = "rk4",
        ode_unfolds: int = 4,
        activation: str = "tanh",
        **layer: Any,
    ) -> None:
        solver = choice(self.op, "solver", solver, tuple(_SOLVERS))
        given = _units(self.op, wiring, "wiring", "a Wiring or a number of neurons")
        cell = ELTCCell(given, input_size, activation, _SOLVERS[solver], ode_unfolds)
        self._made(cell, return_sequences, return_state, batch_first, layer)


_SOLVERS = {"rk4": "runge_kutta", "explicit": "explicit"}


def _units(op: str, units: Any, name: str = "units", wanted: str = "a number of neurons") -> Any:
    if units is None:
        raise refused(op, name, wanted, units)
    return units
