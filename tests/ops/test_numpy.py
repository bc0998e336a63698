"""What no golden array shows of mlx_ncps.ops.numpy: limits, shapes of ts, errors, imports."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import ops
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.numpy import activations as truth_activations

from tests.support.activation_truth import TRUTH
from tests.support.cases import (
    ACTIVATIONS,
    CFC_EMPTY_CASES,
    FLOOR,
    LTC_EMPTY_CASES,
    CfcCase,
    LtcCase,
    assert_close,
    make,
    relative_error,
    to_mlx,
    tolerance,
    want_gradients,
    want_states,
)

EXACT = tolerance("float64", "forward")
LTC, CFC = LtcCase(dtype="float64"), CfcCase(dtype="float64")
PURE = replace(CFC, mode="pure")
CASES = pytest.mark.parametrize("case", [LTC, CFC, PURE], ids=str)


def run(case, ts, call=None, step=False):
    call = call or make(case)
    name = ("ltc" if isinstance(case, LtcCase) else "cfc") + ("_step" if step else "_sequence")
    inputs = call.inputs[:, 0] if step else call.inputs
    return getattr(truth, name)(inputs, call.state, ts, call.params, **call.keywords)


def test_activations_equal_their_definitions():
    x = np.linspace(-4.0, 4.0, 33)
    defined = {name for name, one in TRUTH.items() if one.slope}
    assert defined == set(truth.ACTIVATIONS) == set(ACTIVATIONS)
    for name in ACTIVATIONS:
        assert_close(name, truth.get_activation(name)(x), TRUTH[name].value(x), EXACT)
        slope = truth_activations.get_activation_derivative(name)(x)
        assert_close(name, slope[x != 0], TRUTH[name].slope(x)[x != 0], EXACT)
    # two of them by other ways: the normal distribution function from its series, tanh from exp
    gelu = x * (0.5 + np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * normal_series(x))
    assert_close("gelu", truth.gelu(x), gelu, EXACT)
    tanh = (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))
    assert_close("tanh", truth.tanh(x), tanh, EXACT)
    assert_close("softplus", truth.softplus(x), np.log(1 + np.exp(x)), EXACT)


def normal_series(x):
    term, total = x, x
    for n in range(3, 121, 2):
        term = term * x * x / n
        total = total + term
    return total


def test_activations_survive_the_whole_range():
    x = np.array([-1e4, -800.0, 800.0, 1e4])
    assert truth.sigmoid(x).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert truth.softplus(x).tolist() == [0.0, 0.0, 800.0, 1e4]
    for name in ACTIVATIONS:
        assert np.all(np.isfinite(truth.get_activation(name)(x))), name
        assert np.isnan(truth.get_activation(name)(np.nan)), name


@CASES
def test_timespans_of_every_shape_agree(case):
    B, T = make(case).inputs.shape[:2]
    ts = np.random.default_rng(0).uniform(0.1, 2.0, (B, T))
    assert_close("[B, T, 1]", run(case, ts[:, :, None]), run(case, ts), EXACT)
    assert_close("[T]", run(case, ts[0]), run(case, np.tile(ts[0], (B, 1))), EXACT)
    assert_close("row 1", run(case, ts)[1], run(case, ts[1])[1], EXACT)
    for number in (0.5, np.float32(0.5), np.array(0.5)):
        assert_close("number", run(case, number), run(case, np.full((B, T), 0.5)), EXACT)
    assert_close("None", run(case, None), run(case, 1.0), EXACT)
    assert relative_error(run(case, None), run(case, ts)) > FLOOR


@CASES
def test_step_equals_the_first_of_a_sequence(case):
    call = make(case)
    ts = np.random.default_rng(0).uniform(0.1, 2.0, call.inputs.shape[:2])
    want = run(case, ts)[:, 0]
    for first in (ts[:, 0], ts[:, :1]):
        assert_close("step", run(case, first, step=True), want, EXACT)
    assert_close("step", run(case, 0.3, step=True), run(case, 0.3)[:, 0], EXACT)
    assert_close("step", run(case, None, step=True), run(case, 1.0)[:, 0], EXACT)


def test_ltc_sequence_keeps_the_state_at_elapsed_time_zero():
    call = make(LTC)
    states = run(LTC, 0.0)
    assert_close("states", states, np.repeat(call.state[:, None], states.shape[1], axis=1), EXACT)
    assert_close("limit", run(LTC, 1e-9), states, tolerance("float64", "difference"))


def test_ltc_sequence_reads_the_magnitude_of_masks():
    """An adjacency matrix, 0 and +-1, may stand as its own mask."""
    call = make(replace(LTC, density=0.5))
    signs = {name: -getattr(call.params, name) for name in ("mask", "sensory_mask")}
    arguments = call.inputs, call.state, None
    want = truth.ltc_sequence(*arguments, call.params)
    assert_close(
        "states", truth.ltc_sequence(*arguments, call.params._replace(**signs)), want, EXACT
    )
    open_mask = truth.ltc_sequence(*arguments, call.params._replace(mask=None, sensory_mask=None))
    assert relative_error(open_mask, want) > FLOOR


def test_ltc_sequence_cuts_a_step_into_unfolds():
    call = make(replace(LTC, steps=1))
    one = truth.ltc_sequence(*call.arguments, ode_unfolds=6)[:, -1]
    inputs = np.repeat(call.inputs, 3, axis=1)
    three = truth.ltc_sequence(inputs, call.state, 1 / 3, call.params, ode_unfolds=2)[:, -1]
    assert_close("states", three, one, EXACT)


def test_ltc_sequence_converges_to_the_differential_equation():
    """The solver is of first order: half the step is half its distance to Runge-Kutta."""
    call = make(replace(LTC, steps=1, mapped=False))
    want = runge_kutta(call.params, call.inputs[:, 0], call.state, 200)
    states = (truth.ltc_sequence(*call.arguments, ode_unfolds=u)[:, 0] for u in (200, 400))
    coarse, fine = (relative_error(state, want) for state in states)
    assert coarse < FLOOR
    assert 0.48 < fine / coarse < 0.52


def runge_kutta(p, x, v, steps):
    """Solves cm dv/dt = gleak (vleak - v) + sum a (erev - v) over [0, 1]; no masks, explicit."""

    def current(sources, v, w, sigma, mu, erev):
        a = w / (1 + np.exp(-sigma * (sources[:, :, None] - mu)))
        return np.sum(a * (erev - v[:, None]), axis=1)

    def slope(v):
        total = p.gleak * (p.vleak - v) + current(v, v, p.w, p.sigma, p.mu, p.erev)
        sensory = p.sensory_w, p.sensory_sigma, p.sensory_mu, p.sensory_erev
        return (total + current(x, v, *sensory)) / p.cm

    k = 1 / steps
    for _ in range(steps):
        a = slope(v)
        b = slope(v + k / 2 * a)
        c = slope(v + k / 2 * b)
        v = v + k / 6 * (a + 2 * b + 2 * c + slope(v + k * c))
    return v


@CASES
@pytest.mark.parametrize("bad", [-1.0, -1e-9, np.nan])
def test_bad_element_of_timespans_gives_nan_from_there_on(case, bad):
    good = run(case, 1.0)
    ts = np.ones(good.shape[:2])
    ts[1, 1] = bad
    states = run(case, ts)
    assert np.all(np.isnan(states[1, 1:]))
    assert_close("row 0", states[0], good[0], EXACT)
    assert_close("before", states[1, :1], good[1, :1], EXACT)
    for ts in (bad, np.float64(bad)):
        with pytest.raises(ValueError, match="timespans must not be negative or NaN"):
            run(case, ts)
    assert np.all(np.isnan(run(case, np.array(bad))))


@pytest.mark.parametrize("case", LTC_EMPTY_CASES + CFC_EMPTY_CASES, ids=str)
def test_empty_batch_and_sequence(case):
    call = make(case)
    assert want_states(case).shape == (case.batch, case.steps, case.units)
    gradients = want_gradients(case)
    assert gradients["inputs"].shape == call.inputs.shape
    assert gradients["state"].shape == call.state.shape
    assert not any(np.any(gradient) for gradient in gradients.values())


def test_cfc_update_equals_cfc_step():
    call = make(CFC)
    ts = np.array([0.3, 1.0, 2.0])
    z = np.concatenate([call.inputs[:, 0], call.state], axis=1)
    (weight, bias), *_ = call.params.backbone
    z = truth.lecun_tanh(z @ weight.T + bias)
    heads = [z @ weight.T + bias for weight, bias in call.params[1:5]]
    assert_close("update", truth.cfc_update(*heads, ts), run(CFC, ts, step=True), EXACT)
    no_gate = replace(CFC, mode="no_gate")
    heads = np.random.default_rng(1).normal(size=(4, 2, 5))
    want = np.tanh(heads[0]) + np.tanh(heads[1]) / (1 + np.exp(-heads[2] - heads[3]))
    assert_close("update", truth.cfc_update(*heads, None, mode=no_gate.mode), want, EXACT)
    with pytest.raises(ValueError, match="mode must be one of default, no_gate, got 'pure'"):
        truth.cfc_update(*heads, None, mode="pure")


def test_cfc_update_pure_equals_its_equation():
    f, w, A = np.array([[0.5, -2.0]]), np.array([-0.3, 0.1]), np.array([1.1, 0.9])
    want = A - A * np.exp(-0.7 * (np.array([0.3, 0.1]) + np.array([0.5, 2.0]))) * f
    assert_close("update", truth.cfc_update_pure(f, w, A, 0.7), want, EXACT)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", [LtcCase(density=0.5), CfcCase(layers=2)], ids=str)
def test_sequence_takes_mlx_arrays(case, dtype):
    case = replace(case, dtype=dtype)
    call = to_mlx(make(case), dtype)
    assert call.inputs.dtype == getattr(mx, dtype)
    assert type(call.params).__module__.startswith("mlx_ncps.ops.")
    assert_close("states", run(case, None, call), want_states(case), EXACT)


def test_parameters_are_those_of_the_mlx_ops():
    assert truth.LTCParams._fields == ops.LTCParams._fields
    assert truth.CfCParams._fields == ops.CfCParams._fields


def test_parameters_may_be_any_object_with_the_fields():
    call = make(LTC)
    fields = {name: leaf for name, leaf in call.params._asdict().items() if leaf is not None}
    states = truth.ltc_sequence(call.inputs, call.state, None, SimpleNamespace(**fields))
    assert_close("states", states, run(LTC, None), EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.zeros((3, 3, 4))}, r"inputs must be \[B, T, I\] = \(\*, \*, 3\), got"),
        ({"inputs": np.zeros((3, 3))}, r"inputs must be \[B, T, I\] = \(\*, \*, 3\), got"),
        ({"state": np.zeros((2, 8))}, r"state must be \[B, H\] = \(3, 8\), got \(2, 8\)"),
        ({"state": np.zeros(8)}, r"state must be \[B, H\] = \(3, 8\), got \(8,\)"),
        ({"ts": np.ones((3, 9))}, r"timespans must be .*\[B, T\] = \(3, \d\).*got \(3, 9\)"),
        ({"ts": np.ones((3, 1))}, r"timespans must be .*\[B, T\] = \(3, \d\).*got \(3, 1\)"),
    ],
)
@CASES
def test_sequence_names_a_wrong_shape(case, change, message):
    call = make(case)
    arrays = {"inputs": call.inputs, "state": call.state, "ts": None} | change
    op = truth.ltc_sequence if isinstance(case, LtcCase) else truth.cfc_sequence
    with pytest.raises(ValueError, match=message):
        op(*arrays.values(), call.params, **call.keywords)


def test_options_are_checked():
    ltc, cfc = make(LTC), make(CFC)
    with pytest.raises(ValueError, match="ode_unfolds must be an integer >= 1, got 0"):
        truth.ltc_sequence(*ltc.arguments, ode_unfolds=0)
    with pytest.raises(ValueError, match="mode must be one of default, no_gate, pure, got 'gated'"):
        truth.cfc_sequence(*cfc.arguments, mode="gated")
    with pytest.raises(ValueError, match="mode pure needs the parameters w_tau, A, got None"):
        truth.cfc_sequence(*cfc.arguments, mode="pure")
    with pytest.raises(ValueError, match=r"activation must be one of .*, got 'none_such'"):
        truth.cfc_sequence(*cfc.arguments, activation="none_such")
    with pytest.raises(ValueError, match=r"timespans must be .*\[B\] = \(3,\).*got \(4,\)"):
        truth.ltc_step(ltc.inputs[:, 0], ltc.state, np.ones(4), ltc.params)


def test_import_needs_numpy_alone():
    """The folder works by itself, as a package of any name, where there is no MLX."""
    folder = Path(truth.__file__).parent
    program = f"""
import importlib.util, sys
sys.modules["mlx"] = sys.modules["mlx.core"] = sys.modules["mlx_ncps"] = None
spec = importlib.util.spec_from_file_location(
    "truth", {str(folder / "__init__.py")!r}, submodule_search_locations=[{str(folder)!r}]
)
sys.modules["truth"] = truth = importlib.util.module_from_spec(spec)
spec.loader.exec_module(truth)
print(float(truth.sigmoid(0.0)), truth.ltc_sequence.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["0.5", "ltc_sequence"], done.stderr
