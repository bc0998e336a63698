"""Dropout in the backbone of a CfC: its equation in float64, its statistics, train and eval."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import CfC, CfCCell, WiredCfCCell, available_backends, dispatch
from mlx_ncps import backends as backends_of
from mlx_ncps.dispatch import CfCFacts
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close, tolerance
from tests.support.rnn_layers import GRADIENT, SAME, B, I, T, gradients, normal, spans, train

H, K, RATE = 6, 9, 0.4
backends = pytest.mark.parametrize("backend", available_backends())
modes = pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def make(mode="default", layers=3, rate=RATE):
    return CfCCell(I, H, mode, "tanh", K, layers, rate)


def double(array):
    return np.array(array, np.float64)


def numpy_states(cell, keeps, x, h, ts):
    """MATHS 1 in float64 with given dropout factors [B, T, K] of each layer but the first."""

    def linear(layer, z):
        return z @ double(layer.weight).T + double(layer.bias)

    x, h, ts, states = double(x), double(h), double(ts), []
    for t in range(x.shape[1]):
        z = np.concatenate([x[:, t], h], axis=1)
        for n, layer in enumerate(cell.backbone):
            z = np.tanh(linear(layer, z)) * (keeps[n - 1][:, t] if n else 1.0)
        f1, span = linear(cell.ff1, z), ts[:, t, None]
        if cell.mode == "pure":
            h = truth.cfc_update_pure(f1, double(cell.w_tau)[0], double(cell.A)[0], span)
        else:
            heads = (linear(layer, z) for layer in (cell.ff2, cell.time_a, cell.time_b))
            h = truth.cfc_update(f1, *heads, span, mode=cell.mode)
        states.append(h)
    return np.stack(states, axis=1)


def drawn(layers=2):
    """The factors that the next call draws, with one key for all layers side by side."""
    mx.random.seed(11)
    keeps = double(mx.random.bernoulli(1 - RATE, (B, T, layers * K))) / (1 - RATE)
    mx.random.seed(11)
    return np.split(keeps, layers, axis=2)


@modes
def test_training_equals_the_equation(mode):
    cell, x, h, ts = make(mode), normal(B, T, I), normal(B, H), spans(B, T)
    keeps = drawn()
    assert 0.2 < np.mean([keep == 0 for keep in keeps]) < 0.6
    states = cell.sequence(x, h, ts)
    assert_close("states", states, numpy_states(cell, keeps, x, h, ts), SAME)
    assert dispatch.last_backend() == available_backends()[0]


@modes
def test_gradients_by_differences_of_the_equation(mode):
    cell, x, h, ts = make(mode), normal(B, T, I), normal(B, H), spans(B, T)
    arrays, d, keeps = (x, h, ts), normal(B, T, H), drawn()
    grads = gradients(cell, lambda x, h, ts: mx.sum(cell.sequence(x, h, ts) * d), *arrays)
    rng, step = np.random.default_rng(0), 1e-5
    for n in range(3):
        direction = rng.normal(size=arrays[n].shape)
        ends = []
        for sign in (1, -1):
            moved = [double(a) for a in arrays]
            moved[n] = moved[n] + sign * step * direction
            ends.append(np.sum(numpy_states(cell, keeps, *moved) * double(d)))
        got = np.sum(double(grads[f"arrays.{n}"]) * direction)
        assert_close(f"arrays.{n}", got, (ends[0] - ends[1]) / (2 * step), GRADIENT)
    for key, grad in grads.items():
        assert np.isfinite(np.array(grad)).all(), key


@modes
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_eval_and_short_backbones_are_fused_and_drop_nothing(mode, layers):
    cell, plain = make(mode, layers), make(mode, layers, 0.0)
    plain.update(cell.parameters())
    x, h, ts = normal(B, T, I), normal(B, H), spans(B, T)
    want = plain.sequence(x, h, ts)
    if layers == 2:  # what is dropped is what the second layer gives, and later ones
        assert np.abs(np.array(cell.sequence(x, h, ts) - want)).max() > 1e-3
        cell.eval()
    assert cell.stepwise() == ""
    assert_close("states", cell.sequence(x, h, ts), want, 0.0)
    assert cell.train().stepwise() == ""


@pytest.mark.parametrize("span", [None, 0.5, "0-d"])
def test_scalar_timespans_draw_as_arrays_do(span):
    cell, x, h = make(), normal(B, T, I), normal(B, H)
    mx.random.seed(3)
    got = cell.sequence(x, h, mx.array(0.5) if span == "0-d" else span)
    mx.random.seed(3)
    want = cell.sequence(x, h, mx.full((B, T), 0.5 if span else 1.0))
    assert_close("states", got, want, SAME)


def test_dropout_keeps_the_mean_of_a_layer():
    """Of the pre-activations behind the dropped layer: unbiased, with the variance of Bernoulli."""
    cell = CfCCell(1, 1, "pure", "tanh", 400, 2, 0.25)
    cell.A = mx.array([[-1.0]])  # h' = f - 1 at ts = 0
    rows = 4000
    x, h = mx.ones((rows, 1, 1)), mx.zeros((rows, 1))
    values = double(cell.sequence(x, h, 0.0)).ravel() + 1
    cell.eval()
    mean = float(double(cell.sequence(x[:1], h[:1], 0.0)).item() + 1)
    standard_error = values.std() / np.sqrt(rows)
    assert abs(values.mean() - mean) < 5 * standard_error
    assert values.std() > 0.01


def test_every_step_and_every_call_draw_anew():
    cell, x = make(), mx.broadcast_to(normal(1, 1, I), (40, 2, I))
    first, second = (np.array(cell.sequence(x, mx.zeros((40, H)), 1.0)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_and_empty_sequences(dtype):
    cell, x, h, ts = make(), normal(B, T, I, dtype=dtype), normal(B, H), spans(B, T)
    keeps = drawn()
    states = cell.sequence(x, h, ts)
    assert states.dtype == dtype
    tol = tolerance(str(dtype).rsplit(".", 1)[-1], "forward")
    want = numpy_states(cell, keeps, x.astype(mx.float32), h, ts)
    assert_close("states", states.astype(mx.float32), want, tol)
    assert cell.sequence(x[:, :0], h, None).shape == (B, 0, H)
    assert cell.sequence(x[:0], h[:0], None).shape == (0, T, H)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("wired", [False, True])
def test_layers_train_with_dropout_and_compile(wired, mixed):
    options = {"backbone_units": K, "backbone_layers": 2, "backbone_dropout": RATE}
    units = AutoNCP(10, 2) if wired else H
    models = [CfC(I, units, 2, mixed_memory=mixed, **options) for _ in range(2)]
    models[1].update(models[0].parameters())
    x, ts = normal(B, T, I), spans(B, T)
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])

    def loss(model):
        return mx.mean(mx.square(model(x, None, ts, mask=mask)[0] - 1.0))

    losses = []
    for model, compiled in zip(models, (False, True), strict=True):
        mx.random.seed(5)
        losses.append(train(model, loss, 4 if compiled else 25, compiled))
    assert_close("losses", losses[1], losses[0][:4], GRADIENT)
    assert losses[0][-5:].mean() < 0.9 * losses[0][:5].mean()
    model = models[0].eval()
    assert_close("eval draws nothing", model(x)[0], model(x)[0], 0.0)


def test_explain_says_that_dropout_is_fused_but_not_packed():
    for units in (H, AutoNCP(10, 2)):
        layer = CfC(I, units, backbone_units=K, backbone_layers=2, backbone_dropout=RATE)
        for training in (True, False):
            plan = layer.train(training).explain((B, T, I))
            assert plan.stepwise == ""
            assert len(plan.calls) == (1 if units == H or plan.program else 3)
            told = "not at once: the dropout of the backbone draws anew at each step" in str(plan)
            assert told == (training and "cpu" in available_backends())


@pytest.mark.parametrize("backend", sorted({*available_backends(), "metal", "cuda"}))
def test_every_backend_has_kernels_of_dropout(backend):
    module, facts = getattr(backends_of, backend), CfCFacts(I, H, (K, K), dropout=True)
    for op in ("cfc_sequence", "cfc_mixed_sequence"):
        assert module.unsupported(op, facts) == ""


@backends
def test_a_forced_backend_drops_what_the_equation_drops(backend):
    cell, x, h, ts = make(), normal(B, T, I), normal(B, H), spans(B, T)
    keeps = drawn()
    with dispatch.use_backend(backend):
        states = cell.sequence(x, h, ts)
    assert dispatch.last_backend() == backend
    assert_close("states", states, numpy_states(cell, keeps, x, h, ts), SAME)


def test_wrong_rates_raise():
    for rate in (-0.1, 1.0, 2):
        with pytest.raises(ValueError, match=r"\[cfc\] backbone_dropout must be in \[0, 1\)"):
            CfCCell(I, H, backbone_dropout=rate)
    assert WiredCfCCell(I, AutoNCP(10, 2), backbone_dropout=0.5).stepwise() == ""
