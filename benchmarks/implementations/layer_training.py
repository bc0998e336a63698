"""A training step as users write it: a public layer, `nn.value_and_grad` and MLX's Adam, eager and
through mx.compile; and Adam alone.
"""

from __future__ import annotations

import re

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import _loader

from tests.support.cases import make

from ..launches import primitives
from . import Program
from .mlx_ops import layer_of
from .mlx_programs import LEARNING_RATE


def eager(row, threads: int) -> Program:
    """Each operation at once."""
    return _program(row, threads, compiled=False)


def compiled(row, threads: int) -> Program:
    """The whole step, with Adam, as one compiled function."""
    return _program(row, threads, compiled=True)


def adam(row, threads: int) -> Program:
    """The update of an eager step alone, with the same gradients at each call: no layer runs."""
    return _program(row, threads, compiled=False, alone=True)


def _program(row, threads: int, *, compiled: bool, alone: bool = False) -> Program:
    if _loader.native is not None:
        _loader.native.set_num_threads(threads)
    call, layer = make(row.case), layer_of(row).train()
    x, state = mx.array(call.inputs), mx.array(call.state)
    weights = mx.array(call.cotangents[..., : row.outputs])
    optimiser = optim.Adam(LEARNING_RATE)
    optimiser.init(layer.trainable_parameters())
    mx.eval(layer.parameters(), optimiser.state, x, state, weights)

    def loss(x, state):
        y, _ = layer(x, state)
        return (y * weights).sum(), y

    gradient = nn.value_and_grad(layer, loss)

    def step(x, state):
        (value, _), gradients = gradient(x, state)
        optimiser.update(layer, gradients)
        return value

    if alone:
        constant = gradient(x, state)[1]
        mx.eval(constant)

        def step(x, state):
            optimiser.update(layer, constant)
            return ()

    if compiled:
        kept = [layer.state, optimiser.state]
        step = mx.compile(step, inputs=kept, outputs=kept)
        gradient_of = mx.compile(gradient, inputs=[layer.state], outputs=[layer.state])
    else:
        gradient_of = gradient

    def graph():
        return step(x, state), layer.parameters(), optimiser.state

    def run():
        outputs = graph()
        mx.eval(outputs)
        return dict(outputs[1])

    def check():
        (_, y), gradients = gradient_of(x, state)
        mx.eval(y, gradients)
        named = {_name(name): g for name, g in tree_flatten(gradients) if "output_" not in name}
        return {name: np.array(array) for name, array in ({"output": y} | named).items()}

    return Program(check, run, lambda: len(primitives(graph())))


def _name(name: str) -> str:
    """The name of a layer's gradient as truth.want has it."""
    name = name.replace("rnn_cell.", "params.")
    return re.sub(r"\.(weight|bias)$", lambda part: f".{int(part[1] == 'bias')}", name)
