"""Short sequences with masks of steps or features, and of inputs [T, B, I], computed at once."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import use_backend

from tests.support.pairs import pairs
from tests.support.rnn_layers import SAME, B, I, T, assert_trees_close, normal, spans
from tests.support.step_layers import ALL, at_once, built, evaluated, few_layers

pytestmark = pytest.mark.usefixtures("seeded_and_poisoned", "cpu_device")

DTYPES = (mx.bool_, mx.float32, mx.float16, mx.int64, mx.uint8)


def step_masks(steps):
    """[B, T] masks: none missing, all, the first, the last, every second, and another per row."""
    t = np.arange(steps)
    rows = [t >= 0, t < 0, t > 0, t < steps - 1, t % 2 == 0]
    masks = [np.tile(row, (B, 1)) for row in rows]
    rng = np.random.default_rng(1)
    return [*masks, rng.random((B, steps)) > 0.5]


def check(native, layer, *arguments, **keywords):
    """Computed at once, equal to the reference."""
    kept = layer._kept
    with use_backend("reference"):
        want = evaluated(layer(*arguments, **keywords))
        want_kept, layer._kept = layer._kept, kept
    got = layer(*arguments, **keywords)
    leaves = [a for part in got for a in (part if isinstance(part, tuple) else [part])]
    assert at_once(native, *leaves)
    assert_trees_close("call", got, want, SAME)
    assert_trees_close("kept", layer._kept, want_kept, SAME)


@pytest.mark.parametrize(("name", "steps", "sequences"), pairs(ALL, [1, T], [True, False]))
def test_masks_of_steps(native, name, steps, sequences):
    layer = built(name, proj_size=3, return_sequences=sequences, return_state=True)
    x, h, ts = evaluated(normal(B, steps, I), normal(B, layer.state_size), spans(B, steps))
    for mask, dtype in zip(step_masks(steps), itertools.cycle(DTYPES), strict=False):
        hidden = np.where(mask[..., None], np.array(x), np.nan)  # what is missing is never read
        inputs, given = evaluated(mx.array(hidden), mx.array(mask).astype(dtype))
        check(native, layer, inputs, h, ts, mask=given)
        check(native, layer, inputs, mask=mask)  # NumPy's
        check(native, layer, inputs * 1.0, h, 0.4, mask=given + 0)  # lazy
        check(native, layer, inputs[0], h[0], ts[0], mask=given[0])


@pytest.mark.parametrize("name", ["cfc", "cfc_pure", "ltc_wired"])
def test_masks_with_mixed_memory(native, name):
    layer = built(name, mixed_memory=True, stateful=True)
    for mask in step_masks(T):
        check(native, layer, evaluated(normal(B, T, I)), mask=mask)
        check(native, layer, evaluated(normal(B, 1, I)), mask=mask[:, :1])


@few_layers
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("stateful", [True, False])
def test_masks_of_features(native, name, width, stateful):
    features = 2
    layer = built(name, inputs=width * features, stateful=stateful)
    rng = np.random.default_rng(2)
    for steps in (T, 1, 1, T):  # goes on from what was seen where stateful
        x, ts = evaluated(normal(B, steps, features), spans(B, steps))
        mask = rng.random((B, steps, features)) > 0.5
        mask[0] = False
        hidden = evaluated(mx.array(np.where(mask, np.array(x), np.nan)))
        check(native, layer, hidden, None, ts, mask=mask)
        check(native, layer, hidden, mask=mx.array(mask))
    if stateful:  # a call without a mask keeps what was seen
        check(native, layer, evaluated(normal(B, 1, width * features)))
        assert layer._kept["seen"]
        layer.reset_states()
    check(native, layer, hidden[0], None, ts[0], mask=mask[0])  # [T, F]


@few_layers
def test_inputs_with_time_first(native, name):
    for sequences in (True, False):
        layer = built(
            name, batch_first=False, proj_size=3, return_sequences=sequences, return_state=True
        )
        for rows, steps in ((B, T), (1, T), (B, 1), (T, B)):
            x, h = evaluated(normal(steps, rows, I), normal(rows, layer.state_size))
            ts = evaluated(spans(steps, rows))
            check(native, layer, x, h)
            check(native, layer, x * 1.0, h, ts)
            check(native, layer, x, h, ts[..., None])
            check(native, layer, x, h, ts[:, 0])
            check(native, layer, x, None, 0.3, mask=ts > 0.5)
            check(native, layer, x[:, 0], h[0], ts[:, 0])  # [T, I]
        with pytest.raises(
            ValueError, match=r"timespans must be \[T, B\] = \(7, 3\), got \(3, 7\)"
        ):
            layer(evaluated(normal(7, 3, I)), None, evaluated(spans(3, 7)))


@few_layers
def test_wrong_masks_are_said(name):
    layer = built(name)
    x = evaluated(normal(B, T, I))
    layer(x)
    for mask, message in (
        ([1] * T, "mask must be an array"),
        (mx.ones((B, T + 1)), r"mask must be \[B, T\]"),
        (mx.ones((T, B)), r"mask must be \[B, T\]"),
        (mx.ones((B, T)).astype(mx.complex64), "mask must be of real numbers"),
        (np.full((B, T), "a"), "mask must be of real numbers"),
        (mx.ones((B, T, I)), "a feature mask of 4 features wants a layer of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(x, mask=mask)


def test_negative_spans_and_missing_steps(native):
    """A bad element makes NaN from its step on, unless the step is missing."""
    layer = built("cfc")
    x, ts = evaluated(normal(B, T, I), mx.where(mx.arange(T) == 2, -1.0, 1.0))
    mask = np.ones((B, T), bool)
    mask[0, 2] = False
    check(native, layer, x, None, ts, mask=mask)
    output = np.array(layer(x, None, ts, mask=mask)[0])
    assert np.isfinite(output[0]).all()
    assert np.isnan(output[1:, 2:]).all()
