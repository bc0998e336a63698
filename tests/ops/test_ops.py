"""The public ops: the same names as in NumPy, dtypes, single steps, the pointwise updates."""

import inspect

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import available_backends, last_backend, ops, use_backend
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.numpy.arrays import as_float64

from tests.support.cases import (
    ACTIVATIONS,
    MODES,
    CfcCase,
    LtcCase,
    assert_close,
    make,
    to_mlx,
    tolerance,
    want_states,
)

MLX_ONLY = {"SynapseLists"}  # tells fused backends what to skip
NUMPY_ONLY = {
    f"{cell}_{sequence}_backward"
    for cell in ("ltc", "cfc")
    for sequence in ("sequence", "mixed_sequence")
}
FORWARD = tolerance("float32", "forward")


def test_ops_and_numpy_have_the_same_names():
    assert set(ops.__all__) - MLX_ONLY == set(truth.__all__) - NUMPY_ONLY


@pytest.mark.parametrize("name", sorted(set(truth.__all__) - NUMPY_ONLY))
def test_ops_and_numpy_have_the_same_signatures(name):
    ours, theirs = getattr(ops, name), getattr(truth, name)
    if not callable(ours):
        assert set(ours) == set(theirs)
        return
    if isinstance(ours, type):
        assert ours._fields == theirs._fields
        assert ours._field_defaults == theirs._field_defaults
        return
    one, other = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (ours, theirs)
    )
    assert one == other


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_numpy(name):
    x = np.concatenate([np.linspace(-9, 9, 181), [-100.0, 100.0]]).astype(np.float32)
    got, (grad,) = mx.vjp(ops.get_activation(name), [mx.array(x)], [mx.ones(x.shape)])
    f = truth.get_activation(name)
    assert_close(name, got[0], f(x), FORWARD)
    x64 = x.astype(np.float64)
    smooth = np.abs(x64) > 1e-3  # relu has a corner at 0
    want = (f(x64 + 1e-5) - f(x64 - 1e-5)) / 2e-5
    assert_close(name, as_float64(grad)[smooth], want[smooth], FORWARD)
    assert ops.get_activation(name)(mx.array(x).astype(mx.bfloat16)).dtype == mx.bfloat16


def test_softplus_is_stable():
    x = mx.array([-100.0, -1.0, 0.0, 1.0, 100.0])
    assert_close("softplus", ops.softplus(x), truth.softplus(np.array(x)), FORWARD)


def test_get_activation_of_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=rf"{', '.join(ACTIVATIONS)}, got 'none_such'"):
        ops.get_activation("none_such")


@pytest.mark.parametrize("case", [LtcCase(), CfcCase(), CfcCase(mode="pure")], ids=str)
@pytest.mark.parametrize("ts", ["none", "number", "0-d", "[B]", "[B, 1]"])
def test_step_is_a_sequence_of_one(case, ts):
    call = to_mlx(make(case))
    name = "ltc" if isinstance(case, LtcCase) else "cfc"
    times = mx.array([0.5, 0.0, 2.0])
    ts = {
        "none": None,
        "number": 0.5,
        "0-d": mx.array(0.5),
        "[B]": times,
        "[B, 1]": times[:, None],
    }[ts]
    x = call.inputs[:, 0]
    got = getattr(ops, f"{name}_step")(x, call.state, ts, call.params, **call.keywords)
    rows = (
        times
        if isinstance(ts, mx.array) and ts.ndim
        else mx.full((3,), 0.5 if ts is not None else 1.0)
    )
    want = getattr(truth, f"{name}_sequence")(
        x[:, None], call.state, rows[:, None], call.params, **call.keywords
    )
    assert_close("state", got, want[:, 0], FORWARD)
    twin = getattr(truth, f"{name}_step")(x, call.state, ts, call.params, **call.keywords)
    assert_close("state", got, twin, FORWARD)


@pytest.mark.parametrize("mode", ["default", "no_gate"])
@pytest.mark.parametrize("variant", ops.VARIANTS)
@pytest.mark.parametrize("kind", [None, 0.3, (), (5,), (5, 1)])
def test_cfc_update_equals_numpy(mode, variant, kind):
    rng = np.random.default_rng(0)
    heads = [rng.normal(size=(5, 4)).astype(np.float32) for _ in range(4)]
    ts = rng.uniform(0, 2, kind).astype(np.float32) if isinstance(kind, tuple) else kind
    ts = np.asarray(ts) if isinstance(kind, tuple) else ts
    options = {"mode": mode, "variant": variant}
    got = ops.cfc_update(*map(mx.array, heads), ts, **options)
    assert_close("state", got, truth.cfc_update(*heads, ts, **options), FORWARD)


@pytest.mark.parametrize("kind", [None, 0.3, (5,), (5, 1)])
def test_cfc_update_pure_equals_numpy(kind):
    rng = np.random.default_rng(0)
    f1, w_tau, A = (rng.normal(size=s).astype(np.float32) for s in ((5, 4), (4,), (4,)))
    ts = rng.uniform(0, 2, kind).astype(np.float32) if isinstance(kind, tuple) else kind
    got = ops.cfc_update_pure(*map(mx.array, (f1, w_tau, A)), ts)
    assert_close("state", got, truth.cfc_update_pure(f1, w_tau, A, ts), FORWARD)


def test_cfc_update_broadcasts_times_over_rows_also_when_batch_equals_units():
    heads = [mx.random.normal((4, 4), key=mx.random.key(i)) for i in range(4)]
    ts = mx.array([0.0, 1.0, 2.0, 3.0])
    got = ops.cfc_update(*heads, ts)
    rows = [ops.cfc_update(*(h[i : i + 1] for h in heads), ts[i]) for i in range(4)]
    assert_close("state", got, mx.concatenate(rows), FORWARD)


@pytest.mark.parametrize("case", [LtcCase(), *(CfcCase(mode=m) for m in MODES)], ids=str)
@pytest.mark.parametrize("ts_dtype", ["int32", "float16", "bfloat16", "uint8"])
def test_timespans_of_every_dtype_count_as_float32(case, ts_dtype):
    call = to_mlx(make(case))
    op = ops.ltc_sequence if isinstance(case, LtcCase) else ops.cfc_sequence
    ts = mx.arange(case.steps).astype(getattr(mx, ts_dtype))
    got = op(call.inputs, call.state, ts, call.params, **call.keywords)
    want = op(call.inputs, call.state, ts.astype(mx.float32), call.params, **call.keywords)
    assert mx.array_equal(got, want)


@pytest.mark.parametrize("kind", [LtcCase, CfcCase])
def test_state_and_parameters_may_have_another_dtype_than_the_inputs(kind):
    call = to_mlx(make(kind(dtype="bfloat16")))  # representable in bfloat16, stored as float32
    op = ops.ltc_sequence if kind is LtcCase else ops.cfc_sequence
    states = op(call.inputs, call.state.astype(mx.bfloat16), None, call.params, **call.keywords)
    assert states.dtype == mx.float32
    assert_close("states", states, op(*call.arguments, **call.keywords), FORWARD)


def test_mask_of_an_adjacency_counts_by_its_absolute_value():
    call = to_mlx(make(LtcCase(density=0.5)))
    want = ops.ltc_sequence(*call.arguments, **call.keywords)
    sign = mx.where(mx.random.uniform(shape=call.params.mask.shape) < 0.5, -1, 1)
    signed = (call.params.mask * sign).astype(mx.int32)
    params = call.params._replace(mask=signed, sensory_mask=call.params.sensory_mask > 0)
    got = ops.ltc_sequence(call.inputs, call.state, call.ts, params, **call.keywords)
    assert mx.array_equal(got, want)


def test_default_backend_runs_the_ops():
    case = LtcCase(timespans="per_batch")
    call = to_mlx(make(case))
    with use_backend("auto"):
        got = ops.ltc_sequence(*call.arguments, **call.keywords)
    assert last_backend() == available_backends()[0]
    assert_close("states", got, want_states(case), FORWARD)


def test_negative_or_nan_elements_of_timespans_give_nan_from_there_on():
    for case, op in ((LtcCase(), ops.ltc_sequence), (CfcCase(), ops.cfc_sequence)):
        call = to_mlx(make(case))
        for bad in (-1.0, float("nan")):
            ts = np.ones((case.batch, case.steps), np.float32)
            ts[1, 1] = bad
            got = np.array(op(call.inputs, call.state, mx.array(ts), call.params, **call.keywords))
            good = np.isfinite(got).all(axis=2)
            assert good.tolist() == [
                [True] * case.steps,
                [True, *[False] * (case.steps - 1)],
                [True] * case.steps,
            ]
            assert np.isnan(got[1, 1:]).all()
