"""Whole kernels in the simulator against float64, in every order and at edge sizes."""

import mslsim
import numpy as np
import pytest
from mslsim.samples import ltc, small

ORDERS = [("forward", 1), ("reverse", 1), ("random", 5), ("chaos", 7)]
TOLERANCE = 1e-5  # float32, sums of up to 64 synapses


@pytest.fixture(autouse=True)
def _clang():
    mslsim.require()


@pytest.mark.parametrize("hidden", [1, 5, 32, 33, 64])
def test_ltc_forward_equals_float64(hidden):
    p = ltc.problem(batch=2, steps=3, hidden=hidden, unfolds=6)
    for order, seed in ORDERS:
        with mslsim.options(order=order, seed=seed):
            found = ltc.run_forward(p)
        np.testing.assert_allclose(found, p["v_out"], atol=TOLERANCE, err_msg=order)


@pytest.mark.parametrize(("hidden", "parts"), [(1, 4), (31, 8), (64, 8)])
def test_ltc_backward_equals_float64(hidden, parts):
    p = ltc.problem(batch=2, steps=3, hidden=hidden, unfolds=6)
    expected = ltc.gradients(p)
    for order, seed in ORDERS:
        with mslsim.options(order=order, seed=seed):
            found = ltc.run_backward(p, parts)
        for name, value in found.items():
            scale = max(1, np.abs(expected[name]).max())
            difference = np.abs(value - expected[name]).max() / scale
            assert difference < TOLERANCE, (name, order, difference)


@pytest.mark.parametrize("order", ["forward", "chaos"])
def test_ltc_forward_without_a_barrier_is_caught(order):
    barrier = "    threadgroup_barrier(mem_flags::mem_threadgroup);\n    cur = 1 - cur;"
    assert ltc.FORWARD.count(barrier) == 1
    broken = ltc.FORWARD.replace(barrier, "    cur = 1 - cur;")
    p = ltc.problem(batch=2, steps=3, hidden=64, unfolds=6)
    with mslsim.options(order=order, lint=False), pytest.raises(mslsim.RaceError) as caught:
        ltc.run_forward(p, broken)
    assert all("'v_buf'" in f.text for f in caught.value.findings)


def test_ltc_backward_without_a_barrier_is_caught():
    barrier = "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    assert ltc.BACKWARD.count(barrier) == 1
    p = ltc.problem(batch=1, steps=2, hidden=33, unfolds=3)
    with mslsim.options(lint=False), pytest.raises(mslsim.MSLError) as caught:
        ltc.run_backward(p, source=ltc.BACKWARD.replace(barrier, ""))
    assert "race" in caught.value.kinds


def test_rms_equals_float64_in_every_order():
    x, w = small.rms_inputs()
    expected = small.rms_reference(x, w)
    for order, seed in ORDERS:
        with mslsim.options(order=order, seed=seed):
            np.testing.assert_allclose(small.run_rms(), expected, atol=TOLERANCE, err_msg=order)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, TOLERANCE), (np.float16, 1e-2)])
def test_rnn_equals_float64_in_every_order(dtype, tolerance):
    inputs = small.rnn_inputs(dtype=dtype)
    expected = small.rnn_reference(*inputs)
    for order, seed in ORDERS:
        with mslsim.options(order=order, seed=seed):
            found = small.run_rnn(inputs=inputs)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=order)


def test_fast_mode_computes_the_same():
    checked = small.run_rnn()
    for order, seed in ORDERS:
        with mslsim.options(mode="fast", order=order, seed=seed):
            np.testing.assert_allclose(small.run_rnn(), checked, atol=1e-6, err_msg=order)


def test_fast_mode_guards_the_end_of_a_buffer():
    store = "out[(b * Tn + t) * H + j] ="
    beyond = small.RNN.replace(store, "out[(b * Tn + t) * H + j + 64 * 1024] =")
    with mslsim.options(mode="fast", lint=False), pytest.raises(mslsim.OutOfBoundsError):
        small.run_rnn(beyond)


def test_wild_pointers_are_caught_in_fast_mode():
    stray = small.RNN.replace("h[j] = h0[b * H + j];", "h[j] = *(const device float*)(8ul);")
    with mslsim.options(mode="fast", lint=False), pytest.raises(mslsim.CrashError):
        small.run_rnn(stray)
    np.testing.assert_allclose(  # and the process goes on
        small.run_rnn(), small.rnn_reference(*small.rnn_inputs()), atol=TOLERANCE
    )


def test_ulp_noise_moves_results_within_reason():
    exact = small.run_rnn()
    with mslsim.options(ulp=4, seed=3):
        noisy, again = small.run_rnn(), small.run_rnn()
    assert np.any(noisy != exact)
    np.testing.assert_array_equal(noisy, again)
    np.testing.assert_allclose(noisy, exact, atol=1e-5)


def test_ftz_flushes_subnormal_numbers():
    kernel = mslsim.metal_kernel("half_of", ["x"], ["y"], "y[0] = x[0] * 0.5f;")
    tiny = np.finfo(np.float32).smallest_normal
    call = {
        "inputs": [np.full(8, tiny, np.float32)],
        "grid": (1, 1, 1),
        "threadgroup": (1, 1, 1),
        "output_shapes": [(1,)],
        "output_dtypes": [np.float32],
    }
    assert kernel(**call)[0][0] == tiny / 2
    with mslsim.options(ftz=True):
        assert kernel(**call)[0][0] == 0
    assert kernel(**call)[0][0] == tiny / 2
