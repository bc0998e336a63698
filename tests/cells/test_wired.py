"""Wired CfC cells by numbers: MATHS 2 written out in float64 from the wiring's own matrices."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import CfC, WiredCfCCell, available_backends, dispatch
from mlx_ncps.wirings import NCP, AutoNCP, Random

from tests.support.cases import assert_close
from tests.support.rnn_layers import GRADIENT, SAME, B, I, T, gradients, normal, spans

WIRINGS = {
    "AutoNCP": lambda: AutoNCP(12, 2, 0.6),
    "NCP": lambda: NCP(5, 4, 3, 2, 2, 3, 2),
    "Random": lambda: Random(8, 3, 0.4),
}
wirings = pytest.mark.parametrize("name", WIRINGS)
variants = pytest.mark.parametrize("variant", ["torch", "keras"])
recurrences = pytest.mark.parametrize("full", [True, False], ids=["full", "masked"])
backends = pytest.mark.parametrize("backend", available_backends())


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def double(array):
    return np.array(array, np.float64)


def layers_of(wiring):
    """(neurons, synapses from what a layer reads, synapses among its own neurons) of each layer."""
    before = None
    for n in range(wiring.num_layers):
        own = wiring.get_neurons_of_layer(n)
        incoming = wiring.sensory_adjacency if before is None else wiring.adjacency[before]
        yield own, incoming[:, own], wiring.adjacency[np.ix_(own, own)]
        before = own


def update(layer, z, ts, mask, variant):
    """The closed form from what the heads read, z; mask: [H, K] or 1."""
    f1, f2, a, b = (
        z @ (double(head.weight) * (mask if n < 2 else 1.0)).T + double(head.bias)
        for n, head in enumerate((layer.ff1, layer.ff2, layer.time_a, layer.time_b))
    )
    if variant == "torch":
        f1, f2, a = np.tanh(f1), np.tanh(f2), -a
    gate = 1 / (1 + np.exp(a * ts[:, None] - b))
    return f1 * (1 - gate) + gate * f2


def by_hand(cell, x, state, ts, full, backbone):
    """One step: x [B, I], state [B, H], ts [B] -> (output, state)."""
    z, state, ts = double(x), double(state), double(ts)
    new, start = [], 0
    for n, (own, incoming, recurrent) in enumerate(layers_of(cell.wiring)):
        layer, h = cell[f"layer_{n}"], state[:, start : start + len(own)]
        mask = np.concatenate([incoming, np.ones_like(recurrent) if full else recurrent]).T
        mask = np.abs(mask) if cell.variant == "torch" else mask
        if backbone:  # sources without a synapse into the layer are not read
            mask, z = 1.0, z * (incoming != 0).any(axis=1)
        z = np.concatenate([z, h], axis=1)
        for hidden in layer.backbone:
            z = np.maximum(z @ double(hidden.weight).T + double(hidden.bias), 0)
        z = update(layer, z, ts, mask, cell.variant)
        new.append(z)
        start += len(own)
    return z[:, : cell.output_size], np.concatenate(new, axis=1)


@wirings
@variants
@recurrences
@backends
def test_wired_step_equals_the_equation(name, variant, full, backend):
    cell = WiredCfCCell(I, WIRINGS[name](), fully_recurrent=full, variant=variant)
    x, h, ts = normal(B, I), normal(B, cell.state_size), spans(B)
    with dispatch.use_backend(backend):
        output, state = cell(x, h, ts)
    want_output, want_state = by_hand(cell, x, h, ts, full, False)
    assert_close("output", output, want_output, SAME)
    assert_close("state", state, want_state, SAME)
    other = by_hand(cell, x, h, ts, not full, False)[1]
    assert np.abs(want_state - other).max() > 1e-3


@wirings
@variants
@backends
def test_wired_backbone_equals_the_equation(name, variant, backend):
    options = {"backbone_units": [7, 5], "activation": "relu", "variant": variant}
    cell = WiredCfCCell(I, WIRINGS[name](), **options)
    x, h, ts = normal(B, I), normal(B, cell.state_size), spans(B)
    with dispatch.use_backend(backend):
        output, state = cell(x, h, ts)
    want_output, want_state = by_hand(cell, x, h, ts, True, True)
    assert_close("output", output, want_output, SAME)
    assert_close("state", state, want_state, SAME)


@variants
@recurrences
def test_wired_layer_equals_its_steps(variant, full):
    cell = WiredCfCCell(I, AutoNCP(12, 2, 0.6), fully_recurrent=full, variant=variant)
    x, h, ts = normal(B, T, I), normal(B, 12), spans(B, T)
    outputs, last = CfC(cell, return_sequences=True, return_state=True)(x, h, ts)
    for t in range(T):
        output, h = by_hand(cell, x[:, t], h, ts[:, t], full, False)
        assert_close(f"output {t}", outputs[:, t], output, SAME)
    assert_close("state", last, h, SAME)


@backends
@pytest.mark.parametrize("backbone", [False, True])
def test_gradients_are_masked_as_the_weights_are(backend, backbone):
    """Of weights and inputs where nothing is connected; by differences along one direction else."""
    options = {"backbone_units": 6, "activation": "relu"} if backbone else {}
    cell = WiredCfCCell(I, AutoNCP(12, 2, 0.8), fully_recurrent=backbone, **options)
    x, h, ts, d = normal(B, I), normal(B, 12), spans(B), normal(B, 12)
    with dispatch.use_backend(backend):
        grads = gradients(cell, lambda x, h: mx.sum(cell(x, h, ts)[1] * d), x, h)
    first = cell.layer_0
    if backbone:
        unread = np.array(cell.source_mask_0) == 0
        assert (np.array(grads["layer_0.backbone.0.weight"])[:, :I][:, unread] == 0).all()
    else:
        absent = np.array(first.sparsity_mask) == 0
        assert absent.any()
        assert (np.array(grads["layer_0.ff1.weight"])[absent] == 0).all()
        assert np.array(grads["layer_0.time_a.weight"])[absent].any()
    step, direction = 1e-5, np.random.default_rng(0).normal(size=(B, 12))
    ends = [
        by_hand(cell, x, double(h) + s * step * direction, ts, backbone, backbone)[1]
        for s in (1, -1)
    ]
    want = np.sum((ends[0] - ends[1]) * double(d)) / (2 * step)
    assert_close("h", np.sum(double(grads["arrays.1"]) * direction), want, GRADIENT)
