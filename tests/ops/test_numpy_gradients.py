"""The hand-written gradients of mlx_ncps.ops.numpy against central differences in float64."""

from dataclasses import replace

import numpy as np
import pytest
from mlx_ncps.ops import numpy as truth

from tests.support.cases import (
    ACTIVATIONS,
    MODES,
    SOLVERS,
    TIMESPANS,
    VARIANTS,
    CfcCase,
    LtcCase,
    assert_all_close,
    make,
    named_leaves,
    tolerance,
    want_gradients,
)

STEP = 2e-6  # truncation STEP**2, rounding 1e-16 / STEP: both far below the bound

LTC = LtcCase(batch=2, steps=2, inputs=2, units=3, unfolds=3, dtype="float64")
TIMED = ("scalar", "per_batch")
CFC = CfcCase(batch=2, steps=2, inputs=2, units=3, backbone_units=3, dtype="float64")
LTC_DIFFERENCE_CASES = [
    *(replace(LTC, implicit=i, timespans=t) for i in (False, True) for t in TIMESPANS),
    *(replace(LTC, unfolds=u) for u in (1, 2, 6)),
    *(replace(LTC, density=0.5, implicit=i) for i in (False, True)),
    replace(LTC, mapped=False),
    *(replace(LTC, solver=s, timespans=t, density=0.5) for s in SOLVERS for t in TIMESPANS),
    *(replace(LTC, solver=s, implicit=i, unfolds=2) for s in SOLVERS for i in (False, True)),
]
CFC_DIFFERENCE_CASES = [
    *(replace(CFC, mode=m, timespans=t) for m in MODES for t in TIMESPANS),
    *(replace(CFC, mode=m, activation=a, layers=2) for m in MODES for a in ACTIVATIONS),
    *(replace(CFC, mode=m, layers=n, timespans="per_batch") for m in MODES for n in (0, 3)),
    *(replace(CFC, mode=m, variant=v, timespans=t) for m in MODES for v in VARIANTS for t in TIMED),
    *(replace(CFC, mode=m, variant=v, layers=2, dropout=0.4) for m in MODES for v in VARIANTS),
]


def differences(case):
    """The gradients of sum(cotangents * states) by differences, under want_gradients' names."""
    call = make(case)
    op = truth.ltc_sequence if isinstance(case, LtcCase) else truth.cfc_sequence
    ts = None if call.ts is None else np.array(call.ts)
    leaves = {"inputs": call.inputs, "state": call.state, "ts": ts, **named_leaves(call.params)}

    def loss():  # reads the arrays in place
        states = op(call.inputs, call.state, ts, call.params, **call.keywords)
        return np.sum(call.cotangents * states)

    names = [name for name, leaf in leaves.items() if leaf is not None and "mask" not in name]
    return {name: all_differences(loss, leaves[name]) for name in names}


def all_differences(loss, leaf):
    """`difference` at every element of the array."""
    return np.reshape([difference(loss, leaf, at) for at in np.ndindex(leaf.shape)], leaf.shape)


def difference(loss, leaf, at):
    """d loss / d leaf[at]: central, but one-sided of second order at 0, where a time can't sink."""
    start = leaf[at]
    points, weights = ((-1, 1), (-0.5, 0.5)) if start != 0.0 else ((0, 1, 2), (-1.5, 2.0, -0.5))
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        leaf[at] = start + point * STEP
        total += weight * loss()
    leaf[at] = start
    return total / STEP


@pytest.mark.parametrize("case", LTC_DIFFERENCE_CASES, ids=str)
def test_ltc_sequence_backward_equals_differences(case):
    assert_all_close(want_gradients(case), differences(case), tolerance("float64", "difference"))


@pytest.mark.parametrize("case", CFC_DIFFERENCE_CASES, ids=str)
def test_cfc_sequence_backward_equals_differences(case):
    assert_all_close(want_gradients(case), differences(case), tolerance("float64", "difference"))


@pytest.mark.parametrize("case", [LTC, CFC, replace(CFC, mode="pure")], ids=str)
@pytest.mark.parametrize("shape", [(), (2,), (2, 2), (2, 2, 1)], ids=str)
def test_timespans_gradient_has_their_shape(case, shape):
    call = make(case)
    ltc = isinstance(case, LtcCase)
    op = truth.ltc_sequence_backward if ltc else truth.cfc_sequence_backward
    full = np.full((2, 2), 0.7)
    dts = [
        op(call.cotangents, call.inputs, call.state, ts, call.params, **call.keywords)[2]
        for ts in (np.full(shape, 0.7), full)
    ]
    want = {0: dts[1].sum(), 1: dts[1].sum(axis=0)}.get(len(shape), dts[1].reshape(2, 2, -1))
    want = np.reshape(want, shape)
    assert_all_close({"ts": dts[0]}, {"ts": want}, tolerance("float64", "forward"))


def test_gradients_of_absent_arguments_are_none():
    call = make(replace(LTC, mapped=False))
    dts, dparams = truth.ltc_sequence_backward(call.cotangents, *call.arguments)[2:]
    assert dts is None
    assert all(getattr(dparams, name) is None for name in ("mask", "input_w", "input_b"))
    call = make(replace(CFC, mode="pure"))
    dts, dparams = truth.cfc_sequence_backward(call.cotangents, *call.arguments, mode="pure")[2:]
    assert dts is None
    assert all(getattr(dparams, name) is None for name in ("ff2", "time_a", "time_b"))


@pytest.mark.parametrize("case", [LTC, CFC], ids=str)
def test_backward_names_cotangents_of_a_wrong_shape(case):
    call = make(case)
    ltc = isinstance(case, LtcCase)
    op = truth.ltc_sequence_backward if ltc else truth.cfc_sequence_backward
    with pytest.raises(ValueError, match=r"cotangents must be \[B, T, H\] = \(2, 2, 3\), got"):
        op(call.cotangents[:, 1:], *call.arguments)
