"""Gradients of a long sequence by the public layers: at once, under `nn.utils.checkpoint`, and with
`chunked_value_and_grad`.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, _loader, chunked_value_and_grad

from tests.support.cases import make

from . import Program
from .mlx_programs import LEARNING_RATE


def whole(row, threads: int) -> Program:
    """The whole sequence at once."""
    return _program(row, threads, _whole)


def checkpointed(row, threads: int) -> Program:
    """Chunks under nn.utils.checkpoint: their first pass keeps the state after each."""
    return _program(row, threads, _checkpointed)


def chunked(row, threads: int) -> Program:
    """mlx_ncps.chunked_value_and_grad."""
    return _program(row, threads, _chunked)


def chunk_length(steps: int) -> int:
    """The length that keeps as many states as steps of a chunk, to a power of 2."""
    return 2 ** math.ceil(math.log2(max(steps, 1)) / 2)


def _program(row, threads, way) -> Program:
    if _loader.native is not None:
        _loader.native.set_num_threads(threads)
    c, call = row.case, make(row.case)
    x, weights = mx.array(call.inputs), mx.array(call.cotangents)
    mx.random.seed(0)
    if row.is_ltc:
        layer = LTC(c.inputs, c.units, ode_unfolds=c.unfolds)
    else:
        backbone = {"backbone_units": c.backbone_units, "backbone_layers": c.layers}
        layer = CfC(c.inputs, c.units, **backbone)
    optimiser = optim.Adam(LEARNING_RATE)
    optimiser.init(layer.trainable_parameters())
    mx.eval(layer.parameters(), optimiser.state, x, weights)
    gradients_of = way(layer, chunk_length(c.steps))
    state = mx.zeros((c.batch, c.units))

    def run():
        value, gradients = gradients_of(x, weights, state)
        if row.mode == "train":
            optimiser.update(layer, gradients)
        mx.eval(value, gradients, layer.parameters(), optimiser.state)
        return value, gradients

    def check():
        value, gradients = run()
        named = {"loss": value, **dict(tree_flatten(gradients))}
        return {name: np.array(array) for name, array in named.items()}

    return Program(check, run)


def _loss(layer, state, x, weights):
    output, state = layer(x, state)
    return (output * weights).sum(), state


def _pieces(length, x, weights):
    return [
        (x[:, t : t + length], weights[:, t : t + length]) for t in range(0, x.shape[1], length)
    ]


def _whole(layer, length):
    gradient = nn.value_and_grad(layer, lambda *arguments: _loss(layer, *arguments)[0])
    return lambda x, weights, state: gradient(state, x, weights)


def _checkpointed(layer, length):
    part = nn.utils.checkpoint(layer, lambda *arguments: _loss(layer, *arguments))

    def total(x, weights, state):
        value = mx.zeros(())
        for piece in _pieces(length, x, weights):
            loss, state = part(state, *piece)
            value = value + loss
        return value

    return nn.value_and_grad(layer, total)


def _chunked(layer, length):
    gradient = chunked_value_and_grad(layer, _loss)
    return lambda x, weights, state: gradient(_pieces(length, x, weights), state)[:2]
