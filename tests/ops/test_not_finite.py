"""Infinite and NaN values: which elements of the states are NaN, infinite or finite, on every
backend and instruction set, in steps and calls; the rule stands in docs/layers.md.

NaN may be missing where only an absent synapse would carry it, and behind an infinity that meets
the merged time heads of a CfC; it is never where float64 has a number.
"""

import copy

import mlx.core as mx
import mlx_ncps
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, _loader, ops, use_backend
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import (
    MODES,
    CfcCase,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    named_leaves,
    to_mlx,
    tolerance,
)
from tests.support.pairs import pairs
from tests.support.running import problem
from tests.support.simulated_metal import simulated

NAN, INF = np.float32("nan"), np.float32("inf")
BACKENDS = ["reference", *(mlx_ncps.instruction_sets() if _loader.native else [])]
STEPS = {"step": 1, "short": 4}
LTC_ARRAYS = ("gleak", "vleak", "cm", "w", "mu", "erev", "sensory_w", "sensory_erev", "input_w")


TIMED = [CfcCase(mode=m, variant=v) for m in MODES for v in ("torch", "keras")]
TIMED += [LtcCase(implicit=i) for i in (True, False)]
LAYERS = {
    "ltc": lambda: LTC(3, 9),
    "cfc": lambda: CfC(3, 9),
    "wired": lambda: CfC(3, AutoNCP(9, 2)),
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "reference":
        with use_backend("reference"):
            yield
        return
    before = mlx_ncps.get_instruction_set()
    mlx_ncps.set_instruction_set(request.param)
    with use_backend("cpu"):
        yield
    mlx_ncps.set_instruction_set(before)


def planted(case, name, value):
    """The Call of a case with one element of an array set to `value`, in row 1 if it has rows."""
    call = copy.deepcopy(make(case))
    arrays = {"inputs": call.inputs, "state": call.state, **named_leaves(call.params)}
    array = arrays[name]
    array[(min(1, len(array) - 1), *[0] * (array.ndim - 1))] = value
    return call


def kinds(states) -> np.ndarray:
    """Of each element: 0 finite, 1 and -1 infinite, nan."""
    states = np.array(states, np.float32)
    return np.where(np.isfinite(states), np.float32(0), np.sign(states))


def both(case, name, value, **options):
    """States of float64 and of the backend of now, as float32."""
    call = planted(case, name, value)
    op = "ltc_sequence" if isinstance(case, LtcCase) else "cfc_sequence"
    with np.errstate(all="ignore"):
        want = getattr(truth, op)(*call.arguments, **call.keywords).astype(np.float32)
    arrays = to_mlx(call)
    states = getattr(ops, op)(*arrays.arguments, **arrays.keywords, **options)
    return np.array(states), want


def assert_same(got, want):
    assert np.array_equal(kinds(got), kinds(want), equal_nan=True)
    finite = np.isfinite(want)
    assert_close("states", got[finite], want[finite], tolerance("float32", "forward"))


LTC_NAMES = ["inputs", "state", *(f"params.{a}" for a in LTC_ARRAYS)]


@pytest.mark.parametrize(
    ("name", "value", "steps", "batch"),
    pairs(LTC_NAMES, [NAN, INF, -INF], STEPS.values(), [2, 17]),
)
def test_ltc_without_masks_equals_float64(backend, batch, steps, value, name):
    case = LtcCase(batch=batch, steps=steps, units=6, unfolds=3)
    for training in (True, False):
        assert_same(*both(case, name, value, training=training))


@pytest.mark.parametrize("name", ["inputs", "state", "params.vleak", "params.cm"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("batch", [2, 17])
def test_ltc_with_masks_carries_nan_along_its_synapses(backend, batch, steps, name):
    case = LtcCase(batch=batch, steps=steps, units=17, inputs=5, unfolds=2, density=0.1)
    p = make(case).params
    lists = ops.SynapseLists(np.array(p.mask), np.array(p.sensory_mask))
    less, more = (both(case, name, value, training=False)[1] for value in (0.5, 1.0))
    reached = less != more
    for synapses in (None, lists):
        for training in (True, False):
            got, want = both(case, name, NAN, training=training, synapses=synapses)
            assert np.isnan(got)[reached].all()
            assert np.isnan(want)[np.isnan(got)].all()
            assert_same(
                got[~np.isnan(got) & ~np.isnan(want)], want[~np.isnan(got) & ~np.isnan(want)]
            )


CFC_NAMES = ["inputs", "state", "params.ff1.0", "params.backbone.0.1"]
WHERE = [(activation, name) for activation in ops.ACTIVATIONS for name in CFC_NAMES]


@pytest.mark.parametrize(
    ("where", "value", "mode", "steps"),
    pairs(WHERE, [NAN, INF, -INF], MODES, STEPS.values()),
    ids=lambda part: "-".join(part) if isinstance(part, tuple) else None,
)
def test_cfc_equals_float64(backend, where, mode, steps, value):
    activation, name = where
    for timespans in ("per_batch", "none"):  # an array, or a number: merged heads
        case = CfcCase(steps=steps, mode=mode, activation=activation, timespans=timespans)
        for training in (True, False):
            got, want = both(case, name, value, training=training)
            if timespans == "per_batch" or np.isnan(value) or mode == "pure":
                assert_same(got, want)
            else:
                assert np.isnan(want)[np.isnan(got)].all()
                assert_same(got[~np.isnan(want)], want[~np.isnan(want)])


@pytest.mark.parametrize("number", [True, False])
@pytest.mark.parametrize(
    "case",
    [CfcCase(mode=m, variant=v) for m in MODES for v in ("torch", "keras")]
    + [LtcCase(implicit=i) for i in (True, False)],
    ids=str,
)
def test_infinite_time_spans(backend, case, number):
    """A gate of 0 or 1 of a CfC, NaN of an LTC: as float64."""
    call = make(case)
    ts = np.ones((case.batch, case.steps), np.float32)
    ts[1, 1] = INF
    ts = float("inf") if number else ts
    op = "ltc_sequence" if isinstance(case, LtcCase) else "cfc_sequence"
    with np.errstate(all="ignore"):
        want = getattr(truth, op)(call.inputs, call.state, ts, call.params, **call.keywords)
    a = to_mlx(call)
    spans = [ts, mx.array(ts)] if number else [mx.array(ts)]
    for given in spans:
        for training in (True, False):
            states = getattr(ops, op)(
                a.inputs, a.state, given, a.params, **a.keywords, training=training
            )
            assert_same(np.array(states), want.astype(np.float32))


@pytest.mark.parametrize(
    "layer", [lambda: LTC(3, 9), lambda: CfC(3, 9), lambda: CfC(3, AutoNCP(9, 2))]
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_steps_equal_a_call(native, layer, value):
    """At once, by a graph, and in the reference: the same elements are finite."""
    mx.random.seed(0)
    layer = layer()
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    x[1, 2, 0] = value
    x = mx.array(x)
    results = [layer(x)[0]]
    with use_backend("reference"):
        results.append(layer(x)[0])
    state, outputs = None, []
    for t in range(6):
        output, state = layer.step(x[:, t], state)
        outputs.append(output)
    results.append(mx.stack(outputs, axis=1))
    results.append(mx.compile(lambda x: layer(x)[0])(x))
    wanted = kinds(results[1])
    for got in results:
        if np.isnan(value):
            assert np.array_equal(kinds(got), wanted, equal_nan=True)
        else:
            assert np.isnan(wanted)[np.isnan(kinds(got))].all()
        assert np.isfinite(np.array(got)[0]).all()  # the other row


@pytest.mark.parametrize("case", [LtcCase(units=6, unfolds=2, steps=2), CfcCase(steps=2)], ids=str)
@pytest.mark.parametrize("name", ["inputs", "state"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_metal_in_the_simulator(case, name, value):
    with simulated():
        got, want = both(case, name, value)
    assert np.isnan(want)[np.isnan(got)].all()
    assert_same(got[~np.isnan(want)], want[~np.isnan(want)])
    if np.isnan(value):
        assert_same(got, want)


@pytest.mark.parametrize("synapses", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 20])  # no whole number of vectors
def test_neurons_without_capacity_have_their_gradients(backend, batch, synapses):
    case = LtcCase(batch=batch, density=0.4, timespans="per_batch")
    call = copy.deepcopy(make(case))
    call.params.cm[:] = 0
    call.ts[:] += 0.1
    f, leaves, cotangents = problem(case, call=call, synapses=synapses)
    _, got = mx.vjp(f, list(leaves.values()), [cotangents])
    want = truth.ltc_sequence_backward(call.cotangents, *call.arguments, **call.keywords)
    names = zip(("inputs", "state", "ts", "params"), want, strict=True)
    wanted = {k: v for name, tree in names for k, v in named_leaves(tree, name).items()}
    got = dict(zip(leaves, got, strict=True))
    assert_all_close(got, wanted, tolerance(case.dtype, "gradient"))
