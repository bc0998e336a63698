"""`mx.compile`d training of every kind of layer, and clipped gradients, equal to the plain ones."""

import copy

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CfCRNN
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close
from tests.support.rnn_layers import GRADIENT, B, I, T, normal, spans

STEPS = 3
DROPOUT = {"backbone_layers": 2, "backbone_dropout": 0.3}
LAYERS = {
    "cfc": lambda: CfC(I, 6, backbone_units=9),
    "ltc_wired": lambda: LTC(I, AutoNCP(10, 2), ode_unfolds=3),
    "cfc_mixed_memory": lambda: CfC(I, 6, mixed_memory=True, backbone_units=9),
    "ltc_mixed_memory": lambda: LTC(I, 6, mixed_memory=True, ode_unfolds=2),
    "ltc_bidirectional": lambda: LTC(I, 6, bidirectional=True, ode_unfolds=2),
    "cfc_projected": lambda: CfC(I, AutoNCP(10, 2), proj_size=3, bidirectional=True),
    "cfc_dropout": lambda: CfC(I, 6, backbone_units=9, **DROPOUT),
    "cfc_stateful": lambda: CfC(I, 6, stateful=True, backbone_units=9),
    "ltc_stateful": lambda: LTC(I, 6, stateful=True, mixed_memory=True, ode_unfolds=2),
    "cfc_stacked": lambda: CfCRNN(I, 6, num_layers=2, bidirectional=True, **DROPOUT),
}
all_layers = pytest.mark.parametrize("name", LAYERS)


def make(name):
    mx.random.seed(7)
    layer = LAYERS[name]()
    mx.eval(layer.parameters())
    return layer


def batches():
    """Other data at each step: (x, time spans, mask). Leaves the random state at a fixed seed."""
    mx.random.seed(3)
    masks = [mx.arange(T) < mx.array([[T], [T - n], [2]]) for n in range(STEPS)]
    arrays = [(normal(B, T, I), spans(B, T), mask) for mask in masks]
    mx.eval(arrays)
    mx.random.seed(11)
    return arrays


def train(model, compiled, max_norm=None):
    """A few steps -> (losses, norms before clipping, weights)."""
    optimizer = optim.SGD(0.05, momentum=0.9)
    optimizer.init(model.trainable_parameters())

    def loss_of(model, x, ts, mask):
        output, _ = model(x, timespans=ts, mask=mask)
        return mx.mean(mx.square(output - mx.cumsum(x, axis=1)[..., :1]))

    def step(x, ts, mask):
        loss, gradients = nn.value_and_grad(model, loss_of)(model, x, ts, mask)
        norm = mx.array(0.0)
        if max_norm is not None:
            gradients, norm = optim.clip_grad_norm(gradients, max_norm)
        optimizer.update(model, gradients)
        return loss, norm

    if compiled:
        state = [model.state, optimizer.state, mx.random.state]
        step = mx.compile(step, inputs=state, outputs=state)
    results = []
    for arrays in batches():
        results.append(step(*arrays))
        mx.eval(results[-1], model.state, optimizer.state, mx.random.state)
    losses, norms = (np.array([float(a) for a in each]) for each in zip(*results, strict=True))
    return losses, norms, dict(tree_flatten(model.parameters()))


@all_layers
def test_compiled_steps_equal_the_plain_ones(name):
    model = make(name)
    twin = copy.deepcopy(model)
    losses, _, weights = train(model, False)
    compiled_losses, _, compiled_weights = train(twin, True)
    assert len(set(losses.tolist())) == STEPS
    assert_close("losses", compiled_losses, losses, GRADIENT)
    assert_all_close(compiled_weights, weights, GRADIENT)


def test_compiled_dropout_draws_anew_only_with_the_random_state():
    model, x = make("cfc_dropout"), normal(B, T, I)
    captured = mx.compile(lambda x: model(x)[0], inputs=mx.random.state, outputs=mx.random.state)
    frozen = mx.compile(lambda x: model(x)[0])
    assert np.abs(np.array(captured(x) - captured(x))).max() > 1e-3
    assert_close("frozen", frozen(x), frozen(x), 0.0)


@pytest.mark.parametrize("name", ["cfc", "ltc_wired", "cfc_stacked"])
def test_clipped_gradients_have_the_norm(name):
    model = make(name).eval()
    x, ts, _ = batches()[0]

    def loss_of(model):
        return 100 * mx.mean(mx.square(model(x, timespans=ts)[0]))

    _, gradients = nn.value_and_grad(model, loss_of)(model)
    clipped, norm = optim.clip_grad_norm(gradients, 0.5)
    arrays = {key: np.array(g, np.float64) for key, g in tree_flatten(gradients)}
    want = np.sqrt(sum(np.sum(g * g) for g in arrays.values()))
    assert want > 1
    assert_close("norm", norm, want, GRADIENT)
    scaled = {key: g * 0.5 / want for key, g in arrays.items()}
    assert_all_close(dict(tree_flatten(clipped)), scaled, GRADIENT)
    untouched, _ = optim.clip_grad_norm(gradients, 2 * want)
    assert_all_close(dict(tree_flatten(untouched)), arrays, 0.0)


@pytest.mark.parametrize("name", ["cfc", "ltc_wired"])
def test_compiled_clipping_equals_the_plain(name):
    model = make(name)
    twin, free = copy.deepcopy(model), copy.deepcopy(model)
    losses, norms, weights = train(model, False, max_norm=0.1)
    compiled_losses, compiled_norms, compiled_weights = train(twin, True, max_norm=0.1)
    assert norms.min() > 0.1
    assert_close("losses", compiled_losses, losses, GRADIENT)
    assert_close("norms", compiled_norms, norms, GRADIENT)
    assert_all_close(compiled_weights, weights, GRADIENT)
    assert np.abs(train(free, False)[0][1:] - losses[1:]).max() > 1e-5
