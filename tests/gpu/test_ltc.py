"""The LTC kernels of metal/ in the simulator, through the public op, against NumPy float64: every
access checked, in every order.
"""

from dataclasses import replace

import mlx.core as mx
import mslsim
import numpy as np
import pytest
from mlx_ncps import ops
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.ltc import kind_of
from mlx_ncps.backends.gpu.ltc_lists import lists_of

from tests.support.cases import LTC_CASES, LTC_EMPTY_CASES, LTC_WIRED_CASES, LtcCase, make
from tests.support.running import check_gradients, check_states, gradients, problem, states
from tests.support.simulated_metal import ORDERS, cut, replaced, rough_division, simulated

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
SIMD_BARRIER = "simdgroup_barrier(mem_flags::mem_threadgroup);"

# Shapes at the edges of the kernels: of SIMD groups, registers, row blocks, chunks.
EDGES = [
    LtcCase(batch=1, steps=1, inputs=1, units=1, unfolds=1, timespans="per_batch"),
    LtcCase(batch=3, steps=2, inputs=33, units=31, unfolds=1, timespans="zero"),
    LtcCase(batch=3, steps=17, inputs=1, units=2, unfolds=6, timespans="per_step"),
    LtcCase(batch=2, steps=2, inputs=1, units=32, unfolds=2, density=0.3),
    LtcCase(batch=1, steps=17, inputs=3, units=33, unfolds=1, timespans="per_step"),
    LtcCase(batch=2, steps=2, inputs=3, units=63, unfolds=2, implicit=True),
    LtcCase(batch=2, steps=2, inputs=2, units=64, unfolds=6, timespans="per_batch"),
    LtcCase(batch=1, steps=2, inputs=3, units=65, unfolds=2, timespans="zero"),
    LtcCase(batch=33, steps=2, inputs=3, units=65, unfolds=2, timespans="per_batch"),
    LtcCase(batch=3, steps=1, inputs=1, units=100, unfolds=2, implicit=True),
    LtcCase(batch=17, steps=2, inputs=2, units=128, unfolds=1, density=0.3),
    LtcCase(batch=2, steps=1, inputs=3, units=200, unfolds=2, timespans="per_batch"),
]
STREAMED = LtcCase(batch=17, steps=2, units=9, unfolds=2, timespans="per_batch")


@pytest.mark.parametrize("last_places", [-2, 2])
def test_ltc_sequence_holds_with_a_rough_division(last_places):
    def change(text):
        return rough_division(text, last_places)

    for case in (LtcCase(units=9, steps=16, unfolds=6), LtcCase(batch=3, units=65, steps=2)):
        with simulated(change=("math.h", change), metal_versions=(310,)):
            check_states(case, "metal")
            check_gradients(case, "metal")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_ltc_sequence_equals_numpy_at_the_edges(case, order):
    with simulated(order):
        check_states(case, "metal", training=False)
        check_gradients(case, "metal")


@pytest.mark.parametrize(("index", "case"), list(enumerate(LTC_CASES + LTC_WIRED_CASES)), ids=str)
def test_ltc_sequence_equals_numpy(index, case):
    with simulated(ORDERS[index % 3], metal_versions=(310,)):
        check_states(case, "metal")
        check_gradients(case, "metal", training=index % 2 == 0)


@pytest.mark.parametrize("case", LTC_EMPTY_CASES, ids=str)
def test_ltc_sequence_of_nothing_is_empty(case):
    with simulated():
        assert states(case, "metal").shape == (case.batch, case.steps, case.units)
        assert not any(np.any(np.array(g)) for g in gradients(case, "metal").values())


def test_one_row_that_four_threads_stream_for_keeps_some_synapses_in_registers():
    def held(batch, units, memory=False):
        plans = APPLE.streamed_forward, APPLE.streamed_backward
        (found,) = {plan(batch, units, memory).argument("HELD") for plan in plans}
        return found

    assert [held(b, 128) for b in (1, 8, 15, 16, 64)] == [12, 12, 12, 0, 0]
    assert [held(1, h) for h in (31, 65, 128, 129, 512)] == [7, 12, 12, 0, 0]
    assert held(1, 128, memory=True) == 0


@pytest.mark.parametrize("units", [1, 5, 33, 65])
def test_ltc_streamed_for_one_row_keeps_synapses_in_registers(units):
    case = LtcCase(batch=2, steps=3, units=units, unfolds=2, timespans="per_batch")
    for order in ORDERS:
        with simulated(order, geometry=replace(APPLE, dense_units=0)):
            check_states(case, "metal")
            check_gradients(case, "metal")


@pytest.mark.parametrize("threads", [32, 64, 512])
def test_ltc_streamed_walks_over_more_neurons_than_threads(threads):
    with simulated("chaos", geometry=replace(APPLE, threads=threads, dense_units=0)):
        check_states(LtcCase(units=33, unfolds=2), "metal")
        check_gradients(LtcCase(units=33, unfolds=2), "metal")


@pytest.mark.parametrize("piece", [(3, 7), (2, 3), (1, 1)])  # of 3 rows and 7 steps
def test_ltc_sequence_in_pieces_of_rows_and_time_is_the_same(piece):
    case = LtcCase(batch=3, units=5, steps=7, unfolds=2, timespans="per_batch")
    with simulated(geometry=cut(piece)):
        check_states(case, "metal")
        check_gradients(case, "metal")


@pytest.mark.parametrize("units", [17, 65])
def test_ltc_runs_are_bitwise_equal(units):
    case = LtcCase(batch=5, units=units, unfolds=2, timespans="per_batch")
    runs = []
    for order in ORDERS:
        with simulated(order):
            runs.append({"states": states(case, "metal"), **gradients(case, "metal")})
    for name, first in runs[0].items():
        for other in runs[1:]:
            assert np.array_equal(np.array(first), np.array(other[name])), name


SPARSE = [  # sparse enough for the kernels of synapse lists
    LtcCase(batch=1, steps=1, inputs=1, units=2, unfolds=1, density=0.2, timespans="per_batch"),
    LtcCase(batch=5, steps=2, units=33, unfolds=2, density=0.2, timespans="zero"),
    LtcCase(batch=3, steps=2, units=100, unfolds=2, density=0.05, implicit=True),
    LtcCase(batch=2, steps=2, units=64, unfolds=2, density=0.08),  # two threads of a source
    LtcCase(batch=17, steps=4, units=33, unfolds=2, density=0.2),  # several chunks of rows
    LTC_WIRED_CASES[1],
]


STREAMED_LISTS = replace(APPLE, lists_forward_per=0, dense_units=0)  # at any size
KINDS = {"dense_lists": APPLE, "lists": STREAMED_LISTS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_ltc_with_synapse_lists_equals_numpy(case, kind):
    masks = make(case).params
    lists = ops.SynapseLists(masks.mask, masks.sensory_mask)
    assert kind_of(KINDS[kind], case.units, lists) == kind
    assert lists_of(KINDS[kind], lists)[1] is not None
    for order in ORDERS:
        with simulated(order, geometry=KINDS[kind]):
            check_states(case, "metal", synapses=True, training=False)
            check_gradients(case, "metal", synapses=True)


def test_ltc_with_a_streamed_forward_and_a_backward_in_registers_equals_numpy():
    case = LtcCase(batch=5, steps=2, units=33, unfolds=2, density=0.2, timespans="per_batch")
    for training in (False, True):
        with simulated("chaos", geometry=replace(APPLE, lists_batch=1), metal_versions=(310,)):
            check_gradients(case, "metal", synapses=True, training=training)


@pytest.mark.parametrize("rows", [4, 8])
def test_ltc_with_lists_that_rows_share_equals_numpy(rows):
    geometry = replace(STREAMED_LISTS, lists_rows=rows)
    case = LtcCase(batch=17, steps=2, units=33, unfolds=2, density=0.2, timespans="per_batch")
    assert geometry.lists(case.batch, case.units).argument("ROWS") == rows
    with simulated("chaos", geometry=geometry, metal_versions=(310,)):
        check_states(case, "metal", synapses=True)
        check_gradients(case, "metal", synapses=True)


@pytest.mark.parametrize("kind", KINDS)
def test_ltc_with_lists_of_no_synapse_equals_numpy(kind):
    case = LtcCase(density=0.0)
    with simulated(geometry=KINDS[kind]):
        check_states(case, "metal", synapses=True)
        check_gradients(case, "metal", synapses=True)


NOT_A_NUMBER = [  # a call for each kind of recurrence
    (LtcCase(units=5, timespans="per_batch"), False),
    (LtcCase(batch=33, units=65, unfolds=2, timespans="per_batch"), False),
    (LtcCase(units=33, unfolds=2, density=0.2, timespans="per_batch"), True),
]


@pytest.mark.parametrize(("case", "synapses"), NOT_A_NUMBER, ids=str)
def test_ltc_negative_timespan_gives_nan_in_its_row_from_there_on(case, synapses):
    f, leaves, _ = problem(case, synapses=synapses)
    with simulated(metal_versions=(310,)):
        want = np.array(f(*leaves.values()))
        ts = np.array(leaves["ts"])
        ts[1, 1] = -1.0
        got = np.array(f(*(leaves | {"ts": mx.array(ts)}).values()))
    want[1, 1:] = np.nan
    assert np.array_equal(got, want, equal_nan=True)


PLANTED = [  # (file, a barrier with what follows, what is left)
    ("ltc_dense_forward", f"{BARRIER}\n    now", "now"),
    ("ltc_dense_backward", f"{BARRIER}\n      at", "at"),
    ("ltc_streamed_forward", f"{BARRIER}\n    now", "now"),
    ("ltc_streamed_backward", f"{BARRIER}\n    for", "for"),
    ("ltc_streamed_backward", f"{BARRIER}\n  }}", "}"),
    ("ltc_lists_forward", f"    {SIMD_BARRIER}\n    now", "now"),
    ("ltc_lists_backward", f"{SIMD_BARRIER}\n    for", "for"),
    ("ltc_lists_backward", f"{SIMD_BARRIER}\n  }}", "}"),
]


@pytest.mark.parametrize(("file", "old", "new"), PLANTED)
def test_ltc_missing_barrier_is_caught(file, old, new):
    geometry = replace(APPLE, dense_units=0) if "streamed" in file else APPLE
    if "lists" in file:
        geometry = STREAMED_LISTS
    case = LtcCase(batch=2, steps=2, units=40, unfolds=2, density=0.3)
    change = f"{file}.metal", replaced(old, new)
    race = pytest.raises(mslsim.MSLError, match=r"\[race\]")
    with simulated(change=change, geometry=geometry, metal_versions=(310,)), race:
        gradients(case, "metal", synapses="lists" in file)
