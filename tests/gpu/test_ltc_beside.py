"""LTC kernels of metal/ whose state starts anew before some steps, behind an LSTM (mixed memory),
or both, in the simulator against NumPy float64: every access checked, in every order.
"""

from dataclasses import replace

import mlx.core as mx
import mslsim
import numpy as np
import pytest
from mlx_ncps import dispatch
from mlx_ncps.backends.gpu.geometry import APPLE, CUDA
from mlx_ncps.backends.gpu.ltc import kind_of

from tests.ops import test_mixed_memory as memory
from tests.ops import test_resets as resets
from tests.support.cases import LtcCase
from tests.support.running import synapses_of
from tests.support.simulated_metal import ORDERS, cut, replaced, simulated

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
SIMD_BARRIER = "simdgroup_barrier(mem_flags::mem_threadgroup);"
STREAMED = replace(APPLE, dense_units=0)
LISTS = replace(APPLE, lists_forward_per=0, dense_units=0)
KINDS = {"dense": APPLE, "dense_lists": APPLE, "streamed": STREAMED, "lists": LISTS}
BESIDE = ("resets", "memory", "both")
all_kinds = pytest.mark.parametrize("kind", KINDS)
all_beside = pytest.mark.parametrize("beside", BESIDE)

# Shapes at the edges: of SIMD groups, registers, row blocks, chunks.
EDGES = {
    "dense": [
        LtcCase(batch=1, steps=1, inputs=1, units=1, unfolds=1, timespans="per_batch"),
        LtcCase(batch=3, steps=5, inputs=2, units=9, unfolds=2, timespans="per_batch"),
        LtcCase(batch=2, steps=4, inputs=3, units=33, unfolds=1, timespans="zero"),
        LtcCase(batch=2, steps=3, inputs=2, units=64, unfolds=2, implicit=True),
    ],
    "dense_lists": [
        LtcCase(batch=3, steps=5, units=9, unfolds=2, density=0.3, timespans="per_batch"),
        LtcCase(batch=2, steps=3, units=70, unfolds=1, density=0.1),
        LtcCase(batch=2, steps=2, units=64, unfolds=2, density=0.08),  # two threads of a source
    ],
    "streamed": [
        LtcCase(batch=3, steps=5, units=5, unfolds=2, timespans="per_batch"),
        LtcCase(batch=33, steps=3, inputs=3, units=65, unfolds=1, timespans="zero"),
        LtcCase(batch=17, steps=4, units=33, unfolds=2, timespans="per_step"),
    ],
    "lists": [
        LtcCase(batch=5, steps=4, units=33, unfolds=2, density=0.2, timespans="per_batch"),
        LtcCase(batch=17, steps=3, units=70, unfolds=1, density=0.1),
    ],
}


def problem(case, beside, kind="dense", **keywords):
    """(f, leaves, cotangents) of a case with what is beside it."""
    if "lists" in kind:
        keywords["synapses"] = synapses_of(case)
    if beside == "memory":
        keywords["synapses"] = "lists" in kind
        return memory.problem(case, **keywords)
    return resets.problem(case, beside == "both", **keywords)


def check(case, beside, kind, **keywords):
    if "lists" in kind:
        keywords["synapses"] = True if beside == "memory" else synapses_of(case)
    if beside == "memory":
        memory.check(case, "metal", **keywords)
    else:
        resets.check(case, beside == "both", "metal", **keywords)


@all_beside
@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in EDGES.items() for case in cases], ids=str
)
def test_states_and_gradients_equal_numpy_at_the_edges(kind, case, beside):
    lists = synapses_of(case) if "lists" in kind else None
    assert kind_of(KINDS[kind], case.units, lists) == kind
    for order in ORDERS:
        versions = {} if order == "forward" else {"metal_versions": (310,)}
        with simulated(order, geometry=KINDS[kind], **versions):
            check(case, beside, kind, training=order != "reverse")


@all_beside
@pytest.mark.parametrize("threads", [32, 64])
def test_streamed_walks_over_more_neurons_than_threads(threads, beside):
    case = LtcCase(units=33, steps=3, unfolds=2)
    with simulated("chaos", geometry=replace(STREAMED, threads=threads), metal_versions=(310,)):
        check(case, beside, "streamed")


@all_beside
def test_streamed_rows_that_parts_divide_among_them_equal_numpy(beside):
    case = LtcCase(batch=9, steps=3, units=33, unfolds=2, timespans="per_batch")
    geometry = replace(STREAMED, min_groups=1)
    launch = geometry.streamed_backward(9, 33, beside != "resets")
    assert (launch.argument("ROWS"), launch.argument("PARTS")) == (8, 4)
    with simulated("chaos", geometry=geometry, metal_versions=(310,)):
        check(case, beside, "streamed")


@all_beside
@pytest.mark.parametrize("rows", [4, 8])
def test_lists_that_rows_share_equal_numpy(rows, beside):
    case = LtcCase(batch=17, steps=3, units=33, unfolds=2, density=0.2, timespans="per_batch")
    geometry = replace(LISTS, lists_rows=rows, lstm_rows=rows)
    with simulated("chaos", geometry=geometry, metal_versions=(310,)):
        check(case, beside, "lists")


@pytest.mark.parametrize("beside", ["memory", "both"])
@pytest.mark.parametrize("kind", ["dense", "dense_lists"])
def test_a_forward_in_registers_and_a_streamed_backward_equal_numpy(kind, beside):
    geometry = replace(APPLE, lstm_backward_per=0, lstm_lists_backward_per=0)
    case = LtcCase(batch=5, steps=3, units=33, unfolds=2, density=0.2, timespans="per_batch")
    with simulated("chaos", geometry=geometry, metal_versions=(310,)):
        for training in (False, True):
            check(case, beside, kind, training=training)


@pytest.mark.parametrize("beside", ["memory", "both"])
def test_all_synapses_in_registers_behind_an_lstm_as_cuda_launches_them_equal_numpy(beside):
    case = LtcCase(batch=2, steps=3, inputs=2, units=64, unfolds=2)
    geometry = replace(APPLE, lstm_backward_per=CUDA.lstm_backward_per)
    with simulated("chaos", geometry=geometry, metal_versions=(310,)):
        check(case, beside, "dense")


@all_beside
@pytest.mark.parametrize("piece", [(3, 7), (2, 3), (1, 1)])  # of 3 rows and 7 steps
def test_pieces_of_rows_and_time_give_the_same(piece, beside):
    case = LtcCase(batch=3, units=5, steps=7, unfolds=2, timespans="per_batch")
    with simulated(geometry=cut(piece), metal_versions=(310,)):
        check(case, beside, "dense")


@all_beside
@all_kinds
def test_runs_are_bitwise_equal(kind, beside):
    case = LtcCase(batch=5, steps=4, units=33, unfolds=2, density=0.2, timespans="per_batch")
    f, leaves, cotangents = problem(case, beside, kind)
    runs = []
    for order in ORDERS:
        with simulated(order, geometry=KINDS[kind], metal_versions=(310,)):
            states, grads = mx.vjp(f, list(leaves.values()), cotangents)
            runs.append([np.array(a) for a in (*states, *grads)])
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))


@all_kinds
def test_a_state_that_is_not_a_number_ends_where_it_starts_anew(kind):
    case = LtcCase(batch=2, steps=6, units=33, unfolds=2, density=0.2, timespans="per_batch")
    f, leaves, _ = problem(case, "resets", kind)
    at, _ = resets.anew(case)
    row, step = next((b, t) for b in range(2) for t in range(1, 6) if at[b, t])
    with simulated(geometry=KINDS[kind], metal_versions=(310,)):
        want = np.array(f(*leaves.values())[0])
        ts = np.array(leaves["ts"])
        ts[row, step - 1] = -1.0
        got = np.array(f(*(leaves | {"ts": mx.array(ts)}).values())[0])
    want[row, step - 1] = np.nan
    assert np.array_equal(got, want, equal_nan=True)


LSTM = "#endif\n#if MEMORY"
ANEW = "#endif\n#if RESETS"
PLANTED = [  # (kind, file, what is beside, a barrier, what follows and is left)
    ("dense", "dense_forward", "resets", BARRIER, f"\n  }}\n{LSTM}"),
    ("dense", "dense_forward", "memory", BARRIER, "\n  now"),
    ("dense", "dense_backward", "memory", BARRIER, "  // they"),
    ("streamed", "streamed_forward", "resets", BARRIER, f"\n{LSTM}"),
    ("streamed", "streamed_forward", "memory", BARRIER, "\n  now"),
    ("streamed", "streamed_backward", "memory", BARRIER, "\n  for (uint base"),
    ("streamed", "streamed_backward", "memory", BARRIER, f"\n{ANEW}"),
    ("lists", "lists_forward", "resets", SIMD_BARRIER, f"\n{LSTM}"),
    ("lists", "lists_forward", "memory", SIMD_BARRIER, "\n  now"),
    ("lists", "lists_backward", "memory", SIMD_BARRIER, "\n  for (uint i"),
    ("lists", "lists_backward", "memory", SIMD_BARRIER, f"\n{ANEW}"),
    ("lists", "lists_backward", "resets", SIMD_BARRIER, "\n#endif\n}"),
]


@pytest.mark.parametrize(("kind", "file", "beside", "barrier", "rest"), PLANTED)
def test_a_missing_barrier_is_caught(kind, file, beside, barrier, rest):
    case = LtcCase(batch=2, steps=4, units=40, unfolds=2, density=0.3)
    change = f"ltc_{file}.metal", replaced(barrier + rest, rest)
    race = pytest.raises(mslsim.MSLError, match=r"\[race\]")
    f, leaves, cotangents = problem(case, beside, kind)
    options = {"geometry": KINDS[kind], "metal_versions": (310,)}
    with simulated(change=change, **options), race, dispatch.use_backend("metal"):
        mx.eval(mx.vjp(f, list(leaves.values()), cotangents))
