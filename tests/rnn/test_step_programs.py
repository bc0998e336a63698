"""Layers whose cells run as step programs on the CPU, against the backend `reference`."""

import copy
import pickle
import threading
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_ncps import MMRNN, CfC, LiquidRNN, use_backend
from mlx_ncps.cells import (
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LSTMCell,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
)
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import TOLERANCES, assert_close
from tests.support.generators import generator

pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
B, T, I, H = 3, 6, 4, 5
rng = generator(7)


class OwnCell(nn.Module):
    """A gated cell as users write it."""

    state_size, output_size, input_size = H, H, I

    def __init__(self):
        super().__init__()
        self.gate, self.new = nn.Linear(I + H, H), nn.Linear(I + H, H)

    def __call__(self, x, h, ts):
        z = mx.concatenate([x, h], axis=-1)
        g = mx.sigmoid(self.gate(z)) * mx.exp(-ts)
        h = g * h + (1.0 - g) * nn.silu(self.new(z))
        return 2.0 * h, h


LAYERS = {
    "ctrnn": lambda **o: LiquidRNN(CTRNNCell(I, H, learn_tau=True), **o),
    "ctrnn_semi_implicit": lambda **o: LiquidRNN(CTRNNCell(I, H, ode_solver="semi_implicit"), **o),
    "neural_ode": lambda **o: LiquidRNN(NeuralODECell(I, H, [7]), **o),
    "ct_gru": lambda **o: LiquidRNN(CTGRUCell(I, H), **o),
    "ode_rnn": lambda **o: LiquidRNN(ODERNNCell(I, H), **o),
    "ode_lstm": lambda **o: LiquidRNN(ODELSTMCell(I, H), **o),
    "eltc": lambda **o: LiquidRNN(ELTCCell(AutoNCP(11, 3, seed=4), I), **o),
    "mixed_ctrnn": lambda **o: MMRNN(CTRNNCell(I, H), **o),
    "mixed_wired_cfc": lambda **o: CfC(I, AutoNCP(11, 3, seed=4), mixed_memory=True, **o),
    "own": lambda **o: LiquidRNN(OwnCell(), **o),
    "mixed_own": lambda **o: MMRNN(OwnCell(), **o),
}
UNTIMED = {"lstm": lambda **o: LiquidRNN(LSTMCell(I, H), **o)}


def build(name, **options):
    mx.random.seed(3)
    layer = (LAYERS | UNTIMED)[name](**options)
    mx.eval(layer.parameters())
    return layer


def array(*shape, low=-1.0):
    return mx.array(rng.uniform(low, 1.0, shape).astype(np.float32))


def arrays_of(tree):
    return [a for _, a in tree_flatten(tree) if isinstance(a, mx.array)]


def weighted(tree):
    return sum(
        (a.astype(mx.float32) * mx.cos(mx.arange(a.size).reshape(a.shape))).sum()
        for a in arrays_of(tree)
    )


def same(got, want, tolerance):
    got, want = arrays_of(got), arrays_of(want)
    assert len(got) == len(want)
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.dtype == w.dtype
        assert_close(f"array {n}", g.astype(mx.float32), w.astype(mx.float32), tolerance)


def value_and_gradients(layer, x, **call):
    def loss(layer, x):
        return weighted(layer(x, **call))

    value, weights = nn.value_and_grad(layer, loss)(layer, x)
    return value, weights, mx.grad(lambda x: loss(layer, x))(x)


CALLS = {
    "plain": ({}, {}),
    "time spans": ({}, {"timespans": array(B, T, low=0.0)}),
    "one time span": ({}, {"timespans": 0.3}),
    "mask": ({}, {"mask": mx.array(rng.random((B, T)) < 0.6)}),
    "both directions": ({"bidirectional": True}, {}),
    "last output": ({"return_sequences": False}, {}),
    "projected": ({"proj_size": 2}, {}),
}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        (name, call)
        for name in (*LAYERS, *UNTIMED)
        for call, (_, arguments) in CALLS.items()
        if name in LAYERS or "timespans" not in arguments
    ],
)
def test_sequences_agree_with_the_reference(name, call):
    options, arguments = CALLS[call]
    layer, x = build(name, **options), array(B, T, I)
    assert layer.explain(x.shape).program
    with use_backend("reference"):
        want, states = value_and_gradients(layer, x, **arguments), layer(x, **arguments)
    same(layer(x, **arguments), states, FORWARD)
    same(value_and_gradients(layer, x, **arguments), want, GRADIENT)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", ["ct_gru", "ode_lstm", "ctrnn"])
def test_half_outputs_are_rounded_once(name, dtype):
    layer, x = LAYERS[name](return_state=True), array(8, 20, I).astype(dtype)
    layer.set_dtype(dtype)
    output, state = mx.compile(layer)(x)  # in a graph: without it small calls are computed at once
    layer.set_dtype(mx.float32)
    exact, exact_state = layer(x.astype(mx.float32))
    assert mx.array_equal(output, exact.astype(dtype))
    pairs = zip(tree_flatten(state), tree_flatten(exact_state), strict=True)
    assert all(mx.array_equal(got[1], want[1].astype(dtype)) for got, want in pairs)


def test_a_sequence_of_a_users_own_gets_half_inputs_as_they_are():
    seen = []

    class Watching(CTRNNCell):
        def sequence(self, inputs, state, *arguments, **named):
            seen.append((inputs.dtype, state.dtype))
            return super().sequence(inputs, state, *arguments, **named)

    layer = LiquidRNN(Watching(I, H))
    layer.set_dtype(mx.float16)
    mx.compile(layer)(array(B, T, I).astype(mx.float16))
    assert seen == [(mx.float16, mx.float16)]


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", [n for n in LAYERS if not n.endswith("own")])
def test_half_inputs(name, dtype):
    layer, x = build(name), array(B, T, I).astype(dtype)
    with use_backend("reference"):
        want = layer(x)
    tolerance = TOLERANCES[str(dtype).removeprefix("mlx.core.")]["forward"]
    same(layer(x), want, tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_and_mapped(name):
    layer, x = build(name), array(2, B, T, I)
    with use_backend("reference"):
        want = [layer(x[0]), layer(x[1])]
        gradients = nn.value_and_grad(layer, lambda m, x: weighted(m(x)))(layer, x[0])
    state = [layer.state]
    same(mx.compile(layer, inputs=state)(x[0]), want[0], FORWARD)
    same(compiled_step(layer, state)(x[0]), gradients, GRADIENT)
    mapped = mx.vmap(lambda x: tuple(arrays_of(layer(x))))(x)
    for n in range(2):
        same([a[n] for a in mapped], want[n], FORWARD)


def compiled_step(layer, state):
    def step(x):
        return nn.value_and_grad(layer, lambda m, x: weighted(m(x)))(layer, x)

    return mx.compile(step, inputs=state, outputs=state)


@pytest.mark.parametrize("name", [n for n in LAYERS if not n.endswith("own")])
def test_single_steps_at_once(name):
    layer, x, ts = build(name), array(B, I), array(B, low=0.0)
    with use_backend("reference"):
        want = layer.step(x, ts=ts)
        want = [want, layer.step(x, want[1], ts)]
    mx.eval(want)
    first = layer.step(x, ts=ts)
    got = [first, layer.step(x, first[1], ts)]
    same(got, want, FORWARD)
    assert layer.explain((B, 1, I)).graph == ("",)
    weights = layer.rnn_cell.trainable_parameters()
    layer.rnn_cell.update(weights_times(weights, 0.5))
    with use_backend("reference"):
        want = layer.step(x, ts=ts)
    same(layer.step(x, ts=ts), want, FORWARD)


def weights_times(tree, factor):
    return tree_map_with_path(lambda p, a: a if "mask" in p else a * factor, tree)


@pytest.mark.parametrize("name", LAYERS)
def test_new_weights_and_options_are_seen(name):
    layer, x = build(name), array(B, T, I)
    layer(x)
    layer.update(weights_times(layer.trainable_parameters(), 0.7))
    cell = layer.rnn_cell
    if "ode_unfolds" in dir(cell):
        cell.ode_unfolds = 2
    if "tau" in dir(cell) and not getattr(cell, "learn_tau", False):
        cell.tau = 0.7
    with use_backend("reference"):
        want = layer(x)
    same(layer(x), want, FORWARD)


@pytest.mark.parametrize("name", [n for n in LAYERS if not n.endswith("own")])
def test_copies_and_pickles(name):
    layer, x = build(name), array(B, T, I)
    want = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        same(twin(x), want, 0.0)
        twin.update(weights_times(twin.trainable_parameters(), 0.7))
        with use_backend("reference"):
            other = twin(x)
        same(twin(x), other, FORWARD)
    same(layer(x), want, 0.0)


def test_weights_that_are_not_evaluated():
    layer = LiquidRNN(CTRNNCell(I, H))
    x = array(B, T, I)
    layer.update(weights_times(layer.trainable_parameters(), 0.7))
    got = layer(x)
    with use_backend("reference"):
        want = layer(x)
    same(got, want, FORWARD)


def test_an_edited_wiring_acts_also_when_compiled():
    layer, x = build("eltc"), array(B, T, I)
    layer(x)
    layer.rnn_cell.wiring.add_synapse(0, 1, 1)
    with use_backend("reference"):
        want = layer(x)
    same(layer(x), want, FORWARD)
    same(mx.compile(layer, inputs=[layer.state])(x), want, FORWARD)


def test_a_cell_that_is_no_function_of_its_rows_runs_step_by_step():
    class Counting(OwnCell):
        count = 0

        def __call__(self, x, h, ts):
            self.count += 1
            output, h = super().__call__(x, h, ts)
            return output * self.count, h

    layer, x = LiquidRNN(Counting()), array(B, T, I)
    output = layer(x)
    assert layer.rnn_cell.count == T
    assert not layer.explain(x.shape).program
    plain = LiquidRNN(OwnCell())
    plain.update(layer.parameters())
    same(output, T * plain(x), FORWARD)


class Pair(NamedTuple):
    """A state of a user's own type."""

    h: mx.array
    c: mx.array


class PairCell(OwnCell):
    """A cell of such a state."""

    state_size = None

    def get_initial_state(self, batch_size):
        return Pair(mx.zeros((batch_size, H)), mx.ones((batch_size, H)))

    def __call__(self, x, state, ts):
        output, h = super().__call__(x, state.h, ts)
        return output * state.c, Pair(h, 0.5 * state.c + h)


class ShapedCell(OwnCell):
    """A cell whose outputs have another rank than [B, O]."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def __call__(self, x, h, ts):
        output, h = super().__call__(x, h, ts)
        return output[:, :4].reshape(x.shape[0], *self.shape) if self.shape else output[:, 0], h


@pytest.mark.parametrize("cell", [PairCell(), ShapedCell(()), ShapedCell((2, 2))], ids=repr)
def test_states_and_outputs_keep_their_form(cell):
    layer, x = LiquidRNN(cell, return_sequences=True, return_state=True), array(B, T, I)
    with use_backend("reference"):
        want = layer(x)
    got = layer(x)
    assert type(got[1]) is type(want[1])
    assert [a.shape for a in arrays_of(got)] == [a.shape for a in arrays_of(want)]
    same(got, want, FORWARD)


def test_derivatives_of_derivatives_want_the_reference():
    layer, x = build("neural_ode"), array(B, T, I)

    def slope(scale):
        return mx.grad(lambda s: layer(s * x).sum())(scale)

    with pytest.raises(RuntimeError, match=r"second derivative.*reference"):
        mx.grad(slope)(mx.array(0.5))
    with use_backend("reference"):
        assert mx.isfinite(mx.grad(slope)(mx.array(0.5)))


class Counter(nn.Module):
    """A map that keeps something at each call."""

    def __init__(self):
        super().__init__()
        self.seen = mx.zeros(1)

    def __call__(self, z):
        self.seen = self.seen + 1.0
        return z


@pytest.mark.parametrize("keeps", [nn.BatchNorm(H), nn.Dropout(0.5), Counter()], ids=repr)
@pytest.mark.parametrize("mixed", [False, True])
def test_parts_that_keep_something_are_as_if_never_traced(keeps, mixed):
    """They are called at each step, and hold arrays with values afterwards."""
    layer = CfC(I, H, mixed_memory=mixed, return_sequences=True)
    layer.rnn_cell.ff1 = nn.Sequential(layer.rnn_cell.ff1, copy.deepcopy(keeps))
    mx.eval(layer.parameters())
    x = array(B, T, I)
    mx.eval(x)
    twin = copy.deepcopy(layer)
    assert not layer.explain(x.shape).program
    mx.random.seed(5)
    got = [layer(x), layer.step(x[:, 0])]
    mx.random.seed(5)
    with use_backend("reference"):
        want = [twin(x), twin.step(x[:, 0])]
    same(got, want, FORWARD)
    same(layer.parameters(), twin.parameters(), FORWARD)


def test_several_threads():
    layer, x = build("neural_ode"), array(B, T, I)
    mx.eval(x)
    want = layer(x)
    mx.eval(want)
    found = []

    def work():
        with mx.stream(mx.new_thread_local_stream(mx.cpu)):
            for _ in range(20):
                got = layer(x)
                mx.eval(got)
                found.append(all(map(mx.array_equal, arrays_of(got), arrays_of(want))))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert all(found)


class ManyAxes(nn.Module):
    """A step that reads a weight of so many axes."""

    state_size = output_size = input_size = H

    def __init__(self, axes):
        super().__init__()
        self.weight = mx.linspace(0.1, 0.9, H).reshape(*(1,) * (axes - 1), H)

    def __call__(self, x, h):
        h = mx.tanh(h * self.weight.reshape(-1) + x)
        return h, h


@pytest.mark.parametrize("axes", [1, 2, 3, 4, 6])
def test_weights_of_any_number_of_axes(axes):
    layer, x = LiquidRNN(ManyAxes(axes), return_state=False), array(B, T, H)

    def run(backend):
        with use_backend(backend):
            value, gradients = nn.value_and_grad(layer, lambda x: (layer(x) ** 2).sum())(x)
        return value, gradients["rnn_cell"]["weight"]

    assert "step program" in str(layer.explain((B, T, H)))
    for name, got, want in zip(("loss", "gradient"), run("auto"), run("reference"), strict=True):
        assert got.shape == want.shape
        assert_close(name, got, want, GRADIENT)
