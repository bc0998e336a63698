"""What is not evaluated yet, outside of a trace: a step, a call of a cell or a short sequence
evaluates it, and is computed at once. Within a trace nothing is evaluated.
"""

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import CfC, StreamingSession, use_backend
from mlx_ncps.rnn import LTC, CfCRNN

from tests.support.cases import assert_close
from tests.support.rnn_layers import GRADIENT, SAME, B, I, T, assert_trees_close, normal, spans
from tests.support.step_layers import all_layers, at_once, built, evaluated, few_layers, in_a_graph

pytestmark = pytest.mark.usefixtures("seeded_and_poisoned", "cpu_device")

LAZY = {  # how an array that is not evaluated may come about
    "computed": lambda a: a * 1.0,
    "sliced": lambda a: mx.concatenate([a, a + 1.0], axis=-1)[..., : a.shape[-1]],
    "turned": lambda a: mx.contiguous(a.swapaxes(0, -1)).swapaxes(0, -1),
    "pending": lambda a: mx.async_eval(b := a * 1.0) or b,
}
lazy_kinds = pytest.mark.parametrize("lazy", LAZY.values(), ids=LAZY)


def calls_of(layer):
    """Every kind of call, of inputs x [B, T, I], states h [B, H] and time spans ts [B, T]."""
    return {
        "step": lambda x, h, ts: layer.step(x[:, 0], h, ts[:, 0]),
        "cell": lambda x, h, ts: layer.rnn_cell(x[:, 0], h, ts[:, 0]),
        "one step": lambda x, h, ts: layer(x[:, :1], h, ts[:, :1]),
        "sequence": lambda x, h, ts: layer(x, h, ts),
    }


@all_layers
@lazy_kinds
def test_lazy_arrays_are_evaluated(native, name, lazy):
    layer = built(name)
    given = evaluated(normal(B, T, I), normal(B, layer.state_size), spans(B, T))
    for kind, call in calls_of(layer).items():
        with in_a_graph():
            want = evaluated(call(*given))
        for n in range(3):
            one_lazy = [lazy(a) if n == m else a for m, a in enumerate(given)]
            got = call(*one_lazy)
            assert at_once(native, *got), (kind, n)
            assert_trees_close(f"{kind} {n}", got, want, SAME)


@few_layers
def test_lazy_parameters_are_evaluated(native, name):
    layer = built(name, proj_size=3)
    x, h = evaluated(normal(B, I), normal(B, layer.state_size))
    layer.step(x, h)
    for leaf in (lambda p: p * 1.1, lambda p: mx.async_eval(q := p * 1.1) or q):
        layer.update(tree_map(leaf, layer.trainable_parameters()))
        got = layer.step(x, h)
        assert at_once(native, *got)
        with use_backend("reference"):
            assert_trees_close("step", got, layer.step(x, h), SAME)


def test_a_layer_behind_an_encoder(native):
    encoder, layer = nn.Linear(2, I), built("ltc_wired", mixed_memory=True, proj_size=3)
    stack = CfCRNN(I, 5, num_layers=2)
    x, many = evaluated(normal(B, 2), normal(B, T, 2))
    for run in (lambda: layer.step(encoder(x)), lambda: layer(encoder(many), mask=None)):
        output, state = run()
        assert at_once(native, output, *state)
        with in_a_graph():
            assert_trees_close("behind", (output, state), run(), SAME)
    output, states = stack.step(encoder(x))
    assert at_once(native, output, *states)
    assert stack.explain((B, T, I)).graph == ("", "")


def test_no_graph_grows_from_step_to_step(native):
    layer, state = built("cfc"), None
    session = StreamingSession(layer)
    for x in normal(T, B, I):
        output, state = layer.step(x, state)
        assert at_once(native, output, state)
        assert_close("session", session(x), output, SAME)


# --- within a trace -------------------------------------------------------------------------------


def traces(layer, constant):
    """Each transformation, of a function of x that calls the layer with x, and with a lazy constant
    that does not depend on x.
    """

    def run(x):
        kept = constant()
        outputs = (
            layer.step(x)[0],
            layer.step(kept)[0],
            layer(x[:, None])[0],
            layer.rnn_cell(kept, mx.zeros((x.shape[0], layer.state_size)))[0],
        )
        seen.append([kept, outputs[1], outputs[3]])
        return sum((o**2).sum() for o in outputs)

    seen = []
    x = evaluated(normal(B, I))
    return {
        "compile": lambda: mx.compile(run)(x),
        "grad": lambda: mx.grad(run)(x),
        "value_and_grad": lambda: nn.value_and_grad(layer, lambda: run(x))()[0],
        "checkpoint": lambda: mx.grad(mx.checkpoint(run))(x),
        "vmap": lambda: mx.vmap(lambda x: run(x[None]), in_axes=0)(x),
        "vjp": lambda: mx.vjp(run, [x], [mx.array(1.0)])[0][0],
    }, seen


@pytest.mark.parametrize("kind", traces(None, None)[0])
@pytest.mark.parametrize("name", ["cfc", "ltc_wired"])
def test_nothing_is_evaluated_within_a_trace(native, kind, name):
    layer = built(name)
    layer.step(evaluated(normal(B, I)))
    base = evaluated(normal(B, I))
    calls, seen = traces(layer, lambda: base[: 1 if kind == "vmap" else B] * 2.0)
    got = calls[kind]()
    assert seen
    assert not any(native.lies_plain(a) for row in seen for a in row)
    with use_backend("reference"):
        assert_close(kind, got, calls[kind](), GRADIENT)


@few_layers
@pytest.mark.parametrize("call", ["step", "sequence", "cell"])
def test_gradients_reach_an_encoder_through_lazy_inputs(name, call):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.layer = nn.Linear(3, I), built(name)

        def __call__(self, x):
            x = self.encoder(x)
            if call == "sequence":
                return self.layer(x)[0]
            h = mx.zeros((B, self.layer.state_size))
            return (self.layer.step if call == "step" else self.layer.rnn_cell)(x, h)[0]

    model = Model()
    x = evaluated(normal(B, T, 3) if call == "sequence" else normal(B, 3))
    evaluated(model.parameters())
    model(x)  # computed at once, the parameters are packed
    loss = nn.value_and_grad(model, lambda x: (model(x) ** 2).sum())
    value, got = loss(x * 1.0)
    with use_backend("reference"):
        want_value, want = loss(x * 1.0)
    assert_close("value", value, want_value, SAME)
    for (key, g), (_, w) in zip(tree_flatten(got), tree_flatten(want), strict=True):
        assert_close(key, g, w, GRADIENT)
    assert np.abs(np.array(got["encoder"]["weight"])).max() > 0


def test_what_left_a_trace_is_evaluated_or_raises_what_mlx_raises(native):
    layer, kept = built("cfc"), []

    def loss(x):
        kept.append(x * 2.0)
        return layer.step(kept[-1])[0].sum()

    x = evaluated(normal(B, I))
    mx.grad(loss)(x)
    assert at_once(native, layer.step(kept.pop())[0])  # as auxiliary outputs are
    evaluated(mx.compile(loss)(x))
    with pytest.raises((RuntimeError, ValueError), match=r"without a primitive|transformations"):
        mx.eval(layer.step(kept.pop()))


# --- streams and threads --------------------------------------------------------------------------


def test_arrays_of_a_stream_are_computed_on_it(native):
    layer, x = built("cfc"), evaluated(normal(B, I))
    want = layer.step(x)[0]
    with mx.stream(mx.new_stream(mx.cpu)):
        other = x * 1.0
        got, _ = layer.step(x * 1.0)
        assert at_once(native, got)
    assert_close("inside", got, want, SAME)
    got, _ = layer.step(other)  # the stream is none of this thread's default: by a graph
    assert not at_once(native, got, other)
    assert_close("outside", got, want, SAME)


def test_arrays_that_another_thread_must_compute(native):
    layer, x = built("cfc"), evaluated(normal(B, I))
    want, lazy, got = layer.step(x)[0], x * 1.0, []

    def run():
        got.append(layer.step(lazy))
        got.append(layer.step(x * 1.0))  # the thread's own
        with pytest.raises(ValueError, match="must be evaluated in the thread that made them"):
            StreamingSession(layer)(lazy)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not at_once(native, *got[0])
    assert at_once(native, *got[1])
    assert_close("step", got[1][0], want, SAME)
    assert_close("later", layer.step(lazy)[0], want, SAME)


def test_threads_step_lazily_side_by_side():
    layer, wrong = built("ltc_wired"), []
    samples = [evaluated(normal(1, I)) for _ in range(4)]
    want = [np.array(layer.step(x)[0]) for x in samples]

    def run(n):
        for _ in range(100):
            if not np.array_equal(np.array(layer.step(samples[n] * 1.0)[0]), want[n]):
                wrong.append(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("make", [CfC, LTC])
def test_wrong_shapes_of_lazy_arrays_are_said(make):
    layer, x = make(I, 6), evaluated(normal(B, I))
    layer.step(x)
    with pytest.raises(ValueError, match="inputs must have 4 features, got 3"):
        layer.step(normal(B, 3) * 1.0)
    with pytest.raises(ValueError, match=r"hx must be \[B, H\] = \(3, 6\), got \(2, 6\)"):
        layer.step(x * 1.0, mx.zeros((2, 6)) + 1.0)
