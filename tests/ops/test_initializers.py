"""Initial values: shapes, dtypes, ranges, moments, and the same numbers for the same key."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import ops
from mlx_ncps.ops import numpy as truth

from tests.support.cases import assert_close, tolerance

MATRIX = ["xavier_uniform", "xavier_normal", "lecun_uniform", "lecun_normal", "orthogonal"]
VARIANCE = {  # of a [200, 300] matrix
    "uniform": 2.5**2 / 12,
    "xavier_uniform": 2 / 500,
    "xavier_normal": 2 / 500,
    "lecun_uniform": 1 / 300,
    "lecun_normal": 1 / 300,
    "orthogonal": 1 / 300,
}
SOURCES = {"mlx": ops, "numpy": truth}
BOUNDS = {"xavier_uniform": (6 / 500) ** 0.5, "lecun_uniform": (3 / 300) ** 0.5}


def draw(name, shape, source=ops, **keywords):
    limits = (-0.5, 2.0) if name == "uniform" else ()
    return getattr(source, name)(*limits, shape, **keywords)


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


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", VARIANCE)
def test_initializer_has_its_moments(name, source):
    a = np.array(draw(name, (200, 300), SOURCES[source], key=1), np.float64)
    deviation = VARIANCE[name] ** 0.5
    mean = 0.75 if name == "uniform" else 0.0
    assert abs(a.mean() - mean) < 5 * deviation / a.size**0.5
    assert abs(a.std() / deviation - 1) < 0.01
    kurtosis = (((a - mean) / deviation) ** 4).mean()
    assert abs(kurtosis - (1.8 if "uniform" in name else 3.0)) < 0.06
    correlations = np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]
    assert abs(correlations) < 0.02


@pytest.mark.parametrize("name", VARIANCE)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (5, 7), (8, 4), (0, 3), (17, 16)])
@pytest.mark.parametrize("seed", [0, 3, 2**33 + 5, 2**64 - 1])
def test_initializer_draws_the_numbers_of_its_numpy_twin(name, shape, seed):
    got = draw(name, shape, key=seed)
    wanted = draw(name, shape, truth, key=seed)
    assert (wanted.dtype, wanted.shape) == (np.float64, shape)
    assert got.dtype == mx.float32
    assert_close(name, got, wanted, tolerance("float32", "forward"))
    assert mx.array_equal(got, draw(name, shape, key=mx.random.key(seed)))
    np.testing.assert_array_equal(wanted, draw(name, shape, truth, key=mx.random.key(seed)))
    np.testing.assert_array_equal(wanted, draw(name, shape, truth, key=[seed >> 32, seed % 2**32]))


@pytest.mark.parametrize("name", VARIANCE)
def test_numpy_initializer_follows_the_global_seed_and_its_dtype(name):
    np.random.seed(3)
    a, b = draw(name, (3, 4), truth), draw(name, (3, 4), truth)
    np.random.seed(3)
    np.testing.assert_array_equal(a, draw(name, (3, 4), truth))
    assert not np.array_equal(a, b)
    assert draw(name, (3, 4), truth, dtype=np.float32, key=1).dtype == np.float32


@pytest.mark.parametrize("name", ["xavier_normal", "orthogonal", "xavier_uniform"])
def test_gain_scales_the_first_values(name):
    for source in SOURCES.values():
        a, b = (np.array(draw(name, (4, 6), source, gain=g, key=2)) for g in (1.0, 2.5))
        assert_close(name, b, 2.5 * a, tolerance("float32", "forward"))


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 1), (4, 1)])
def test_orthogonal_has_orthogonal_rows_or_columns(shape):
    a = np.array(ops.orthogonal(shape, gain=2.0, key=mx.random.key(1)))
    product = a @ a.T if shape[0] < shape[1] else a.T @ a
    assert_close("orthogonal", product, 4 * np.eye(min(shape)), tolerance("float32", "forward"))


def test_orthogonal_is_not_biased_in_sign():
    signs = [ops.orthogonal((1, 1), key=mx.random.key(i)).item() for i in range(40)]
    assert 8 < sum(s > 0 for s in signs) < 32


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", MATRIX)
def test_initializer_of_a_matrix_refuses_other_shapes(name, source):
    with pytest.raises(ValueError, match=rf"\[{name}\] shape must be \(out, in\), got \(3,\)"):
        draw(name, (3,), SOURCES[source])
