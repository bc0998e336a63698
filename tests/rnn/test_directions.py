"""Bidirectional layers, reading backwards, and state kept between calls: each equal to plain
passes.
"""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, dispatch
from mlx_ncps.cells import CfCCell, LTCCell
from mlx_ncps.rnn import LTC, CfC, LiquidRNN
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close
from tests.support.pairs import pairs
from tests.support.rnn_layers import (
    GRADIENT,
    LAYERS,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    gradients,
    make,
    normal,
    spans,
    states_like,
    train,
)

all_layers = pytest.mark.parametrize("name", LAYERS)
all_memories = pytest.mark.parametrize("mixed", [False, True])
backends = pytest.mark.parametrize("backend", available_backends())
MERGES = {
    "concat": lambda f, b: mx.concatenate([f, b], axis=-1),
    "sum": lambda f, b: f + b,
    "mul": lambda f, b: f * b,
    "ave": lambda f, b: (f + b) / 2,
}


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def passes(layer):
    """Two layers of one direction with the weights of a bidirectional one."""
    halves = []
    for half in (layer, layer.backward):
        options = {"return_sequences": True, "return_state": True, "proj_size": layer.proj_size}
        one = LiquidRNN(half.rnn_cell, mixed_memory=layer.mixed_memory, **options)
        for key in ("lstm", "fc"):
            if key in half:
                one[key] = half[key]
        halves.append(one)
    return halves


def two_passes(layer, x, hx, ts):
    """(outputs, last outputs, states) of each half: the second over the reversed sequence, its
    outputs turned back.
    """
    first, second = passes(layer)
    forward, f_state = first(x, hx[0], ts)
    backward, b_state = second(x[:, ::-1], hx[1], ts[:, ::-1])
    return (forward, backward[:, ::-1]), (forward[:, -1], backward[:, -1]), (f_state, b_state)


# --- bidirectional -----------------------------------------------------------------------------


@all_layers
@all_memories
@pytest.mark.parametrize("proj_size", [None, 3])
def test_bidirectional_is_two_passes(name, mixed, proj_size):
    layer = make(name, bidirectional=True, mixed_memory=mixed, proj_size=proj_size)
    x, ts = normal(B, T, I), spans(B, T)
    hx = (states_like(layer), states_like(layer))
    outputs, lasts, states = two_passes(layer, x, hx, ts)
    for mode, merged in MERGES.items():
        layer.merge_mode, layer.return_sequences = mode, True
        got, got_states = layer(x, hx, ts)
        assert_close(mode, got, merged(*outputs), SAME)
        assert_trees_close("state", got_states, states, SAME)
        layer.return_sequences = False
        assert_close(f"last {mode}", layer(x, hx, ts)[0], merged(*lasts), SAME)
    assert (
        np.abs(np.array(lasts[1] - outputs[1][:, -1])).max() > 1e-3
    )  # not the last of the sequence


@all_layers
def test_merge_mode_none_gives_both(name):
    layer = make(name, bidirectional=True, merge_mode=None)
    x, ts = normal(B, T, I), spans(B, T)
    hx = (states_like(layer), states_like(layer))
    outputs, lasts, _ = two_passes(layer, x, hx, ts)
    got, _ = layer(x, hx, ts)
    assert isinstance(got, tuple)
    assert_trees_close("outputs", got, outputs, SAME)
    layer.batch_first = False
    got, _ = layer(x.swapaxes(0, 1), hx, ts.T)
    assert_trees_close("time-major", got, tuple(o.swapaxes(0, 1) for o in outputs), SAME)
    layer.return_sequences = False
    assert_trees_close("lasts", layer(x.swapaxes(0, 1), hx, ts.T)[0], lasts, SAME)
    alone, states = layer(x[0], tuple(h[0] for h in hx), ts[0])
    assert_trees_close("unbatched", alone, tuple(last[0] for last in lasts), SAME)
    assert [s.shape for s in states] == [(layer.state_size,)] * 2


@all_layers
@backends
def test_gradients_are_those_of_two_passes(name, backend):
    layer = make(name, bidirectional=True)
    x, ts = normal(B, T, I), spans(B, T)
    hx = (states_like(layer), states_like(layer))
    d_output = normal(B, T, layer.merged_size)
    d_states = [normal(*h.shape) for h in hx]

    def ends(states):
        return sum(mx.sum(s * d) for s, d in zip(states, d_states, strict=True))

    def loss(x, f, b, ts):
        output, states = layer(x, (f, b), ts)
        return mx.sum(output * d_output) + ends(states)

    def passes_loss(x, f, b, ts):
        outputs, _, states = two_passes(layer, x, (f, b), ts)
        return mx.sum(MERGES["concat"](*outputs) * d_output) + ends(states)

    with dispatch.use_backend(backend):
        got = gradients(layer, loss, x, *hx, ts)
        want = gradients(layer, passes_loss, x, *hx, ts)
    assert_all_close(got, want, GRADIENT)
    assert any(n.startswith("backward.rnn_cell.") for n in got)


@all_layers
@pytest.mark.parametrize("span", [None, 0.5, "[T]", "unbatched"])
def test_timespans_turn_with_their_steps(name, span):
    layer = make(name, bidirectional=True)
    x, per_step = normal(B, T, I), spans(T)
    grid = mx.broadcast_to(per_step, (B, T))
    if span in (None, 0.5):
        want, _ = layer(x, timespans=mx.full((B, T), 1.0 if span is None else span))
        assert_close("output", layer(x, timespans=span)[0], want, SAME)
        return
    want, _ = layer(x, timespans=grid)
    if span == "[T]":
        assert_close("output", layer(x, timespans=per_step)[0], want, SAME)
    else:
        assert_close("output", layer(x[1], timespans=per_step)[0], want[1], SAME)
    other, _ = layer(x, timespans=grid[:, ::-1])
    assert np.abs(np.array(other - want)).max() > 1e-3


@all_layers
def test_the_other_direction_has_weights_of_its_own(name):
    layer = make(name, bidirectional=True, mixed_memory=True, proj_size=3)
    weights = dict(tree_flatten(layer.trainable_parameters()))
    own = {n for n in weights if not n.startswith("backward.")}
    assert {f"backward.{n}" for n in own} == set(weights) - own
    same = [n for n in own if np.array_equal(weights[n], weights[f"backward.{n}"])]
    for key in same:  # what starts as a constant, or as the wiring says
        assert key.split(".")[-1] in {
            "input_w", "input_b", "output_w", "output_b", "erev", "sensory_erev",
        }, key  # fmt: skip
    masks = {n: a for n, a in tree_flatten(layer.parameters()) if "mask" in n or "wiring" in n}
    for key in (n for n in masks if not n.startswith("backward.")):
        assert_close(key, masks[f"backward.{key}"], masks[key], 0.0)


@all_layers
@backends
def test_compiled_bidirectional_training_equals_the_uncompiled(name, backend):
    models = [make(name, bidirectional=True, merge_mode="ave", proj_size=2) for _ in range(2)]
    models[1].update(models[0].parameters())
    x, ts = normal(B, T, I), spans(B, T)
    y = mx.sin(mx.cumsum(x[:, ::-1, :2], axis=1))

    def loss(model):
        return mx.mean(mx.square(model(x, timespans=ts)[0] - y))

    with dispatch.use_backend(backend):
        plain, compiled = (train(m, loss, 5, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    assert plain[-1] < plain[0]
    weights = [dict(tree_flatten(model.parameters())) for model in models]
    assert_all_close(weights[1], weights[0], GRADIENT)


@all_layers
@all_memories
def test_no_steps_and_no_samples(name, mixed):
    layer = make(name, bidirectional=True, mixed_memory=mixed)
    hx = (states_like(layer), states_like(layer))
    output, states = layer(mx.zeros((B, 0, I)), hx)
    assert output.shape == (B, 0, layer.merged_size)
    assert_trees_close("states", states, hx, 0.0)
    assert layer(mx.zeros((0, T, I)))[0].shape == (0, T, layer.merged_size)
    layer.return_sequences = False
    first = [h[0] if mixed else h for h in hx]
    want = mx.concatenate(
        [layer.rnn_cell.readout(first[0]), layer.backward.rnn_cell.readout(first[1])], -1
    )
    assert_close("output", layer(mx.zeros((B, 0, I)), hx)[0], want, 0.0)


@pytest.mark.parametrize("cell", [lambda: CfCCell(I, 6), lambda: LTCCell(AutoNCP(10, 2))])
def test_cell_first_with_both_directions(cell):
    cell = cell()
    layer = (CfC if isinstance(cell, CfCCell) else LTC)(cell, bidirectional=True)
    assert layer.rnn_cell is cell
    assert layer(normal(B, T, I)).shape == (B, 2 * cell.output_size)
    if isinstance(cell, LTCCell):
        assert not np.array_equal(cell.w, layer.backward.rnn_cell.w)


def test_explain_lists_the_calls_of_both_directions():
    with dispatch.use_backend("reference"):
        assert len(make("cfc_wired", bidirectional=True).explain((B, T, I)).calls) == 6


def test_bidirectional_layers_are_saved_copied_and_pickled(tmp_path):
    layer, x = make("ltc_wired", bidirectional=True, mixed_memory=True), normal(B, T, I)
    want = layer(x)[0]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close("output", twin(x)[0], want, 0.0)
    layer.save_weights(str(tmp_path / "w.safetensors"))
    other = make("ltc_wired", bidirectional=True, mixed_memory=True)
    assert np.abs(np.array(other(x)[0] - want)).max() > 1e-3
    other.load_weights(str(tmp_path / "w.safetensors"))
    assert_close("output", other(x)[0], want, 0.0)


def test_constraints_reach_both_directions():
    layer = LTC(I, 5, implicit_param_constraints=False, bidirectional=True)
    for half in layer._directions:
        half.rnn_cell.w = half.rnn_cell.w - 2.0
    layer.apply_weight_constraints()
    for half in layer._directions:
        assert half.rnn_cell.w.min().item() == 0


def test_wrong_states_and_options_raise():
    layer, x = make("ltc", bidirectional=True), normal(B, T, I)
    h = mx.zeros((B, 6))
    with pytest.raises(ValueError, match=r"\[ltc\] hx must be \(forward, backward\), got array"):
        layer(x, h)
    with pytest.raises(ValueError, match=r"\[ltc\] hx\.backward must be \[B, H\] = \(3, 6\), got"):
        layer(x, (h, h[:, 1:]))
    mixed = make("cfc", bidirectional=True, mixed_memory=True)
    with pytest.raises(ValueError, match=r"\[cfc\] hx\.forward must be \(h, c\), got array"):
        mixed(x, (h, h))
    with pytest.raises(ValueError, match=r"\[cfc\] merge_mode must be one of .*, got 'max'"):
        make("cfc", bidirectional=True, merge_mode="max")


# --- reading backwards -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mixed", "bidirectional", "sequences"),
    pairs(LAYERS, [False, True], [False, True], [False, True]),
)
def test_go_backwards_is_the_reversed_sequence(name, mixed, bidirectional, sequences):
    options = {"mixed_memory": mixed, "bidirectional": bidirectional}
    layer = make(name, return_sequences=sequences, **options)
    x, ts = normal(B, T, I), spans(B, T)
    mask = mx.random.uniform(shape=(B, T)) < 0.7
    want = layer(x[:, ::-1], None, ts[:, ::-1], mask=mask[:, ::-1])
    layer.go_backwards = True
    got = layer(x, None, ts, mask=mask)
    assert_trees_close("result", got, want, SAME)
    layer.batch_first = False
    got = layer(x.swapaxes(0, 1), None, ts.T, mask=mask.T)
    want = (want[0].swapaxes(0, 1), want[1]) if sequences else want
    assert_trees_close("time-major", got, want, SAME)


# --- state kept between calls ------------------------------------------------------------------


@all_layers
@all_memories
def test_stateful_calls_continue_and_reset(name, mixed):
    layer = make(name, mixed_memory=mixed)
    x, ts = normal(B, T, I), spans(B, T)
    want, want_state = layer(x, timespans=ts)
    layer.stateful = True
    first, _ = layer(x[:, :2], timespans=ts[:, :2])
    second, state = layer(x[:, 2:], timespans=ts[:, 2:])
    assert_close("output", mx.concatenate([first, second], axis=1), want, SAME)
    assert_trees_close("state", state, want_state, SAME)
    again, _ = layer(x[:, :2], timespans=ts[:, :2])
    assert np.abs(np.array(again - first)).max() > 1e-4
    layer.reset_states()
    assert_close("after reset", layer(x, timespans=ts)[0], want, SAME)
    hx = states_like(layer)
    given, _ = layer(x, hx, ts)
    layer.stateful = False
    assert_close("hx wins", given, layer(x, hx, ts)[0], 0.0)


def test_a_kept_state_belongs_to_a_batch():
    layer = make("ltc", stateful=True)
    layer(normal(B, T, I))
    with pytest.raises(ValueError, match=r"\[ltc\] inputs must be of the batch .* 3, got 2: reset"):
        layer(normal(2, T, I))
    layer.reset_states()
    assert layer(normal(2, T, I))[0].shape == (2, T, 6)


def test_a_kept_state_is_no_parameter_and_has_no_gradient():
    layer = make("cfc", stateful=True)
    before = set(dict(tree_flatten(layer.parameters())))
    x = normal(B, T, I)

    def loss(x):
        layer.reset_states()
        layer(x)
        return mx.sum(layer(mx.zeros((B, T, I)))[0])

    assert not np.array(mx.grad(loss)(x)).any()
    assert set(dict(tree_flatten(layer.parameters()))) == before
    twin = copy.deepcopy(layer)
    assert_close("copy continues", twin(x)[0], layer(x)[0], 0.0)


@all_memories
def test_stateful_training_compiles_with_the_state_among_inputs_and_outputs(mixed):
    models = [make("ltc", mixed_memory=mixed, stateful=True) for _ in range(2)]
    models[1].update(models[0].parameters())
    x = normal(B, T, I)

    def loss(model):
        return mx.mean(mx.square(model(x)[0] - 1.0))

    plain, compiled = (train(m, loss, 4, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    stateless = make("ltc", mixed_memory=mixed)
    assert abs(plain[1] - train(stateless, loss, 2, False)[1]) > 1e-4
    assert_trees_close("kept", models[1]._kept, models[0]._kept, GRADIENT)


def test_stateful_in_both_directions_keeps_both():
    layer, x = make("cfc", bidirectional=True, stateful=True), normal(B, T, I)
    _, states = layer(x)
    layer.stateful = False
    want, _ = layer(x, states)
    layer.stateful = True
    assert_close("output", layer(x)[0], want, 0.0)


def test_layers_in_a_sequential_model_train():
    class Last(nn.Module):
        def __call__(self, result):
            return result[0][:, -1]

    model = nn.Sequential(make("ltc", bidirectional=True, mixed_memory=True), Last())
    _, grads = nn.value_and_grad(model, lambda m: mx.mean(m(normal(B, T, I)) ** 2))(model)
    assert set(dict(tree_flatten(grads))) == set(dict(tree_flatten(model.trainable_parameters())))
