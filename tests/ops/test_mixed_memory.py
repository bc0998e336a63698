"""The operators with an LSTM in front of the cell (MATHS 4): fused on the CPU, step by step
elsewhere, against NumPy in float64.
"""

import re

import mlx.core as mx
import mlx_ncps
import numpy as np
import pytest
from mlx_ncps import _loader, available_backends, dispatch, ops
from mlx_ncps.backends import CfCFacts, cpu
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.mixed_memory import mixed_memory_is_fused

from tests.support.case_arrays import named_leaves, round_to, to_mlx
from tests.support.cases import (
    CFC_CASES,
    CFC_DROPOUT_CASES,
    LTC_CASES,
    LTC_WIRED_CASES,
    CfcCase,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    random_cfc_cases,
    random_ltc_cases,
    tolerance,
)
from tests.support.running import _rebuild, leaves_of, synapses_of

native = pytest.mark.skipif(_loader.native is None, reason="no native module")
GRADIENT = tolerance("float32", "gradient")
FEW = [
    LtcCase(timespans="per_batch", implicit=True, density=0.6, steps=2, unfolds=2),
    LtcCase(timespans="scalar", mapped=False, steps=3, unfolds=2, batch=17),
    CfcCase(timespans="per_batch", layers=2, steps=2),
    CfcCase(timespans="scalar", mode="no_gate", steps=3),
    CfcCase(timespans="per_step", mode="pure", layers=0, steps=2),
]
LONG = [  # several chunks of steps and of rows
    LtcCase(batch=19, steps=60, units=5, unfolds=2, timespans="per_batch"),
    LtcCase(batch=3, steps=70, units=17, unfolds=1, density=0.3),
    CfcCase(batch=37, steps=50, units=9, backbone_units=6, timespans="per_batch"),
    CfcCase(batch=3, steps=70, units=17, layers=0, mode="pure", timespans="per_step"),
]
CASES = [
    *(LTC_CASES + random_ltc_cases(12) + LTC_WIRED_CASES),
    *(CFC_CASES + random_cfc_cases(12) + LONG),
]
EMPTY = [LtcCase(steps=0), LtcCase(batch=0), CfcCase(steps=0), CfcCase(batch=0, mode="pure")]


@pytest.fixture(autouse=True)
def _poison():
    """Outputs start as NaN, so that an element that no kernel writes is seen."""
    if _loader.native is not None:
        _loader.native.poison_outputs(True)
    yield
    if _loader.native is not None:
        _loader.native.poison_outputs(False)


def extra(case):
    """c [B, H], LSTMParams and the cotangents of c [B, T, H] of a case, rounded to its dtype."""
    rng, B, H = np.random.default_rng(case.seed + 3), case.batch, case.units
    weights = [(4 * H, case.inputs), (4 * H,), (4 * H, H)]
    arrays = [rng.normal(0.0, 0.5, (B, H))]
    arrays += [rng.normal(0.0, 1.0 / np.sqrt(shape[-1] + 1), shape) for shape in weights]
    arrays.append(rng.normal(size=(B, case.steps, H)))
    c, *memory, dc = (round_to(a, case.dtype) for a in arrays)
    return c, truth.LSTMParams(*memory), dc


def is_ltc(case):
    return isinstance(case, LtcCase)


def problem(case, *, synapses=False, **keywords):
    """(f, leaves, cotangents): f(*leaves.values()) gives (h, c)."""
    call, (c, memory, dc) = to_mlx(make(case), case.dtype), extra(case)
    c, dc, *memory = (mx.array(a).astype(call.inputs.dtype) for a in (c, dc, *memory))
    op = ops.ltc_mixed_sequence if is_ltc(case) else ops.cfc_mixed_sequence
    leaves = leaves_of(call) | {"c": c} | named_leaves(ops.LSTMParams(*memory), "memory")
    keywords = call.keywords | keywords
    if synapses:
        keywords["synapses"] = synapses_of(case)

    def f(*arrays):
        values = dict(zip(leaves, arrays, strict=True))
        params = _rebuild(call.params, values)
        lstm = _rebuild(ops.LSTMParams(*memory), values, "memory")
        state = values["state"], values["c"]
        return list(op(values["inputs"], state, values.get("ts"), lstm, params, **keywords))

    return f, leaves, [call.cotangents, dc]


def run(case, backend, **keywords):
    """{"h", "c"} and the gradients of all leaves on one backend."""
    f, leaves, cotangents = problem(case, **keywords)
    with dispatch.use_backend(backend):
        states, grads = mx.vjp(f, list(leaves.values()), cotangents)
    assert dispatch.last_backend() == backend
    states = dict(zip("hc", states, strict=True))
    return states, dict(zip(leaves, grads, strict=True))


def truth_of(case):
    """The same in float64."""
    call, (c, memory, dc) = make(case), extra(case)
    arguments = call.inputs, (call.state, c), call.ts, memory, call.params
    name = "ltc_mixed_sequence" if is_ltc(case) else "cfc_mixed_sequence"
    states = getattr(truth, name)(*arguments, **call.keywords)
    backward = getattr(truth, f"{name}_backward")
    dx, (dh, dc), dts, dmemory, dparams = backward(
        (call.cotangents, dc), *arguments, **call.keywords
    )
    grads = {"inputs": dx, "state": dh, "c": dc, **named_leaves(dts, "ts")}
    grads |= named_leaves(dmemory, "memory") | named_leaves(dparams)
    return dict(zip("hc", states, strict=True)), grads


def check(case, backend, **keywords):
    states, grads = run(case, backend, **keywords)
    want_states, want_grads = truth_of(case)
    assert states["h"].dtype == states["c"].dtype == getattr(mx, case.dtype)
    assert_all_close(states, want_states, tolerance(case.dtype, "forward"))
    assert_all_close(grads, want_grads, tolerance(case.dtype, "gradient"))


# --- values ------------------------------------------------------------------------------------


@native
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fused_sequence_and_gradients_equal_numpy(case):
    check(case, "cpu")
    if is_ltc(case) and make(case).params.mask is not None:
        check(case, "cpu", synapses=True)


@pytest.mark.parametrize(
    "case", [*FEW, LtcCase(dtype="float16"), CfcCase(dtype="bfloat16")], ids=str
)
def test_reference_sequence_and_gradients_equal_numpy(case):
    check(case, "reference")


@native
@pytest.mark.parametrize("case", [*FEW, *LONG], ids=str)
def test_fused_equals_step_by_step(case, monkeypatch):
    fused = run(case, "cpu")
    monkeypatch.setattr(cpu, "MIXED_MEMORY", ())
    stepped = run(case, "cpu")
    for got, want in zip(fused, stepped, strict=True):
        assert_all_close(got, want, GRADIENT)


@pytest.fixture
def isa(request):
    before = mlx_ncps.get_instruction_set()
    mlx_ncps.set_instruction_set(request.param)
    yield request.param
    mlx_ncps.set_instruction_set(before)


@native
@pytest.mark.parametrize(
    "isa", mlx_ncps.instruction_sets() if _loader.native else ["none"], indirect=True
)
@pytest.mark.parametrize("case", [*FEW, *LONG, LtcCase(batch=33, units=33)], ids=str)
def test_every_instruction_set_equals_numpy(isa, case):
    check(case, "cpu")
    if is_ltc(case) and case.density < 1.0:
        check(case, "cpu", synapses=True)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_numpy_gradient_is_that_of_its_forward(case):
    """Central differences along one direction of each leaf."""
    call, (c, memory, dc) = make(case), extra(case)
    op = truth.ltc_mixed_sequence if is_ltc(case) else truth.cfc_mixed_sequence
    ts = np.asarray(call.ts, np.float64)
    leaves = {"inputs": call.inputs, "state": call.state, "c": c, "ts": ts}
    leaves |= named_leaves(memory, "memory") | named_leaves(call.params)
    leaves = {k: np.asarray(v, np.float64) for k, v in leaves.items() if "mask" not in k}

    def loss(values):
        lstm = _rebuild_numpy(memory, values, "memory")
        params = _rebuild_numpy(call.params, values, "params")
        state = values["state"], values["c"]
        h, c = op(values["inputs"], state, values["ts"], lstm, params, **call.keywords)
        return np.sum(h * call.cotangents) + np.sum(c * dc)

    grads, rng = truth_of(case)[1], np.random.default_rng(0)
    for name, value in leaves.items():
        direction = rng.normal(size=value.shape)
        step = 1e-6 / max(np.linalg.norm(direction), 1e-12)
        ends = [loss(leaves | {name: value + s * direction}) for s in (step, -step)]
        got = np.sum(np.asarray(grads[name]) * direction)
        assert_close(name, got, (ends[0] - ends[1]) / (2 * step), GRADIENT)


def _rebuild_numpy(tree, values, name):
    if tree is None or isinstance(tree, np.ndarray):
        return values.get(name, tree)
    keys = getattr(tree, "_fields", range(len(tree)))
    parts = [_rebuild_numpy(p, values, f"{name}.{k}") for k, p in zip(keys, tree, strict=True)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_empty_sequence_gives_empty_states_and_zero_gradients(case, backend):
    states, grads = run(case, backend)
    for state in states.values():
        assert state.shape == (case.batch, case.steps, case.units)
    for name, grad in grads.items():
        assert not np.any(np.array(grad)), name
    assert_all_close(grads, truth_of(case)[1], 0.0)


# --- what must not change a number ---------------------------------------------------------------


@native
@pytest.mark.parametrize("case", [*FEW, *LONG], ids=str)
def test_training_threads_and_repetition_change_no_bit(case):
    want = run(case, "cpu")
    variants = [run(case, "cpu", training=False), run(case, "cpu")]
    before = mlx_ncps.get_num_threads()
    try:
        mlx_ncps.set_num_threads(1)
        one = run(case, "cpu")
        mx.eval(one)
    finally:
        mlx_ncps.set_num_threads(before)
    for got in (*variants, one):
        for ours, theirs in zip(got, want, strict=True):
            for name in theirs:
                assert mx.array_equal(ours[name], theirs[name]), name


@native
@pytest.mark.parametrize("case", FEW, ids=str)
def test_compile_changes_nothing(case):
    f, leaves, cotangents = problem(case)

    def both(*arrays):
        states, grads = mx.vjp(f, list(arrays), cotangents)
        return [*states, *grads]

    arrays = list(leaves.values())
    with dispatch.use_backend("cpu"):
        plain, compiled = both(*arrays), mx.compile(both)(*arrays)
    names = ["h", "states c", *leaves]
    plain, compiled = (dict(zip(names, a, strict=True)) for a in (plain, compiled))
    assert_all_close(compiled, plain, GRADIENT)


@native
@pytest.mark.parametrize("case", FEW, ids=str)
@pytest.mark.parametrize("mapped", ["inputs", "c", "memory.bias", "all"])
def test_vmap_equals_a_loop(case, mapped):
    f, leaves, cotangents = problem(case)

    def both(*arrays):
        states, grads = mx.vjp(f, list(arrays), cotangents)
        return [*states, *grads]

    chosen = list(leaves) if mapped == "all" else [mapped]
    axes = [0 if n in chosen else None for n in leaves]
    stacks = [[a * s if n in chosen else a for s in (1.0, 0.8)] for n, a in leaves.items()]
    arrays = [s[0] if axis is None else mx.stack(s) for s, axis in zip(stacks, axes, strict=True)]
    with dispatch.use_backend("cpu"):
        got = [
            *mx.vmap(f, in_axes=tuple(axes))(*arrays),
            *mx.vmap(both, in_axes=tuple(axes))(*arrays),
        ]
        loop = [[*f(*one), *both(*one)] for one in zip(*stacks, strict=True)]
    want = [mx.stack(parts) for parts in zip(*loop, strict=True)]
    names = ["h", "states c", "h again", "states c again", *leaves]
    got, want = (dict(zip(names, a, strict=True)) for a in (got, want))
    assert_all_close(got, want, GRADIENT)


@native
@pytest.mark.parametrize("case", FEW[::2], ids=str)
def test_one_cotangent_alone_and_strided_arguments(case):
    f, leaves, cotangents = problem(case)
    arrays = list(leaves.values())
    with dispatch.use_backend("cpu"):
        parts = [mx.vjp(lambda *a, n=n: f(*a)[n], arrays, [cotangents[n]])[1] for n in range(2)]
        strided = [mx.contiguous(a.T).T for a in arrays]
        whole = mx.vjp(f, strided, [mx.contiguous(d.T).T for d in cotangents])[1]
    sums = {n: a + b for n, a, b in zip(leaves, *parts, strict=True)}
    assert_all_close(dict(zip(leaves, whole, strict=True)), sums, GRADIENT)


@native
@pytest.mark.parametrize("kind", [LtcCase, CfcCase])
def test_negative_elements_of_timespans_give_nan_from_there_on(kind):
    case = kind(steps=3, timespans="per_batch")
    f, leaves, _ = problem(case)
    ts = np.ones((case.batch, case.steps), np.float32)
    ts[1, 1] = -1.0
    with dispatch.use_backend("cpu"):
        h, c = (np.array(s) for s in f(*(leaves | {"ts": mx.array(ts)}).values()))
    assert np.isnan(h[1, 1:]).all()
    assert np.isnan(c[1, 2]).all()
    for s in (h, c):
        assert np.isfinite(np.delete(s, 1, axis=0)).all()
        assert np.isfinite(s[1, 0]).all()


# --- errors and choices --------------------------------------------------------------------------


@native
def test_derivatives_that_are_missing_name_the_backend_that_has_them():
    f, leaves, _ = problem(FEW[0])
    arrays = list(leaves.values())
    with dispatch.use_backend("cpu"), pytest.raises(RuntimeError, match="use_backend"):
        mx.eval(mx.jvp(f, arrays, arrays))


def test_only_the_cpu_kernels_have_the_memory():
    facts = CfCFacts(inputs=3, units=4, backbone=(5,), training=True, batch=2, steps=2)
    for name in available_backends():
        with dispatch.use_backend(name):
            assert mixed_memory_is_fused("cfc_sequence", facts) == (name == "cpu")


@pytest.mark.parametrize("case", FEW[1::2], ids=str)
def test_wrong_arguments_raise(case):
    call, (c, memory, _) = to_mlx(make(case)), extra(case)
    c, memory = mx.array(c), ops.LSTMParams(*map(mx.array, memory))
    name, H, I, B = ("ltc" if is_ltc(case) else "cfc"), case.units, case.inputs, case.batch
    op = getattr(ops, f"{name}_mixed_sequence")

    def raises(text, state=(call.state, c), memory=memory):
        with pytest.raises(ValueError, match=rf"^\[{name}\] {re.escape(text)}$"):
            op(call.inputs, state, call.ts, memory, call.params, **call.keywords)

    raises("state must be (h, c), got array.", state=call.state)
    raises(f"state must be [B, H] = {(B, H)}, got {(B, H + 1)}.", (mx.zeros((B, H + 1)), c))
    raises(
        f"state c must be [B, H] = {(B, H)}, got {(B + 1, H)}.", (call.state, mx.zeros((B + 1, H)))
    )
    for field, symbols, shape in (
        ("input_weight", "[4H, I]", (4 * H, I)),
        ("bias", "[4H]", (4 * H,)),
        ("recurrent_weight", "[4H, H]", (4 * H, H)),
    ):
        wrong = (*shape[:-1], shape[-1] + 1)
        text = f"memory.{field} must be {symbols} = {shape}, got {wrong}."
        raises(text, memory=memory._replace(**{field: mx.zeros(wrong)}))
    integers = memory._replace(bias=mx.zeros((4 * H,), mx.int32))
    raises("memory.bias must be float32, float16 or bfloat16, got int32.", memory=integers)
    with pytest.raises(TypeError, match="wrong"):
        op(call.inputs, (call.state, c), call.ts, memory, call.params, wrong=1)


# --- dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backend", [name for name in available_backends() if name in ("cpu", "reference")]
)
@pytest.mark.parametrize("case", CFC_DROPOUT_CASES[::3], ids=str)
def test_dropout_behind_the_memory_equals_numpy(case, backend):
    check(case, backend)
