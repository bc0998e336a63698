"""Step programs in kernels of a GPU, simulated: every instruction against MLX's operations and
NumPy float64, layers against the backend `reference`; every access checked, in every order.
"""

import itertools
import math
import re

import mlx.core as mx
import mlx.nn as nn
import mslsim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import MMRNN, CfC, LiquidRNN, last_backend, use_backend
from mlx_ncps.backends import cuda, metal
from mlx_ncps.backends.gpu import programs, trace
from mlx_ncps.backends.gpu.geometry import APPLE, CUDA
from mlx_ncps.backends.gpu.programs import plan, sequence
from mlx_ncps.backends.gpu.programs.backward import backward_text
from mlx_ncps.backends.gpu.programs.forward import forward_text
from mlx_ncps.backends.gpu.programs.text import BARRIER
from mlx_ncps.backends.gpu.runner import Runner
from mlx_ncps.cells import (
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
)
from mlx_ncps.programs import Program, step_program
from mlx_ncps.programs import trace as trace_step
from mlx_ncps.wirings import AutoNCP

from tests.programs.test_primitives import FORMS, H, X
from tests.support import ROOT
from tests.support.as_cuda import ARCHITECTURES, cuda_text, nvrtc, outside_registers, registers
from tests.support.cases import TOLERANCES, assert_close
from tests.support.generators import generator
from tests.support.run_program import run_program
from tests.support.simulated_metal import ORDERS, cut, simulated
from tests.support.step_layers import randomise
from tools.agx.programs import PROGRAMS
from tools.agx.variants import program_variants

pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
rng = generator(5)


def array(*shape, low=-1.0):
    return mx.array(rng.uniform(low, 1.0, shape).astype(np.float32))


def weighted(arrays):
    """A number that every element moves differently."""
    return sum(
        (a.astype(mx.float32) * mx.cos(mx.arange(a.size).reshape(a.shape))).sum() for a in arrays
    )


# ---- Every instruction --------------------------------------------------------------------------

GROUP = 9  # forms of one program
GROUPS = [list(FORMS)[n : n + GROUP] for n in range(0, len(FORMS), GROUP)]


def forms_of(names, reached):
    """A step that computes these forms, and moves its states a little: of the states, within the
    kernel, or of inputs, outside of it. x, y, h: the inputs, or states; the rest are states.
    """

    def step(u, x, y, h, *rest):
        rows = []
        for name in names:
            found = FORMS[name](x, y, h)
            found = found if isinstance(found, list | tuple) else [found]
            rows += [r.reshape(r.shape[0], -1) for r in found]
        carried = sum(mx.mean(r, axis=-1, keepdims=True) for r in rows)
        moved = 0.1 * mx.tanh(carried + u)
        if not reached:
            return [0.8 * s + moved for s in rest], rows
        return [0.8 * x + moved, 0.8 * y - moved, 0.8 * h + moved], rows

    return step


def by_steps(step, inputs, states, resets=None):
    first, found = states, []
    for t in range(inputs[0].shape[1]):
        if resets is not None:
            at = resets[:, t : t + 1]
            states = [mx.where(at, f, s) for f, s in zip(first, states, strict=True)]
        states, outputs = step(*(x[:, t] for x in inputs), *states)
        found.append([*states, *outputs])
    return [mx.stack(list(parts), axis=1) for parts in zip(*found, strict=True)]


def in_float64(program, inputs, states, resets=None):
    first, found = [np.array(s, np.float64) for s in states], []
    states = first
    for t in range(inputs[0].shape[1]):
        if resets is not None:
            at = np.array(resets)[:, t : t + 1]
            states = [np.where(at, f, s) for f, s in zip(first, states, strict=True)]
        states, outputs = run_program(program, [np.array(x)[:, t] for x in inputs], states)
        found.append([*states, *outputs])
    return [np.stack(parts, axis=1) for parts in zip(*found, strict=True)]


def on_gpu(program, inputs, states, resets=None):
    at = None if resets is None else resets.astype(mx.float32)
    steps = programs.Steps(list(inputs), list(states), at, [] if resets is None else list(states))
    return programs.program_sequence(metal.run, program, program.captured, steps)


@pytest.mark.parametrize("reached", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("number", range(len(GROUPS)))
def test_every_instruction_is_that_of_mlx_and_of_float64(number, reached):
    names, batch, steps = GROUPS[number], (1, 3, 17)[number % 3], 3
    step = forms_of(names, reached)
    widths = [1], [X, 1, H]
    if not reached:
        widths = [1, X, 1, H], [2]
    program = trace_step(step, *widths)
    assert isinstance(program, Program), program
    assert not isinstance(plan.plan_of(program), str), plan.plan_of(program)
    inputs, states = (
        [array(batch, steps, n) for n in widths[0]],
        [array(batch, n) for n in widths[1]],
    )
    resets = mx.array(rng.random((batch, steps)) < 0.4) if number % 2 else None
    count, numbers = len(inputs), tuple(range(len(inputs) + len(states)))
    want = by_steps(step, inputs, states, resets)
    truth = in_float64(program, inputs, states, resets)

    def gradients(run):
        def loss(*arrays):
            return weighted(run(arrays[:count], arrays[count:]))

        return mx.grad(loss, argnums=numbers)(*inputs, *states)

    with simulated(ORDERS[number % 3]):
        got = on_gpu(program, inputs, states, resets)
        got_gradients = gradients(lambda *a: on_gpu(program, *a, resets))
        mx.eval(got, got_gradients)
    for n, (g, w, t) in enumerate(zip(got, want, truth, strict=True)):
        assert_close(f"result {n} of {names}, MLX", g, w, FORWARD)
        assert_close(f"result {n} of {names}, float64", g, t, FORWARD)
    for n, (g, w) in enumerate(
        zip(got_gradients, gradients(lambda *a: by_steps(step, *a, resets)), strict=True)
    ):
        assert_close(f"gradient {n} of {names}", g, w, GRADIENT)


# ---- Layers -------------------------------------------------------------------------------------

B, T, I = 3, 4, 4


class OwnCell(nn.Module):
    """A gated cell as users write it."""

    state_size, output_size, input_size = 5, 5, I

    def __init__(self):
        super().__init__()
        self.gate, self.new = nn.Linear(I + 5, 5), nn.Linear(I + 5, 5)

    def __call__(self, x, h, ts):
        z = mx.concatenate([x, h], axis=-1)
        g = mx.sigmoid(self.gate(z)) * mx.exp(-ts)
        h = g * h + (1.0 - g) * nn.silu(self.new(z))
        return 2.0 * h, h


def wiring():
    return AutoNCP(11, 3, seed=4)


DROP = {"backbone_units": [7, 5], "backbone_dropout": 0.4}
LAYERS = {
    "wired": lambda **o: CfC(I, wiring(), **o),
    "wired_backbone": lambda **o: CfC(I, wiring(), backbone_units=7, mode="no_gate", **o),
    "wired_keras": lambda **o: CfC(I, wiring(), variant="keras", **o),
    "wired_dropped": lambda **o: CfC(I, wiring(), variant="keras", **DROP, **o),
    "mixed_wired": lambda **o: CfC(I, wiring(), mixed_memory=True, **o),
    "mixed_wired_dropped": lambda **o: CfC(I, wiring(), mixed_memory=True, **DROP, **o),
    "mixed": lambda **o: CfC(I, 5, mixed_memory=True, backbone_units=9, **o),
    "mixed_pure": lambda **o: CfC(I, 5, mixed_memory=True, mode="pure", **o),
    "mixed_dropped": lambda **o: CfC(I, 5, mixed_memory=True, **DROP, **o),
    "ctrnn": lambda **o: LiquidRNN(CTRNNCell(I, 5, learn_tau=True), **o),
    "ctrnn_semi_implicit": lambda **o: LiquidRNN(CTRNNCell(I, 5, ode_solver="semi_implicit"), **o),
    "mixed_ctrnn": lambda **o: MMRNN(CTRNNCell(I, 5), **o),
    "neural_ode": lambda **o: LiquidRNN(NeuralODECell(I, 5, [7], ode_unfolds=2), **o),
    "ct_gru": lambda **o: LiquidRNN(CTGRUCell(I, 5), **o),
    "ode_rnn": lambda **o: LiquidRNN(ODERNNCell(I, 5), **o),
    "ode_lstm": lambda **o: LiquidRNN(ODELSTMCell(I, 5), **o),
    "eltc": lambda **o: LiquidRNN(ELTCCell(wiring(), I, ode_unfolds=2), **o),
    "own": lambda **o: LiquidRNN(OwnCell(), **o),
    "mixed_own": lambda **o: MMRNN(OwnCell(), **o),
}
SOME = ("wired", "mixed_wired", "mixed", "ode_lstm")
CALLS = {
    "plain": ({}, {}),
    "time spans": ({}, {"timespans": array(B, T, low=0.0)}),
    "resets": ({}, {"resets": mx.array(rng.random((B, T)) < 0.4)}),
    "mask": ({}, {"mask": mx.array(rng.random((B, T)) < 0.6)}),
    "both directions": ({"bidirectional": True}, {"timespans": 0.3}),
}


def build(name, **options):
    mx.random.seed(3)
    layer = LAYERS[name](return_sequences=True, return_state=True, **options)
    layer.build((B, T, I))
    randomise(layer)
    return layer


def values_and_gradients(layer, x, **call):
    """The results of a call, and the gradients of weights and inputs."""

    def loss(layer, x):
        mx.random.seed(4)  # of dropout
        return weighted([a for _, a in tree_flatten(layer(x, **call))])

    _, weights = nn.value_and_grad(layer, loss)(layer, x)
    mx.random.seed(4)
    results = [a for _, a in tree_flatten(layer(x, **call))]
    gradients = dict(tree_flatten(weights)) | {"x": mx.grad(lambda x: loss(layer, x))(x)}
    mx.eval(results, gradients)
    return results, gradients


def check(layer, x, order="forward", geometry=APPLE, **call):
    with use_backend("reference"):
        want, want_gradients = values_and_gradients(layer, x, **call)
    with simulated(order, geometry=geometry, metal_versions=(310,)):
        got, gradients = values_and_gradients(layer, x, **call)
        assert last_backend() == "metal"
    for n, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close(f"result {n}", g, w, FORWARD)
    for name, w in want_gradients.items():
        assert_close(f"gradient of {name}", gradients[name], w, GRADIENT)
    return got, gradients


CASES = [(name, call) for name in LAYERS for call in ("time spans", "resets")]
CASES += [(name, call) for name in SOME for call in CALLS if call not in ("time spans", "resets")]


@pytest.mark.parametrize(("number", "name", "call"), [(n, *c) for n, c in enumerate(CASES)])
def test_layers_agree_with_the_reference(number, name, call):
    options, arguments = CALLS[call]
    layer = build(name, **options)
    check(layer, array(B, T, I), ORDERS[number % 3], **arguments)


@pytest.mark.parametrize("batch", [1, 8, 17, 70])
@pytest.mark.parametrize("name", ["wired", "mixed"])
def test_batches_of_every_number_of_rows_in_a_threadgroup(name, batch):
    check(build(name), array(batch, 2, I), timespans=array(batch, 2, low=0.0))


@pytest.mark.parametrize("piece", [(2, 3), (1, 1)])
def test_calls_in_pieces_of_rows_and_time_are_the_same(piece):
    for name in ("mixed_wired", "ode_lstm"):
        resets = CALLS["resets"][1]
        check(build(name), array(B, T, I), geometry=cut(piece), **resets)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_inputs(dtype):
    tolerance = TOLERANCES[str(dtype).removeprefix("mlx.core.")]["forward"]
    for name in ("wired", "mixed"):
        layer, x = build(name), array(B, T, I).astype(dtype)
        with use_backend("reference"):
            want = layer(x)[0]
        with simulated(metal_versions=(310,)):
            got = layer(x)[0]
        assert got.dtype == dtype
        assert_close(name, got.astype(mx.float32), want.astype(mx.float32), tolerance)


@pytest.mark.parametrize("name", ["mixed_wired", "ct_gru"])
def test_runs_are_bitwise_equal(name):
    layer, x, runs = build(name), array(5, T, I), []
    for order in ORDERS:
        with simulated(order, metal_versions=(310,)):
            results, gradients = values_and_gradients(layer, x)
            runs.append([*map(np.array, results), *map(np.array, gradients.values())])
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))


# ---- Launches, texts, refusals ------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that the backend metal launches; their results are zeros."""
    names = []
    run = trace.runner(lambda kernel, call: names.append(kernel["name"]))
    monkeypatch.setattr(metal, "run", run)
    monkeypatch.setattr(metal, "available", lambda: (True, "traced"))
    with use_backend("metal"):
        yield names


@pytest.mark.parametrize("name", LAYERS)
def test_explain_shows_one_launch_for_each_direction(launched, name):
    for options, training in itertools.product(({}, {"bidirectional": True}), (False, True)):
        layer, x = build(name, **options), mx.zeros((B, T, I))
        layer.train(training)
        calls = layer.explain(x.shape)
        assert calls.launches == (2 if training else 1,) * (2 if options else 1)
        assert "step_program over the whole sequence on metal" in str(calls)
        launched.clear()

        def loss(layer, x):
            return layer(x)[0][0].sum()

        nn.value_and_grad(layer, loss)(layer, x) if training else loss(layer, x)
        assert len(launched) == sum(calls.launches)
        assert all("program" in one for one in launched)


def test_explain_counts_a_launch_for_each_piece(launched, monkeypatch):
    monkeypatch.setattr(metal, "run", metal.run.but(geometry=cut((2, 3))))
    layer = build("mixed").eval()
    assert layer.explain((B, T, I)).launches == (4,)
    layer(mx.zeros((B, T, I)))
    assert len(launched) == 4


def test_equal_programs_have_one_text_and_others_another(launched):
    for name in ("wired", "wired", "wired_keras"):
        build(name).eval()(mx.zeros((B, T, I)))
    assert launched[0] == launched[1] != launched[2]


def test_a_program_that_is_too_large_is_refused_and_runs_as_before(launched):
    layer = CfC(I, 300, mixed_memory=True).eval()
    calls = layer.explain((B, T, I))
    assert calls.program == ""
    assert "step by step" in str(calls)
    wide = LiquidRNN(NeuralODECell(I, 64, [200] * 3)).eval()
    assert not wide.explain((B, T, I)).program


def test_reasons_against_a_kernel_are_words():
    def step(u, h):
        for _ in range(40):
            h = mx.tanh(h @ mx.ones((H, H)) + u)
        return [h], []

    program = trace_step(step, [1], [H])
    run = metal.run.but(geometry=APPLE)
    assert programs.unsupported(run, program) == ""
    small = metal.run.but(geometry=cut((1, 1), memory=64))
    assert "exceed threadgroup memory" in programs.unsupported(small, program)
    few = metal.run.but(geometry=cut((1, 1), product_weights=30))
    assert "weights" in programs.unsupported(few, program)
    built = trace.runner(lambda *_: None)
    built.any_text = False
    assert "built with" in programs.unsupported(built, program)


def without_barrier(monkeypatch, number, backward):
    """The kernels lack one of their barriers -> whether there is such a one."""
    whole = sequence.kernel_of
    seen = []

    def kernel_of(made, back):
        name, body = whole(made, back)
        if back == backward:
            before, after = body.split(BARRIER)[: number + 1], body.split(BARRIER)[number + 1 :]
            seen.append(bool(after))
            body = BARRIER.join(before) + BARRIER.join(after)
        return name, body

    monkeypatch.setattr(sequence, "kernel_of", kernel_of)
    return seen


@pytest.mark.parametrize("backward", [False, True])
def test_a_missing_barrier_is_caught(backward, monkeypatch):
    layer, x, missed = build("mixed"), array(2, 4, I), []
    for number in itertools.count():
        with monkeypatch.context() as patch:
            there = without_barrier(patch, number, backward)
            found = ()
            with simulated(metal_versions=(310,)):
                try:
                    values_and_gradients(layer, x)
                except mslsim.MSLError as error:
                    found = error.kinds
            missed += [] if "race" in found else [number]
        if not there[0]:
            break
    assert missed == [number]
    assert number > 2


@pytest.mark.parametrize("name", SOME)
def test_texts_compile_as_cuda(name):
    compiled = nvrtc()
    if compiled is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    layer, texts = build(name), {}

    def register(name, input_names, output_names, source, header):
        def kernel(*, inputs, template, threadgroup, output_shapes, output_dtypes, **_):
            buffers = zip(input_names, [a.dtype for a in inputs], strict=True)
            parts = name, header, source, buffers, output_names
            texts[name] = cuda_text(*parts, template), math.prod(threadgroup)
            return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return kernel

    run = Runner("cuda", register, mx.cpu, CUDA, cuda=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "run", run)
        patch.setattr(cuda, "available", lambda: (True, "recorded"))
        with use_backend("cuda"):
            values_and_gradients(layer, array(1024, 4, I))
            layer(array(2, 4, I), resets=mx.zeros((2, 4)))
            layer(array(2, 4, I), mask=mx.zeros((2, 4)))
    assert len(texts) == 4
    for name, (text, threads) in texts.items():
        for architecture in ARCHITECTURES:
            code, log = compiled(text, architecture)
            assert code == 0, f"{name}:\n{log}"
            assert "warning" not in log, f"{name}:\n{log}"
            assert set(outside_registers(log)) == {0}, f"{name} leaves its registers:\n{log}"
            assert registers(log) * threads <= 65536


@pytest.mark.parametrize("label", PROGRAMS)
def test_no_compiler_can_count_the_turns_of_a_loop(label):
    """Unrolled, a text is larger than an instruction cache."""
    made = plan.plan_of(step_program(*PROGRAMS[label]()).text)
    for text in (forward_text(made), backward_text(made)):
        ends = re.findall(r"for \(uint base = 0u; base < (.*?); ", text)
        assert all(end.endswith("u + none") for end in ends)
        assert bool(ends) == ("NCPS_ADD_PRODUCTS" in text)
        lines = [line.strip() for line in text.splitlines()]
        loops = [n for n, line in enumerate(lines) if line.startswith("NCPS_EACH")]
        assert loops
        assert not any(lines[n - 1] == "}" and _opens(lines, n - 1) for n in loops)
    header = (ROOT / "metal" / "program.h").read_text()
    assert header.count("+ none; ") == 2  # NCPS_EACH and NCPS_ADD_PRODUCTS


def test_rows_divide_the_threads_of_every_launch():
    """A thread finds its row once, for all of its elements."""
    for one in program_variants():
        rows = re.search(r"ROWS=(\d+)", one.name)
        assert rows is not None
        assert one.threads % int(rows[1]) == 0, one.name


def _opens(lines, end):
    """Whether the block that ends at this line is a loop over elements: that would be one loop."""
    depth = 0
    for n in range(end, -1, -1):
        depth += lines[n].startswith("}") - lines[n].endswith("{")
        if depth == 0:
            return lines[n].startswith("NCPS_EACH")
    return False
