"""Mixed memory whose LSTM reads other inputs than the LTC, as behind a backbone: against NumPy in
float64, where one array has both and zeros in the weights keep them apart.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import _loader, available_backends, dispatch
from mlx_ncps.ops import LSTMParams
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.mixed_memory import ltc_behind_memory

from tests.support.case_arrays import named_leaves, round_to, to_mlx
from tests.support.cases import LTC_SOLVER_CASES, LtcCase, assert_all_close, make, tolerance
from tests.support.running import _rebuild, leaves_of, synapses_of

native = pytest.mark.usefixtures("native")
GRADIENT = tolerance("float32", "gradient")
CASES = [
    LtcCase(timespans="per_batch", implicit=True, density=0.6, steps=2, unfolds=2),
    LtcCase(batch=19, steps=60, units=5, unfolds=2, timespans="per_batch", density=0.3),
    LtcCase(batch=3, steps=70, units=17, unfolds=1, density=0.3, mapped=False),
    LtcCase(batch=33, units=33, inputs=1, steps=3, density=0.2),
    *LTC_SOLVER_CASES[:4],
    LtcCase(batch=1, units=3, steps=4, inputs=9),
    LtcCase(steps=3, dtype="float16"),
    LtcCase(steps=3, dtype="bfloat16"),
]
WIDTHS = [1, 7, 40]  # of what the LSTM reads
backends = pytest.mark.parametrize(
    "backend", [name for name in ("reference", "cpu") if name in available_backends()]
)


@pytest.fixture(autouse=True)
def _poison():
    """Outputs start as NaN, so that an element that no kernel writes is seen."""
    if _loader.native is not None:
        _loader.native.poison_outputs(True)
    yield
    if _loader.native is not None:
        _loader.native.poison_outputs(False)


def extra(case, width):
    """own [B, T, M], c [B, H], LSTMParams and the cotangents of c, rounded to the case's dtype."""
    rng, B, T, H = np.random.default_rng(case.seed + 5), case.batch, case.steps, case.units
    arrays = [rng.normal(size=(B, T, width)), rng.normal(0.0, 0.5, (B, H))]
    shapes = [(4 * H, width), (4 * H,), (4 * H, H)]
    arrays += [rng.normal(0.0, 1.0 / np.sqrt(shape[-1] + 1), shape) for shape in shapes]
    arrays.append(rng.normal(size=(B, T, H)))
    own, c, *memory, dc = (round_to(a, case.dtype) for a in arrays)
    return own, c, truth.LSTMParams(*memory), dc


def problem(case, width, **keywords):
    """(f, leaves, cotangents): f(*leaves.values()) gives (h, c)."""
    call, (own, c, memory, dc) = to_mlx(make(case), case.dtype), extra(case, width)
    own, c, dc, *memory = (mx.array(a).astype(call.inputs.dtype) for a in (own, c, dc, *memory))
    memory = LSTMParams(*memory)
    leaves = leaves_of(call) | {"own": own, "c": c} | named_leaves(memory, "memory")

    def f(*arrays):
        values = dict(zip(leaves, arrays, strict=True))
        params, lstm = _rebuild(call.params, values), _rebuild(memory, values, "memory")
        arguments = values["inputs"], (values["state"], values["c"]), values.get("ts"), lstm
        options = call.keywords | keywords
        return list(ltc_behind_memory(values["own"], *arguments, params, **options))

    return f, leaves, [call.cotangents, dc]


def run(case, width, backend, **keywords):
    f, leaves, cotangents = problem(case, width, **keywords)
    with dispatch.use_backend(backend):
        states, grads = mx.vjp(f, list(leaves.values()), cotangents)
    assert dispatch.last_backend() == backend
    return dict(zip("hc", states, strict=True)), dict(zip(leaves, grads, strict=True))


def truth_of(case, width):
    """The same in float64: both inputs side by side, the LTC's first."""
    call, (own, c, memory, dc) = make(case), extra(case, width)
    K = case.inputs

    def below(a, value):  # rows of sources that have no synapse
        return None if a is None else np.concatenate([a, np.full((width, *a.shape[1:]), value)])

    fill = {"sensory_sigma": 1.0, "input_w": 1.0}
    names = [n for n in call.params._fields if n.startswith(("sensory_", "input_"))]
    wide = {n: below(getattr(call.params, n), fill.get(n, 0.0)) for n in names}
    weight = np.concatenate([np.zeros((4 * case.units, K)), memory.input_weight], axis=1)
    arguments = (
        np.concatenate([call.inputs, own], axis=-1),
        (call.state, c),
        call.ts,
        memory._replace(input_weight=weight),
        call.params._replace(**wide),
    )
    states = truth.ltc_mixed_sequence(*arguments, **call.keywords)
    cotangents = call.cotangents, dc
    dx, (dh, dc), dts, dmemory, dparams = truth.ltc_mixed_sequence_backward(
        cotangents, *arguments, **call.keywords
    )
    dmemory = dmemory._replace(input_weight=dmemory.input_weight[:, K:])
    cut = {n: None if getattr(dparams, n) is None else getattr(dparams, n)[:K] for n in names}
    grads = {"inputs": dx[..., :K], "own": dx[..., K:], "state": dh, "c": dc}
    grads |= named_leaves(dts, "ts") | named_leaves(dmemory, "memory")
    return dict(zip("hc", states, strict=True)), grads | named_leaves(dparams._replace(**cut))


@backends
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_equal_numpy(case, width, backend):
    want_states, want_grads = truth_of(case, width)
    listed = [{}, {"synapses": synapses_of(case)}] if case.density < 1.0 else [{}]
    for keywords in listed:
        states, grads = run(case, width, backend, **keywords)
        assert_all_close(states, want_states, tolerance(case.dtype, "forward"))
        assert_all_close(grads, want_grads, tolerance(case.dtype, "gradient"))


@native
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_compiled_and_repeated_calls_change_no_bit(case):
    f, leaves, cotangents = problem(case, 7)

    def both(*arrays):
        states, grads = mx.vjp(f, list(arrays), cotangents)
        return [*states, *grads]

    arrays = list(leaves.values())
    with dispatch.use_backend("cpu"):
        results = [both(*arrays), both(*arrays), mx.compile(both)(*arrays)]
    names = ["h", "states c", *leaves]
    plain, again, compiled = (dict(zip(names, r, strict=True)) for r in results)
    assert all(mx.array_equal(plain[name], again[name]) for name in names)
    assert_all_close(compiled, plain, GRADIENT)


@native
@pytest.mark.parametrize("mapped", ["own", "inputs", "memory.bias", "all"])
def test_vmap_equals_a_loop(mapped):
    f, leaves, cotangents = problem(CASES[0], 7)

    def both(*arrays):
        states, grads = mx.vjp(f, list(arrays), cotangents)
        return [*states, *grads]

    chosen = list(leaves) if mapped == "all" else [mapped]
    axes = [0 if n in chosen else None for n in leaves]
    stacks = [[a * s if n in chosen else a for s in (1.0, 0.8)] for n, a in leaves.items()]
    arrays = [s[0] if axis is None else mx.stack(s) for s, axis in zip(stacks, axes, strict=True)]
    with dispatch.use_backend("cpu"):
        got = mx.vmap(both, in_axes=tuple(axes))(*arrays)
        loop = [both(*one) for one in zip(*stacks, strict=True)]
    want = [mx.stack(parts) for parts in zip(*loop, strict=True)]
    names = ["h", "states c", *leaves]
    assert_all_close(*(dict(zip(names, a, strict=True)) for a in (got, want)), GRADIENT)


@native
@pytest.mark.parametrize("wrong", ["rows", "steps", "width", "rank"])
def test_wrong_inputs_are_refused(wrong):
    f, leaves, _ = problem(CASES[0], 7)
    own = leaves["own"]
    arrays = {"rows": own[:1], "steps": own[:, :1], "width": own[..., :3], "rank": own[0]}
    values = (leaves | {"own": arrays[wrong]}).values()
    with dispatch.use_backend("cpu"), pytest.raises(ValueError, match=r"\[ltc\] .* must"):
        f(*values)
