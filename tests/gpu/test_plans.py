"""Launch plans: `python -m mlx_ncps explain`; and the cost model of tools/plans: that no plan that
it knows is much better than the one chosen.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from mlx_ncps import plans
from mlx_ncps.backends.gpu.geometry import APPLE, CUDA
from mlx_ncps.backends.gpu.trace import trace_cfc, trace_ltc

from tests.support import ROOT
from tools.plans import __main__ as tool
from tools.plans import chips, costs, table
from tools.plans.launches import SCALARS, geometry_of, gpu_launches, seconds

LTC = {"batch": 64, "steps": 128, "inputs": 64, "units": 64, "unfolds": 6}
CFC = {"batch": 64, "steps": 128, "inputs": 64, "units": 128, "backbone": (128,), "mode": "default"}
CFC |= {"activation": "lecun_tanh", "scalar_ts": True}


def launches(trace, facts, **changes):
    return {one.kernel: one for one in gpu_launches(trace, **facts | changes)}


def test_ltc_inference_is_three_launches_and_saves_nothing():
    found = launches(trace_ltc, LTC, training=False)
    stems = ("fold_forward", "sensory_forward", "dense_forward")
    assert list(found) == [f"ncps_ltc_{stem}" for stem in stems]
    dense = found["ncps_ltc_dense_forward"]
    assert (dense.groups, dense.threads, dense.count) == (64, 256, 1)
    assert dense.threadgroup_bytes == 2 * 4 * 64
    assert dense.registers == SCALARS + 4 * 16  # four values of 16 synapses


def test_long_sequences_go_in_chunks():
    found = gpu_launches(trace_ltc, **LTC | {"steps": 10_000}, training=False)
    per_launch = APPLE.ltc_piece(64, 64, 64, 6).steps
    counts = [one.count for one in found if one.kernel == "ncps_ltc_dense_forward"]
    assert sum(counts) == -(-10_000 // per_launch)  # the last is shorter


def test_threadgroup_memory_and_threads_stay_within_the_limits_of_a_gpu():
    for units in (1, 31, 64, 65, 200, 512):
        for training in (False, True):
            for one in gpu_launches(trace_ltc, **LTC | {"units": units}, training=training):
                assert one.threadgroup_bytes <= APPLE.memory, one
                assert one.threads <= 1024, one
            for one in gpu_launches(trace_cfc, **CFC | {"units": units}, training=training):
                assert one.threadgroup_bytes <= APPLE.memory, one
                assert one.threads <= 1024, one


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_cfc_is_one_launch_forward_and_one_backward(mode, layers):
    found = launches(trace_cfc, CFC, mode=mode, backbone=(32,) * layers, training=True)
    assert [one.count for one in found.values()] == [1, 1]
    assert all(name.startswith("ncps_cfc_") for name in found)


def test_costs_count_gates_and_products_as_the_kernels_loop():
    found = launches(trace_ltc, LTC, training=True)
    dense = found["ncps_ltc_dense_forward_save"].cost
    assert dense.gates == 128 * 6 * 64 * 64  # of one row
    assert dense.rounds == 128 * 6
    assert found["ncps_ltc_dense_backward"].cost.gates == dense.gates
    sensory = found["ncps_ltc_sensory_forward"]
    assert sensory.cost.gates * sensory.groups == 64 * 128 * 64 * 64
    cfc = launches(trace_cfc, CFC, training=False)["ncps_cfc_forward_matrix"]
    weights = 128 * 128 + 128 * 3 * 128
    assert cfc.cost.operations == 128 * 8 * weights  # eight rows
    assert cfc.cost.streamed == 128 * 4 * weights
    assert cfc.cost.rounds == 128 * 2
    streamed = launches(trace_ltc, LTC, units=128, training=True)["ncps_ltc_streamed_backward"].cost
    assert streamed.gates == 128 * 6 * 8 * 128 * 128
    assert streamed.streamed == 128 * 6 * 16 * 128 * 128


def test_costs_of_a_wiring_count_its_lists():
    lists = table.auto_ncp(64, 8)
    most = np.bincount(lists.target, minlength=64).max()
    found = launches(trace_ltc, LTC, training=False, synapses=lists)
    assert found["ncps_ltc_dense_forward_lists"].cost.gates == 128 * 6 * 256 * -(-most // 4)


def test_every_kernel_has_a_cost():
    files = {path.stem for path in (ROOT / "metal").glob("*.metal")}
    assert files == {costs.stem(f"ncps_{name}_save") for name in files}


ONE_GIGAHERTZ = chips.Chip("ten cores", 10, 1.0, 1.0, cache=10**6)


@pytest.mark.parametrize(
    ("cost", "milliseconds", "bound"),
    [
        (chips.Cost(operations=128 * 10**6), 2.0, "multiply-adds"),
        (chips.Cost(gates=128 * 10**6), 20.0, "exp2, 1/x"),
        (chips.Cost(loads=10**6), 2.0, "threadgroup memory"),
        (chips.Cost(streamed=32 * 10**6), 2.0, "L2"),
        (chips.Cost(streamed=32 * 10**6, working_set=10**7), 4.0, "L2"),
        (chips.Cost(operations=128 * 10**3, rounds=10**4), 1.201, "latency"),
        (chips.Cost(rounds=10**4, memory_rounds=10**4), 5.2, "latency"),
        (chips.Cost(operations=128, bytes=10**7), 10.0, "memory"),
    ],
)
def test_estimate_is_the_slowest_limit(cost, milliseconds, bound):
    """Twenty threadgroups on ten cores, which hold two at a time."""
    e = chips.estimate(ONE_GIGAHERTZ, cost, groups=20, threads=128, residents=2)
    assert e == (pytest.approx(1e-3 * milliseconds), bound)


def test_estimate_of_idle_cores_and_schedulers_and_of_turns():
    cost = chips.Cost(operations=128 * 10**6)

    def milliseconds(groups, threads, residents):
        return 1e3 * chips.estimate(ONE_GIGAHERTZ, cost, groups, threads, residents).seconds

    assert milliseconds(5, 128, 1) == pytest.approx(1)  # as long as ten
    assert milliseconds(11, 128, 1) == pytest.approx(2)  # one core has two
    assert milliseconds(10, 32, 1) == pytest.approx(4)  # a SIMD group feeds one scheduler
    waits = chips.Cost(rounds=1000)
    times = [chips.estimate(ONE_GIGAHERTZ, waits, 40, 128, r).seconds for r in (1, 2, 4)]
    assert times == pytest.approx([4 * times[2], 2 * times[2], times[2]])


def test_resident_follows_registers_threads_and_threadgroup_memory():
    m1 = chips.CHIPS[0]
    assert [chips.resident(m1, 512, r, 0) for r in (52, 104)] == [2, 1]
    assert chips.resident(m1, 32, 24, 20 * 1024) == 3
    assert chips.resident(m1, 1024, 24, 0) == 2


def on_every_chip(plan, geometry=None):
    """Seconds of a plan, by the geometry of the chip's class or another."""
    plans = ((plan(geometry=geometry or geometry_of(chip)), chip) for chip in chips.CHIPS)
    return np.array([seconds(launched, chip) for launched, chip in plans])


def alternatives(plan, rows):
    """Seconds of a plan on each chip with every number of rows that fits."""
    changed = {n: {"ltc_rows": n, "cfc_rows": n, "cfc_rows_of_many_sums": n} for n in rows}
    return {
        n: on_every_chip(plan, replace(APPLE, min_groups=1, **changes))
        for n, changes in changed.items()
    }


@pytest.mark.parametrize("batch", [1, 8, 64, 512])
@pytest.mark.parametrize("units", [96, 128, 256])
def test_no_number_of_rows_is_much_better_for_a_streamed_ltc(batch, units):
    plan = partial(table.ltc, batch, units=units)
    ours = on_every_chip(plan)
    for rows, other in alternatives(plan, (1, 2, 4, 8)).items():
        assert np.all(ours < 1.1 * other), f"{rows} rows"


@pytest.mark.parametrize("batch", [1, 8, 64, 512])
@pytest.mark.parametrize("units", [32, 64, 128])
def test_no_number_of_rows_is_much_better_for_a_cfc(batch, units):
    plan = partial(table.cfc, batch, units=units)
    ours = on_every_chip(plan)
    for rows, other in alternatives(plan, (1, 2, 4, 8, 16)).items():
        assert np.all(ours < 1.2 * other), f"{rows} rows"


@pytest.mark.parametrize("batch", [8, 64, 512, 2048])
@pytest.mark.parametrize("call", [partial(table.ltc, units=128), partial(table.cfc, units=128)])
def test_no_number_of_rows_is_much_better_on_many_cores(call, batch):
    ours = seconds(call(batch, geometry=CUDA), chips.H200)
    for groups in (8, 16, 32, 64, 256, 512):
        other = seconds(call(batch, geometry=replace(CUDA, min_groups=groups)), chips.H200)
        assert ours < 1.1 * other, f"{groups} groups"


@pytest.mark.parametrize("batch", [8, 64, 512])
@pytest.mark.parametrize("units", [64, 128, 256, 512])
def test_cfc_takes_products_where_they_are_faster(batch, units):
    times = {}
    for products, limit in ((False, 2**30), (True, 0)):
        geometry = replace(APPLE, product_weights=limit)
        plan = table.cfc(batch, units=units, steps=16, geometry=geometry)
        facts = batch, units, 16, products, False
        times[products] = np.array(
            [seconds(plan, chip) + table.product_seconds(chip, *facts) for chip in chips.CHIPS]
        )
    chosen = APPLE.cfc_takes_products(units, (units,), 3)
    assert np.all(times[chosen] < 1.1 * times[not chosen]), times


@pytest.mark.parametrize("batch", [1, 8, 64, 512])
@pytest.mark.parametrize("training", [False, True])
def test_wirings_in_registers_beat_streamed_lists_and_all_synapses(batch, training):
    plan = partial(table.ltc, batch, units=64, synapses=table.auto_ncp(64, 8), training=training)
    ours = on_every_chip(plan)
    in_registers = replace(APPLE, lists_batch=2**30)
    assert np.all(ours <= on_every_chip(plan, in_registers))
    all_synapses = replace(in_registers, lists_forward_per=0)
    assert np.all(ours < on_every_chip(plan, all_synapses))
    streamed = replace(all_synapses, dense_units=0)  # forward and backward
    assert np.all(ours < 1.4 * on_every_chip(plan, streamed))


@pytest.mark.parametrize("geometry", [APPLE, CUDA])
def test_as_few_threads_share_a_source_as_keep_a_core_busy_and_registers_hold(geometry):
    most = geometry.lstm_lists_backward_per  # synapses of a thread
    for units in range(1, 129):
        for synapses in range(1, units + 1):
            parts = geometry.lists_backward_parts(units, synapses)
            fewer = [n for n in (2, 4, 8) if n < parts]
            assert all(n * units < 128 or synapses > n * most for n in fewer)
            assert parts * units <= 512
    assert geometry.lists_backward_parts(64, 11) == 2  # AutoNCP(64, 8)
    assert [geometry.lists_backward_parts(n, 5) for n in (16, 32, 64, 128)] == [8, 4, 2, 2]


@pytest.mark.parametrize("batch", [8, 16, 64, 128, 512])
def test_no_number_of_rows_is_twice_as_good_for_streamed_lists(batch):
    plan = partial(table.ltc, batch, units=256, synapses=table.auto_ncp(256, 16))
    ours = on_every_chip(plan)
    for rows in (1, 2, 4, 8):
        other = on_every_chip(plan, replace(APPLE, lists_rows=rows))
        assert np.all(ours < 2.1 * other), f"{rows} rows"


def test_the_page_has_the_table_that_the_tool_prints(capsys):
    assert tool.main([]) == 0
    page = (ROOT / "docs" / "metal_kernels.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in page, "paste the output of `python -m tools.plans`"


def test_the_tool_marks_estimates_of_a_call_as_derived(capsys):
    assert tool.main(["ltc", "B64", "T128", "I64", "H64", "U6"]) == 0
    printed = capsys.readouterr().out
    for words in ("ncps_ltc_dense_forward", "derived", "M4 Max"):
        assert words in printed
    assert tool.main(["ltc", "K3"]) == 2
    assert "got 'K3'" in capsys.readouterr().err


def test_explain_prints_backend_kernels_and_launches_and_derives_no_time(run_python):
    done = run_python("-m", "mlx_ncps", "explain", "ltc", "B64", "T128", "I64", "H64", "U6")
    assert done.returncode == 0, done.stderr
    assert "ltc_sequence runs here on" in done.stdout
    assert "all synapses in registers" in done.stdout
    assert ["ncps_ltc_dense_forward", "1", "64", "256"] in map(str.split, done.stdout.splitlines())
    assert not {"derived", "M4", "ms"} & set(done.stdout.split())
    done = run_python("-m", "mlx_ncps", "explain", "cfc", "B4", "T2", "H300", "--training")
    assert done.returncode == 0, done.stderr
    assert "ncps_cfc_backward" in done.stdout


def test_explain_says_why_a_cfc_takes_products_and_why_a_call_is_refused():
    assert any("step by step on MLX's products" in line for line in plans.explain_cfc(H=400, K=400))
    assert any("more than a launch may take" in line for line in plans.explain_ltc(H=64, I=2**22))


@pytest.mark.parametrize("size", ["Q3", "B", "B0", "B-1", "64", "K3"])
def test_explain_names_a_size_that_it_does_not_know(run_python, size):
    done = run_python("-m", "mlx_ncps", "explain", "ltc", size)
    assert done.returncode == 2
    assert f"got {size!r}" in done.stderr
