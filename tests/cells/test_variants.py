"""The variants of the CfC: MATHS 1 written out once more in float64, the masks' signs, first values
and dropout of ncps.keras, whole layers.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import CfC, CfCCell, CfCRNN, WiredCfCCell, available_backends, dispatch
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import MODES, VARIANTS, assert_close
from tests.support.rnn_layers import SAME, B, I, T, normal, spans

H, K, RATE = 6, 9, 0.4
others = pytest.mark.parametrize("variant", ["keras", "paper"])
variants = pytest.mark.parametrize("variant", VARIANTS)
modes = pytest.mark.parametrize("mode", MODES)
backends = pytest.mark.parametrize("backend", available_backends())


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def double(array):
    return np.array(array, np.float64)


def by_hand(cell, x, h, ts, keeps=()):
    """One step: x [B, I], h [B, H], ts [B]; `keeps`, the factors of dropout, one per layer."""

    def linear(layer, z, mask=1.0):
        return z @ (double(layer.weight) * mask).T + double(layer.bias)

    z, ts = np.concatenate([double(x), double(h)], axis=1), double(ts)[:, None]
    for n, layer in enumerate(cell.backbone):
        z = 1.7159 * np.tanh(0.666 * linear(layer, z)) * (keeps[n] if keeps else 1.0)
    mask = double(cell.sparsity_mask) if "sparsity_mask" in cell else 1.0
    f1 = linear(cell.ff1, z, mask)
    if cell.mode == "pure":
        w_tau, A = double(cell.w_tau), double(cell.A)
        return -A * np.exp(-ts * (np.abs(w_tau) + np.abs(f1))) * f1 + A
    f2, a, b = linear(cell.ff2, z, mask), linear(cell.time_a, z), linear(cell.time_b, z)
    gate = 1 / (1 + np.exp(-(a * ts + b)))
    if cell.variant == "torch":
        f1, f2 = np.tanh(f1), np.tanh(f2)
    else:
        gate = 1 / (1 + np.exp(a * ts - b))
    if cell.variant == "paper":
        f1, f2 = 1.7159 * np.tanh(0.666 * f1), 1.7159 * np.tanh(0.666 * f2)
    return f1 + gate * f2 if cell.mode == "no_gate" else f1 * (1 - gate) + gate * f2


@variants
@modes
@backends
def test_cell_equals_the_equation(variant, mode, backend):
    cell = CfCCell(I, H, mode, backbone_units=[K, 5], variant=variant)
    x, h, ts = normal(B, I), normal(B, H), spans(B)
    with dispatch.use_backend(backend):
        output, state = cell(x, h, ts)
        assert_close("one", cell(x, h)[0], by_hand(cell, x, h, np.ones(B)), SAME)
    assert_close("output", output, by_hand(cell, x, h, ts), SAME)
    assert_close("state", state, output, 0.0)


@variants
@modes
def test_layer_equals_its_steps(variant, mode):
    layer = CfC(I, H, mode=mode, backbone_units=K, variant=variant)
    x, h, ts = normal(B, T, I), normal(B, H), spans(B, T)
    output, state = layer(x, h, ts)
    for t in range(T):
        h = by_hand(layer.rnn_cell, x[:, t], h, ts[:, t])
        assert_close(f"output {t}", output[:, t], h, SAME)
    assert_close("state", state, output[:, -1], 0.0)


def test_pure_mode_is_the_same_in_all_variants():
    cells = [CfCCell(I, H, "pure", backbone_units=K, variant=v) for v in VARIANTS]
    x, h, ts = normal(B, T, I), normal(B, H), spans(B, T)
    want = cells[0].sequence(x, h, ts)
    for cell in cells[1:]:
        cell.update(cells[0].parameters())
        assert_close(cell.variant, cell.sequence(x, h, ts), want, 0.0)


@others
@pytest.mark.parametrize("mode", ["default", "pure"])
def test_wired_cell_multiplies_its_weights_by_the_polarities(variant, mode):
    wiring = AutoNCP(10, 2)
    cell = WiredCfCCell(I, wiring, mode, variant=variant)
    inter, command = (cell.wiring.get_neurons_of_layer(n) for n in (0, 1))
    mask = double(cell.layer_1.sparsity_mask)  # [command, inter + command]
    adjacency = cell.wiring.adjacency[np.ix_(inter, command)]
    assert_close("mask", mask[:, : len(inter)], adjacency.T, 0.0)
    assert (mask[:, len(inter) :] == 1).all()
    assert set(np.unique(adjacency)) == {-1, 0, 1}
    x, state, ts = normal(B, I), normal(B, 10), spans(B)
    output, new = cell(x, state, ts)
    z, start = x, 0
    for n, width in enumerate(cell.layer_sizes):
        z = by_hand(cell[f"layer_{n}"], z, state[:, start : start + width], ts)
        assert_close(f"state {n}", new[:, start : start + width], z, SAME)
        start += width
    assert_close("output", output, z, SAME)


@others
def test_wired_recurrence_keeps_its_polarities(variant):
    cell = WiredCfCCell(I, AutoNCP(10, 2), fully_recurrent=False, variant=variant)
    command = cell.wiring.get_neurons_of_layer(1)
    own = cell.wiring.adjacency[np.ix_(command, command)]
    assert_close("mask", cell.layer_1.sparsity_mask[:, -len(command) :], own.T, 0.0)
    assert own.min() < 0


def test_wired_backbone_reads_the_same_sources_in_all_variants():
    cells = [WiredCfCCell(I, AutoNCP(10, 2), backbone_units=5, variant=v) for v in VARIANTS]
    for cell in cells[1:]:
        for n in range(3):
            assert_close("mask", cell[f"source_mask_{n}"], cells[0][f"source_mask_{n}"], 0.0)


@others
def test_keras_starts_with_biases_of_zero(variant):
    cell = CfCCell(100, 60, variant=variant)
    for layer in (*cell.backbone, cell.ff1, cell.ff2, cell.time_a, cell.time_b):
        rows, columns = layer.weight.shape
        bound = np.sqrt(6 / (rows + columns))  # Xavier, which Keras calls Glorot
        assert 0.9 * bound < mx.abs(layer.weight).max().item() <= bound
        assert mx.all(layer.bias == 0)
    pure = CfCCell(I, 60, "pure", variant=variant)
    assert mx.all(pure.w_tau == 0)
    assert mx.all(pure.A == 1)


@others
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_keras_drops_behind_every_layer(variant, layers):
    cell = CfCCell(I, H, "default", "lecun_tanh", K, layers, RATE, variant=variant)
    assert cell.stepwise() == ""
    x, h, ts = normal(B, T, I), normal(B, H), spans(B, T)
    mx.random.seed(11)
    keeps = double(mx.random.bernoulli(1 - RATE, (B, T, layers * K))) / (1 - RATE)
    keeps = np.split(keeps, layers, axis=2) if layers else []
    mx.random.seed(11)
    states = cell.sequence(x, h, ts)
    for t in range(T):
        h = by_hand(cell, x[:, t], h, ts[:, t], [keep[:, t] for keep in keeps])
        assert_close(f"state {t}", states[:, t], h, SAME)


@variants
def test_layers_pass_their_variant_on(variant):
    stack = CfCRNN(I, H, 2, bidirectional=True, mixed_memory=True, variant=variant)
    cells = [half.rnn_cell for layer in stack.layers for half in layer._directions]
    assert [cell.variant for cell in cells] == [variant] * 4
    wired = CfC(I, AutoNCP(10, 2), variant=variant)
    assert {wired.rnn_cell.variant, wired.rnn_cell.layer_0.variant} == {variant}
    assert CfC(CfCCell(I, H, variant=variant)).rnn_cell.variant == variant


@others
def test_compiled_gradients_of_a_layer_equal_the_uncompiled(variant):
    layer, x, ts = CfC(I, H, backbone_units=K, variant=variant), normal(B, T, I), spans(B, T)

    def loss(parameters, x, ts):
        layer.update(parameters)
        return mx.mean(mx.square(layer(x, timespans=ts)[0]))

    parameters = layer.trainable_parameters()
    grads = [f(parameters, x, ts) for f in (mx.grad(loss), mx.compile(mx.grad(loss)))]
    layer.update(parameters)
    plain, compiled = (dict(tree_flatten(g)) for g in grads)
    for key, grad in plain.items():
        assert_close(key, compiled[key], grad, SAME)
        assert mx.any(grad != 0), key


def test_unknown_variants_raise():
    for make in (CfC, CfCCell, lambda n, h, **o: WiredCfCCell(n, AutoNCP(10, 2), **o)):
        with pytest.raises(ValueError, match=r"\[cfc\] variant must be one of torch, keras, paper"):
            make(I, H, variant="jax")
    with pytest.raises(ValueError, match=r"\[cfc\] variant must be left out with a cell"):
        CfC(CfCCell(I, H), variant="keras")
