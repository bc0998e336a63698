"""Layers in MLX's ways of working: optimisers, compile, vmap, saving, copying, other dtypes."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, dispatch
from mlx_ncps.rnn import LTC, CfC
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close, tolerance

B, T, I = 4, 2, 3
SAME, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
LAYERS = {
    "cfc": lambda: CfC(I, 5, proj_size=2, backbone_units=8),
    "cfc_pure": lambda: CfC(I, 5, proj_size=2, mode="pure", backbone_layers=0),
    "cfc_wired": lambda: CfC(I, AutoNCP(10, 2)),
    "cfc_wired_backbone": lambda: CfC(I, AutoNCP(10, 2), backbone_units=[6]),
    "ltc": lambda: LTC(I, 5, proj_size=2, ode_unfolds=2),
    "ltc_wired": lambda: LTC(I, AutoNCP(10, 2), ode_unfolds=3),
    "ltc_explicit": lambda: LTC(I, AutoNCP(10, 2), ode_unfolds=2, implicit_param_constraints=False),
}
all_layers = pytest.mark.parametrize("name", LAYERS)
backends = pytest.mark.parametrize("backend", available_backends())


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def make(name):
    layer = LAYERS[name]()
    mx.eval(layer.parameters())
    return layer


def batch():
    x = mx.random.normal((B, T, I), key=mx.random.key(1))
    ts = mx.random.uniform(0.2, 1.5, (B, T), key=mx.random.key(2))
    return x, ts, mx.sin(mx.cumsum(x[:, :, :2], axis=1))


def mean_square(model, x, ts, y):
    return mx.mean(mx.square(model(x, timespans=ts)[0] - y))


def weights(model):
    return dict(tree_flatten(model.parameters()))


def train(model, steps, compiled, optimizer):
    optimizer.init(model.trainable_parameters())
    x, ts, y = batch()

    def step():
        loss, grads = nn.value_and_grad(model, mean_square)(model, x, ts, y)
        optimizer.update(model, grads)
        return loss

    if compiled:
        state = [model.state, optimizer.state]
        step = mx.compile(step, inputs=state, outputs=state)
    losses = []
    for _ in range(steps):
        losses.append(step().item())
    return losses


@all_layers
@backends
def test_training_decreases_the_loss_and_leaves_masks_alone(name, backend):
    model = make(name)
    before = {n: np.array(a) for n, a in weights(model).items()}
    with dispatch.use_backend(backend):
        losses = train(model, 12, False, optim.Adam(0.02))
    assert losses[-1] < 0.9 * losses[0]
    for key, array in weights(model).items():
        moved = not np.array_equal(np.array(array), before[key])
        still = "mask" in key or "wiring" in key
        assert moved != still, key


@all_layers
@backends
def test_compiled_training_step_equals_the_uncompiled(name, backend):
    plain = make(name)
    compiled = copy.deepcopy(plain)
    with dispatch.use_backend(backend):
        losses = train(plain, 4, False, optim.SGD(0.05, momentum=0.9))
        compiled_losses = train(compiled, 4, True, optim.SGD(0.05, momentum=0.9))
    assert_close("losses", np.array(compiled_losses), np.array(losses), GRADIENT)
    assert_all_close(weights(compiled), weights(plain), GRADIENT)


@all_layers
@backends
def test_compiled_call_without_capture_equals_the_uncompiled(name, backend):
    model, (x, ts, _) = make(name), batch()
    with dispatch.use_backend(backend):
        want = model(x, timespans=ts)
        got = mx.compile(lambda x, ts: model(x, timespans=ts))(x, ts)
    assert_close("output", got[0], want[0], SAME)
    assert_close("state", got[1], want[1], SAME)


@all_layers
def test_vmap_over_sequences_equals_a_batch(name):
    model, (x, ts, _) = make(name), batch()
    want, want_state = model(x, timespans=ts)
    got, state = mx.vmap(lambda x, ts: model(x, timespans=ts))(x, ts)
    assert_close("output", got, want, SAME)
    assert_close("state", state, want_state, SAME)


@pytest.mark.parametrize("name", ["ltc", "ltc_explicit"])
def test_constraints_after_a_step_keep_explicit_parameters_positive(name):
    model = make(name)
    optimizer = optim.SGD(1000.0)
    _, grads = nn.value_and_grad(model, mean_square)(model, *batch())
    optimizer.update(model, grads)
    cell = model.rnn_cell
    assert min(cell.w.min().item(), cell.gleak.min().item()) < 0
    model.apply_weight_constraints()
    positive = min(cell[key].min().item() for key in ("w", "sensory_w", "cm", "gleak")) >= 0
    assert positive == (name == "ltc_explicit")


@all_layers
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_saved_weights_restore_the_layer(name, suffix, tmp_path):
    path = str(tmp_path / f"weights.{suffix}")
    source, other = make(name), make(name)
    x, ts, _ = batch()
    source.save_weights(path)
    assert np.abs(np.array(source(x)[0] - other(x)[0])).max() > 1e-3
    other.load_weights(path)
    assert_all_close(weights(other), weights(source), 0.0)
    assert_close("output", other(x, timespans=ts)[0], source(x, timespans=ts)[0], 0.0)
    assert set(weights(other.unfreeze())) == set(weights(source))
    trainable = {n for n, _ in tree_flatten(other.trainable_parameters())}
    assert trainable == {n for n, _ in tree_flatten(source.trainable_parameters())}


@all_layers
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(name, copier):
    source, (x, _, _) = make(name), batch()
    mx.eval(x)  # or the first call alone is left to a graph
    before, twin = source(x)[0], copier(source)
    assert_close("output", twin(x)[0], before, 0.0)
    train(twin, 2, False, optim.Adam(0.02))
    assert_close("output", source(x)[0], before, 0.0)
    assert np.abs(np.array(twin(x)[0] - before)).max() > 1e-3


@all_layers
def test_weights_of_half_precision_compute_in_float32(name):
    model, (x, _, _) = make(name), batch()
    model.set_dtype(mx.bfloat16)
    half = model(x)[0]
    assert half.dtype == mx.float32
    model.set_dtype(mx.float32)
    assert_close("output", half, model(x)[0], SAME)


@all_layers
def test_layers_fit_in_a_sequential_model(name):
    class Last(nn.Module):
        def __call__(self, result):
            return result[0][:, -1]

    model = nn.Sequential(nn.Linear(7, I), make(name), Last(), nn.Linear(2, 1))
    x = mx.random.normal((B, T, 7))
    loss, grads = nn.value_and_grad(model, lambda m: mx.mean(m(x) ** 2))(model)
    assert np.isfinite(loss.item())
    for key, grad in tree_flatten(grads):
        assert np.isfinite(np.array(grad)).all(), key
    assert set(dict(tree_flatten(grads))) == set(dict(tree_flatten(model.trainable_parameters())))
