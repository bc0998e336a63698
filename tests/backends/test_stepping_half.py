"""Steps and short sequences in half precision: at once, and to the bit what the graph gives."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.support.rnn_layers import B, I, T, normal, spans
from tests.support.step_layers import ALL, at_once, built, evaluated, in_a_graph

pytestmark = pytest.mark.usefixtures("seeded_and_poisoned", "cpu_device")

HALVES = (mx.float16, mx.bfloat16)
DTYPES = [
    dtypes
    for dtypes in itertools.product((mx.float32, *HALVES), repeat=3)
    if any(dtype in HALVES for dtype in dtypes)
]
dtypes = pytest.mark.parametrize(
    ("weights", "inputs", "states"), DTYPES, ids=lambda d: str(d).removeprefix("mlx.core.")
)
MIXED = [name for name in ALL if "cfc" not in name or not ("wired" in name or "random" in name)]
KINDS = [(name, False) for name in ALL] + [(name, True) for name in MIXED if "ncp" not in name]


def bits(a):
    return np.array(a.view(mx.uint32 if a.dtype == mx.float32 else mx.uint16))


def check_equal(native, call):
    got = tree_flatten(call())
    with in_a_graph():
        want = tree_flatten(evaluated(call()))
    for (key, a), (_, b) in zip(got, want, strict=True):
        assert at_once(native, a), key
        assert a.dtype == b.dtype, key
        if a.dtype in HALVES:
            np.testing.assert_array_equal(bits(a), bits(b), err_msg=key)
        else:
            np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-6)


@dtypes
@pytest.mark.parametrize(("name", "mixed"), KINDS, ids=lambda k: k if isinstance(k, str) else "")
def test_half_precision_equals_the_graph(native, name, mixed, weights, inputs, states):
    layer = built(name, mixed_memory=mixed, proj_size=3 if weights == inputs else None)
    layer.set_dtype(weights)
    evaluated(layer.parameters())
    h, c = (normal(B, layer.state_size).astype(states) for _ in "hc")
    state = evaluated((h, c) if mixed else h)
    x, many = evaluated(normal(B, I).astype(inputs), normal(B, T, I).astype(inputs))
    ts, half_ts = evaluated(spans(B, T), spans(B).astype(mx.float16))
    check_equal(native, lambda: layer.step(x, state))
    check_equal(native, lambda: layer.step(x, state, half_ts))
    check_equal(native, lambda: layer.step(x * 1.0))
    check_equal(native, lambda: layer(many, state, ts))
    check_equal(native, lambda: layer(many, mask=ts > 0.5))
    if not mixed:
        check_equal(native, lambda: layer.rnn_cell(x, state, half_ts))


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_of_halves(native, dtype):
    """Through subnormal numbers, ties, overflow, infinity and NaN, as MLX rounds."""
    values = np.concatenate(
        [
            np.float32([0.0, -0.0, 1e-8, 6e-8, -6e-8, 6.1e-5, 65504, 65519.9, 65520, 7e4, -1e30]),
            np.float32([3.4e38, np.inf, -np.inf, 1.0009766, 1.00048828, 1.00146484, 1.001953125]),
            np.arange(2000, dtype=np.uint32).view(np.float32),
            (np.arange(4000, dtype=np.uint32) * 1048573).view(np.float32),
        ]
    )
    x = evaluated(mx.array(values)[:, None])
    w = evaluated(mx.ones((1, 1)))
    finite = evaluated(x.astype(dtype))
    got = native.linear(finite, w, None)
    assert got.dtype == dtype
    want, got = (np.array(a.astype(mx.float32)) for a in (finite, got))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got, want)
