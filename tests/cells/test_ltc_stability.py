"""How many unfolds of an LTC's solver are stable, and the warning where it has fewer: sound, once,
in every kind of call that has values.
"""

import copy
import math
import pickle
import re
import warnings
from itertools import product

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import LTC, LTCCell, available_backends, use_backend
from mlx_ncps.cells.stability import _READ, LIMITS, _largest_rate, longest_timespan
from mlx_ncps.ops.checks import SOLVERS as ALL_SOLVERS
from mlx_ncps.ops.numpy import ltc_solvers
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import SOLVERS, assert_close, tolerance
from tests.support.step_layers import at_once, evaluated

B, T, I = 2, 5, 6


def x(scale=1.0, steps=T):
    return mx.random.normal((B, steps, I)) * scale


def sample():
    return evaluated(mx.random.normal((B, I)))


def wanted_unfolds(function) -> int:
    with pytest.warns(UserWarning, match=r"\[ltc\] the solver \w+ may diverge") as caught:
        function()
    assert len(caught) == 1
    return int(re.search(r"; (\d+) unfolds are stable", str(caught[0].message))[1])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("units", "options"),
    [
        (32, {}),
        (AutoNCP(32, 4), {}),
        (AutoNCP(12, 4), {"mixed_memory": True}),
        (AutoNCP(12, 4), {"bidirectional": True}),
    ],
)
def test_default_options_warn_once_with_a_number_that_is_stable(solver, units, options):
    mx.random.seed(0)
    layer = LTC(I, units, ode_solver=solver, ode_unfolds=1, return_state=False, **options)
    with pytest.warns(UserWarning, match="may diverge"):
        mx.eval(layer(x()))
    layer(x())  # a second warning would be an error
    cell = layer.rnn_cell
    wanted = cell.stable_unfolds()
    for direction in layer._directions:
        direction.rnn_cell.ode_unfolds = 2 * wanted  # the two directions differ in weights
        direction.rnn_cell._stability.given = False
    for scale in (1.0, 1e3):
        states = layer(x(scale))
        assert mx.isfinite(states).all().item()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("ts", [None, 3.0, mx.array([[0.1, 4.0]] * B), np.full((B, 2), 2)])
def test_the_number_of_the_warning_is_the_least_by_the_bound(solver, implicit, ts):
    mx.random.seed(1)
    make = {"ode_solver": solver, "implicit_param_constraints": implicit}
    cell = LTCCell(AutoNCP(20, 4), I, ode_unfolds=1, **make)
    p = {k: np.array(v, np.float64) for k, v in cell.params()._asdict().items()}
    if implicit:
        p |= {k: np.log1p(np.exp(p[k])) for k in ("gleak", "cm", "w", "sensory_w")}
    total = (p["w"] * p["mask"]).sum(0) + (p["sensory_w"] * p["sensory_mask"]).sum(0)
    q = ((p["gleak"] + total) / p["cm"]).max() * (1.0 if ts is None else np.max(np.array(ts)))
    wanted = wanted_unfolds(lambda: cell.sequence(x(steps=2), mx.zeros((B, 20)), ts))
    assert cell.stable_unfolds(ts) == wanted
    assert q / wanted < LIMITS[solver] <= q / (wanted - 1)
    cell._stability.given, cell.ode_unfolds = False, wanted
    for mask in (cell.sparsity_mask, mx.where(cell.sparsity_mask > 0, -0.5, 0.0)):
        cell.sparsity_mask = mask
        read = [cell[name] for name in _READ]
        rate = _largest_rate(read, implicit).item()
        assert_close("rate", cell._stability.rate(cell), rate, tolerance("float32", "forward"))
    cell.sparsity_mask = mx.array(np.array(p["mask"], np.float32))
    cell.sequence(x(steps=2), mx.zeros((B, 20)), ts)


def factor(solver, rates):
    """|v'| of a step from v = 1 without a drive, k = 1, of these rates in the order in which the
    ground truth's solver takes its slopes.
    """
    left = list(rates)
    cell = ltc_solvers.Cell(*[1.0] * 3, None, None, 1, 0.0, solver)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ltc_solvers, "drive", lambda *_: (0.0, left.pop(0)))
        return abs(float(ltc_solvers.SOLVERS[solver][0](np.ones(1), 1.0, None, cell)[0]))


def worst_factor(solver, q):
    """The largest of any rates from 0 to q: it is linear in each, so at their ends."""
    return max(factor(solver, rates) for rates in product([0.0, q], repeat=4))


@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_the_factor_of_a_step_stays_within_one_to_the_limit_and_no_further(solver):
    if solver not in LIMITS:
        assert worst_factor(solver, 1e6) <= 1
        return
    assert worst_factor(solver, LIMITS[solver]) <= 1 + 1e-9
    assert worst_factor(solver, LIMITS[solver] + 0.01) > 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ts", [None, 2.5])
def test_the_stable_unfolds_keep_the_states_within_the_reversal_potentials(solver, ts):
    """Whatever the inputs are; with a third of them some inputs let the states grow."""
    mx.random.seed(0)
    cell = LTCCell(AutoNCP(32, 4), I, ode_solver=solver)
    cell.ode_unfolds = cell.stable_unfolds(ts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states = cell.sequence(x(1e3, steps=60), mx.zeros((B, 32)), ts)
    assert mx.abs(states).max().item() < 5
    cell.ode_unfolds //= 3
    with pytest.warns(UserWarning, match="may diverge"):
        states = cell.sequence(x(1e3, steps=60), mx.zeros((B, 32)), ts)
    assert not mx.abs(states).max().item() < 5  # NaN too


def unstable(solver="explicit", **options):
    mx.random.seed(0)
    layer = LTC(I, AutoNCP(12, 4), ode_solver=solver, ode_unfolds=2, **options)
    layer.build(I)
    mx.eval(layer.parameters())
    return layer


def training_step(layer):
    inputs = x()

    def loss(layer):
        return mx.mean(layer(inputs)[0])

    mx.eval(nn.value_and_grad(layer, loss)(layer))


def vmapped(layer):
    mx.eval(mx.vmap(lambda one: layer(one)[0])(x()))


CALLS = {
    "sequence": lambda layer: mx.eval(layer(x())),
    "lazy": lambda layer: layer(x() * 2.0),
    "times": lambda layer: mx.eval(layer(x(), timespans=mx.ones((B, T)))),
    "step": lambda layer: layer.step(sample()),
    "cell": lambda layer: layer.rnn_cell(sample(), evaluated(mx.zeros((B, 12)))),
    "gradient": training_step,
    "half": lambda layer: mx.eval(layer(x().astype(mx.float16))),
    "vmap": vmapped,
}


@pytest.mark.parametrize("backend", [b for b in ("cpu", "reference") if b in available_backends()])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("call", CALLS)
def test_every_kind_of_call_warns_once(call, solver, backend):
    layer = unstable(solver)
    with use_backend(backend):
        with pytest.warns(UserWarning, match="may diverge") as caught:
            CALLS[call](layer)
        assert len(caught) == 1
        for one in CALLS.values():  # a second warning would be an error
            one(layer)


@pytest.mark.parametrize("mixed", [False, True])
def test_steps_are_at_once_within_the_range_and_after_the_warning(native, mixed):
    layer = unstable(mixed_memory=mixed)
    span = evaluated(mx.array([0.01, 0.02]))
    for ts in (0.01, span):
        output, state = layer.step(sample(), None, ts)
        assert at_once(native, output)
    with pytest.warns(UserWarning, match="may diverge"):
        layer.step(sample(), state, evaluated(mx.array([0.01, 3.0])))
    for ts in (0.01, span, 3.0):
        assert at_once(native, layer.step(sample(), state, ts)[0])


def test_changed_parameters_are_looked_at_again(native):
    layer = unstable()
    for run in (lambda ts: layer.step(sample(), None, ts), lambda ts: layer(x(), None, ts)):
        layer.rnn_cell._stability.given = False
        run(0.05)
        before = layer.rnn_cell.w
        layer.rnn_cell.w = before + 50.0
        with pytest.warns(UserWarning, match="may diverge"):
            run(0.05)
        layer.rnn_cell.w = before


def test_no_warning_where_values_are_unknown_nor_of_the_default_solver():
    cell = LTCCell(AutoNCP(32, 4), I, ode_solver="explicit", ode_unfolds=2)
    state = mx.zeros((B, 32))

    def loss(x):
        return cell.sequence(x, state, None).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mx.eval(LTC(I, 32)(x(steps=2)))
        mx.eval(mx.compile(loss, inputs=cell.state)(x(steps=2)))
    with pytest.warns(UserWarning, match="may diverge"):
        mx.eval(mx.grad(lambda ts: cell.sequence(x(steps=2), state, ts * 1.0).sum())(mx.array(1.0)))


def test_a_compiled_call_is_judged_by_the_last_parameters_with_values():
    layer = unstable()
    layer(x(), timespans=0.01)
    layer.rnn_cell.ode_unfolds = 1
    with pytest.warns(UserWarning, match="may diverge"):
        mx.eval(mx.compile(lambda x: layer(x)[0], inputs=layer.state)(x()))


def test_elapsed_times_of_every_form():
    for ts, want in (
        (None, 1.0),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (mx.array(2), 2.0),
        (mx.array([0.5, -7.0, 0.25]), 0.5),
        (mx.array([math.nan, 0.25]), 0.25),
        (mx.zeros((2, 0)), 0.0),
        (np.full((2, 3, 1), 4), 4.0),
    ):
        assert longest_timespan(ts) == want
    cell = LTCCell(AutoNCP(32, 4), I, ode_solver="explicit")
    assert cell.stable_unfolds(0.0) == 1
    assert cell.stable_unfolds(10.0) > cell.stable_unfolds() > 1
    assert LTCCell(AutoNCP(32, 4), I).stable_unfolds(1e6) == 1


def test_no_stable_number_is_an_error():
    cell = LTCCell(4, I, ode_solver="explicit")
    for ts, message in (
        (-1.0, "timespans must be >= 0, got -1"),
        ("1", "timespans must be a number >= 0 or an array"),
        (math.inf, "wants every cm > 0 and a finite ts"),
    ):
        with pytest.raises(ValueError, match=rf"\[ltc\] .*{message}"):
            cell.stable_unfolds(ts)
    with pytest.raises(ValueError, match="wants arrays with values"):
        mx.compile(lambda ts: mx.array(cell.stable_unfolds(ts)))(mx.array(1.0))
    with pytest.raises(ValueError, match="wants a cell with weights"):
        LTCCell(4, ode_solver="explicit").stable_unfolds()
    cell.cm = cell.cm.at[0].add(-1.0)
    with pytest.raises(ValueError, match="wants every cm > 0"):
        cell.stable_unfolds()
    with pytest.warns(UserWarning, match="no number of unfolds is known to be stable"):
        cell(x()[:, 0], mx.zeros((B, 4)))


def test_copies_and_pickles_of_a_cell_that_was_looked_at():
    cell = LTCCell(AutoNCP(12, 4), I, ode_solver="runge_kutta")
    wanted = cell.stable_unfolds()
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), copy.copy(cell)):
        assert other.stable_unfolds() == wanted
