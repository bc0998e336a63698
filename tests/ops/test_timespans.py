"""Elapsed times: every form that is taken, every form that is refused."""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.ops.timespans import normalise_step_timespans, normalise_timespans

B, T = 2, 3
ROW = [0.5, 0.0, 2.0]
FULL = [[0.5, 0.0, 2.0], [1.0, 3.0, 0.25]]


@pytest.mark.parametrize(
    ("ts", "want"),
    [(None, 1.0), (2, 2.0), (0, 0.0), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(3), 3.0)],
)
def test_number_becomes_a_float(ts, want):
    got = normalise_timespans("op", ts, B, T)
    assert type(got) is float
    assert got == want


@pytest.mark.parametrize("make", [mx.array, np.array, lambda v: np.array(v, np.float32)])
@pytest.mark.parametrize(
    ("values", "want"),
    [
        (0.5, 0.5),
        (ROW, [ROW, ROW]),
        (FULL, FULL),
        ([[[x] for x in row] for row in FULL], FULL),
        ([1, 2, 3], [[1.0, 2.0, 3.0]] * 2),
    ],
)
def test_array_becomes_float32_of_no_or_two_axes(make, values, want):
    got = normalise_timespans("op", make(values), B, T)
    assert got.dtype == mx.float32
    assert got.shape == np.shape(want)
    assert np.array_equal(np.array(got), np.array(want, np.float32))


def test_bad_elements_become_nan_and_leave_the_others():
    got = normalise_timespans("op", mx.array([[-1.0, 1.0, float("nan")], FULL[1]]), B, T)
    want = np.array([[np.nan, 1.0, np.nan], FULL[1]], np.float32)
    assert np.array_equal(np.array(got), want, equal_nan=True)
    assert np.isnan(normalise_timespans("op", mx.array(-0.5), B, T).item())
    assert normalise_timespans("op", mx.array(-0.0), B, T).item() == 0.0


def test_gradient_passes_through():
    f = lambda ts: (normalise_timespans("op", ts, B, T) * mx.array(FULL)).sum()  # noqa: E731
    assert mx.grad(f)(mx.array(FULL)).tolist() == mx.array(FULL).tolist()
    assert mx.grad(f)(mx.array(ROW)).tolist() == mx.array(FULL).sum(0).tolist()
    assert mx.grad(f)(mx.array(FULL)[..., None]).shape == (B, T, 1)
    assert mx.grad(f)(mx.array(2.0)).item() == mx.array(FULL).sum().item()


@pytest.mark.parametrize(
    "shape", [(2,), (3, 2), (2, 1), (1, 3), (2, 4), (2, 3, 2), (2, 1, 1), (4,), (1, 2, 3, 1)]
)
def test_wrong_shape_is_refused(shape):
    message = f"[op] timespans must be [B, T] = (2, 3), got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise_timespans("op", mx.ones(shape), B, T)


@pytest.mark.parametrize("ts", [-1, -1e-9, float("nan"), np.float32(-2), -float("inf")])
def test_negative_or_nan_number_is_refused(ts):
    with pytest.raises(ValueError, match=r"\[op\] timespans must be >= 0, got "):
        normalise_timespans("op", ts, B, T)
    with pytest.raises(ValueError, match=r"\[op\] timespans must be >= 0, got "):
        normalise_step_timespans("op", ts, (B,))


@pytest.mark.parametrize("ts", [True, False, np.bool_(True), "1.0", [1.0, 2.0, 3.0], 1j, object()])
def test_wrong_kind_is_refused(ts):
    for normalise, sizes in ((normalise_timespans, (B, T)), (normalise_step_timespans, ((B,),))):
        with pytest.raises(
            ValueError, match=r"\[op\] timespans must be a number >= 0 or an array, got"
        ):
            normalise("op", ts, *sizes)


@pytest.mark.parametrize(
    "ts",
    [
        mx.ones((2, 3), mx.bool_),
        mx.ones((2, 3), mx.complex64),
        np.ones((2, 3), bool),
        np.ones((2, 3), complex),
        np.array([["1"] * 3] * 2),
    ],
)
def test_wrong_dtype_is_refused(ts):
    with pytest.raises(ValueError, match=r"\[op\] timespans must be .*, got "):
        normalise_timespans("op", ts, B, T)


@pytest.mark.parametrize(
    ("ts", "want"),
    [(None, 1.0), (0.5, 0.5), (mx.array(2), 2.0), (mx.array([1.0, 2.0]), [[1.0], [2.0]]),
     (np.array([[1.0], [2.0]]), [[1.0], [2.0]])],
)  # fmt: skip
def test_step_takes_one_time_per_row(ts, want):
    got = normalise_step_timespans("op", ts, (B,))
    assert np.array_equal(np.array(got), np.array(want))


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2), (2, 2), (2, 1, 1)])
def test_step_refuses_other_shapes(shape):
    message = f"[op] timespans must be [B] = (2,), got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise_step_timespans("op", mx.ones(shape), (B,))
