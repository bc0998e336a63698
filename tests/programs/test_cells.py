"""Programs of the package's cells and of cells as users write them, against the cells."""

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps.cells import (
    CfCCell,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LSTMCell,
    LTCCell,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
    WiredCfCCell,
)
from mlx_ncps.dispatch import use_backend
from mlx_ncps.programs import Memo, Program, trace, trace_checked
from mlx_ncps.programs.modules import Kept
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import TOLERANCES, assert_close
from tests.support.run_program import check_form, run_program
from tests.support.step_layers import randomise

pytestmark = pytest.mark.usefixtures("native")

N, X, H = 5, 3, 6
SOLVERS = ("explicit", "runge_kutta", "semi_implicit")
LEAKLESS = SOLVERS[:2]


class Stepped:
    """A cell by its `_step(drive, state, ts)`."""

    def __init__(self, cell):
        self.cell = cell
        width = cell._drive(mx.zeros((1, X))).shape[-1]
        self.steps, self.states = [width], [cell.state_size]

    def __call__(self, drive, ts, state):
        state = self.cell._step(drive, state, ts)
        return [state], [self.cell.readout(state)]


class Whole(Stepped):
    """A cell by its `sequence` of one step, with the backend `reference`."""

    def __init__(self, cell):
        self.cell = cell
        self.steps, self.states = [X], [cell.state_size]

    def __call__(self, x, ts, state):
        with use_backend("reference"):
            state = self.cell.sequence(x[:, None], state, ts)[:, 0]
        return [state], [self.cell.readout(state)]


class Memory(Stepped):
    """An LSTM by its gates."""

    def __init__(self, cell):
        self.cell = cell
        self.steps, self.states = [4 * H], [H, H]

    def __call__(self, drive, ts, h, c):
        return list(self.cell._gates(drive, h, c)), []


class ODELSTM(Stepped):
    """An ODE-LSTM step by step."""

    def __init__(self, cell):
        self.cell = cell
        self.steps, self.states = [4 * H], [H, H]

    def __call__(self, drive, ts, h, c):
        h, c = self.cell.lstm._gates(drive, h, c)
        h = self.cell._evolve(h, ts)
        return [h, c], [h]


class MixedCfC(Stepped):
    """A wired CfC behind an LSTM, from the input on."""

    def __init__(self, cell):
        self.cell = nn.Module()
        self.cell.front, self.cell.cell = LSTMCell(X, cell.state_size), cell
        self.steps, self.states = [X], [cell.state_size] * 2

    def __call__(self, x, ts, h, c):
        front, cell = self.cell.front, self.cell.cell
        h, c = front._gates(front._drive(x), h, c)
        with use_backend("reference"):
            h = cell.sequence(x[:, None], h, ts)[:, 0]
        return [h, c], [cell.readout(h)]


class Called(Stepped):
    """A cell as a user calls it."""

    def __init__(self, cell):
        self.cell = cell
        self.steps, self.states = [X], [H]

    def __call__(self, x, ts, state):
        output, state = self.cell(x, state, ts)
        return [state], [output]


class OwnCell(nn.Module):
    """Liquid cell of a user: gates, layer norm, a scalar parameter."""

    def __init__(self):
        super().__init__()
        self.maps = [nn.Linear(X + H, H), nn.Linear(X + H, H)]
        self.norm = nn.LayerNorm(H)
        self.rate = mx.array(0.3)

    def __call__(self, x, state, ts=1.0):
        z = mx.concatenate([x, state], axis=-1)
        gate = mx.sigmoid(self.maps[0](z))
        new = self.norm(nn.silu(self.maps[1](z)))
        state = state + (new - state) * gate * (1.0 - mx.exp(-self.rate * ts))
        return nn.gelu(state), state


class AroundCfC(nn.Module):
    """A cell of a user around a fused one."""

    def __init__(self):
        super().__init__()
        self.cfc, self.skip = CfCCell(X, H, backbone_units=5), nn.Linear(X, H)

    def __call__(self, x, state, ts=1.0):
        output, state = self.cfc(x, state, ts)
        return output + self.skip(x), state


class GRUCell(nn.Module):
    """`nn.GRU` stepped by a user."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(X, H)

    def __call__(self, x, state, ts=1.0):
        state = self.gru(x[:, None], state)[:, 0]
        return state, state


def wired(**options):
    return WiredCfCCell(X, AutoNCP(12, 2, seed=5), **options)


def linear_map_of_module(cell):
    """The recurrent map called, as an adapter is."""
    cell.recurrent_map = nn.Sequential(cell.recurrent_map, nn.Tanh())
    return cell


CELLS = {
    **{
        f"ctrnn_{solver}_{'learnt' if learnt else 'fixed'}": lambda s=solver, t=learnt: Stepped(
            CTRNNCell(X, H, tau=0.7, learn_tau=t, ode_solver=s, ode_unfolds=3)
        )
        for solver in SOLVERS
        for learnt in (False, True)
    },
    **{
        f"neural_ode_{solver}_{len(units)}": lambda s=solver, u=units: Stepped(
            NeuralODECell(X, H, u, ode_solver=s, ode_unfolds=2)
        )
        for solver in LEAKLESS
        for units in ((), (7, 5))
    },
    **{
        f"eltc_{solver}_{activation}": lambda s=solver, a=activation: Stepped(
            ELTCCell(AutoNCP(12, 2, seed=5), X, activation=a, ode_solver=s, ode_unfolds=2)
        )
        for solver in SOLVERS
        for activation in ("tanh", "lecun_tanh", "relu", "gelu", "silu", "sigmoid")
    },
    **{f"ctgru_{m}": lambda m=m: Stepped(CTGRUCell(X, H, m, tau=0.5)) for m in (1, 2, 8)},
    **{
        f"{kind.op}_{solver}": lambda k=kind, w=wrap, s=solver: w(
            k(X, H, (4,), ode_solver=s, ode_unfolds=2)
        )
        for kind, wrap in ((ODERNNCell, Stepped), (ODELSTMCell, ODELSTM))
        for solver in LEAKLESS
    },
    "lstm": lambda: Memory(LSTMCell(X, H)),
    "lstm_adapter": lambda: Memory(linear_map_of_module(LSTMCell(X, H))),
    **{
        f"wired_{mode}_{variant}": lambda m=mode, v=variant: Whole(wired(mode=m, variant=v))
        for mode in ("default", "no_gate", "pure")
        for variant in ("torch", "keras")
    },
    "wired_paper": lambda: Whole(wired(variant="paper")),
    "wired_backbone": lambda: Whole(wired(backbone_units=[5, 4])),
    "wired_partly": lambda: Whole(wired(fully_recurrent=False)),
    "wired_mixed": lambda: MixedCfC(wired()),
    "wired_mixed_backbone": lambda: MixedCfC(wired(backbone_units=5)),
    "cfc": lambda: Whole(CfCCell(X, H, backbone_units=7)),
    "cfc_dropout_in_eval": lambda: Whole(CfCCell(X, H, backbone_dropout=0.5).eval()),
    **{
        f"ltc_{solver}_{constraints}": lambda s=solver, c=constraints: Whole(
            LTCCell(
                AutoNCP(9, 2, seed=5),
                X,
                ode_solver=s,
                ode_unfolds=6,
                implicit_param_constraints=c == "implicit",
            )
        )
        for solver in SOLVERS
        for constraints in ("explicit", "implicit")
    },
    "ltc_backbone": lambda: Whole(LTCCell(AutoNCP(9, 2, seed=5), X, backbone_units=[5, 4])),
    "own": lambda: Called(OwnCell()),
    "around_cfc": lambda: Called(AroundCfC()),
    "gru": lambda: Called(GRUCell()),
}


def built(name):
    step = CELLS[name]()
    randomise(step.cell)
    return step


def draw(step, rows, seed=0):
    rng = np.random.default_rng(seed)

    def arrays(widths):
        return [mx.array(rng.normal(size=(rows, n)).astype(np.float32)) for n in widths]

    ts = mx.array(rng.uniform(0.0, 1.5, (rows, 1)).astype(np.float32))
    return arrays(step.steps), ts, arrays(step.states)


def check(step, program, steps, ts, states):
    """That the program gives what the step gives."""
    assert isinstance(program, Program), program
    check_form(program)
    given = [*steps, ts] if isinstance(ts, mx.array) else steps
    got = run_program(program, given, states)
    want = step(*steps, ts, *states)
    for ours, theirs in zip(got, want, strict=True):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(f"result {number}", a, np.array(b), TOLERANCES["float32"]["forward"])


@pytest.mark.parametrize("name", CELLS)
def test_with_elapsed_times(name):
    step = built(name)
    for find in (trace, trace_checked):
        program = find(step, [*step.steps, 1], step.states, [step.cell])
        check(step, program, *draw(step, N))


@pytest.mark.parametrize("name", CELLS)
def test_a_memo_saves_the_lowering(name, monkeypatch):
    step, memo = built(name), Memo()
    known = trace_checked(step, [*step.steps, 1], step.states, [step.cell], memo)
    monkeypatch.setattr(sys.modules[trace.__module__], "lower", None)
    program = trace_checked(step, [*step.steps, 1], step.states, [step.cell], memo)
    assert program == known
    check(step, program, *draw(step, N))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("ts", [1.0, 0.25])
def test_with_a_number(name, ts):
    step = built(name)

    def fixed(x, *states):
        return step(x, ts, *states)

    program = trace(fixed, step.steps, step.states, [step.cell])
    steps, _, states = draw(step, N, seed=1)
    check(step, program, steps, ts, states)


def traced_within(transform, step, weights):
    """The program found while a transformation runs a function of these weights."""
    found = []

    def function(weights):
        step.cell.update(weights)
        found.append(trace(step, [*step.steps, 1], step.states, [step.cell]))
        return sum(a.square().sum() for a in getattr(found[-1], "captured", ()))

    kept = Kept([step.cell])
    result = transform(function)(weights)
    kept.put_back()
    assert isinstance(found[0], Program), found[0]
    return found[0], result


@pytest.mark.parametrize("name", CELLS)
def test_gradients_reach_the_captured_weights(name):
    step = built(name)
    known = trace(step, [*step.steps, 1], step.states, [step.cell])
    weights = step.cell.trainable_parameters()
    program, gradients = traced_within(mx.grad, step, weights)
    if name != "own":  # its scalar parameter is a constant once it has a value
        assert program == known
    leaves = [
        (n, w, g) for (n, w), (_, g) in zip(*map(tree_flatten, (weights, gradients)), strict=True)
    ]
    for path, weight, gradient in leaves:
        assert mx.array_equal(gradient, 2.0 * weight).item() or not mx.any(gradient).item(), path
    moved = sum(bool(mx.any(g).item()) for _, _, g in leaves)
    assert moved >= min(len(leaves), 1)
    assert moved <= len(program.captured)


@pytest.mark.parametrize("name", CELLS)
def test_traced_in_a_compiled_function(name):
    step = built(name)
    known = trace(step, [*step.steps, 1], step.states, [step.cell])
    program, _ = traced_within(mx.compile, step, step.cell.trainable_parameters())
    if name != "own":
        assert program == known
    traced_within(mx.compile, step, step.cell.parameters())  # masks too


@pytest.mark.parametrize("name", CELLS)
def test_traced_in_vmap(name):
    step = built(name)
    known = trace(step, [*step.steps, 1], step.states, [step.cell])
    models = tree_map(lambda p: mx.stack([p, p * 1.5]), step.cell.trainable_parameters())
    program, totals = traced_within(mx.vmap, step, models)
    assert totals.shape == (2,)
    if name != "own":
        assert program == known


@pytest.mark.parametrize("name", CELLS)
def test_weights_without_a_value(name):
    step = built(name)
    known = trace(step, [*step.steps, 1], step.states, [step.cell])
    step.cell.update(tree_map(lambda p: p * 1.0 + 0.0, step.cell.trainable_parameters()))
    program = trace(step, [*step.steps, 1], step.states, [step.cell])
    if name != "own":
        assert program == known
    check(step, program, *draw(step, N))
