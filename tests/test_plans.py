"""Launch plans and the cost model: `python -m mlx_ncps explain`."""

import pytest
from mlx_ncps import plans
from mlx_ncps.backends import _launch
from mlx_ncps.plans import chips
from mlx_ncps.plans.trace import trace_cfc, trace_ltc

LTC = {"batch": 64, "steps": 128, "inputs": 64, "units": 64, "unfolds": 6}
CFC = {"batch": 64, "steps": 128, "inputs": 64, "units": 128, "backbone": (128,), "mode": "default"}
CFC |= {"activation": "lecun_tanh", "scalar_ts": True}


def launches(trace, facts, **changes):
    return {one.kernel: one for one in plans.gpu_launches(trace, **facts | changes)}


def test_ltc_inference_is_two_launches_and_saves_nothing():
    found = launches(trace_ltc, LTC, training=False)
    assert list(found) == ["ncps_ltc_sensory_forward", "ncps_ltc_dense_forward"]
    dense = found["ncps_ltc_dense_forward"]
    assert (dense.groups, dense.threads, dense.count) == (64, 256, 1)
    assert dense.threadgroup_bytes == 2 * 4 * 64
    assert dense.registers == plans.SCALARS + 4 * 16  # four values of 16 synapses


def test_long_sequences_go_in_chunks():
    found = launches(trace_ltc, LTC, steps=10_000, training=False)
    per_launch = _launch.steps_per_launch(64, 64, 6, 2 * 6 * 64)
    assert found["ncps_ltc_dense_forward"].count == -(-10_000 // per_launch)


def test_threadgroup_memory_and_threads_stay_within_the_limits_of_a_gpu():
    for units in (1, 31, 64, 65, 200, 512):
        for training in (False, True):
            for one in plans.gpu_launches(trace_ltc, **LTC | {"units": units}, training=training):
                assert one.threadgroup_bytes <= _launch.MEMORY, one
                assert one.threads <= 1024, one
            for one in plans.gpu_launches(trace_cfc, **CFC | {"units": units}, training=training):
                assert one.threadgroup_bytes <= _launch.MEMORY, one
                assert one.threads <= 1024, one


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_cfc_is_one_launch_forward_and_one_backward(mode, layers):
    found = launches(trace_cfc, CFC, mode=mode, backbone=(32,) * layers, training=True)
    assert [one.count for one in found.values()] == [1, 1]
    assert all(name.startswith("ncps_cfc_") for name in found)


def test_cost_model_counts_gates_and_products():
    work = chips.ltc_work(2, 3, 5, 7, 11, 49, 35, training=False)
    assert work.exponentials == 2 * 3 * (11 * 49 + 35)
    work = chips.cfc_work(2, 3, 5, 7, (11,), 3, training=False)
    assert work.multiply_adds == 2 * 3 * (12 * 11 + 11 * 21)


def test_estimate_is_the_slowest_limit_after_the_launches():
    work = chips.Work(multiply_adds=128 * 10**6, exponentials=0, bytes=0)
    one_gigahertz = chips.Chip("one core", 1, 1.0, 1.0)
    e = chips.estimate(work, one_gigahertz, launches=2, groups=9)
    assert e.arithmetic == pytest.approx(1e-3)
    assert e.seconds == pytest.approx(1e-3 + 2 * chips.LAUNCH_SECONDS)
    idle = chips.estimate(work, chips.Chip("ten", 10, 1.0, 1.0), launches=0, groups=5)
    assert idle.seconds == pytest.approx(0.2e-3)  # five groups keep five cores busy


def test_explain_prints_kernels_and_marks_estimates_as_derived(run_python):
    done = run_python("-m", "mlx_ncps", "explain", "ltc", "B64", "T128", "I64", "H64", "U6")
    assert done.returncode == 0, done.stderr
    for words in ("ltc_sequence runs here on", "ncps_ltc_dense_forward", "derived", "M4 Max"):
        assert words in done.stdout
    done = run_python("-m", "mlx_ncps", "explain", "cfc", "B4", "T2", "H300", "--training")
    assert done.returncode == 0, done.stderr
    assert "ncps_cfc_backward" in done.stdout


@pytest.mark.parametrize("size", ["Q3", "B", "B0", "B-1", "64", "K3"])
def test_explain_names_a_size_that_it_does_not_know(run_python, size):
    done = run_python("-m", "mlx_ncps", "explain", "ltc", size)
    assert done.returncode == 2
    assert f"got {size!r}" in done.stderr
