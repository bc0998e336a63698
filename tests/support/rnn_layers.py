"""The layers that the tests of features run over, small, and what these tests share."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps.rnn import LTC, CfC
from mlx_ncps.wirings import AutoNCP, Random

from tests.support.cases import assert_close, tolerance

B, T, I = 3, 5, 4
SAME, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
LAYERS = {  # name: layer of these options; with 4 inputs unless told
    "cfc": lambda inputs=I, **o: CfC(inputs, 6, backbone_units=9, **o),
    "cfc_pure": lambda inputs=I, **o: CfC(inputs, 6, mode="pure", backbone_layers=0, **o),
    "cfc_wired": lambda inputs=I, **o: CfC(inputs, AutoNCP(10, 2), **o),
    "cfc_random": lambda inputs=I, **o: CfC(inputs, Random(8, 3, 0.4), **o),
    "ltc": lambda inputs=I, **o: LTC(inputs, 6, ode_unfolds=3, **o),
    "ltc_wired": lambda inputs=I, **o: LTC(inputs, AutoNCP(10, 2), ode_unfolds=3, **o),
}
CELLS = ("CfCCell", "WiredCfCCell", "LTCCell")


def make(name, **options):
    """A layer of LAYERS with weights that exist."""
    layer = LAYERS[name](**options)
    mx.eval(layer.parameters())
    return layer


def normal(*shape, dtype=mx.float32):
    return mx.random.normal(shape).astype(dtype)


def spans(*shape):
    return mx.random.uniform(0.1, 2.0, shape)


def states_like(layer, batch=B):
    """Random states of a layer of one direction; (h, c) with mixed memory."""
    shape = (layer.state_size,) if batch is None else (batch, layer.state_size)
    return (normal(*shape), normal(*shape)) if layer.mixed_memory else normal(*shape)


def leaves(tree):
    """The arrays of a tree, in its order."""
    return [array for _, array in tree_flatten(tree)]


def assert_trees_close(name, got, want, tol):
    """`assert_close` for every array of two trees of the same form."""
    got, want = dict(tree_flatten(got)), dict(tree_flatten(want))
    assert list(got) == list(want), f"{name}: {list(got)}, want {list(want)}"
    for key in want:
        assert_close(f"{name}.{key}", got[key], want[key], tol)


def gradients(layer, loss, *arrays):
    """The gradients of loss(*arrays) for the layer's parameters and the arrays, by name."""

    def of_parameters(parameters, arrays):
        layer.update(parameters)
        return loss(*arrays)

    grads = mx.grad(of_parameters, argnums=(0, 1))(layer.trainable_parameters(), list(arrays))
    return dict(tree_flatten(grads[0])) | {f"arrays.{n}": g for n, g in enumerate(grads[1])}


def train(model, loss, steps, compiled):
    """`steps` steps of SGD with momentum; the losses."""
    optimizer = optim.SGD(0.05, momentum=0.9)
    optimizer.init(model.trainable_parameters())

    def step():
        value, grads = nn.value_and_grad(model, loss)(model)
        optimizer.update(model, grads)
        return value

    if compiled:
        state = [model.state, optimizer.state, mx.random.state]
        step = mx.compile(step, inputs=state, outputs=state)
    return np.array([step().item() for _ in range(steps)])
