"""What a CfC may have beside inputs and state, within its kernels of metal/: dropout of the
backbone, states that start anew, masks. In the simulator, every access checked.
"""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mslsim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import CfC, checkpoint, chunked_value_and_grad, ops, use_backend
from mlx_ncps.backends import metal
from mlx_ncps.backends.gpu import trace
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.cfc import cfc_sequence_held
from mlx_ncps.wirings import AutoNCP

from tests.ops import test_resets as anew
from tests.support.case_arrays import named_leaves, to_mlx
from tests.support.cases import CfcCase, assert_all_close, assert_close, make, tolerance
from tests.support.running import _rebuild, check_gradients, check_states, leaves_of
from tests.support.simulated_metal import ORDERS, cut, replaced, simulated

FORWARD, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
LATEST = {"metal_versions": (310,)}

# By the rules of torch, keras and paper; weights on chip and streamed, one row and many.
DROPPED = [
    CfcCase(layers=2, steps=3, timespans="per_batch", dropout=0.4),
    CfcCase(layers=3, steps=2, activation="gelu", mode="no_gate", dropout=0.4),
    CfcCase(batch=1, steps=3, variant="keras", backbone_units=31, dropout=0.4),
    CfcCase(batch=33, steps=2, units=33, backbone_units=17, layers=3, variant="paper", dropout=0.5),
    CfcCase(steps=2, mode="pure", layers=2, activation="silu", timespans="scalar", dropout=0.3),
    CfcCase(steps=2, mode="pure", variant="keras", timespans="per_step", dropout=0.3),
    CfcCase(batch=64, steps=2, units=65, backbone_units=64, layers=2, dropout=0.5),
    CfcCase(batch=3, steps=2, units=64, backbone_units=100, variant="keras", dropout=0.5),
]
STARTING = [
    CfcCase(steps=6, timespans="per_batch"),
    CfcCase(batch=1, steps=1, inputs=1, units=1, backbone_units=1),
    CfcCase(batch=5, steps=7, layers=0, units=33),
    CfcCase(batch=33, steps=3, units=31, backbone_units=33, mode="no_gate", variant="paper"),
    CfcCase(batch=3, steps=5, units=17, mode="pure", timespans="per_step"),
    CfcCase(batch=64, steps=3, units=65, backbone_units=64, timespans="scalar"),
    CfcCase(batch=3, steps=3, units=128, backbone_units=128),
    CfcCase(steps=6, timespans="per_batch", layers=2, dropout=0.4),
    CfcCase(batch=17, steps=4, units=9, layers=3, mode="pure", variant="keras", dropout=0.3),
]
HALVES = [
    CfcCase(units=33, steps=3, layers=2, dtype=t, dropout=0.3) for t in ("float16", "bfloat16")
]


@pytest.mark.parametrize("case", DROPPED, ids=str)
def test_dropout_equals_numpy(case):
    for order in ORDERS:
        with simulated(order):
            check_states(case, "metal")
            check_gradients(case, "metal")


@pytest.mark.parametrize("case", STARTING, ids=str)
def test_resets_equal_numpy(case):
    for order in ORDERS:
        with simulated(order):
            anew.check(case, False, "metal")


@pytest.mark.parametrize("case", HALVES, ids=str)
def test_halves_with_both_equal_numpy(case):
    with simulated(**LATEST):
        check_states(case, "metal")
        check_gradients(case, "metal")
        anew.check(case, False, "metal")


def test_the_gradient_without_saved_values_is_the_same():
    with simulated(**LATEST):
        anew.check(STARTING[-2], False, "metal", training=False)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("piece", [(33, 99), (2, 3), (1, 1)])
@pytest.mark.parametrize("case", [STARTING[0], *STARTING[-2:]], ids=str)
def test_pieces_of_rows_and_time_and_products_equal_numpy(case, piece, products):
    geometry = cut(piece, product_weights=0 if products else 2**30)
    with simulated(geometry=geometry, mode="fast", **LATEST):
        anew.check(case, False, "metal")


def run(case, **keywords):
    f, leaves, cotangents = anew.problem(case, False, **keywords)
    states, grads = mx.vjp(f, list(leaves.values()), cotangents)
    return [np.array(a) for a in (*states, *grads)]


@pytest.mark.parametrize("case", STARTING[-2:], ids=str)
def test_runs_are_bitwise_equal(case):
    runs = []
    for order in ORDERS:
        with simulated(order, **LATEST):
            runs.append(run(case))
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(other, runs[0], strict=True))


@pytest.mark.parametrize("case", [STARTING[0], STARTING[2], STARTING[4], STARTING[-1]], ids=str)
def test_resets_of_zeros_are_a_plain_call_to_the_bit(case):
    with simulated(**LATEST):
        got, want = run(case, nowhere=True), run(case, nowhere=None)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_an_episode_of_nan_leaves_the_others_and_their_gradients_alone():
    call = to_mlx(make(CfcCase(batch=2, steps=6, timespans="per_batch")))
    ts = np.array(call.ts)
    ts[0, 2] = -1.0  # NaN up to the reset at step 4
    resets = mx.array([[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]])

    def both(ts):
        def states(first):
            arguments = call.inputs, call.state, mx.array(ts), call.params
            return ops.cfc_sequence(*arguments, resets=resets, reset_state=first)

        first, late = call.state + 1, [call.cotangents[:, 4:]]
        _, (gradient,) = mx.vjp(lambda first: [states(first)[:, 4:]], [first], late)
        return states(first), gradient

    with use_backend("reference"):
        want, want_gradient = both(np.array(call.ts))
    with simulated(**LATEST):
        got, gradient = both(ts)
    nan = np.zeros(got.shape, bool)
    nan[0, 2:4] = True
    assert np.array_equal(np.isnan(np.array(got)), nan)
    assert_close("states", np.array(got)[~nan], np.array(want)[~nan], FORWARD)
    assert_close("gradient of reset_state", gradient, want_gradient, GRADIENT)


HELD = [
    CfcCase(batch=5, steps=7, timespans="per_batch"),
    CfcCase(batch=33, steps=3, units=31, layers=0, mode="no_gate", timespans="per_batch"),
    CfcCase(batch=3, steps=6, units=17, mode="pure", variant="keras", timespans="per_batch"),
    CfcCase(batch=17, steps=5, units=64, backbone_units=64, layers=2, timespans="per_batch"),
    CfcCase(batch=6, steps=5, layers=2, timespans="per_batch", dropout=0.4),
]


def held_steps(case):
    """Where [B, T] a case's states stay; all of row 0, no step of row 1."""
    held = np.random.default_rng(case.batch).uniform(size=(case.batch, case.steps)) < 0.5
    held[0], held[1] = True, False
    return held


def run_held(case, held):
    """States and gradients by name."""
    call = to_mlx(make(case))
    leaves = leaves_of(call)

    def f(*arrays):
        values = dict(zip(leaves, arrays, strict=True))
        params = _rebuild(call.params, values)
        read = values["inputs"], values["state"], values["ts"], params
        return cfc_sequence_held(None if held is None else mx.array(held), *read, **call.keywords)

    (states,), grads = mx.vjp(f, list(leaves.values()), [call.cotangents])
    return {"states": states} | dict(zip(leaves, grads, strict=True))


def want_held(case, held):
    """The same in float64: of each row the steps that are not held, alone."""
    call, found = make(case), {}
    states, dx = np.zeros(call.cotangents.shape), np.zeros(call.inputs.shape)
    dstate, dts = np.zeros(call.state.shape), np.zeros(call.ts.shape)
    for b in range(case.batch):
        at, row = np.flatnonzero(~held[b]), slice(b, b + 1)
        place = np.cumsum(~held[b])  # of [the state before, the states of these steps]
        keywords = dict(call.keywords)
        if "dropout" in keywords:
            keywords["dropout"] = keywords["dropout"][row, at]
        read = call.inputs[row, at], call.state[row], call.ts[row, at], call.params
        of_steps = truth.cfc_sequence(*read, **keywords)[0]
        states[b] = np.concatenate([call.state[row], of_steps])[place]
        cotangents = np.zeros((1, at.size + 1, case.units))
        np.add.at(cotangents[0], place, call.cotangents[b])
        back = truth.cfc_sequence_backward(cotangents[:, 1:], *read, **keywords)
        dx[b, at], dts[b, at] = back[0][0], back[2][0]
        dstate[b] = back[1][0] + cotangents[0, 0]
        for name, gradient in named_leaves(back[3]).items():
            found[name] = found.get(name, 0.0) + gradient
    return {"states": states, "inputs": dx, "state": dstate, "ts": dts} | found


@pytest.mark.parametrize("case", HELD, ids=str)
def test_held_steps_equal_numpy(case):
    held = held_steps(case)
    want = want_held(case, held)
    for order in ORDERS:
        with simulated(order):
            assert_all_close(run_held(case, held), want, GRADIENT)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("piece", [(33, 99), (2, 3), (1, 1)])
def test_held_steps_in_pieces_and_by_products_equal_numpy(piece, products):
    geometry = cut(piece, product_weights=0 if products else 2**30)
    held = held_steps(HELD[-1])
    with simulated(geometry=geometry, mode="fast", **LATEST):
        assert_all_close(run_held(HELD[-1], held), want_held(HELD[-1], held), GRADIENT)


def test_no_step_held_is_a_plain_call_to_the_bit():
    case = HELD[2]
    with simulated(**LATEST):
        got, want = run_held(case, np.zeros((case.batch, case.steps), bool)), run_held(case, None)
    assert all(mx.array_equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_held_steps_run_step_by_step_where_no_kernel_holds(native, backend):
    held = held_steps(HELD[0])
    with use_backend(backend):
        assert_all_close(run_held(HELD[0], held), want_held(HELD[0], held), GRADIENT)


PLANTED = [  # (file, text, what stands in its place)
    ("cfc_forward", "resets[row + 1u] != 0.0f", "resets[row] != 0.0f"),
    ("cfc_forward", "resets[b * T] != 0.0f", "resets[b * T] == 1e9f"),
    ("cfc_backward", "stage == 0 && resets[row]", "stage == 0 && t > 0u && resets[row]"),
    ("cfc_forward", "kept_at - whole_width + c", "kept_at + c"),
    ("cfc_backward", "DROPS_FIRST || stage > 1", "stage > 0"),
    ("cfc_forward", "DROPS_FIRST || layer > 0", "layer > 0"),
    ("cfc_backward", "if (holds) dh = 0.0f;", ""),
    (
        "cfc_backward",
        "stage == 0 && real && held[row]",
        "stage == 0 && real && t > 9u && held[row]",
    ),
    ("cfc_forward", "real && held[row] != 0.0f", "real && t > 0u && held[row] != 0.0f"),
]


def check_all():
    """Resets with dropout by two rules, and held steps."""
    for case in (STARTING[-2], replace(STARTING[-2], variant="keras"), STARTING[-1]):
        anew.check(case, False, "metal")
    held = held_steps(HELD[0])
    assert_all_close(run_held(HELD[0], held), want_held(HELD[0], held), GRADIENT)


@pytest.mark.parametrize(("file", "old", "new"), PLANTED)
def test_planted_faults_are_caught(file, old, new):
    change, faults = (f"{file}.metal", replaced(old, new)), (AssertionError, mslsim.MSLError)
    with simulated(change=change, **LATEST), pytest.raises(faults):
        check_all()


def test_without_a_fault_nothing_is_caught():
    with simulated(**LATEST):
        check_all()


# ---- Layers --------------------------------------------------------------------------------------

B, T, I = 3, 6, 3
DROP = {"backbone_units": [7, 5], "backbone_dropout": 0.4}
LAYERS = {
    "torch": lambda: CfC(I, 6, **DROP),
    "keras": lambda: CfC(I, 6, variant="keras", **DROP),
    "paper": lambda: CfC(I, 6, variant="paper", mode="no_gate", **DROP),
    "pure": lambda: CfC(I, 6, mode="pure", **DROP),
    "wired": lambda: CfC(I, AutoNCP(9, 2), variant="keras", **DROP),
    "bidirectional": lambda: CfC(I, 6, bidirectional=True, **DROP),
    "backwards": lambda: CfC(I, 6, go_backwards=True, **DROP),
}
RESETS = mx.array([[1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]])
MASK = mx.array([[1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
CALLS = {
    "plain": {},
    "resets": {"resets": RESETS},
    "mask": {"mask": MASK},
    "resets_and_mask": {"resets": RESETS, "mask": MASK},
}


def made(name):
    mx.random.seed(3)
    layer = LAYERS[name]()
    mx.eval(layer.parameters())
    return layer, mx.random.normal((B, T, I)), mx.random.uniform(0.1, 1.0, (B, T))


def trained(layer, x, ts, part=None, **call):
    """Output, gradients, and what MLX draws next."""

    def loss(layer):
        output, _ = (part or layer)(x, None, ts, **call)
        return mx.sum(mx.sin(output)), output

    mx.random.seed(5)
    (_, output), grads = nn.value_and_grad(layer, loss)(layer)
    after = mx.random.uniform(shape=(3,))
    mx.eval(output, grads, after)
    return {"output": output, "after": after} | dict(tree_flatten(grads))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_train_as_on_the_reference_from_the_same_key(name, call):
    layer, x, ts = made(name)
    with use_backend("reference"):
        want = trained(layer, x, ts, **CALLS[call])
    with simulated(mode="fast", **LATEST):
        got = trained(layer, x, ts, **CALLS[call])
    assert_all_close(got, want, GRADIENT)


def test_a_checkpoint_drops_the_same_when_it_computes_again():
    layer, x, ts = made("keras")
    with use_backend("reference"):
        want = trained(layer, x, ts, checkpoint(layer))
    with simulated(mode="fast", **LATEST):
        got = trained(layer, x, ts, checkpoint(layer))
    assert_all_close(got, want, GRADIENT)


def test_the_gradient_in_chunks_drops_the_same_in_both_passes():
    layer, x, ts = made("torch")

    def loss(layer, state, x, ts, resets):
        output, state = layer(x, state, ts, resets=resets, reset_state=0)
        return mx.sum(mx.sin(output)), state

    def run():
        mx.random.seed(5)
        chunks = [(x[:, t : t + 2], ts[:, t : t + 2], RESETS[:, t : t + 2]) for t in (0, 2, 4)]
        value, grads, state = chunked_value_and_grad(layer, loss)(chunks, mx.zeros((B, 6)))
        return {"value": value, "state": state} | dict(tree_flatten(grads))

    with use_backend("reference"):
        want = run()
    with simulated(mode="fast", **LATEST):
        got = run()
    assert_all_close(got, want, GRADIENT)


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that the backend metal launches; their results are zeros."""
    names = []
    monkeypatch.setattr(metal, "run", trace.runner(lambda kernel, _: names.append(kernel["name"])))
    monkeypatch.setattr(metal, "available", lambda: (True, "traced"))
    with use_backend("metal"):
        yield names


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["torch", "keras", "pure"])
def test_one_launch_forward_and_one_backward(launched, name, call):
    layer, x, ts = made(name)
    plan = layer.explain((B, T, I), resets="resets" in call, scalar_timespans=False)
    assert plan.stepwise == ""
    assert plan.launches == (2,)
    trained(layer, x, ts, **CALLS[call])
    assert len(launched) == 2
    assert launched[0].startswith("ncps_cfc_forward_save")
    assert launched[1].startswith("ncps_cfc_backward")
    assert all("_dropout" in kernel for kernel in launched)
    for part, flag in (("resets", "_resets"), ("mask", "_holds")):
        assert all((flag in kernel) == (part in call) for kernel in launched)


def test_a_long_sequence_has_one_launch_for_each_piece(launched, monkeypatch):
    monkeypatch.setattr(metal, "run", metal.run.but(geometry=replace(APPLE, launch_steps=4)))
    layer, x, ts = made("torch")
    plan = layer.explain((B, T, I), resets=True, scalar_timespans=False)
    assert plan.launches == (4,)
    trained(layer, x, ts, resets=RESETS)
    assert len(launched) == 4
