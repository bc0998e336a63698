"""Dropout in the backbones of a wired CfC behind an LSTM: drawn for all steps at once, inputs of a
step program, and the same units on the backend `reference`.
"""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import MMRNN, CfC, checkpoint, chunked_value_and_grad, dispatch
from mlx_ncps.cells import CfCCell, LSTMCell, WiredCfCCell
from mlx_ncps.wirings import AutoNCP, Random

from tests.support.cases import assert_close, tolerance

pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
B, T, I = 3, 6, 4
DROP = {"backbone_units": [7, 5], "backbone_dropout": 0.4}


class OwnLSTM(nn.Module):
    """An LSTM of a user in front of the cell."""

    def __init__(self, inputs, units):
        super().__init__()
        self.inner = LSTMCell(inputs, units)

    def __call__(self, x, state):
        return self.inner(x, state)


def own_memory(**options):
    layer = MMRNN(CfCCell(I, 6, **DROP), **options)
    layer.lstm = OwnLSTM(I, 6)
    return layer


def wired(variant="torch", mode="default", wiring=None, **options):
    wiring = AutoNCP(11, 3, seed=4) if wiring is None else wiring
    return CfC(I, wiring, mode=mode, variant=variant, mixed_memory=True, **DROP, **options)


LAYERS = {
    "torch": wired,
    "no_gate": lambda **o: wired(mode="no_gate", **o),
    "pure": lambda **o: wired(mode="pure", **o),
    "keras": lambda **o: wired("keras", **o),
    "paper": lambda **o: wired("paper", **o),
    "random": lambda **o: wired(wiring=Random(8, 3, 0.4), **o),
    "mmrnn": lambda **o: MMRNN(WiredCfCCell(I, AutoNCP(10, 2), **DROP), **o),
    "own_memory": own_memory,
}
layers = pytest.mark.parametrize("name", LAYERS)


def made(name, **options):
    mx.random.seed(3)
    layer = LAYERS[name](**{"return_sequences": True, "return_state": False} | options)
    layer.build((B, T, I))
    layer.train()
    mx.eval(layer.parameters())
    return layer


def normal(*shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(7)).astype(dtype)


def run(layer, backend, x, key=1, **arguments):
    """(output, gradients by name) of the units of a key."""

    def loss(x):
        y = layer(x, **arguments)
        return (y * y).sum(), y

    mx.random.seed(key)
    with dispatch.use_backend(backend):
        (_, y), gradients = nn.value_and_grad(layer, loss)(x)
        mx.eval(y, gradients)
    return y, dict(tree_flatten(gradients))


def check(got, want):
    assert_close("output", got[0], want[0], FORWARD)
    for name, gradient in want[1].items():
        assert_close(name, got[1][name], gradient, GRADIENT)


@layers
def test_units_and_gradients_are_those_of_the_reference(name):
    layer, x = made(name), normal(B, T, I)
    assert "step program over the whole sequence" in str(layer.explain((B, T, I)))
    got = run(layer, "auto", x)
    assert dispatch.last_backend() == "cpu"
    check(got, run(layer, "reference", x))
    again, other = run(layer, "auto", x), run(layer, "auto", x, key=2)
    assert mx.array_equal(again[0], got[0])
    assert not mx.allclose(other[0], got[0], atol=1e-3)
    layer.eval()
    assert mx.array_equal(run(layer, "auto", x)[0], run(layer, "auto", x, key=2)[0])


CALLS = {
    "short": ({}, (B, 2), {}),
    "no_steps": ({}, (B, 0), {}),
    "no_rows": ({}, (0, T), {}),
    "mask": ({}, (B, T), {"mask": mx.arange(T) < mx.array([[T], [2], [0]])}),
    "spans": ({}, (B, T), {"timespans": mx.array([[0.3, 0.0, 1.0, 2.0, 0.1, 0.5]] * B)}),
    "bidirectional": ({"bidirectional": True}, (B, T), {}),
    "backwards": ({"go_backwards": True, "proj_size": 2}, (B, T), {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_draw_the_same_on_both(call):
    options, shape, arguments = CALLS[call]
    layer, x = made("torch", **options), normal(*shape, I)
    check(run(layer, "auto", x, **arguments), run(layer, "reference", x, **arguments))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_half_precision(dtype):
    layer, x = made("torch"), normal(B, T, I, dtype=dtype)
    layer.set_dtype(dtype)
    got, want = run(layer, "auto", x), run(layer, "reference", x)
    kind = str(dtype).rsplit(".")[-1]
    assert_close("output", got[0], want[0], tolerance(kind, "forward"))
    for name, gradient in want[1].items():
        assert_close(name, got[1][name], gradient, tolerance(kind, "gradient"))


@pytest.mark.parametrize("name", ["torch", "keras", "own_memory"])
def test_checkpoint_computes_again_with_the_same_units(name):
    layer, x = made(name), normal(B, T, I)
    plain = checkpoint(layer)

    def loss(x):
        y = plain(x)
        return (y * y).sum(), y

    results = []
    for backend in ("auto", "reference"):
        mx.random.seed(5)
        with dispatch.use_backend(backend):
            (_, y), gradients = nn.value_and_grad(layer, loss)(x)
            mx.eval(y, gradients)
        results.append((y, dict(tree_flatten(gradients))))
    check(*results)


def test_checkpointed_gradients_are_those_of_the_units():
    layer, x, epsilon = made("torch"), normal(B, T, I), 1e-2
    plain, weight = checkpoint(layer), layer.lstm.recurrent_map.weight
    direction = normal(*weight.shape)

    def loss(x):
        mx.random.seed(5)
        return (plain(x) ** 2).sum()

    gradient = nn.value_and_grad(layer, loss)(x)[1]["lstm"]["recurrent_map"]["weight"]
    ends = []
    for sign in (1, -1):
        layer.lstm.recurrent_map.weight = weight + sign * epsilon * direction
        ends.append(loss(x).item())
    slope = (gradient * direction).sum().item()
    assert abs((ends[0] - ends[1]) / (2 * epsilon) - slope) < 0.01 * abs(slope)


def test_chunks_draw_the_same_in_both_passes():
    layer, x = made("torch", return_state=True), normal(B, 12, I)
    chunks = [(x[:, t : t + 4],) for t in range(0, 12, 4)]

    def loss(layer, state, x):
        y, state = layer(x, state)
        return (y * y).sum(), state

    def gradients(backend):
        mx.random.seed(9)
        state = tuple(mx.zeros((B, layer.state_size)) for _ in range(2))
        with dispatch.use_backend(backend):
            total, gradients, _ = chunked_value_and_grad(layer, loss)(chunks, state)
            mx.eval(total, gradients)
        return total, dict(tree_flatten(gradients))

    check(gradients("auto"), gradients("reference"))


def test_compiled_calls_draw_anew():
    layer, x = made("torch"), normal(B, T, I)
    state = [layer.state, mx.random.state]

    def step(x):
        loss, gradients = nn.value_and_grad(layer, lambda x: (layer(x) ** 2).sum())(x)
        return loss, gradients

    compiled = mx.compile(step, inputs=state, outputs=state)
    mx.random.seed(1)
    first, second = (compiled(x) for _ in range(2))
    mx.eval(first, second)
    assert abs((first[0] - second[0]).item()) > 1e-4
    mx.random.seed(1)
    again = [step(x) for _ in range(2)]
    for got, want in zip((first, second), again, strict=True):
        assert_close("loss", got[0], want[0], FORWARD)
        want = dict(tree_flatten(want[1]))
        for name, gradient in tree_flatten(got[1]):
            assert_close(name, gradient, want[name], GRADIENT)
