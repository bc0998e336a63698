"""Masks over steps in the kernels of step programs on a GPU, simulated: states and outputs stay
where a step is left out, in the same launches; nothing is moved around them.
"""

import itertools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LiquidRNN, backends, use_backend
from mlx_ncps.backends.gpu import trace
from mlx_ncps.backends.gpu.geometry import APPLE, CUDA
from mlx_ncps.backends.gpu.programs import sequence
from mlx_ncps.backends.gpu.programs.plan import plan_of
from mlx_ncps.cells import CTRNNCell
from mlx_ncps.programs import holding
from mlx_ncps.rnn.program_runs import program_of

from benchmarks.launches import on_gpu
from tests.gpu.test_programs import LAYERS, array, build, check, values_and_gradients
from tests.support.cases import TOLERANCES, assert_close
from tests.support.simulated_metal import ORDERS, cut, simulated

pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
LATEST = {"metal_versions": (310,)}
B, T, I = 3, 6, 4
MASK = mx.array([[0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
FEATURES = mx.array(np.random.default_rng(1).uniform(size=(B, T, I // 2)) < 0.3)
RESETS = mx.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]])
CALLS = {  # options of the layer, arguments of its call
    "mask": ({}, {"mask": MASK}),
    "resets": ({}, {"mask": MASK, "resets": RESETS}),
    "features": ({}, {"mask": FEATURES, "timespans": 0.3}),
    "both directions": ({"bidirectional": True}, {"mask": MASK, "resets": RESETS}),
    "backwards": ({"go_backwards": True}, {"mask": MASK}),
}


def problem(call):
    """(options of the layer, x, arguments of its call): NaN where nothing may be read."""
    options, arguments = CALLS[call]
    if call == "features":
        x = array(B, T, I // 2)
        return options, mx.where(FEATURES, x, mx.array(np.nan)), arguments
    kept = MASK != 0
    x = mx.where(kept[:, :, None], array(B, T, I), mx.array(np.nan))
    ts = mx.where(kept, array(B, T, low=0.0), mx.array(np.nan))
    return options, x, arguments | {"timespans": ts}


CASES = [(name, call) for name in LAYERS for call in ("mask", "resets")]
CASES += itertools.product(("wired_dropped", "mixed_wired", "ode_lstm", "own"), [*CALLS][2:])


@pytest.mark.parametrize(("number", "name", "call"), [(n, *c) for n, c in enumerate(CASES)])
def test_masks_agree_with_the_reference(number, name, call):
    options, x, arguments = problem(call)
    geometry = (APPLE, CUDA)[number % 2]
    layer = build(name, **options)
    _, gradients = check(layer, x, ORDERS[number % 3], geometry, **arguments)
    if not options:
        left_out = np.isnan(np.array(x))
        assert left_out.any()
        assert not np.array(gradients["x"])[left_out].any()


@pytest.mark.parametrize("piece", [(2, 4), (1, 1)])
@pytest.mark.parametrize("name", ["wired", "mixed_wired", "own"])
def test_calls_in_pieces_of_rows_and_time_are_the_same(name, piece):
    _, x, arguments = problem("resets")
    check(build(name), x, geometry=cut(piece), **arguments)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", ["wired", "mixed_wired", "ctrnn", "own"])
def test_half_inputs(name, dtype):
    """As in float32 from the rounded numbers, rounded last; own weights are in half precision."""
    layer, (_, x, arguments) = build(name), problem("resets")
    x = x.astype(dtype)
    if name == "own":
        layer.set_dtype(dtype)
        layer.set_dtype(mx.float32)
    with use_backend("reference"):
        want, want_state = layer(x.astype(mx.float32), **arguments)
    if name == "own":
        layer.set_dtype(dtype)
    with simulated(**LATEST):
        got, state = layer(x, **arguments)
    tolerance = TOLERANCES[str(dtype).removeprefix("mlx.core.")]["forward"]
    assert got.dtype == dtype
    assert_close("output", got.astype(mx.float32), want, tolerance)
    for (_, a), (_, b) in zip(tree_flatten(state), tree_flatten(want_state), strict=True):
        assert_close("state", a.astype(mx.float32), b, tolerance)


@pytest.mark.parametrize("name", ["wired", "mixed_wired", "own"])
def test_a_state_is_kept_between_calls(name):
    results = []
    for context in (use_backend("reference"), simulated(**LATEST)):
        layer = build(name, stateful=True)
        mx.random.seed(5)
        with context:
            outputs = [layer(mx.sin(array_of(n)), mask=MASK)[0] for n in range(2)]
            mx.eval(outputs)
        results.append(outputs)
    for n, (want, got) in enumerate(zip(*results, strict=True)):
        assert_close(f"call {n}", got, want, FORWARD)


def array_of(n):
    return mx.arange(n, n + B * T * I).reshape(B, T, I).astype(mx.float32)


@pytest.mark.parametrize("name", ["wired_dropped", "mixed_wired", "ct_gru", "own"])
def test_runs_are_bitwise_equal(name):
    layer, runs = build(name), []
    _, x, arguments = problem("mask")
    for order in ORDERS:
        with simulated(order, **LATEST):
            results, gradients = values_and_gradients(layer, x, **arguments)
            runs.append([*map(np.array, results), *map(np.array, gradients.values())])
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("name", ["wired", "mixed_dropped", "ode_lstm", "own"])
def test_a_mask_that_leaves_nothing_out_is_a_plain_call_to_the_bit(name):
    layer, x = build(name), array(B, T, I)
    with simulated(**LATEST):
        got, gradients = values_and_gradients(layer, x, mask=mx.ones((B, T)))
        want, want_gradients = values_and_gradients(layer, x)
    assert all(mx.array_equal(g, w) for g, w in zip(got, want, strict=True))
    assert all(mx.array_equal(gradients[name], w) for name, w in want_gradients.items())


@pytest.mark.parametrize("name", ["wired_dropped", "mixed_wired_dropped", "own"])
def test_a_program_that_is_too_large_with_a_mask_alone_moves_the_steps(name):
    """It draws no dropout before that is known."""
    layer, (_, x, arguments) = build(name), problem("resets")
    with simulated(**LATEST):
        run = backends.metal.run
        whole = getattr(layer.rnn_cell, "_gpu_program", None)
        plain = name != "wired_dropped"
        sizes = layer._state_sizes
        text = (program_of(layer, I, sizes, mx.float32, run) if plain else whole()).text
    floats = sequence._backward_floats(plan_of(text))
    assert sequence._backward_floats(plan_of(holding(text))) > floats
    check(layer, x, geometry=cut((9, 9), memory=4 * floats), **arguments)


# ---- Launches ------------------------------------------------------------------------------------


@pytest.fixture(params=["metal", "cuda"])
def launched(request, monkeypatch):
    """The names of the kernels that a backend launches; their results are zeros."""
    names, backend = [], getattr(backends, request.param)
    cuda = request.param == "cuda"
    kernels = trace.runner(lambda k, _: names.append(k["name"]), CUDA if cuda else APPLE, cuda)
    monkeypatch.setattr(backend, "run", kernels)
    monkeypatch.setattr(backend, "available", lambda: (True, "traced"))
    with use_backend(request.param):
        yield names


@pytest.mark.parametrize("name", LAYERS)
def test_a_masked_call_is_one_launch_for_each_direction_and_one_back(launched, name):
    for call, training in itertools.product(CALLS, (False, True)):
        options, x, arguments = problem(call)
        layer = build(name, **options)
        layer.train(training)
        plan = layer.explain((B, T, I), resets="resets" in arguments)
        assert plan.launches == (2 if training else 1,) * (2 if layer.bidirectional else 1)
        launched.clear()

        def loss(layer, x, arguments=arguments):
            output = layer(x, **arguments)[0]
            return sum(o.sum() for o in output) if isinstance(output, tuple) else output.sum()

        nn.value_and_grad(layer, loss)(layer, x) if training else loss(layer, x)
        assert len(launched) == sum(plan.launches), call
        assert all("program" in kernel for kernel in launched)


@pytest.mark.parametrize("name", LAYERS)
def test_no_step_is_moved_around_the_kernel(name):
    layer, (_, x, arguments) = build(name), problem("resets")
    mx.eval(x, arguments)
    found = on_gpu(lambda: layer(x, **arguments))
    assert sum("program" in one for one in found) == 1
    moves = {"ArgSort", "Sort", "ScatterAxis", "GatherAxis", "Scan"}
    dropped = layer.training and "dropped" in name  # which steps get which factors
    assert dropped or not moves & {*found}


class Attending(CTRNNCell):
    """A cell whose sequence is no step after the other."""

    def sequence(self, inputs, state, ts, **anew):
        inputs = inputs + mx.mean(inputs, axis=1, keepdims=True)
        return super().sequence(inputs, state, ts, **anew)


def test_a_cell_with_a_sequence_of_its_own_runs_over_the_moved_steps():
    layer = LiquidRNN(Attending(I, 5), return_sequences=True, return_state=True)
    _, x, arguments = problem("mask")
    with use_backend("reference"):
        want, _ = values_and_gradients(layer, x, **arguments)
    with simulated(**LATEST):
        got, _ = values_and_gradients(layer, x, **arguments)
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close(f"result {n}", g, w, FORWARD)
