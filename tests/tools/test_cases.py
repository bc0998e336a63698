"""The table of cases itself: a comparison that can fail, tensors of meaning, exact dtypes."""

from collections import Counter
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from tests.support.cases import (
    CFC_CASES,
    FLOOR,
    LTC_CASES,
    LTC_WIRED_CASES,
    CfcCase,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    named_leaves,
    random_cfc_cases,
    random_ltc_cases,
    relative_error,
    round_to,
    want_gradients,
    want_states,
)


def test_assert_close_names_tensor_error_and_index():
    want = np.array([[1.0, -2.0], [0.5, 0.0]])
    got = want + np.array([[0.0, 0.0], [0.02, 0.0]])
    assert relative_error(got, want) == pytest.approx(0.01)
    assert_close("dw", got, want, 0.011)
    with pytest.raises(AssertionError, match=r"dw: error 0.01 > 0.009 at \(1, 0\): got 0.52"):
        assert_close("dw", got, want, 0.009)
    with pytest.raises(AssertionError, match=r"dw: shape \(2, 2\), want \(4,\)"):
        assert_close("dw", got, want.ravel(), 1.0)
    with pytest.raises(AssertionError, match="tensors"):
        assert_all_close({"dw": got}, {"dw": got, "dv": got}, 1.0)


def test_relative_error_of_small_and_non_finite_tensors():
    assert relative_error(FLOOR * 1e-3, 0.0) == pytest.approx(1e-3)
    assert relative_error([np.nan, 1.0], [np.nan, 1.0]) == 0.0
    assert relative_error([np.inf, 1.0], [np.inf, 1.0]) == 0.0
    assert relative_error([np.nan, 1.0], [1.0, 1.0]) == np.inf
    assert relative_error([1.0, 1.0], [np.nan, 1.0]) == np.inf
    assert relative_error([1.0, 1.0], [np.inf, 1.0]) == np.inf
    assert relative_error([np.inf, 1.0], [1.0, 1.0]) == np.inf
    assert relative_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_round_to_equals_mlx(dtype):
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    x[:3] = 1 + 2**-9, 1 + 2**-8, 1 + 3 * 2**-8  # ties of bfloat16
    want = np.array(mx.array(x).astype(getattr(mx, dtype)).astype(mx.float32))
    assert np.array_equal(round_to(x, dtype), want)


@pytest.mark.parametrize("case", [LtcCase(dtype="float16"), CfcCase(dtype="bfloat16")], ids=str)
def test_make_gives_numbers_of_the_dtype(case):
    call = make(case)
    arrays = {"inputs": call.inputs, "state": call.state, **named_leaves(call.params)}
    for name, array in arrays.items():
        assert np.array_equal(round_to(array, case.dtype), array), name
    full = make(replace(case, dtype="float32"))
    assert 0 < relative_error(call.inputs, full.inputs) < 0.01  # the same draws, rounded


def test_cases_have_names_of_their_own():
    names = [str(case) for case in LTC_CASES + LTC_WIRED_CASES + CFC_CASES]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize(
    "case", [c for c in LTC_CASES + CFC_CASES if c.units >= 8 and c.density > 0], ids=str
)
def test_no_tensor_of_a_case_is_empty_of_meaning(case):
    assert np.max(np.abs(want_states(case))) > FLOOR
    for name, gradient in want_gradients(case).items():
        assert np.max(np.abs(gradient)) > FLOOR / 10, name


def test_random_cases_are_reproducible():
    assert random_ltc_cases(5, seed=3) == random_ltc_cases(5, seed=3) != random_ltc_cases(5)
    assert random_cfc_cases(5, seed=3) == random_cfc_cases(5, seed=3) != random_cfc_cases(5)
    for case in random_ltc_cases(5) + random_cfc_cases(5):
        assert np.all(np.isfinite(want_states(case))), str(case)


@pytest.mark.parametrize("case", LTC_WIRED_CASES, ids=str)
def test_wired_cases_take_their_masks_from_the_wiring(case):
    params = make(case).params
    assert params.mask.shape == (case.units, case.units)
    assert params.sensory_mask.shape == (case.inputs, case.units)
    counts = {"AutoNCP": {16: (28, 32), 28: (84, 140)}, "FullyConnected": {8: (64, 24)}}
    want = counts[case.wiring[0]][case.units]
    assert (int(params.mask.sum()), int(params.sensory_mask.sum())) == want
