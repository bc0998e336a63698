"""Short sequences computed at once, without a graph, through the packed cell of single steps."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import use_backend

from tests.support.cases import assert_close
from tests.support.rnn_layers import (
    GRADIENT,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    gradients,
    normal,
    spans,
)
from tests.support.step_layers import all_layers, at_once, built, evaluated, few_layers

pytestmark = pytest.mark.usefixtures("seeded_and_poisoned", "cpu_device")


@all_layers
def test_a_short_sequence_equals_the_reference(native, name):
    layer, last = built(name), built(name, return_sequences=False, return_state=True)
    last.update(layer.parameters())
    x, h, ts = evaluated(normal(B, T, I), normal(B, layer.state_size), spans(B, T))
    kinds = [
        None,
        0.7,
        *evaluated(ts, ts[..., None] * 1.0, mx.array(np.array(ts)[0]), ts[0, 0] * 1),
    ]
    for span in kinds:
        with use_backend("reference"):
            want, want_state = layer(x, h, span)
        output, state = layer(x, h, span)
        assert at_once(native, output, state)
        assert_close(f"output {np.shape(span)}", output, want, SAME)
        assert_close(f"state {np.shape(span)}", state, want_state, SAME)
        output, state = last(x, h, span)
        assert at_once(native, output, state)
        assert_close(f"last {np.shape(span)}", output, want[:, -1], SAME)
        assert_close(f"its state {np.shape(span)}", state, want_state, SAME)
    one = evaluated(mx.array(np.array(x)[0]), mx.array(np.array(h)[0]))  # [T, I] and [H]
    with use_backend("reference"):
        want, want_state = layer(*one, kinds[4])
    output, state = layer(*one, kinds[4])
    assert at_once(native, output, state)
    assert_close("one", output, want, SAME)
    assert_close("one state", state, want_state, SAME)


@pytest.mark.parametrize("name", ["cfc", "cfc_pure", "ltc_wired"])
@pytest.mark.parametrize("sequences", [True, False])
def test_a_short_sequence_with_mixed_memory_and_projection(native, name, sequences):
    options = {"return_sequences": sequences, "return_state": True}
    layer = built(name, mixed_memory=True, proj_size=3, stateful=True, **options)
    x, ts = evaluated(normal(B, 2 * T, I), spans(B, 2 * T))
    with use_backend("reference"):
        want, want_state = layer(x, None, ts)
    layer.reset_states()
    parts = [evaluated(x[:, :T] * 1, ts[:, :T] * 1), evaluated(x[:, T:] * 1, ts[:, T:] * 1)]
    outputs = []
    for part, span in parts:
        output, state = layer(part, timespans=span)
        assert at_once(native, output, *state)
        outputs.append(output)
    got = mx.concatenate(outputs, axis=1) if sequences else outputs[-1]
    assert_close("output", got, want, SAME)
    assert_trees_close("state", state, want_state, SAME)


def test_sequences_that_are_left_to_the_graph(native):
    layer = built("cfc")
    x, h = evaluated(normal(B, T, I), normal(B, 6))
    want, _ = layer(x, h)
    assert at_once(native, want)
    long = evaluated(normal(400, 400, I))
    for inputs in (long, long + 0.0):
        assert not at_once(native, layer(inputs)[0])
        assert not at_once(native, layer(inputs, mask=mx.ones((400, 400)))[0])
        assert not at_once(native, built("cfc", batch_first=False)(inputs)[0])
    assert not at_once(native, long + 0.0)
    assert layer(x[:, :0] * 1.0, h)[0].shape == (B, 0, 6)
    for wrong in ((T + 1,), (B, T + 1), (B, 1), (T, B)):
        with pytest.raises(ValueError, match=r"timespans must be \[B, T\]"):
            layer(x, h, evaluated(mx.ones(wrong)))
    with pytest.raises(ValueError, match=r"timespans must be >= 0"):
        layer(x, h, -1.0)
    with pytest.raises(ValueError, match=r"hx must be \[B, H\] = \(3, 6\), got \(2, 6\)"):
        layer(x, evaluated(mx.zeros((2, 6))))


@few_layers
def test_gradients_and_transformations_of_a_short_sequence(name):
    layer = built(name)
    x, h = evaluated(normal(B, T, I), normal(B, layer.state_size))
    want, _ = layer(x, h, 0.3)
    assert_close("compiled", mx.compile(layer)(x, h, 0.3)[0], want, SAME)

    def loss(x, h):
        output, state = layer(x, h, 0.3)
        return (output**2).sum() + (state**3).sum()

    got = gradients(layer, loss, x, h)
    with use_backend("reference"):
        wanted = gradients(layer, loss, x, h)
    for key in wanted:
        assert_close(key, got[key], wanted[key], GRADIENT)


@pytest.mark.parametrize(
    "name", ["cfc", "cfc_no_gate", "cfc_keras", "cfc_paper", "cfc_wired_backbone"]
)
def test_steps_of_length_one_equal_others(name):
    layer = built(name)  # its time heads are merged for them alone
    x, h = evaluated(normal(B, T, I), normal(B, layer.state_size))
    mixed = evaluated(mx.array([1.0] * (T - 1) + [1.5]))
    for span in (1, evaluated(mx.ones((B, T))), mixed, 1.0 + 1e-6):
        with use_backend("reference"):
            want, _ = layer(x, h, span)
        assert_close(f"{np.shape(span)}", layer(x, h, span)[0], want, SAME)


@all_layers
def test_a_long_call_packs_nothing(native, name):
    """What is too large for a step cell is known from sizes alone."""
    layer = built(name)
    long = evaluated(normal(800, 400, I))
    for _ in range(2):
        assert not at_once(native, layer(long)[0])
        assert layer.rnn_cell._step_cell.made is None
    layer(evaluated(normal(2, 3, I)))
    assert layer.rnn_cell._step_cell.made is not None
