"""Stacked layers: equal to the composition of single ones."""

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTCRNN, CfCRNN, available_backends, dispatch
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close
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
    train,
)

backends = pytest.mark.parametrize("backend", available_backends())
STACKS = {
    "cfc": lambda **o: CfCRNN(I, 6, backbone_units=9, **o),
    "cfc_wired": lambda **o: CfCRNN(I, AutoNCP(10, 3), **o),
    "ltc": lambda **o: LTCRNN(I, 6, ode_unfolds=3, **o),
    "ltc_wired": lambda **o: LTCRNN(I, AutoNCP(10, 3), ode_unfolds=3, **o),
}
KINDS = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "summed": {"bidirectional": True, "merge_mode": "sum"},
    "mixed": {"mixed_memory": True},
}
all_stacks = pytest.mark.parametrize("name", STACKS)
all_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def make(name, kind="plain", num_layers=3, **options):
    stack = STACKS[name](num_layers=num_layers, **KINDS[kind], **options)
    mx.eval(stack.parameters())
    return stack


def states_of(stack, batch=B):
    def one(layer):
        h = normal(batch, layer.state_size)
        return (h, normal(batch, layer.state_size)) if layer.mixed_memory else h

    return tuple(
        (one(layer), one(layer)) if layer.bidirectional else one(layer) for layer in stack.layers
    )


def composed(stack, x, hx, ts, mask=None):
    states = []
    for layer, state in zip(stack.layers, hx, strict=True):
        x, state = layer(x, state, ts, mask=mask)
        states.append(state)
    return x, tuple(states)


@all_stacks
@all_kinds
def test_stack_is_the_composition_of_its_layers(name, kind):
    stack, x, ts = make(name, kind), normal(B, T, I), spans(B, T)
    hx = states_of(stack)
    want = composed(stack, x, hx, ts)
    assert_trees_close("result", stack(x, hx, ts), want, 0.0)
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])
    want = composed(stack, x, hx, ts, mask)
    assert_trees_close("masked", stack(x, hx, ts, mask=mask), want, 0.0)
    assert stack(x)[0].shape[-1] == stack.layers[-1].merged_size


@all_stacks
@all_kinds
def test_last_output_and_projection(name, kind):
    stack, x, ts = make(name, kind, proj_size=2), normal(B, T, I), spans(B, T)
    hx = states_of(stack)
    assert all("fc" not in layer for layer in stack.layers[:-1])
    sequence, _ = stack(x, hx, ts)
    last = copy.deepcopy(stack)
    last.layers[-1].return_sequences = False
    last.return_state = False
    output = last(x, hx, ts)
    width = 4 if kind == "bidirectional" else 2
    assert output.shape == (B, width)
    assert sequence.shape == (B, T, width)
    if not stack.layers[-1].bidirectional:
        assert_close("last", output, sequence[:, -1], 0.0)
    fresh = make(name, kind, return_sequences=False, return_state=False)
    assert fresh(x).shape == (B, fresh.layers[-1].merged_size)


@all_stacks
@all_kinds
def test_masked_batch_equals_the_shorter_sequences(name, kind):
    stack, x, ts = make(name, kind), normal(B, T, I), spans(B, T)
    lengths = (5, 2, 4)
    mask = mx.arange(T) < mx.array(lengths)[:, None]
    output, states = stack(mx.where(mask[..., None], x, 1e30), None, ts, mask=mask)
    for b, n in enumerate(lengths):
        want, want_states = stack(x[b, :n], None, ts[b, :n])
        assert_close(f"output {b}", output[b, :n], want, SAME)
        got = {key: s[b] for key, s in tree_flatten(states)}
        assert_all_close(got, dict(tree_flatten(want_states)), SAME)


@all_stacks
@all_kinds
def test_layouts_and_no_steps(name, kind):
    stack, x, ts = make(name, kind), normal(B, T, I), spans(B, T)
    want, _ = stack(x, None, ts)
    assert_close("unbatched", stack(x[1], None, ts[1])[0], want[1], SAME)
    output, states = stack(mx.zeros((B, 0, I)))
    assert output.shape == (B, 0, want.shape[-1])
    assert all(not np.array(s).any() for _, s in tree_flatten(states))
    assert stack(mx.zeros((0, T, I)))[0].shape == (0, T, want.shape[-1])
    time_major = make(name, kind, batch_first=False)
    time_major.update(stack.parameters())
    got, _ = time_major(x.swapaxes(0, 1), None, ts.T)
    assert_close("time-major", got.swapaxes(0, 1), want, SAME)


@all_stacks
def test_steps_of_a_stream_equal_the_sequence(name):
    stack, x, ts = make(name), normal(B, T, I), spans(B, T)
    want, want_states = stack(x, None, ts)
    states = None
    for t in range(T):
        output, states = stack.step(x[:, t], states, ts[:, t])
        assert_close(f"output {t}", output, want[:, t], SAME)
    assert_trees_close("states", states, want_states, SAME)


@all_stacks
@backends
def test_compiled_training_equals_the_uncompiled(name, backend):
    models = [make(name, "bidirectional", num_layers=2, proj_size=1) for _ in range(2)]
    models[1].update(models[0].parameters())
    x, ts = normal(B, T, I), spans(B, T)

    def loss(model):
        return mx.mean(mx.square(model(x, None, ts)[0] - 1.0))

    with dispatch.use_backend(backend):
        plain, compiled = (train(m, loss, 4, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    assert plain[-1] < plain[0]


@all_stacks
def test_every_layer_has_a_gradient_and_is_saved(name, tmp_path):
    stack, x = make(name, "mixed"), normal(B, T, I)
    grads = gradients(stack, lambda x: mx.sum(stack(x)[0] ** 2), x)
    for n in range(3):
        assert np.abs(np.array(grads[f"layers.{n}.lstm.input_map.weight"])).max() > 0
    stack.save_weights(str(tmp_path / "w.safetensors"))
    other = make(name, "mixed")
    other.load_weights(str(tmp_path / "w.safetensors"))
    assert_close("output", other(x)[0], stack(x)[0], SAME)


def test_feature_masks_reach_the_first_layer_and_their_rows_the_others():
    stack = CfCRNN(2 * I, 6, num_layers=2, backbone_units=9)
    x, ts = normal(B, T, I), spans(B, T)
    mask = mx.random.uniform(shape=(B, T, I)) < 0.3
    got, _ = stack(x, None, ts, mask=mask)
    middle, _ = stack.layers[0](x, None, ts, mask=mask)
    want, _ = stack.layers[1](middle, None, ts, mask=mx.any(mask, axis=-1))
    assert_close("output", got, want, 0.0)
    alone, _ = stack(x[0], None, ts[0], mask=np.array(mask[0]))
    assert_close("unbatched", alone, want[0], SAME)


def test_stateful_stacks_continue_and_reset():
    stack, x = make("ltc"), normal(B, T, I)
    want, _ = stack(x)
    kept = make("ltc", stateful=True)
    kept.update(stack.parameters())
    parts = [kept(x[:, :2])[0], kept(x[:, 2:])[0]]
    assert_close("output", mx.concatenate(parts, axis=1), want, SAME)
    kept.reset_states()
    assert_close("again", kept(x)[0], want, SAME)


def test_a_wiring_is_copied_for_each_layer():
    wiring = AutoNCP(10, 3)
    stack = LTCRNN(I, wiring, num_layers=3)
    assert [layer.sensory_size for layer in stack.layers] == [I, 3, 3]
    assert wiring.input_dim == I


def test_explain_lists_every_layer():
    with dispatch.use_backend("reference"):
        plan = make("cfc_wired", "bidirectional").explain((B, T, I))
    assert len(plan.calls) == 3 * 2 * 3
    assert plan.stepwise == ""
    mixed = make("cfc_wired", "mixed").explain((B, T, I))
    assert "LSTM in front" in mixed.program or "LSTM in front" in mixed.stepwise


def test_constraints_reach_every_layer():
    stack = LTCRNN(I, 5, num_layers=2, implicit_param_constraints=False, bidirectional=True)
    for layer in stack.layers:
        for half in layer._directions:
            half.rnn_cell.w = half.rnn_cell.w - 2.0
    stack.apply_constraints()
    cells = [half.rnn_cell for layer in stack.layers for half in layer._directions]
    assert [cell.w.min().item() for cell in cells] == [0.0] * 4


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match=r"\[cfc_rnn\] num_layers must be an integer >= 1, got 0"):
        CfCRNN(I, 6, 0)
    with pytest.raises(ValueError, match=r"\[ltc_rnn\] go_backwards must be False"):
        LTCRNN(I, 6, 2, go_backwards=True)
    with pytest.raises(ValueError, match=r"\[ltc_rnn\] merge_mode must give one output"):
        LTCRNN(I, 6, 2, True, merge_mode=None)
    assert isinstance(LTCRNN(I, 6, 1, True, merge_mode=None)(normal(B, T, I))[0], tuple)
    stack, x = make("ltc", num_layers=2), normal(B, T, I)
    wanted = r"\[ltc_rnn\] hx must be a tuple of 2 states, one per layer, got"
    with pytest.raises(ValueError, match=f"{wanted} array"):
        stack(x, mx.zeros((B, 6)))
    with pytest.raises(ValueError, match=f"{wanted} 3"):
        stack(x, (mx.zeros((B, 6)),) * 3)
    with pytest.raises(ValueError, match=r"\[ltc\] step wants a layer that reads forwards"):
        make("ltc", "bidirectional").step(x[:, 0])
    with pytest.raises(ValueError, match="one of hx, initial_state, initial_states"):
        stack(x, (None, None), initial_state=(None, None))
