"""The yardstick columns: `nn.LSTM` and `nn.GRU` of torch and MLX, with the row's sizes.

They are other models: nothing of them is compared with float64, only their time and memory with
those of a liquid network that has as many inputs and neurons.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from tests.support.cases import make

from ..launches import primitives, torch_operators
from . import Program
from .mlx_programs import LEARNING_RATE


def torch_lstm(row, threads: int) -> Program:
    """torch.nn.LSTM."""
    return _torch("LSTM", row, threads)


def torch_gru(row, threads: int) -> Program:
    """torch.nn.GRU."""
    return _torch("GRU", row, threads)


def mlx_lstm(row, threads: int) -> Program:
    """mlx.nn.LSTM."""
    return _mlx(nn.LSTM, row)


def mlx_gru(row, threads: int) -> Program:
    """mlx.nn.GRU."""
    return _mlx(nn.GRU, row)


def _torch(name: str, row, threads: int) -> Program:
    import torch

    from .torch_device import choose_device

    put, wait = choose_device(threads)
    call = make(row.case)
    x, weights = put(call.inputs), put(call.cotangents)
    module = getattr(torch.nn, name)(row.case.inputs, row.case.units, batch_first=True)
    module = module.to(x.device)
    optimiser = torch.optim.Adam(module.parameters(), LEARNING_RATE)
    state = [None]

    def run():
        if not row.gradients:
            with torch.no_grad():
                output, state[0] = module(x, state[0] if row.mode == "step" else None)
            wait()
            return output
        module.zero_grad(set_to_none=True)
        output = module(x)[0]
        (output * weights).sum().backward()
        if row.mode == "train":
            optimiser.step()
        wait()
        return output

    def check():
        return {"output": run().detach().cpu().numpy()}

    return Program(check, run, lambda: torch_operators(run))


def _mlx(kind, row) -> Program:
    call = make(row.case)
    x, weights = mx.array(call.inputs), mx.array(call.cotangents)
    module = kind(row.case.inputs, row.case.units)
    mx.eval(module.parameters(), x, weights)
    optimiser = optim.Adam(LEARNING_RATE)
    optimiser.init(module.parameters())

    def states(module, *start):
        results = module(x, *start)
        return results if isinstance(results, tuple) else (results,)

    def loss(module):
        return (states(module)[0] * weights).sum()

    gradient = nn.value_and_grad(module, loss)
    last = []

    def graph():
        if not row.gradients:
            return states(module, *last)
        value, gradients = gradient(module)
        if row.mode != "train":
            return value, gradients
        optimiser.update(module, gradients)
        return value, module.parameters(), optimiser.state

    def run():
        outputs = graph()
        mx.eval(outputs)
        if row.mode == "step":
            last[:] = [state[:, -1] for state in outputs]
        return outputs

    def check():
        return {k: np.array(v) for k, v in tree_flatten(run())}

    return Program(check, run, lambda: len(primitives(graph())))
