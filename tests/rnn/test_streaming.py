"""`layer.step`: a stream, step by step, equal to the sequence."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LiquidRNN, available_backends, dispatch

from tests.support.cases import assert_close
from tests.support.rnn_layers import (
    LAYERS,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    make,
    normal,
    spans,
    states_like,
)

all_layers = pytest.mark.parametrize("name", LAYERS)
all_memories = pytest.mark.parametrize("mixed", [False, True])
backends = pytest.mark.parametrize("backend", available_backends())


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


@all_layers
@all_memories
@backends
def test_steps_equal_the_sequence(name, mixed, backend):
    layer = make(name, mixed_memory=mixed, proj_size=3)
    x, ts, hx = normal(B, T, I), spans(B, T), states_like(layer)
    with dispatch.use_backend(backend):
        want, want_state = layer(x, hx, ts)
        for t in range(T):
            output, hx = layer.step(x[:, t], hx, ts[:, t])
            assert_close(f"output {t}", output, want[:, t], SAME)
    assert dispatch.last_backend() == backend
    assert_trees_close("state", hx, want_state, SAME)


@all_layers
@all_memories
def test_steps_of_one_sample(name, mixed):
    layer = make(name, mixed_memory=mixed)
    x, ts = normal(T, I), spans(T)
    want, want_state = layer(x, None, ts)
    state = None
    for t in range(T):
        output, state = layer.step(x[t], state, ts[t])
        assert_close(f"output {t}", output, want[t], SAME)
    assert_trees_close("state", state, want_state, SAME)


@all_layers
def test_timespans_of_a_step(name):
    layer, x, hx = make(name), normal(B, I), normal(B, LAYERS[name]().state_size)
    want, _ = layer.step(x, hx, 0.5)
    kinds = (mx.array(0.5), mx.full((B,), 0.5), mx.full((B, 1), 0.5), np.full((B,), 0.5))
    for ts in kinds:
        assert_close(f"{np.shape(ts)}", layer.step(x, hx, ts)[0], want, SAME)
    assert_close("none", layer.step(x, hx)[0], layer.step(x, hx, 1.0)[0], 0.0)
    assert_close("[1]", layer.step(x[0], hx[0], mx.array([0.5]))[0], want[0], SAME)


@all_layers
def test_a_step_can_be_compiled(name):
    layer = make(name)
    x, ts, state = normal(B, T, I), spans(B, T), normal(B, LAYERS[name]().state_size)
    want, _ = layer(x, state, ts)
    step = mx.compile(layer.step)
    for t in range(T):
        output, state = step(x[:, t], state, ts[:, t])
        assert_close(f"output {t}", output, want[:, t], SAME)


@all_memories
def test_stateful_steps_keep_the_state(mixed):
    layer, x = make("ltc", stateful=True, mixed_memory=mixed), normal(B, T, I)
    want, _ = layer(x)
    layer.reset_states()
    for t in range(T):
        assert_close(f"output {t}", layer.step(x[:, t])[0], want[:, t], SAME)
    layer.reset_states()
    assert_close("again", layer.step(x[:, 0])[0], want[:, 0], SAME)


def test_steps_of_a_plain_function():
    layer = LiquidRNN(lambda x, h, ts: (h, h + ts * x))
    output, state = layer.step(mx.ones((B, I)), mx.ones((B, I)), mx.array([1.0, 2.0, 3.0]))
    assert_close("output", output, np.ones((B, I)), 0.0)
    assert_close("state", state, np.ones((B, I)) * [[2], [3], [4]], 0.0)


def test_wrong_steps_raise():
    layer, x, h = make("ltc"), normal(B, I), mx.zeros((B, 6))
    with pytest.raises(
        ValueError, match=r"\[ltc\] inputs must be \[B, I\] or \[I\], got \(3, 5, 4"
    ):
        layer.step(normal(B, T, I))
    with pytest.raises(ValueError, match=r"inputs must be \[B, I\] or \[I\], got a NumPy array"):
        layer.step(np.zeros((B, I)))
    with pytest.raises(ValueError, match=r"\[ltc\] hx must be \[B, H\] = \(3, 6\), got \(2, 6\)"):
        layer.step(x, h[:2])
    with pytest.raises(ValueError, match=r"\[ltc\] ts must be \[B\] = \(3,\), got \(2,\)"):
        layer.step(x, h, mx.ones((2,)))
    with pytest.raises(ValueError, match=r"\[ltc\] timespans must be >= 0, got -1"):
        layer.step(x, h, -1)
    with pytest.raises(ValueError, match=r"\[ltc\] inputs must have 4 features, got 3"):
        layer.step(x[:, 1:])
    for option in ("bidirectional", "go_backwards"):
        with pytest.raises(ValueError, match=rf"\[ltc\] step wants a layer .*, got {option}"):
            make("ltc", **{option: True}).step(x)
