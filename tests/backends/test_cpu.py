"""The native CPU kernels, through the public ops, against the NumPy ground truth."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mlx.core as mx
import mlx_ncps
import numpy as np
import pytest
from mlx_ncps import _loader, ops, use_backend
from mlx_ncps.backends import cpu

from tests.support.cases import (
    CFC_CASES,
    CFC_EMPTY_CASES,
    LTC_CASES,
    LTC_EMPTY_CASES,
    LTC_SOLVER_CASES,
    LTC_WIRED_CASES,
    SOLVERS,
    CfcCase,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    random_cfc_cases,
    random_ltc_cases,
    to_mlx,
    tolerance,
    want_states,
)
from tests.support.running import (
    check_epsilon,
    check_gradients,
    check_states,
    gradients,
    problem,
    states,
)
from tests.support.transforms import FEW as FEW_OF_EVERY_BACKEND
from tests.support.transforms import (
    check_compile,
    check_compiled_training_step,
    check_jvp,
    check_vmap,
)

pytestmark = [
    pytest.mark.usefixtures("cpu_device"),
    pytest.mark.skipif(_loader.native is None, reason=f"no native module: {_loader.reason}"),
]

CASES = LTC_CASES + LTC_SOLVER_CASES + CFC_CASES + random_ltc_cases(30) + random_cfc_cases(30)
SPARSE = [c for c in LTC_CASES + LTC_SOLVER_CASES + random_ltc_cases(30) if c.density < 1.0]
SPARSE += [replace(case, batch=17) for case in SPARSE if case.batch < 5]  # more take the lists
FEW = [
    *FEW_OF_EVERY_BACKEND,
    *(
        LtcCase(solver=s, timespans="per_batch", implicit=True, density=d, steps=2, unfolds=24)
        for s in SOLVERS
        for d in (1.0, 0.6)
    ),
]
CHUNKED = [  # more steps than a block of rows runs before it may change its thread
    LtcCase(batch=9, steps=100, inputs=3, units=16, unfolds=2),  # dense: whole vectors
    LtcCase(batch=35, steps=30, inputs=3, units=17, unfolds=2, density=0.3),
    *(
        LtcCase(batch=35, steps=14, units=h, unfolds=12, density=0.3, timespans="scalar", solver=s)
        for h in (16, 17)
        for s in SOLVERS
    ),
    CfcCase(batch=35, steps=30, inputs=3, units=5, backbone_units=7),
    CfcCase(batch=300, steps=3, inputs=3, units=5, backbone_units=7),  # blocks share slabs
]
ISA_CASES = [
    *(LtcCase(units=h, batch=5, unfolds=3, density=d) for h in (1, 17, 33, 65) for d in (1.0, 0.3)),
    *(
        LtcCase(units=h, batch=5, unfolds=24, density=d, timespans="scalar", solver=s)
        for h in (1, 17, 33)
        for d in (1.0, 0.3)
        for s in SOLVERS
    ),
    *(CfcCase(units=h, backbone_units=h + 2, layers=2) for h in (1, 17, 33, 65)),
    *(CfcCase(activation=a, units=17, timespans="per_batch") for a in ("gelu", "silu", "relu")),
    CfcCase(units=33, mode="pure", timespans="per_batch"),
]


@pytest.fixture(autouse=True)
def _poison():
    """Outputs start as NaN, so that an element that no kernel writes is seen."""
    _loader.native.poison_outputs(True)
    yield
    _loader.native.poison_outputs(False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence_equals_numpy(case):
    check_states(case, "cpu")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence_gradients_equal_numpy(case):
    check_gradients(case, "cpu")


@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_sparse_sequence_equals_numpy(case):
    check_states(case, "cpu", synapses=True)
    check_gradients(case, "cpu", synapses=True)


def test_sparse_cases_run_both_kernels():
    kernels = set()
    for case in SPARSE:
        masks = make(case).params
        handle = cpu._handle(ops.SynapseLists(masks.mask, masks.sensory_mask))
        sizes = case.batch, case.inputs, case.units, case.unfolds
        kernels.add(_loader.native.ltc_kernel(*sizes, synapses=handle))
    assert kernels == {"dense", "lists"}


def kernel_of(case):
    masks = make(case).params
    sparse = case.density < 1.0
    handle = cpu._handle(ops.SynapseLists(masks.mask, masks.sensory_mask)) if sparse else None
    sizes = case.batch, case.inputs, case.units, case.unfolds
    return _loader.native.ltc_kernel(*sizes, synapses=handle)


@pytest.mark.parametrize(
    "isa", mlx_ncps.instruction_sets() if _loader.native else ["none"], indirect=True
)
@pytest.mark.parametrize(
    ("case", "kernel"),
    [
        *((LtcCase(batch=b, inputs=16, units=1001), "dense") for b in (1, 16, 64)),
        *((LtcCase(batch=64, inputs=16, units=h), "dense") for h in (64, 65, 129, 500)),
        (LtcCase(batch=64, inputs=16, units=1), "lists"),
        *((LtcCase(batch=b, units=64, density=0.7), "dense") for b in (1, 2, 4)),  # one block
        (LtcCase(batch=64, units=64, density=0.9), "dense"),
        (LtcCase(batch=64, units=64, density=0.7), "lists"),
        (LtcCase(batch=64, units=64, density=0.1), "lists"),
    ],
    ids=str,
)
def test_the_cheaper_kernel_runs(isa, case, kernel):
    assert kernel_of(case) == kernel


def test_lists_of_a_full_matrix_are_made_once():
    case = LtcCase(batch=64, inputs=4, units=2)
    assert kernel_of(case) == "lists"
    mx.eval(gradients(case, "cpu"))
    made = _loader.native.synapse_lists_made()
    mx.eval(gradients(case, "cpu"))
    assert _loader.native.synapse_lists_made() == made


@pytest.mark.parametrize("case", CHUNKED, ids=str)
def test_sequence_in_chunks_equals_numpy(case):
    synapses = isinstance(case, LtcCase) and case.density < 1.0
    check_states(case, "cpu", synapses=synapses)
    check_gradients(case, "cpu", synapses=synapses)


@pytest.mark.parametrize("case", LTC_WIRED_CASES, ids=str)
@pytest.mark.parametrize("synapses", [False, True])
def test_wired_sequence_equals_numpy(case, synapses):
    check_states(case, "cpu", synapses=synapses)
    check_gradients(case, "cpu", synapses=synapses)


@pytest.mark.parametrize("case", LTC_EMPTY_CASES + CFC_EMPTY_CASES, ids=str)
def test_empty_sequence_gives_empty_states_and_zero_gradients(case):
    assert states(case, "cpu").shape == (case.batch, case.steps, case.units)
    for name, grad in gradients(case, "cpu").items():
        assert not np.any(np.array(grad)), name


@pytest.mark.parametrize("case", FEW, ids=str)
@pytest.mark.parametrize("inputs", [0, 1])
def test_sequence_with_hardly_any_inputs_equals_numpy(case, inputs):
    case = type(case)(**{**vars(case), "inputs": inputs})
    check_states(case, "cpu")
    check_gradients(case, "cpu")


@pytest.fixture
def isa(request):
    before = mlx_ncps.get_instruction_set()
    mlx_ncps.set_instruction_set(request.param)
    yield request.param
    mlx_ncps.set_instruction_set(before)


@pytest.mark.parametrize(
    "isa", mlx_ncps.instruction_sets() if _loader.native else ["none"], indirect=True
)
@pytest.mark.parametrize("case", ISA_CASES, ids=str)
def test_every_instruction_set_equals_numpy(isa, case):
    assert mlx_ncps.get_instruction_set() == isa
    for synapses in {False, isinstance(case, LtcCase) and case.density < 1.0}:
        keywords = {"synapses": True} if synapses else {}
        check_states(case, "cpu", **keywords)
        check_gradients(case, "cpu", **keywords)


@pytest.mark.parametrize("case", [*FEW, *ISA_CASES], ids=str)
def test_training_changes_no_bit_of_states_and_gradients(case):
    assert mx.array_equal(states(case, "cpu", training=True), states(case, "cpu", training=False))
    kept, computed = (gradients(case, "cpu", training=training) for training in (True, False))
    for name in kept:
        assert mx.array_equal(kept[name], computed[name]), name


@pytest.mark.parametrize("case", FEW, ids=str)
def test_compile_changes_nothing(case):
    check_compile(case, "cpu")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_compiled_training_step_equals_the_plain_one(case):
    check_compiled_training_step(case, "cpu")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_vmap_equals_a_loop(case):
    check_vmap(case, "cpu")
    if getattr(case, "density", 1.0) < 1.0:
        check_vmap(case, "cpu", synapses=True)


@pytest.mark.parametrize("solver", ["", *SOLVERS])
@pytest.mark.parametrize("batch", [7, 20])  # less than a vector of 8 or 16, more than one
def test_vmap_of_synapse_lists_equals_a_loop(batch, solver):
    """What the lists' kernel saves lies in blocks of an element's rows, also in a mapped batch."""
    sizes = {"batch": batch, "units": 5, "steps": 3, "unfolds": 4, "density": 0.3}
    case = LtcCase(timespans="per_batch", solver=solver, **sizes)
    masks = make(case).params
    handle = cpu._handle(ops.SynapseLists(masks.mask, masks.sensory_mask))
    sizes = case.batch, case.inputs, case.units, case.unfolds
    assert _loader.native.ltc_kernel(*sizes, synapses=handle) == "lists"
    check_vmap(case, "cpu", synapses=True)


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_an_ltc_call_keeps_the_instruction_set_it_was_made_with(density):
    case = LtcCase(timespans="per_batch", batch=20, units=5, density=density)
    before = mlx_ncps.get_instruction_set()
    try:
        for isa in mlx_ncps.instruction_sets():
            mlx_ncps.set_instruction_set(isa)
            want = gradients(case, "cpu", synapses=density < 1.0)
            mx.eval(want)
            lazy = gradients(case, "cpu", synapses=density < 1.0)
            mlx_ncps.set_instruction_set(mlx_ncps.instruction_sets()[-1])
            for name in want:
                assert mx.array_equal(lazy[name], want[name]), (isa, name)
    finally:
        mlx_ncps.set_instruction_set(before)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_derivatives_that_are_missing_name_the_backend_that_has_them(case):
    with pytest.raises(RuntimeError, match=r'use_backend\("reference"\)'):
        check_jvp(case, "cpu")
    f, leaves, cotangents = problem(case)

    def slope(*arrays):
        return sum(g.sum() for g in mx.vjp(f, list(arrays), [cotangents])[1])

    with use_backend("cpu"), pytest.raises(RuntimeError, match=r'use_backend\("reference"\)'):
        mx.eval(mx.grad(slope)(*leaves.values()))


@pytest.mark.parametrize("case", FEW, ids=str)
def test_strided_arguments_equal_contiguous_ones(case):
    f, leaves, cotangents = problem(case)
    strided = []
    for a in leaves.values():
        view = mx.stack([a * 0 + 9, a], axis=a.ndim)[..., 1]  # every other element
        strided.append(view if a.ndim < 2 else mx.contiguous(view.T).T)
    with use_backend("cpu"):
        want, want_grads = mx.vjp(f, list(leaves.values()), [cotangents])
        got, grads = mx.vjp(f, strided, [mx.contiguous(cotangents.T).T])
    assert_all_close(
        dict(zip(["states", *leaves], [*got, *grads], strict=True)),
        dict(zip(["states", *leaves], [*want, *want_grads], strict=True)),
        tolerance("float32", "gradient"),
    )


@pytest.mark.parametrize("case", FEW, ids=str)
def test_lazy_arguments_are_evaluated_first(case):
    f, leaves, _ = problem(case)
    lazy = [mx.negative(mx.negative(a)) for a in leaves.values()]
    with use_backend("cpu"):
        assert_close("states", f(*lazy), want_states(case), tolerance("float32", "forward"))


def test_several_streams_give_what_one_gives():
    case = LtcCase(batch=17, steps=5, units=33, timespans="per_batch")
    want = gradients(case, "cpu")
    mx.eval(want)
    results = []
    for stream in [mx.new_stream(mx.cpu) for _ in range(4)]:
        with mx.stream(stream):
            results.append(gradients(case, "cpu"))
    mx.eval(results)
    for got in results:
        for name in want:
            assert mx.array_equal(got[name], want[name]), name


@pytest.mark.parametrize(
    "case", [LtcCase(batch=17, units=33), CfcCase(batch=17, units=33)], ids=str
)
def test_several_threads_give_what_one_gives(case):
    want = np.array(states(case, "cpu"))

    def run(_):
        with mx.stream(mx.new_stream(mx.cpu)):
            return np.array(states(case, "cpu"))

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(run, range(12)):
            assert np.array_equal(got, want)


def test_negative_elements_of_timespans_give_nan_from_there_on():
    for case, op in ((LtcCase(), ops.ltc_sequence), (CfcCase(), ops.cfc_sequence)):
        call = to_mlx(make(case))
        ts = mx.ones((case.batch, case.steps))
        ts[1, 1] = -1.0
        with use_backend("cpu"):
            got = np.array(op(call.inputs, call.state, ts, call.params, **call.keywords))
        assert np.isnan(got[1, 1:]).all()
        assert np.isfinite(np.delete(got, 1, axis=0)).all()
        assert np.isfinite(got[1, 0]).all()


def test_ltc_epsilon_counts():
    check_epsilon("cpu")


def test_options_reach_the_primitives(monkeypatch):
    """They change speed and memory, not one number, so no other test would miss them."""
    seen = []

    class Recorder:
        def __getattr__(self, name):
            if name == "has_values":
                return lambda _: False  # nothing is computed at once, without a primitive
            if not name.endswith("_sequence"):
                return getattr(native, name)

            def record(*arrays, **options):
                seen.append(options)
                return getattr(native, name)(*arrays, **options)

            return record

    native, masks = _loader.native, make(LtcCase(density=0.5)).params
    lists = ops.SynapseLists(masks.mask, masks.sensory_mask)  # alive: the handle goes with the last
    handle = cpu._handle(lists)
    monkeypatch.setattr(_loader, "native", Recorder())
    for training in (True, False):
        seen.clear()
        states(LtcCase(density=0.5), "cpu", synapses=True, training=training)
        states(CfcCase(), "cpu", training=training)
        ltc, cfc = seen
        assert (ltc["save"], cfc["save"]) == (training, training)
        assert ltc["synapses"] is handle
        assert cfc["merged"]
        assert ltc["stream"] == cfc["stream"] == mx.cpu


@pytest.mark.parametrize("case", CFC_CASES, ids=str)
def test_short_inference_is_computed_at_once(case, native):
    got = states(case, "cpu", training=False)
    at_once = native.has_values(got)
    assert_close("states", got, want_states(case), tolerance(case.dtype, "forward"))
    assert got.dtype == getattr(mx, case.dtype)
    plain = case.dtype == "float32" and case.variant == "torch" and case.timespans == "none"
    assert at_once == plain
    assert not native.has_values(states(case, "cpu", training=True))


@pytest.mark.parametrize("ts", [None, 0, 1, 0.7])
@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
@pytest.mark.parametrize("layers", [0, 2])
def test_inference_at_once_has_the_bits_of_the_primitive(native, ts, mode, layers):
    call = to_mlx(make(CfcCase(mode=mode, layers=layers, units=33)))
    arguments = (call.inputs, call.state, ts, call.params)
    got, want = (ops.cfc_sequence(*arguments, mode=mode, training=t) for t in (False, True))
    assert native.has_values(got)
    assert mx.array_equal(got, want)


def test_what_inference_leaves_to_the_primitive(native):
    case = CfcCase()
    f, leaves, _ = problem(case, training=False)
    wanted = f(*leaves.values())
    assert native.has_values(wanted)
    for name, leaf in leaves.items():
        lazy = leaves | {name: leaf + 0.0}
        got = f(*lazy.values())
        assert not native.has_values(got), name
        assert_close(name, got, wanted, tolerance("float32", "forward"))
    compiled = mx.compile(f)(*leaves.values())
    assert_close("compiled", compiled, wanted, tolerance("float32", "forward"))
    long = CfcCase(batch=64, steps=300, units=32, backbone_units=32)
    assert not native.has_values(states(long, "cpu", training=False))
    mapped = mx.vmap(lambda x: f(x, *list(leaves.values())[1:]))(leaves["inputs"][None])
    assert_close("mapped", mapped[0], wanted, tolerance("float32", "forward"))


def test_timespan_zero_keeps_the_ltc_state():
    call = to_mlx(make(LtcCase(units=33)))
    with use_backend("cpu"):
        got = ops.ltc_sequence(call.inputs, call.state, 0, call.params)
    assert_close("states", got[:, -1], call.state, tolerance("float32", "forward"))


def test_equal_synapse_lists_share_one_handle():
    masks = np.eye(4), np.ones((2, 4))
    first, second = ops.SynapseLists(*masks), ops.SynapseLists(*masks)
    assert cpu._handle(first) is cpu._handle(second)
    assert cpu._handle(first) is not cpu._handle(ops.SynapseLists(1 - masks[0], masks[1]))


def test_too_deep_a_backbone_goes_to_another_backend():
    case = CfcCase(layers=cpu.MAX_LAYERS + 1)
    f, leaves, _ = problem(case)
    with (
        use_backend("cpu"),
        pytest.raises(RuntimeError, match="at most 15 backbone layers, got 16"),
    ):
        f(*leaves.values())
    assert_close("states", f(*leaves.values()), want_states(case), tolerance("float32", "forward"))
    assert mlx_ncps.last_backend() == "reference"
    check_states(CfcCase(layers=cpu.MAX_LAYERS), "cpu")


@pytest.mark.parametrize("n", [-1, 2.0, True, "2", None])
def test_set_num_threads_refuses(n):
    with pytest.raises(ValueError, match=r"\[set_num_threads\] n must be an integer >= 0, got"):
        mlx_ncps.set_num_threads(n)


def test_set_instruction_set_refuses_what_can_not_run():
    before = mlx_ncps.get_instruction_set()
    with pytest.raises(
        ValueError, match=r"\[set_instruction_set\] name must be one of auto, .*'sse9'"
    ):
        mlx_ncps.set_instruction_set("sse9")
    assert mlx_ncps.get_instruction_set() == before
