"""Step programs whose kernels are judged, of each kind of layer that runs as one, and their
launches.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx_ncps.backends.gpu.programs import Steps, program_sequence
from mlx_ncps.backends.gpu.runner import Runner
from mlx_ncps.cells import CfCCell, CTGRUCell, LSTMCell, NeuralODECell, ODELSTMCell, WiredCfCCell
from mlx_ncps.programs import step_program
from mlx_ncps.wirings import AutoNCP

INPUTS = 8
# The cell and the LSTM in front of it.
PROGRAMS: dict[str, Callable[[], tuple]] = {
    "wired": lambda: (WiredCfCCell(INPUTS, AutoNCP(64, 8, seed=1)), None),
    "mixed_wired": lambda: (WiredCfCCell(INPUTS, AutoNCP(64, 8, seed=1)), LSTMCell(INPUTS, 64)),
    "mixed": lambda: (CfCCell(INPUTS, 64, backbone_units=64), LSTMCell(INPUTS, 64)),
    "ct_gru": lambda: (CTGRUCell(INPUTS, 32), None),
    "neural_ode": lambda: (NeuralODECell(INPUTS, 32, [32]), None),
    "ode_lstm": lambda: (ODELSTMCell(INPUTS, 32), None),
}
BATCHES = (1, 64)


def trace_program(run: Runner, label: str, batch: int) -> None:
    """The launches of a program and of its gradient."""
    cell, lstm = PROGRAMS[label]()
    bound = step_program(cell, lstm)
    widths = bound.text.steps

    def call(*arrays):
        inputs, states = arrays[: len(widths)], arrays[len(widths) :]
        steps = Steps(list(inputs), list(states), None, [])
        return program_sequence(run, bound.text, bound.captured, steps)[0]

    arrays = [mx.zeros((batch, 2, n)) for n in widths]
    arrays += [mx.zeros((batch, n)) for n in bound.text.states]
    mx.vjp(call, arrays, [mx.zeros((batch, 2, bound.text.states[0]))])
