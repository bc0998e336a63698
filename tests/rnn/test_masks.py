"""Masks over steps: equal to the shorter sequences, in values and gradients. Feature masks and
`carry_forward`: equal to the loop of MATHS 5.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import available_backends, carry_forward, dispatch
from mlx_ncps.rnn import CfC, Seen
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close, tolerance
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
backends = pytest.mark.parametrize("backend", available_backends())
KINDS = {
    "plain": {},
    "mixed": {"mixed_memory": True},
    "bidirectional": {"bidirectional": True},
    "backwards": {"go_backwards": True},
}
all_kinds = pytest.mark.parametrize("kind", KINDS)
MASKS = {  # which of the T = 5 steps of the 3 samples are there
    "padding": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "holes": [[0, 1, 0, 1, 0], [1, 0, 0, 0, 1], [1, 1, 0, 1, 1]],
    "one": [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]],
    "none": [[1] * 5] * 3,
}


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def masked(kind):
    """The mask, and inputs and time spans with garbage where it is 0."""
    mask = np.array(MASKS[kind], bool)
    x, ts = np.array(normal(B, T, I)), np.array(spans(B, T))
    x[~mask], ts[~mask] = 1e30, -7.0
    return mx.array(mask), mx.array(x), mx.array(ts)


def sample_state(hx, b):
    """Sample b of a state of one or both directions."""
    return tuple(sample_state(h, b) for h in hx) if isinstance(hx, tuple) else hx[b : b + 1]


def initial(layer):
    hx = states_like(layer)
    return (hx, states_like(layer)) if layer.bidirectional else hx


def short_results(layer, mask, x, ts, hx):
    """(output of each real step, last output, state) per sample, run without its masked steps."""
    results, sequences = [], layer.return_sequences
    for b in range(B):
        real = mx.array(np.flatnonzero(np.array(mask[b])))
        arguments = (x[b : b + 1, real], sample_state(hx, b), ts[b : b + 1, real])
        layer.return_sequences = True
        outputs, state = layer(*arguments)
        layer.return_sequences = False
        results.append((real, outputs, layer(*arguments)[0], state))
    layer.return_sequences = sequences
    return results


# --- masks over steps --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "mask"), pairs(LAYERS, KINDS, MASKS))
def test_masked_batch_equals_the_shorter_sequences(name, kind, mask):
    layer = make(name, **KINDS[kind])
    (mask, x, ts), hx = masked(mask), initial(layer)
    outputs, state = layer(x, hx, ts, mask=mask)
    layer.return_sequences = False
    lasts, _ = layer(x, hx, ts, mask=mask)
    order = np.flip(np.array(mask), 1).copy() if kind == "backwards" else np.array(mask)
    for b, (_, want, last, want_state) in enumerate(short_results(layer, mask, x, ts, hx)):
        places = mx.array(np.flatnonzero(order[b]))
        assert_close(f"outputs {b}", outputs[b : b + 1, places], want, SAME)
        assert_close(f"last {b}", lasts[b : b + 1], last, SAME)
        assert_trees_close(f"state {b}", sample_state(state, b), want_state, SAME)


@all_layers
@pytest.mark.parametrize("mixed", [False, True])
def test_a_masked_step_carries_the_output_forward(name, mixed):
    layer = make(name, mixed_memory=mixed)
    (mask, x, ts), hx = masked("holes"), states_like(layer)
    outputs = np.array(layer(x, hx, ts, mask=mask)[0])
    before = np.array(layer.rnn_cell.readout(hx[0] if mixed else hx))
    for b in range(B):
        want = before[b]
        for t in range(T):
            want = outputs[b, t] if mask[b, t].item() else want
            assert_close(f"output {b}, {t}", outputs[b, t], want, 0.0)


@all_layers
@all_kinds
@backends
def test_gradients_equal_those_of_the_shorter_sequences(name, kind, backend):
    layer = make(name, **KINDS[kind])
    (mask, x, ts), hx = masked("holes"), initial(layer)
    d_output, d_last = normal(B, T, layer.merged_size), normal(B, layer.merged_size)
    d_output = mx.where(mask[..., None], d_output, 0.0)
    order = np.flip(np.array(mask), 1).copy() if kind == "backwards" else np.array(mask)
    if kind == "backwards":
        d_output = mx.where(mx.array(order)[..., None], normal(*d_output.shape), 0.0)

    def loss(x, ts):
        layer.return_sequences = True
        outputs, _ = layer(x, hx, ts, mask=mask)
        layer.return_sequences = False
        return mx.sum(outputs * d_output) + mx.sum(layer(x, hx, ts, mask=mask)[0] * d_last)

    def short_loss(x, ts):
        total = 0.0
        for b, (_, outputs, last, _) in enumerate(short_results(layer, mask, x, ts, hx)):
            places = mx.array(np.flatnonzero(order[b]))
            total = total + mx.sum(outputs[0] * d_output[b, places]) + mx.sum(last[0] * d_last[b])
        return total

    with dispatch.use_backend(backend):
        got = gradients(layer, loss, x, ts)
        assert dispatch.last_backend() == backend
        want = gradients(layer, short_loss, x, ts)
    assert_all_close(got, want, GRADIENT)
    assert not np.array(got["arrays.0"])[~np.array(mask)].any()
    assert not np.array(got["arrays.1"])[~np.array(mask)].any()


@all_layers
@pytest.mark.parametrize("mixed", [False, True])
def test_nan_behind_a_mask_is_never_read(name, mixed):
    layer, (mask, x, ts) = make(name, mixed_memory=mixed), masked("holes")
    want = layer(x, None, ts, mask=mask)
    nan = mx.where(mask[..., None], x, mx.array(np.nan))
    nan_ts = mx.where(mask, ts, mx.array(np.nan))
    mx.eval(nan, nan_ts)  # beside a GPU lazy arrays go another way
    got = layer(nan, None, nan_ts, mask=mask)
    assert_trees_close("result", got, want, 0.0)
    grads = gradients(layer, lambda x: mx.sum(layer(x, None, ts, mask=mask)[0]), nan)
    for key, grad in grads.items():
        assert np.isfinite(np.array(grad)).all(), key


@all_layers
@pytest.mark.parametrize("span", [None, 0.5])
def test_scalar_timespans_and_kinds_of_masks(name, span):
    layer, (mask, x, _) = make(name), masked("holes")
    want, _ = layer(x, None, mx.full((B, T), 1.0 if span is None else span), mask=mask)
    turned = np.flip(np.flip(np.array(mask), 1).copy(), 1)  # of negative strides
    for kind in (mask, np.array(mask), turned, mask.astype(mx.float32), mask.astype(mx.int32)):
        assert_close("output", layer(x, None, span, mask=kind)[0], want, SAME)
    per_step = spans(T)
    want, _ = layer(x, None, mx.broadcast_to(per_step, (B, T)), mask=mask)
    assert_close("[T]", layer(x, None, per_step, mask=mask)[0], want, SAME)


@all_layers
def test_layouts_of_masks(name):
    layer, (mask, x, ts) = make(name), masked("holes")
    want, state = layer(x, None, ts, mask=mask)
    alone, alone_state = layer(x[1], None, ts[1], mask=mask[1])
    assert_close("unbatched", alone, want[1], SAME)
    assert_close("unbatched state", alone_state, state[1], SAME)
    layer.batch_first = False
    got, _ = layer(x.swapaxes(0, 1), None, ts.T, mask=mask.T)
    assert_close("time-major", got.swapaxes(0, 1), want, SAME)


@all_layers
def test_masks_without_steps_or_samples(name):
    layer, hx = make(name), None
    hx = states_like(layer)
    output, state = layer(mx.zeros((B, 0, I)), hx, mask=mx.zeros((B, 0)))
    assert output.shape == (B, 0, layer.output_size)
    assert_close("state", state, hx, 0.0)
    assert layer(mx.zeros((0, T, I)), mask=mx.zeros((0, T)))[0].shape == (0, T, layer.output_size)
    output, state = layer(normal(B, T, I), hx, mask=mx.zeros((B, T)))
    assert_close("all masked", state, hx, 0.0)


@all_layers
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_masked_half_precision(name, dtype):
    layer, (mask, x, ts) = make(name), masked("holes")
    x = mx.where(mask[..., None], x, 0.0).astype(dtype)
    got, state = layer(x, None, ts, mask=mask)
    want, _ = layer(x.astype(mx.float32), None, ts, mask=mask)
    assert got.dtype == state.dtype == dtype
    tol = tolerance(str(dtype).rsplit(".", 1)[-1], "forward")
    assert_close("output", got.astype(mx.float32), want, tol)


@all_layers
@all_kinds
@backends
def test_compiled_training_with_a_mask_equals_the_uncompiled(name, kind, backend):
    models = [make(name, proj_size=2, **KINDS[kind]) for _ in range(2)]
    models[1].update(models[0].parameters())
    mask, x, ts = masked("holes")

    def loss(model):
        return mx.mean(mx.square(model(x, None, ts, mask=mask)[0] - 1.0))

    with dispatch.use_backend(backend):
        plain, compiled = (train(m, loss, 4, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    assert plain[-1] < plain[0]


@all_layers
def test_a_mask_can_be_an_input_of_a_compiled_function(name):
    """Its values are not known when the function is traced."""
    layer, (mask, x, ts) = make(name), masked("holes")
    compiled = mx.compile(lambda x, ts, mask: layer(x, None, ts, mask=mask))
    for m in (mask, mx.array(MASKS["padding"])):
        want = layer(x, None, ts, mask=m)
        assert_trees_close("result", compiled(x, ts, m), want, SAME)


@pytest.mark.parametrize("name", ["cfc", "cfc_wired", "ltc_wired"])
@pytest.mark.parametrize("mixed", [False, True])
def test_masks_map_over_samples_with_vmap(name, mixed):
    layer, (mask, x, ts) = make(name, mixed_memory=mixed), masked("holes")
    want, _ = layer(x, None, ts, mask=mask)
    got, _ = mx.vmap(lambda x, ts, m: layer(x, None, ts, mask=m))(x, ts, mask)
    assert_close("output", got, want, SAME)


def test_wrong_masks_raise():
    layer, x = make("ltc"), normal(B, T, I)
    wanted = r"\[ltc\] mask must be \[B, T\] = \(3, 5\) or \[B, T, I\] = \(3, 5, 4\), got"
    for shape in ((T,), (B, T - 1), (T, B), (B, T, 1), (B, T, I + 1), (B,)):
        with pytest.raises(ValueError, match=wanted):
            layer(x, mask=mx.ones(shape))
    with pytest.raises(ValueError, match=r"\[ltc\] mask must be an array \[B, T\] .*, got a list"):
        layer(x, mask=[[True] * T] * B)
    layer.batch_first = False
    with pytest.raises(ValueError, match=r"\[ltc\] mask must be \[T, B\] = \(5, 3\)"):
        layer(x.swapaxes(0, 1), mask=mx.ones((B, T)))
    with pytest.raises(ValueError, match=r"\[ltc\] mask must be \[T\] = \(5,\) or \[T, I\]"):
        layer(x[0], mask=mx.ones((1, T)))


# --- feature masks -----------------------------------------------------------------------------


def numpy_carry(x, mask, ts, value, time):
    """MATHS 5, step by step, in float64: values, times [B, T, I]."""
    values, times = [], []
    for t in range(x.shape[1]):
        m = mask[:, t]
        value = np.where(m, x[:, t], value)
        time = np.where(m, 0.0, time + ts[:, t, None])
        values.append(value)
        times.append(time)
    return np.stack(values, axis=1), np.stack(times, axis=1)


def features(steps=T, present=0.4):
    mask = np.array(mx.random.uniform(shape=(B, steps, I))) < present
    mask[1, 2] = False  # a row without any feature
    x, ts = np.array(normal(B, steps, I)), np.array(spans(B, steps))
    return mask, np.where(mask, x, np.nan).astype(np.float32), ts


@pytest.mark.parametrize("steps", [3, 5, 8, 9, 33])
@pytest.mark.parametrize("continued", [False, True])
def test_carry_forward_equals_the_loop(steps, continued):
    mask, x, ts = features(steps, 0.2)
    last = Seen(normal(B, I), spans(B, I)) if continued else None
    start = [np.array(a) for a in last] if continued else [np.zeros((B, I))] * 2
    want = numpy_carry(x.astype(np.float64), mask, ts.astype(np.float64), *start)
    values, time, seen = carry_forward(mx.array(x), mx.array(mask), mx.array(ts), last=last)
    assert_close("values", values, want[0], SAME)
    assert_close("time", time, want[1], SAME)
    assert_close("seen value", seen.value, want[0][:, -1], SAME)
    assert_close("seen time", seen.time, want[1][:, -1], SAME)


def test_carry_forward_continues_where_a_call_ended():
    mask, x, ts = (mx.array(a) for a in features(9))
    want = carry_forward(x, mask, ts)
    first = carry_forward(x[:, :4], mask[:, :4], ts[:, :4])
    second = carry_forward(x[:, 4:], mask[:, 4:], ts[:, 4:], last=first[2])
    for n, name in enumerate(("values", "time")):
        assert_close(name, mx.concatenate([first[n], second[n]], axis=1), want[n], SAME)
    assert_trees_close("seen", tuple(second[2]), tuple(want[2]), SAME)
    nothing = carry_forward(x[:, :0], mask[:, :0], ts[:, :0], last=first[2])
    assert_trees_close("seen", tuple(nothing[2]), tuple(first[2]), 0.0)
    assert nothing[0].shape == nothing[1].shape == (B, 0, I)


def test_carry_forward_has_the_gradient_of_the_seen_values():
    mask, x, ts = (mx.array(a) for a in features())
    d_values, d_time = normal(B, T, I), normal(B, T, I)

    def loss(x, ts, value, time):
        values, times, _ = carry_forward(x, mask, ts, last=Seen(value, time))
        return mx.sum(values * d_values) + mx.sum(times * d_time)

    arrays = (x, ts, normal(B, I), spans(B, I))
    got = mx.grad(loss, argnums=(0, 1, 2, 3))(*arrays)
    want = [np.zeros(a.shape) for a in arrays]
    for b in range(B):
        for i in range(I):
            for t in range(T):
                s = t
                while s >= 0 and not mask[b, s, i].item():
                    want[1][b, s] += d_time[b, t, i].item()
                    s -= 1
                if s >= 0:
                    want[0][b, s, i] += d_values[b, t, i].item()
                else:
                    want[2][b, i] += d_values[b, t, i].item()
                    want[3][b, i] += d_time[b, t, i].item()
    for name, ours, theirs in zip(("x", "ts", "value", "time"), got, want, strict=True):
        assert_close(name, ours, theirs, GRADIENT)


@pytest.mark.parametrize("span", [None, 0.5, "[T]", "ints"])
def test_carry_forward_takes_all_timespans(span):
    mask, x, ts = features()
    forms = {"[T]": mx.array(ts[0]), "ints": mx.array([1, 2, 3, 4, 5])}
    given = forms.get(span, span)
    number = 1.0 if span is None else span
    grid = np.broadcast_to(np.array(given) if span in forms else number, (B, T))
    want = numpy_carry(x, mask, grid, np.zeros((B, I)), np.zeros((B, I)))
    assert_close("time", carry_forward(mx.array(x), mx.array(mask), given)[1], want[1], SAME)


def test_carry_forward_errors():
    x, mask = normal(B, T, I), mx.ones((B, T, I))
    with pytest.raises(ValueError, match=r"\[carry_forward\] mask must be \[B, T, I\] = \(3, 5, 4"):
        carry_forward(x, mask[..., :1])
    with pytest.raises(ValueError, match=r"\[carry_forward\] last\.time must be \[B, I\] = \(3, 4"):
        carry_forward(x, mask, last=Seen(mx.zeros((B, I)), mx.zeros((B,))))
    with pytest.raises(ValueError, match=r"\[carry_forward\] timespans must be >= 0"):
        carry_forward(x, mask, -1.0)


@pytest.mark.parametrize(("name", "kind", "parts"), pairs(LAYERS, KINDS, [2, 3]))
def test_feature_masks_equal_prepared_inputs(name, kind, parts):
    """The layer reads [values, mask] or [values, time, mask] and skips rows without a feature."""
    layer = make(name, inputs=parts * I, **KINDS[kind])
    mask, x, ts = features()
    got = layer(mx.array(x), None, mx.array(ts), mask=mx.array(mask))
    zeros = np.zeros((B, I))

    def prepared(x, mask, ts):
        values, time = numpy_carry(x, mask, ts, zeros, zeros)
        columns = [values, mask] if parts == 2 else [values, time, mask]
        inputs = mx.array(np.concatenate(columns, axis=-1).astype(np.float32))
        return inputs, mx.array(ts), mx.array(mask.any(axis=-1))

    def turned(*arrays):
        return [np.flip(a, 1).copy() for a in arrays]

    if kind == "bidirectional":
        first, second = (layer, layer.backward)
        want = []
        for half, data in ((first, (x, mask, ts)), (second, turned(x, mask, ts))):
            inputs, span, rows = prepared(*data)
            hx = mx.zeros((B, layer.state_size))
            result = half._run_half(inputs, hx, span, rows, None, sequences=True)
            want.append((result.output, result.state))
        output = mx.concatenate([want[0][0], want[1][0][:, ::-1]], axis=-1)
        assert_trees_close("result", got, (output, (want[0][1], want[1][1])), SAME)
        return
    data = turned(x, mask, ts) if kind == "backwards" else (x, mask, ts)
    inputs, span, rows = prepared(*data)
    layer.go_backwards = False
    assert_trees_close("result", got, layer(inputs, None, span, mask=rows), SAME)


@all_layers
def test_feature_masks_in_every_layout(name):
    layer = make(name, inputs=3 * I)
    mask, x, ts = (mx.array(a) for a in features())
    want, _ = layer(x, None, ts, mask=mask)
    assert_close("unbatched", layer(x[1], None, ts[1], mask=mask[1])[0], want[1], SAME)
    layer.batch_first = False
    arguments = (x.swapaxes(0, 1), None, ts.T)
    got, _ = layer(*arguments, mask=mask.swapaxes(0, 1))
    assert_close("time-major", got.swapaxes(0, 1), want, SAME)
    assert layer(mx.zeros((0, B, I)), mask=mx.zeros((0, B, I)))[0].shape == (0, B, want.shape[-1])


def test_stateful_layers_remember_what_they_saw():
    layer = make("cfc", inputs=3 * I)
    mask, x, ts = (mx.array(a) for a in features(8, 0.2))
    want, _ = layer(x, None, ts, mask=mask)
    layer.stateful = True
    parts = [layer(x[:, a:b], None, ts[:, a:b], mask=mask[:, a:b])[0] for a, b in ((0, 3), (3, 8))]
    assert_close("output", mx.concatenate(parts, axis=1), want, SAME)


@backends
def test_feature_masks_train_and_compile(backend):
    models = [make("cfc", inputs=3 * I, proj_size=2) for _ in range(2)]
    models[1].update(models[0].parameters())
    mask, x, ts = (mx.array(a) for a in features())

    def loss(model):
        return mx.mean(mx.square(model(x, None, ts, mask=mask)[0] - 1.0))

    with dispatch.use_backend(backend):
        plain, compiled = (train(m, loss, 5, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    assert plain[-1] < plain[0]


def test_feature_masks_want_a_layer_of_their_width():
    mask, x, _ = (mx.array(a) for a in features())
    wanted = r"\[cfc\] a feature mask of 4 features wants a layer of 8 inputs .* or 12 .*, got 4"
    with pytest.raises(ValueError, match=wanted):
        make("cfc")(x, mask=mask)
    layer = CfC(None, AutoNCP(10, 2))
    assert layer(x, mask=mask)[0].shape == (B, T, 2)
    assert layer.sensory_size == 2 * I
