"""Operators whose states start anew at some steps, on every backend, against NumPy in float64; that
against calls of each episode alone.
"""

import functools
import re
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import _loader, available_backends, backends, dispatch, ops
from mlx_ncps.backends import cpu
from mlx_ncps.ops import numpy as truth

from tests.ops.test_mixed_memory import extra
from tests.support.case_arrays import named_leaves, round_to, to_mlx
from tests.support.cases import (
    SOLVERS,
    CfcCase,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    tolerance,
)
from tests.support.running import _rebuild, leaves_of, synapses_of

CASES = [
    LtcCase(timespans="per_batch", implicit=True, density=0.6, steps=5, unfolds=2),
    LtcCase(timespans="scalar", mapped=False, steps=4, unfolds=3, batch=17, units=5),
    LtcCase(batch=19, steps=60, units=5, unfolds=2, density=0.4),
    LtcCase(batch=3, steps=70, units=17, unfolds=1, density=0.3),
    LtcCase(batch=5, steps=6, units=33, unfolds=2, dtype="float16"),
    CfcCase(timespans="per_batch", layers=2, steps=6),
    CfcCase(timespans="scalar", mode="no_gate", steps=5, batch=1),
    CfcCase(timespans="per_step", mode="pure", layers=0, steps=5),
    CfcCase(batch=37, steps=50, units=9, backbone_units=6, timespans="per_batch"),
    CfcCase(batch=3, steps=70, units=17, layers=0, variant="keras"),
    CfcCase(batch=130, steps=5, units=33, dtype="bfloat16"),
    CfcCase(timespans="per_batch", layers=2, steps=6, dropout=0.4),
    CfcCase(batch=37, steps=20, units=9, layers=3, mode="pure", variant="keras", dropout=0.3),
    *(LtcCase(solver=s, unfolds=11, units=5, steps=6, timespans="per_batch") for s in SOLVERS),
    *(LtcCase(solver=s, batch=19, steps=40, units=9, unfolds=12, density=0.3) for s in SOLVERS),
]
SMALL = [case for case in CASES if case.batch * case.steps <= 90 and case.dtype == "float32"]
all_mixed = pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])


@pytest.fixture(autouse=True)
def _poison():
    """Outputs start as NaN, so that an element that no kernel writes is seen."""
    if _loader.native is not None:
        _loader.native.poison_outputs(True)
    yield
    if _loader.native is not None:
        _loader.native.poison_outputs(False)


def anew(case):
    """Where [B, T] a case's sequences start anew, and the (h, c) of which."""
    rng = np.random.default_rng(case.seed + 5)
    resets = (rng.uniform(size=(case.batch, case.steps)) < 0.3).astype(np.float32)
    resets[0] = 0.0
    first = (round_to(rng.normal(size=(case.batch, case.units)), case.dtype) for _ in "hc")
    return resets, tuple(first)


def is_ltc(case):
    return isinstance(case, LtcCase)


def name_of(case, mixed):
    return f"{'ltc' if is_ltc(case) else 'cfc'}_{'mixed_' if mixed else ''}sequence"


@functools.cache
def want(case, mixed):
    """States and gradients in float64."""
    call, (c, memory, dc), (resets, (h0, c0)) = make(case), extra(case), anew(case)
    state, first, cotangents, lstm = call.state, h0, call.cotangents, ()
    if mixed:
        state, first, cotangents, lstm = (state, c), (h0, c0), (cotangents, dc), (memory,)
    arguments = (call.inputs, state, call.ts, *lstm, call.params)
    keywords = {**call.keywords, "resets": resets, "reset_state": first}
    name = name_of(case, mixed)
    states = getattr(truth, name)(*arguments, **keywords)
    backward = getattr(truth, f"{name}_backward")
    dx, (dstate, dfirst), dts, *dmemory, dparams = backward(cotangents, *arguments, **keywords)
    grads = {"inputs": dx} | named_leaves(dts, "ts") | named_leaves(dparams)
    grads |= named_leaves(dstate, "state") | named_leaves(dfirst, "first")
    for gradient in dmemory:
        grads |= named_leaves(gradient, "memory")
    return states if mixed else (states,), grads


def problem(case, mixed, *, nowhere=False, **keywords):
    """(f, leaves, cotangents): f(*leaves.values()) gives a list of states. nowhere: resets of
    zeros; None: no resets.
    """
    call, (c, memory, dc), (resets, (h0, c0)) = (
        to_mlx(make(case), case.dtype),
        extra(case),
        anew(case),
    )
    dtype = call.inputs.dtype
    c, dc, h0, c0, *memory = (mx.array(a).astype(dtype) for a in (c, dc, h0, c0, *memory))
    state, first = ((call.state, c), (h0, c0)) if mixed else (call.state, h0)
    memory = ops.LSTMParams(*memory)
    leaves = leaves_of(call) | named_leaves(first, "first")
    del leaves["state"]
    leaves |= named_leaves(state, "state") | (named_leaves(memory, "memory") if mixed else {})
    keywords = {**call.keywords, **keywords}
    op = getattr(ops, name_of(case, mixed))

    def f(*arrays):
        values = dict(zip(leaves, arrays, strict=True))
        lstm = (_rebuild(memory, values, "memory"),) if mixed else ()
        start, anew = _rebuild(state, values, "state"), _rebuild(first, values, "first")
        params = _rebuild(call.params, values)
        arguments = (values["inputs"], start, values.get("ts"), *lstm, params)
        at = mx.array(resets * (not nowhere))
        anew = {} if nowhere is None else {"resets": at, "reset_state": anew}
        states = op(*arguments, **keywords, **anew)
        return list(states) if mixed else [states]

    return f, leaves, [call.cotangents, dc] if mixed else [call.cotangents]


def check(case, mixed, backend, **keywords):
    f, leaves, cotangents = problem(case, mixed, **keywords)
    with dispatch.use_backend(backend):
        states, grads = mx.vjp(f, list(leaves.values()), cotangents)
    assert dispatch.last_backend() == backend
    want_states, want_grads = want(case, mixed)
    for got, wanted in zip(states, want_states, strict=True):
        assert got.dtype == getattr(mx, case.dtype)
        assert_close("states", got, wanted, tolerance(case.dtype, "forward"))
    grads = dict(zip(leaves, grads, strict=True))
    assert_all_close(grads, want_grads, tolerance(case.dtype, "gradient"))


def starts_anew(case, backend):
    """Whether a backend's kernels do."""
    return name_of(case, False) in getattr(backends, backend).RESETS


def by_kernels(case):
    """Whether a GPU's kernels run a case."""
    return not getattr(case, "solver", "")


@all_mixed
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, name, id=f"{case}-{name}")
        for case in CASES
        for name in available_backends()
        if name == "cpu" or by_kernels(case)
    ],
)
def test_states_and_gradients_equal_numpy(case, backend, mixed):
    check(case, mixed, backend)
    if backend == "cpu":
        check(case, mixed, backend, training=False)
    if is_ltc(case) and make(case).params.mask is not None:
        check(case, mixed, backend, synapses=synapses_of(case))


@pytest.mark.usefixtures("native")
@all_mixed
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_backend_whose_kernels_cannot_runs_step_by_step(case, mixed, monkeypatch):
    sequence = f"{name_of(case, False)}"
    plain = getattr(cpu, sequence)

    def without(*arguments, **keywords):
        assert "resets" not in keywords
        return plain(*arguments, **keywords)

    monkeypatch.setattr(cpu, "RESETS", ())
    monkeypatch.setattr(cpu, sequence, without)
    check(case, mixed, "cpu")


@all_mixed
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_numpy_equals_each_episode_alone(case, mixed):
    call, (c, memory, _), (resets, (h0, c0)) = make(case), extra(case), anew(case)
    ts = np.broadcast_to(1.0 if call.ts is None else call.ts, (case.batch, case.steps))
    states, _ = want(case, mixed)
    op = getattr(truth, name_of(case, mixed))
    for b in range(case.batch):
        cuts = sorted({0, *np.flatnonzero(resets[b]).tolist(), case.steps})
        for begin, end in pairwise(cuts):
            h, memory_state = (h0, c0) if resets[b, begin] else (call.state, c)
            h, lstm = h[b : b + 1], ()
            if mixed:
                h, lstm = (h, memory_state[b : b + 1]), (memory,)
            part = (slice(b, b + 1), slice(begin, end))
            keywords = dict(call.keywords)
            if "dropout" in keywords:
                keywords["dropout"] = keywords["dropout"][part]
            alone = op(call.inputs[part], h, ts[part], *lstm, call.params, **keywords)
            for got, wanted in zip(states, alone if mixed else (alone,), strict=True):
                assert_close("states", got[part], wanted, tolerance("float64", "forward"))


@all_mixed
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, name, id=f"{case}-{name}")
        for case in SMALL
        for name in available_backends()
        if starts_anew(case, name) and (name == "cpu" or by_kernels(case))
    ],
)
def test_resets_of_zeros_are_a_plain_call_to_the_bit(case, backend, mixed):
    f, leaves, cotangents = problem(case, mixed, nowhere=True)
    plain, _, _ = problem(case, mixed, nowhere=None)
    with dispatch.use_backend(backend):
        got, wanted = (mx.vjp(g, list(leaves.values()), cotangents) for g in (f, plain))
    for a, b in zip(got[0] + got[1], wanted[0] + wanted[1], strict=True):
        assert np.array_equal(np.array(a), np.array(b))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"resets": mx.ones((3, 3))}, "[cfc] resets must be [B, T] = (3, 2), got (3, 3)."),
        ({"resets": 1}, "[cfc] resets must be an mx.array, got int."),
        ({"reset_state": mx.ones((3, 8))}, "[cfc] reset_state must be None without resets"),
        (
            {"resets": mx.ones((3, 2)), "reset_state": mx.ones((3, 7))},
            "[cfc] reset_state must be [B, H] = (3, 8), got (3, 7).",
        ),
    ],
)
def test_wrong_resets_are_refused(keywords, message):
    call = to_mlx(make(CfcCase(steps=2)), "float32")
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.cfc_sequence(call.inputs, call.state, call.ts, call.params, **keywords)


def test_a_mixed_reset_state_is_a_pair():
    case = CfcCase(steps=2)
    call, (c, memory, _) = to_mlx(make(case), "float32"), extra(case)
    memory = ops.LSTMParams(*map(mx.array, memory))
    arguments = call.inputs, (call.state, mx.array(c)), call.ts, memory, call.params
    with pytest.raises(ValueError, match=re.escape("[cfc] reset_state must be (h, c), got")):
        ops.cfc_mixed_sequence(*arguments, resets=mx.ones((3, 2)), reset_state=call.state)
