"""The warning of an LTC whose solver may diverge: sound, once, and never from a tracer."""

import re
import warnings

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, LTCCell
from mlx_ncps.cells.stability import LIMITS, stable_unfolds
from mlx_ncps.wirings import AutoNCP

SOLVERS = ("explicit", "runge_kutta")
B, T, I = 2, 5, 6


def x(scale=1.0, steps=T):
    return mx.random.normal((B, steps, I)) * scale


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
    wanted = stable_unfolds(cell.params(), cell.implicit_param_constraints, solver, None)
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
    assert q / wanted < LIMITS[solver] <= q / (wanted - 1)
    cell._stability.given, cell.ode_unfolds = False, wanted
    cell.sequence(x(steps=2), mx.zeros((B, 20)), ts)


def test_the_factor_of_a_step_stays_within_one_to_the_limit():
    """Of any four rates of a Runge-Kutta step: linear in each, so at their ends; beyond it not."""
    for limit, inside in ((LIMITS["runge_kutta"], True), (LIMITS["runge_kutta"] + 0.01, False)):
        a, b, c, d = np.stack(np.meshgrid(*[[0.0, limit]] * 4)).reshape(4, -1)
        f1 = -a
        f2 = -b * (1 + f1 / 2)
        f3 = -c * (1 + f2 / 2)
        f4 = -d * (1 + f3)
        worst = np.abs(1 + (f1 + 2 * (f2 + f3) + f4) / 6).max()
        assert (worst <= 1) == inside


def test_no_warning_from_tracers_nor_of_the_default_solver():
    cell = LTCCell(AutoNCP(32, 4), I, ode_solver="explicit", ode_unfolds=2)
    state = mx.zeros((B, 32))

    def loss(x):
        return cell.sequence(x, state, None).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mx.eval(LTC(I, 32)(x(steps=2)))
        mx.eval(mx.compile(loss, inputs=cell.state)(x(steps=2)))
        span = mx.array(1.0)
        mx.eval(mx.grad(lambda ts: cell.sequence(x(steps=2), state, ts * 1.0).sum())(span))
    with pytest.warns(UserWarning, match="may diverge"):
        cell.sequence(x(steps=2), state, None)


def test_a_capacitance_that_is_not_positive_has_no_stable_number():
    cell = LTCCell(4, I, ode_solver="explicit")
    cell.cm = cell.cm.at[0].add(-1.0)
    with pytest.warns(UserWarning, match="no number of unfolds is known to be stable"):
        cell(x()[:, 0], mx.zeros((B, 4)))
