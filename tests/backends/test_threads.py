"""The thread pool seen from Python; its C++ tests are in tests/native."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx_ncps
import numpy as np
import pytest
from mlx_ncps import ops

from tests.support import ROOT
from tests.support.cases import CfcCase, LtcCase, make, to_mlx

PRINT_THREADS = "import mlx_ncps; print(mlx_ncps.get_num_threads())"


@pytest.fixture(autouse=True)
def _restore_threads(native):
    yield
    native.set_num_threads(0)


def states(case):
    """A function that evaluates the case with the native backend on the stream it is given."""
    call = to_mlx(make(case))
    op = ops.ltc_sequence if isinstance(case, LtcCase) else ops.cfc_sequence

    def run():
        with mlx_ncps.use_backend("cpu"):
            result = op(*call.arguments, **call.keywords)
        mx.eval(result)
        assert mlx_ncps.last_backend() == "cpu"
        return np.array(result)

    return run


CASES = [
    LtcCase(batch=17, steps=5, units=33),
    LtcCase(batch=17, steps=5, units=33, density=0.3),
    LtcCase(batch=3, steps=5, units=33),
    LtcCase(batch=5, steps=5, units=33),
    CfcCase(batch=3, steps=9, units=65, backbone_units=65),
    CfcCase(batch=17, steps=5, units=65, backbone_units=65),
    CfcCase(batch=35, steps=50, units=33, backbone_units=33),  # a block changes its thread
    LtcCase(batch=9, steps=100, units=16),
    LtcCase(batch=35, steps=30, units=17, density=0.3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_set_num_threads_does_not_change_results(case):
    run = states(case)
    mlx_ncps.set_num_threads(1)
    want = run()
    for n in (2, 3, 5, 0):
        mlx_ncps.set_num_threads(n)
        np.testing.assert_array_equal(run(), want, err_msg=f"{n} threads")


MIXED = {
    "cfc": lambda: mlx_ncps.CfC(7, 33, backbone_units=20, mixed_memory=True),
    "ltc_dense": lambda: mlx_ncps.LTC(7, 17, mixed_memory=True),
    "ltc_lists": lambda: mlx_ncps.LTC(7, mlx_ncps.wirings.AutoNCP(20, 3), mixed_memory=True),
}


@pytest.mark.parametrize("make_layer", MIXED.values(), ids=MIXED)
def test_set_num_threads_does_not_change_mixed_memory(make_layer):
    layer = make_layer().eval()
    x = mx.array(np.random.default_rng(0).normal(size=(35, 50, 7)), mx.float32)
    with mx.stream(mx.cpu):
        want = None
        for n in (1, 2, 3, 5):
            mlx_ncps.set_num_threads(n)
            states, last = layer(x)
            got = [np.array(a) for a in (states, *last)]
            want = want or got
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{n} threads")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_concurrent_python_threads_get_their_own_results(case):
    run = states(case)
    want = run()
    mlx_ncps.set_num_threads(2)

    def repeat(_):
        with mx.stream(mx.new_stream(mx.cpu)):
            return [run() for _ in range(5)]

    with ThreadPoolExecutor(3) as threads:
        for results in threads.map(repeat, range(3)):
            for got in results:
                np.testing.assert_array_equal(got, want)


def test_set_num_threads_zero_returns_to_the_default():
    by_default = mlx_ncps.get_num_threads()
    mlx_ncps.set_num_threads(by_default + 2)
    assert mlx_ncps.get_num_threads() == by_default + 2
    mlx_ncps.set_num_threads(0)
    assert mlx_ncps.get_num_threads() == by_default


def test_native_set_num_threads_rejects_bad_numbers(native):
    for n in (-1, 10**6):
        with pytest.raises(ValueError, match=r"\[threads\].*from 0"):
            native.set_num_threads(n)


def test_num_threads_follows_the_variable(run_python):
    result = run_python("-c", PRINT_THREADS, NUM_THREADS="3")
    assert (result.stdout.strip(), result.stderr) == ("3", "")


@pytest.mark.parametrize("value", ["many", "0", "-2", "2.5", "3 ", "99999"])
def test_num_threads_rejects_a_bad_variable_at_import(run_python, value):
    result = run_python("-c", PRINT_THREADS, NUM_THREADS=value)
    assert result.returncode == 1
    assert "ValueError: [threads] MLX_NCPS_NUM_THREADS must be an integer" in result.stderr
    assert f"got '{value}'" in result.stderr


@pytest.mark.skipif(platform.system() != "Linux", reason="macOS has no CPU affinity")
def test_num_threads_follows_the_affinity_mask(run_python):
    cpu = min(os.sched_getaffinity(0))
    result = run_python("-c", f"import os; os.sched_setaffinity(0, [{cpu}]); {PRINT_THREADS}")
    assert (result.stdout.strip(), result.stderr) == ("1", "")


def test_process_exits_cleanly_with_workers_waiting(run_python, monkeypatch):
    code = """
import mlx.core as mx
from tests.support.cases import LtcCase, make, to_mlx
import mlx_ncps
call = to_mlx(make(LtcCase(batch=17, steps=5, units=33)))
with mlx_ncps.use_backend("cpu"):
    mx.eval(mlx_ncps.ops.ltc_sequence(*call.arguments, **call.keywords))
"""
    monkeypatch.chdir(ROOT)
    result = run_python("-W", "error", "-c", code, NUM_THREADS="4")
    assert (result.returncode, result.stderr) == (0, "")
