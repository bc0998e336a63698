"""The CfC kernels of metal/ in the simulator, through the public op, against NumPy float64: every
access checked, in every order.
"""

import contextlib
from dataclasses import replace

import mslsim
import numpy as np
import pytest
from mlx_ncps.backends.gpu.geometry import APPLE

from tests.support.cases import ACTIVATIONS, CFC_EMPTY_CASES, CfcCase
from tests.support.running import check_gradients, check_states, gradients, states
from tests.support.simulated_metal import ORDERS, cut, replaced, simulated

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"

# Shapes at the edges of the kernels: of SIMD groups, row blocks, on-chip and streamed weights.
EDGES = [
    CfcCase(batch=1, steps=1, inputs=1, units=1, backbone_units=1),
    CfcCase(batch=3, steps=2, units=31, backbone_units=33, timespans="per_batch"),
    CfcCase(batch=2, steps=2, inputs=33, units=32, layers=0, timespans="zero"),
    CfcCase(batch=1, steps=17, units=2, layers=0, mode="pure", timespans="per_step"),
    CfcCase(batch=3, steps=2, units=63, backbone_units=65, layers=2, mode="no_gate"),
    CfcCase(batch=33, steps=2, units=33, backbone_units=17, layers=3, timespans="per_batch"),
    CfcCase(batch=3, steps=2, units=100, backbone_units=128, mode="pure", timespans="scalar"),
    CfcCase(batch=64, steps=2, units=65, backbone_units=64, timespans="per_batch"),
    CfcCase(batch=130, steps=1, units=9, backbone_units=33, timespans="scalar"),
    CfcCase(batch=1, steps=2, units=200, layers=0),
    CfcCase(batch=3, steps=1, units=64, backbone_units=64, timespans="per_batch"),
    CfcCase(batch=1, steps=2, units=128, backbone_units=128, mode="no_gate"),
]
KINDS = [
    *(CfcCase(activation=a, layers=2, steps=2) for a in ACTIVATIONS),
    *(CfcCase(activation=a, mode="pure", timespans="zero", steps=2) for a in ("gelu", "tanh")),
    CfcCase(mode="no_gate", timespans="per_batch"),
    CfcCase(mode="no_gate", layers=0, timespans="scalar"),
    CfcCase(variant="keras", timespans="per_batch", steps=3),
    CfcCase(variant="keras", mode="no_gate", layers=2, timespans="scalar", steps=3),
    CfcCase(variant="paper", layers=0, timespans="zero", density=0.5),
    CfcCase(variant="paper", mode="no_gate", units=33, steps=2),
    CfcCase(steps=33, timespans="per_step"),
    *(CfcCase(units=33, dtype=t, timespans="per_batch") for t in ("float16", "bfloat16")),
]


MATRICES = [  # 8 rows and more, every width a multiple of 8
    CfcCase(batch=64, steps=2, units=8, backbone_units=8),
    CfcCase(batch=67, steps=2, units=16, backbone_units=24, layers=2, timespans="per_batch"),
    CfcCase(batch=64, steps=3, units=24, layers=0, mode="no_gate", timespans="scalar"),
    CfcCase(batch=65, steps=2, units=56, layers=0, timespans="per_batch", variant="paper"),
    CfcCase(batch=64, steps=3, units=16, layers=0, mode="pure", timespans="per_step"),
    CfcCase(batch=64, steps=2, units=32, backbone_units=8, layers=3, mode="pure"),
    CfcCase(batch=66, steps=2, units=40, backbone_units=136, activation="gelu", variant="keras"),
    CfcCase(batch=129, steps=1, units=64, backbone_units=64, timespans="per_batch"),
    CfcCase(batch=128, steps=2, units=88, layers=0, timespans="scalar", activation="relu"),
    CfcCase(batch=65, steps=1, units=160, backbone_units=32, layers=2, activation="silu"),
    CfcCase(batch=64, steps=2, units=16, backbone_units=16, dtype="bfloat16"),
    CfcCase(batch=64, steps=2, units=16, dtype="float16", layers=0, timespans="per_batch"),
]


@contextlib.contextmanager
def launched_by_matrices(wanted=True):
    """Within the block every CfC kernel takes matrices; or none."""
    with pytest.MonkeyPatch.context() as patch:
        names, made = [], mslsim.metal_kernel

        def register(**named):
            names.append(named["name"])
            return made(**named)

        patch.setattr(mslsim, "metal_kernel", register)
        yield
        found = ["_matrix" in name for name in names if "cfc_" in name]
        assert set(found) == {wanted}, names


@pytest.mark.parametrize("case", MATRICES, ids=str)
def test_cfc_sequence_by_matrices_equals_numpy(case):
    for order in ORDERS:
        with launched_by_matrices(), simulated(order):
            check_states(case, "metal")
            check_gradients(case, "metal")


def test_cfc_without_matrices_is_the_same():
    for case in (MATRICES[1], MATRICES[7]):
        with launched_by_matrices(False), simulated(geometry=replace(APPLE, matrix=False)):
            check_gradients(case, "metal")
        with launched_by_matrices(False), simulated():
            check_gradients(replace(case, units=case.units + 1), "metal")
            check_gradients(replace(case, batch=63), "metal")


@pytest.mark.parametrize("threads", [32, 96])
def test_cfc_by_matrices_walks_over_more_tiles_than_simd_groups(threads):
    geometry = replace(APPLE, threads=threads)
    for case in (MATRICES[1], MATRICES[3]):
        with launched_by_matrices(), simulated("chaos", geometry=geometry, metal_versions=(310,)):
            check_gradients(case, "metal")


@pytest.mark.parametrize("case", EDGES, ids=str)
def test_cfc_sequence_equals_numpy_at_the_edges(case):
    for order in ORDERS:
        with simulated(order):
            check_states(case, "metal")
            check_gradients(case, "metal")


@pytest.mark.parametrize(("index", "case"), list(enumerate(KINDS)), ids=str)
def test_cfc_sequence_equals_numpy(index, case):
    with simulated(ORDERS[index % 3], metal_versions=(310,)):
        check_gradients(case, "metal")
        check_states(case, "metal")


def test_cfc_gradient_without_saved_values_is_the_same():
    with simulated():
        check_states(CfcCase(), "metal", training=False)
        check_gradients(CfcCase(), "metal", training=False)


@pytest.mark.parametrize("case", CFC_EMPTY_CASES, ids=str)
def test_cfc_sequence_of_nothing_is_empty(case):
    with simulated():
        assert states(case, "metal").shape == (case.batch, case.steps, case.units)
        assert not any(np.any(np.array(g)) for g in gradients(case, "metal").values())


def test_cfc_walks_over_more_neurons_than_threads():
    with simulated("chaos", geometry=replace(APPLE, threads=32), metal_versions=(310,)):
        check_gradients(CfcCase(units=33, backbone_units=65, steps=2), "metal")


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("piece", [(3, 7), (2, 3), (1, 1)])  # of 3 rows and 7 steps
def test_cfc_sequence_in_pieces_of_rows_and_time_is_the_same(piece, products):
    geometry = cut(piece, product_weights=0 if products else 2**30)
    case = CfcCase(batch=3, steps=7, timespans="per_batch")
    with simulated(geometry=geometry, metal_versions=(310,)):
        check_states(case, "metal")
        check_gradients(case, "metal")


@pytest.mark.parametrize("sizes", [(5, 33, 65), (64, 32, 64)])
def test_cfc_runs_are_bitwise_equal(sizes):
    batch, units, width = sizes
    case = CfcCase(batch=batch, units=units, backbone_units=width, timespans="per_batch")
    runs = []
    for order in ORDERS:
        with simulated(order):
            runs.append({"states": states(case, "metal"), **gradients(case, "metal")})
    for name, first in runs[0].items():
        for other in runs[1:]:
            assert np.array_equal(np.array(first), np.array(other[name])), name


PLANTED = [  # (file, a barrier with what surrounds it, what is left)
    ("cfc_forward", f"{BARRIER}\n    weight_at", "weight_at"),
    ("cfc_forward", f"{BARRIER}\n  now", "now"),
    ("cfc_forward", f"{BARRIER}\n\nuint now", "uint now"),
    ("cfc_backward", f"{BARRIER}\n\n  uint weight_at", "uint weight_at"),
    ("cfc_backward", f"{BARRIER}\n    weight_at", "weight_at"),
]


@pytest.mark.parametrize(("batch", "units"), [(2, 33), (64, 64)])
@pytest.mark.parametrize(("file", "old", "new"), PLANTED)
def test_cfc_missing_barrier_is_caught(file, old, new, batch, units):
    change = f"{file}.metal", replaced(old, new)
    case = CfcCase(batch=batch, steps=2, units=units)
    race = pytest.raises(mslsim.MSLError, match=r"\[race\]")
    with simulated(change=change, metal_versions=(310,)), race:
        gradients(case, "metal")


def test_cfc_missing_barrier_behind_a_matrix_is_caught():
    barrier = "  simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    race = pytest.raises(mslsim.MSLError, match=r"\[race\]")
    with simulated(change=("matrix.h", replaced(barrier, "")), metal_versions=(310,)), race:
        gradients(MATRICES[1], "metal")


PRODUCTS = [
    CfcCase(batch=3, units=33, backbone_units=17, layers=2, timespans="per_batch"),
    CfcCase(batch=2, units=9, layers=0, mode="no_gate", activation="gelu"),
    CfcCase(batch=5, units=31, mode="pure", timespans="per_batch"),
    CfcCase(batch=2, units=32, mode="pure", timespans="scalar", activation="relu"),
    CfcCase(batch=2, variant="keras", timespans="per_batch"),
    CfcCase(batch=2, variant="paper", mode="no_gate", timespans="scalar"),
    CfcCase(units=65, dtype="float16", timespans="per_step"),
    CfcCase(batch=1, units=1, backbone_units=1, timespans="zero"),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_cfc_by_products_equals_numpy(case):
    for order, training in zip(ORDERS, (True, False, True), strict=True):
        with simulated(order, geometry=replace(APPLE, product_weights=0)):
            check_states(case, "metal", training=training)
            check_gradients(case, "metal", training=training)


def test_cfc_by_products_where_one_row_exceeds_threadgroup_memory():
    assert APPLE.cfc_takes_products(3000, (), 1)
    assert APPLE.cfc_takes_products(256, (256,), 3)
    assert not APPLE.cfc_takes_products(128, (128,), 3)
