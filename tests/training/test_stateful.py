"""A state kept under mx.compile: right when it is captured, an error when it is not."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import CfC, LiquidRNN

from tests.support.cases import assert_close
from tests.support.rnn_layers import SAME, B, I, T, assert_trees_close, make, normal

names = pytest.mark.parametrize("name", ["cfc", "cfc_wired", "ltc"])
memories = pytest.mark.parametrize("mixed", [False, True])
NOT_CAPTURED = r"stateful=True under mx\.compile wants the state of the layer"


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


@names
@memories
def test_captured_state_goes_on(name, mixed):
    layer, x = make(name, stateful=True, mixed_memory=mixed), normal(B, 3 * T, I)
    whole, _ = layer(x)
    layer.reset_states()
    call = mx.compile(lambda x: layer(x)[0], inputs=layer.state, outputs=layer.state)
    for n in range(3):
        part = slice(n * T, (n + 1) * T)
        assert_close(f"part {n}", call(x[:, part]), whole[:, part], SAME)


@names
@memories
def test_state_that_is_not_captured_raises(name, mixed):
    layer, x = make(name, stateful=True, mixed_memory=mixed), normal(B, T, I)
    for function in (layer, lambda x: layer(x)[0], lambda x: layer.step(x[:, 0])):
        with pytest.raises(ValueError, match=NOT_CAPTURED):
            mx.compile(function)(x)
    with pytest.raises(ValueError, match=NOT_CAPTURED):
        mx.vmap(lambda x: layer(x)[0])(x)
    first, _ = layer(x)  # nothing was kept
    fresh = make(name, mixed_memory=mixed)
    fresh.update(layer.parameters())
    assert_close("first", first, fresh(x)[0], SAME)


def test_state_that_goes_in_but_not_out_raises():
    layer, x = make("cfc", stateful=True), normal(B, T, I)
    call = mx.compile(lambda x: layer(x)[0], inputs=layer.state)
    with pytest.raises(RuntimeError, match="all the inputs and outputs are captured"):
        mx.eval(call(x), call(x))


@names
def test_gradients_and_lazy_arrays_are_no_trace(name):
    layer, x = make(name, stateful=True), normal(B, T, I)
    twin = make(name)
    twin.update(layer.parameters())
    want, state = twin(x * 2)
    assert_close("lazy inputs", layer(x * 2)[0], want, SAME)

    def loss(layer, x, hx=None):
        return mx.sum(mx.square(layer(x, hx)[0]))

    got = mx.grad(lambda x: loss(layer, x))(x)
    assert_close("dx", got, mx.grad(lambda x: loss(twin, x, state))(x), SAME)
    layer.reset_states()
    _, got = nn.value_and_grad(layer, loss)(layer, x)
    _, want = nn.value_and_grad(twin, loss)(twin, x)
    assert_trees_close("gradients", got, want, SAME)


def test_a_layer_that_keeps_nothing_compiles():
    layer, x = make("cfc"), normal(B, T, I)
    assert_close("output", mx.compile(layer)(x)[0], layer(x)[0], SAME)


def test_a_cell_without_weights_is_not_checked():
    layer = LiquidRNN(lambda x, h: (h + x, h + x), return_sequences=True, stateful=True)
    x = normal(B, T, I)
    first = layer(x, mx.zeros((B, I)))
    assert_close("first", first, np.cumsum(np.array(x), axis=1), SAME)


def test_a_layer_in_a_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(I, 5)
            self.rnn = CfC(5, 6, stateful=True)

        def __call__(self, x):
            return self.rnn(self.map(x))[0]

    model, x = Model(), normal(B, 2 * T, I)
    want = model(x)
    model.rnn.reset_states()
    with pytest.raises(ValueError, match=NOT_CAPTURED):
        mx.compile(model)(x)
    call = mx.compile(model, inputs=model.state, outputs=model.state)
    got = mx.concatenate([call(x[:, :T]), call(x[:, T:])], axis=1)
    assert_close("halves", got, want, SAME)
