"""The LTC's solvers: equal to float64, of the order that the literature promises, in real time."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, LTCCell, available_backends, dispatch, ops
from mlx_ncps.backends import LTCFacts
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import (
    LTC_SOLVER_CASES,
    SOLVERS,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    relative_error,
    to_mlx,
    tolerance,
    want_states,
)
from tests.support.rnn_layers import B, I, T, normal, spans
from tests.support.running import check_gradients, check_states, gradients, states
from tests.support.transforms import check_compile

FORWARD, EXACT = tolerance("float32", "forward"), tolerance("float64", "forward")
ORDERS = {"semi_implicit": 1, "explicit": 1, "runge_kutta": 4}
solvers = pytest.mark.parametrize("solver", SOLVERS)
all_solvers = pytest.mark.parametrize("solver", ORDERS)


@pytest.mark.parametrize("case", LTC_SOLVER_CASES, ids=str)
def test_sequence_equals_numpy(case):
    check_states(case, "reference")
    check_gradients(case, "reference")


def test_solvers_give_different_states():
    all_states = [want_states(LtcCase(solver=s, seed=1)) for s in ("", *SOLVERS)]
    calls = [make(LtcCase(solver=s, seed=1)) for s in ("", *SOLVERS)]
    for n in range(1, len(calls)):
        own = truth.ltc_sequence(*calls[0].arguments, **calls[n].keywords)
        assert relative_error(own, all_states[0]) > 0.01
        for other in all_states[1:n]:
            assert relative_error(all_states[n], other) > 0.01


def step_of(case, solver, unfolds):
    """One step in float64 from the arrays of a case."""
    call = make(case)
    options = call.keywords | {"ode_solver": solver, "ode_unfolds": unfolds, "epsilon": 0.0}
    return truth.ltc_step(call.inputs[:, 0], call.state, call.ts[:, 0], call.params, **options)


@all_solvers
def test_steps_converge_to_the_same_solution_at_their_order(solver):
    """Each halving of the step divides the error by 2 ** order; elapsed times differ by row."""
    case = LtcCase(batch=4, steps=1, units=6, timespans="per_batch", density=0.6, dtype="float64")
    solution, order = step_of(case, "runge_kutta", 2048), ORDERS[solver]
    unfolds = [64, 128, 256] if order == 4 else [256, 512, 1024]
    errors = [np.abs(step_of(case, solver, u) - solution).max() for u in unfolds]
    assert errors[-1] > 1e-12  # above the rounding
    measured = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.abs(measured - order).max() < 0.1, measured


@all_solvers
def test_leak_alone_decays_exponentially(solver):
    """Without synapses dv/dt = gleak (vleak - v) / cm, whose solution is known."""
    case = LtcCase(batch=4, steps=1, units=6, timespans="per_batch", density=0.0, dtype="float64")
    call, U = make(case), 8
    p, ts = call.params, call.ts
    rate = ts * p.gleak / p.cm  # [B, H]
    one = {
        "semi_implicit": 1 / (1 + rate / U),
        "explicit": 1 - rate / U,
        "runge_kutta": sum((-rate / U) ** n / f for n, f in enumerate((1, 1, 2, 6, 24))),
    }[solver]
    want = p.vleak + (call.state - p.vleak) * one**U
    assert_close("state", step_of(case, solver, U), want, EXACT)
    exact = p.vleak + (call.state - p.vleak) * np.exp(-rate)
    if solver == "runge_kutta":
        assert relative_error(step_of(case, solver, 200), exact) < 1e-7


@all_solvers
def test_elapsed_time_is_cut_into_unfolds(solver):
    case = LtcCase(batch=4, steps=1, timespans="per_batch", dtype="float64")
    call = make(case)
    options = call.keywords | {"ode_solver": solver}
    x, ts = call.inputs[:, 0], call.ts[:, 0]
    once = truth.ltc_step(x, call.state, ts, call.params, **options)
    options["ode_unfolds"] //= 2
    half = truth.ltc_step(x, call.state, ts / 2, call.params, **options)
    assert_close("state", truth.ltc_step(x, half, ts / 2, call.params, **options), once, EXACT)


@solvers
def test_no_time_keeps_the_state_and_bad_times_give_nan(solver):
    call = to_mlx(make(LtcCase()))
    x, keywords = call.inputs[:, 0], {"ode_solver": solver}
    for ts in (0.0, mx.zeros((3,))):
        assert mx.array_equal(ops.ltc_step(x, call.state, ts, call.params, **keywords), call.state)
    got = np.array(ops.ltc_step(x, call.state, mx.array([1.0, -1.0, 1.0]), call.params, **keywords))
    assert np.isfinite(got[[0, 2]]).all()
    assert np.isnan(got[1]).all()
    with pytest.raises(ValueError, match=r"\[ltc\] timespans must be >= 0, got -1"):
        ops.ltc_step(x, call.state, -1.0, call.params, **keywords)


@solvers
def test_compiled_states_and_gradients_equal_the_uncompiled(solver):
    case = LtcCase(solver=solver, steps=1, unfolds=2, units=5, timespans="per_batch", density=0.5)
    check_compile(case, "reference")


@solvers
def test_epsilon_is_of_the_semi_implicit_solver_alone(solver):
    case = LtcCase(solver=solver)
    for keywords in ({}, {"epsilon": 0.25}):
        assert_close("states", states(case, "reference", **keywords), want_states(case), FORWARD)


# --- backends ----------------------------------------------------------------------------------


FUSED = ("cpu",)  # that have every solver


@solvers
def test_auto_takes_a_fused_backend(solver):
    with dispatch.use_backend("auto"):
        choice = dispatch.explain("ltc_sequence", LTCFacts(1, 1, ode_solver=solver))
    fused = [name for name in FUSED if name in available_backends()]
    if mx.default_device().type is mx.DeviceType.cpu:
        assert choice.backend == (fused or ["reference"])[0]
        return
    shared = "metal" in available_backends() and "cpu" in fused  # with an Apple GPU
    assert choice.backend == ("cpu" if shared else "reference")
    if available_backends() != ["reference"]:
        assert f"semi_implicit only, got {solver}" in choice.reason


@solvers
def test_other_backends_say_that_they_run_semi_implicit_only(solver):
    case = LtcCase(solver=solver)
    for name in (n for n in available_backends() if n != "reference"):
        if name in FUSED:
            check_states(case, name)
            check_gradients(case, name)
            continue
        with dispatch.use_backend(name):
            facts = LTCFacts(1, 1, ode_solver=solver)
            error = dispatch.explain("ltc_sequence", facts).error
        assert f"semi_implicit only, got {solver}" in error
        with pytest.raises(
            RuntimeError, match=r"runs? semi_implicit only.*use_backend\(\"auto\"\)"
        ):
            gradients(case, name)


def test_gpu_kernels_say_so_too():
    from mlx_ncps.backends import metal

    why = metal.unsupported("ltc_sequence", LTCFacts(1, 1, ode_solver="explicit"))
    assert why == "the kernels run semi_implicit only, got explicit"
    assert metal.unsupported("ltc_sequence", LTCFacts(1, 1)) == ""


# --- cells and layers --------------------------------------------------------------------------


@all_solvers
@pytest.mark.parametrize("implicit", [False, True])
def test_cell_and_layer_run_their_solver(solver, implicit, cpu_device):
    mx.random.seed(3)
    options = {"ode_unfolds": 12, "implicit_param_constraints": implicit, "ode_solver": solver}
    layer = LTC(I, AutoNCP(10, 2), **options)
    cell, x, h, ts = layer.rnn_cell, normal(B, T, I), normal(B, 10), spans(B, T)
    params = truth.LTCParams(*cell.params())
    want = truth.ltc_sequence(x, h, ts, params, **options)
    output, state = layer(x, h, ts)
    assert_close("output", output, want[..., :2], FORWARD)
    assert_close("state", state, want[:, -1], FORWARD)
    assert dispatch.last_backend() == ("cpu" if "cpu" in available_backends() else "reference")
    for t in range(T):
        _, h = cell(x[:, t], h, ts[:, t])
        assert_close(f"step {t}", h, want[:, t], FORWARD)
    assert "semi_implicit only" not in str(layer.explain((B, T, I)))


@all_solvers
@pytest.mark.parametrize("units", [20, AutoNCP(20, 4)], ids=["dense", "lists"])
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_behind_an_lstm_equals_the_reference(solver, units, training, cpu_device):
    mx.random.seed(5)
    layer = LTC(I, units, ode_solver=solver, ode_unfolds=40, mixed_memory=True)
    layer.build(I)
    layer.train(training)
    x, ts = normal(17, T, I), spans(17, T)

    def run(backend):
        def loss(parameters, x, ts):
            layer.update(parameters)
            output, (h, c) = layer(x, timespans=ts)
            return mx.sum(mx.square(output)) + mx.sum(mx.sin(h + c))

        with dispatch.use_backend(backend):
            parameters = layer.trainable_parameters()
            value, grads = mx.value_and_grad(loss, argnums=(0, 1, 2))(parameters, x, ts)
            mx.eval(value, grads)
        layer.update(parameters)
        return {"value": value} | dict(tree_flatten(grads))

    got = run("auto")
    if "cpu" in available_backends():
        assert dispatch.last_backend() == "cpu"
        assert [name for name, _ in layer.explain((17, T, I)).calls] == ["ltc_mixed_sequence"]
    assert_all_close(got, run("reference"), tolerance("float32", "gradient"))


@solvers
def test_gradients_flow_through_a_layer(solver):
    layer = LTC(I, 5, ode_solver=solver, ode_unfolds=24)
    x, ts = normal(B, T, I), spans(B, T)

    def loss(parameters):
        layer.update(parameters)
        return mx.mean(mx.square(layer(x, timespans=ts)[0]))

    with dispatch.use_backend("auto"):
        grads = mx.grad(loss)(layer.trainable_parameters())["rnn_cell"]
    for name in ("gleak", "vleak", "cm", "w", "sigma", "mu", "sensory_w", "input_w", "output_b"):
        assert mx.all(mx.isfinite(grads[name])), name
        assert mx.any(grads[name] != 0), name


def test_unknown_solvers_raise():
    call = to_mlx(make(LtcCase()))
    want = r"\[ltc\] ode_solver must be one of semi_implicit, explicit, runge_kutta, got 'rk4'"
    for op, arguments in (
        (ops.ltc_sequence, call.arguments),
        (truth.ltc_sequence, make(LtcCase()).arguments),
        (LTCCell, (6, I)),
        (LTC, (I, 6)),
    ):
        with pytest.raises(ValueError, match=want):
            op(*arguments, ode_solver="rk4")


def test_a_case_without_a_solver_is_semi_implicit():
    case = LtcCase(timespans="per_batch", implicit=True)
    call = make(case)
    got = truth.ltc_sequence(*call.arguments, **call.keywords, ode_solver="semi_implicit")
    assert_all_close({"states": got}, {"states": want_states(case)}, 0.0)
