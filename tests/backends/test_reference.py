"""The reference backend against the NumPy ground truth, and under every transformation of MLX."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import dispatch
from mlx_ncps.ops import numpy as truth

from tests.support.cases import (
    CFC_CASES,
    CFC_EMPTY_CASES,
    LTC_CASES,
    LTC_EMPTY_CASES,
    LTC_WIRED_CASES,
    LtcCase,
    assert_close,
    make,
    tolerance,
)
from tests.support.running import (
    check_epsilon,
    check_gradients,
    check_states,
    gradients,
    problem,
    states,
)
from tests.support.transforms import (
    FEW,
    check_compile,
    check_compiled_training_step,
    check_jvp,
    check_second_order,
    check_vmap,
)

CASES = LTC_CASES + CFC_CASES
GRADIENT = tolerance("float32", "gradient")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence_equals_numpy(case):
    check_states(case, "reference")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence_gradients_equal_numpy(case):
    check_gradients(case, "reference")


@pytest.mark.parametrize("case", LTC_WIRED_CASES, ids=str)
def test_wired_sequence_equals_numpy(case):
    pytest.importorskip("mlx_ncps.wirings")
    check_states(case, "reference")
    check_gradients(case, "reference")


@pytest.mark.parametrize("case", LTC_EMPTY_CASES + CFC_EMPTY_CASES, ids=str)
def test_empty_sequence_gives_empty_states_and_zero_gradients(case):
    assert states(case, "reference").shape == (case.batch, case.steps, case.units)
    for name, grad in gradients(case, "reference").items():
        assert not np.any(np.array(grad)), name


@pytest.mark.parametrize("case", FEW, ids=str)
def test_compile_changes_nothing(case):
    check_compile(case, "reference")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_compiled_training_step_equals_the_plain_one(case):
    check_compiled_training_step(case, "reference")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_vmap_equals_a_loop(case):
    check_vmap(case, "reference")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_jvp_equals_the_gradients(case):
    check_jvp(case, "reference")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_second_order_equals_differences_of_numpy_gradients(case):
    check_second_order(case, "reference")


def test_ltc_timespan_zero_keeps_the_state_and_has_a_finite_gradient():
    case = LtcCase(steps=1, units=5, timespans="per_batch")
    call, ts = make(case), np.zeros((3, 1), np.float32)
    f, leaves, cotangents = problem(case)
    leaves["ts"] = mx.array(ts)
    with dispatch.use_backend("reference"):
        (got,), grads = mx.vjp(f, list(leaves.values()), [cotangents])
    arguments = (call.cotangents, call.inputs, call.state, ts, call.params)
    want = truth.ltc_sequence_backward(*arguments, **call.keywords)[2]
    assert_close("state", got[:, 0], call.state, tolerance("float32", "forward"))  # cm v / cm
    assert np.all(np.abs(want) > 0)
    assert_close("ts", dict(zip(leaves, grads, strict=True))["ts"], want, GRADIENT)


def test_ltc_epsilon_counts():
    check_epsilon("reference")


def test_half_precision_state_is_kept_in_float32_between_steps():
    case = LtcCase(units=33, steps=33, dtype="bfloat16")
    check_states(case, "reference")  # 198 unfolds: a rounding at each would be seen
