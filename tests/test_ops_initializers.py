"""Initial values: shapes, dtypes, ranges, moments, and the same numbers for the same key."""

import mlx.core as mx
import numpy as np
import pytest
from cases import assert_close, tolerance
from mlx_ncps import ops

MATRIX = ["xavier_uniform", "lecun_uniform", "lecun_normal", "orthogonal"]
BOUNDS = {"xavier_uniform": (6 / 500) ** 0.5, "lecun_uniform": (3 / 300) ** 0.5}


def draw(name, shape, **keywords):
    limits = (-0.5, 2.0) if name == "uniform" else ()
    return getattr(ops, name)(*limits, shape, **keywords)


@pytest.mark.parametrize("name", [*MATRIX, "uniform"])
def test_initializer_follows_its_key_and_dtype(name):
    key = mx.random.key(3)
    a = draw(name, (5, 7), key=key)
    assert (a.shape, a.dtype) == ((5, 7), mx.float32)
    assert mx.array_equal(a, draw(name, [5, 7], key=key))
    assert not mx.array_equal(a, draw(name, (5, 7), key=mx.random.key(4)))
    assert not mx.array_equal(draw(name, (5, 7)), draw(name, (5, 7)))
    assert draw(name, (5, 7), dtype=mx.bfloat16).dtype == mx.bfloat16


@pytest.mark.parametrize("name", ["xavier_uniform", "lecun_uniform"])
def test_uniform_initializer_fills_its_range(name):
    a = np.array(draw(name, (200, 300), key=mx.random.key(0)))
    assert 0.999 * BOUNDS[name] < np.abs(a).max() <= BOUNDS[name]
    assert abs(a.mean()) < 0.01 * BOUNDS[name]


def test_uniform_fills_its_range():
    a = np.array(ops.uniform(-0.5, 2.0, (200, 300), key=mx.random.key(0)))
    assert -0.5 <= a.min() < -0.499
    assert 1.999 < a.max() < 2.0


def test_xavier_uniform_scales_with_its_gain():
    key = mx.random.key(0)
    a, b = (ops.xavier_uniform((4, 6), gain=g, key=key) for g in (1.0, 2.0))
    assert_close("xavier_uniform", b, 2 * a, tolerance("float32", "forward"))


def test_lecun_normal_has_variance_one_over_fan_in():
    a = np.array(ops.lecun_normal((200, 300), key=mx.random.key(0)))
    assert abs(a.std() * 300**0.5 - 1) < 0.01


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 1), (4, 1)])
def test_orthogonal_has_orthogonal_rows_or_columns(shape):
    a = np.array(ops.orthogonal(shape, gain=2.0, key=mx.random.key(1)))
    product = a @ a.T if shape[0] < shape[1] else a.T @ a
    assert_close("orthogonal", product, 4 * np.eye(min(shape)), tolerance("float32", "forward"))


def test_orthogonal_is_not_biased_in_sign():
    signs = [ops.orthogonal((1, 1), key=mx.random.key(i)).item() for i in range(40)]
    assert 8 < sum(s > 0 for s in signs) < 32


@pytest.mark.parametrize("name", MATRIX)
def test_initializer_of_a_matrix_refuses_other_shapes(name):
    with pytest.raises(ValueError, match=rf"\[{name}\] shape must be \(out, in\), got \(3,\)"):
        draw(name, (3,))
