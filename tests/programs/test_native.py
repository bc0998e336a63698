"""Step programs run by the extension, forward and backward, against MLX."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import _loader
from mlx_ncps.programs import trace
from mlx_ncps.programs.run import native

from tests.programs.test_primitives import FORMS, H, X
from tests.support.cases import TOLERANCES, assert_close
from tests.support.generators import generator

_ext: Any = _loader.native
pytestmark = pytest.mark.usefixtures("native")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
B, T = 5, 7
BATCHES = (1, 2, 17)
rng = generator(11)


def array(*shape):
    return mx.array(rng.uniform(-1.5, 1.5, shape).astype(np.float32))


def recurrent(function):
    """A step of a form: the state takes a part of what the form gives."""

    def step(x, y, h):
        results = function(x, y, h)
        results = results if isinstance(results, list | tuple) else [results]
        rows = [r.reshape(r.shape[0], -1) for r in results]
        carried = sum(mx.mean(r, axis=-1, keepdims=True) for r in rows)
        return [0.5 * h + 0.1 * mx.tanh(carried)], rows

    return step


def by_steps(step, x, y, h, resets=None):
    first, states, outputs = h, [], []
    for t in range(x.shape[1]):
        if resets is not None:
            h = mx.where(resets[:, t : t + 1], first, h)
        (h,), out = step(x[:, t], y[:, t], h)
        states.append(h)
        outputs.append(out)
    return [mx.stack(states, axis=1), *(mx.stack(o, axis=1) for o in zip(*outputs, strict=True))]


def weighted(results):
    """A number that every element of the results moves differently."""
    return sum(
        (r * mx.cos(mx.arange(r.size, dtype=mx.float32)).reshape(r.shape)).sum() for r in results
    )


def both(step, arguments, resets=None):
    """(value, gradients) by MLX's operations and by the native program."""
    program = trace(step, [X, 1], [H])

    def run(x, y, h, *captured):
        return _ext.program_sequence(native(program), [x, y], [h], list(captured), resets)

    def reference(x, y, h):
        return by_steps(step, x, y, h, resets)

    want = mx.value_and_grad(lambda *a: weighted(reference(*a)), argnums=(0, 1, 2))(*arguments)
    got = mx.value_and_grad(lambda *a: weighted(run(*a, *program.captured)), argnums=(0, 1, 2))(
        *arguments
    )
    return run(*arguments, *program.captured), reference(*arguments), got, want


@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_with_mlx(form):
    step = recurrent(FORMS[form])
    arguments = array(B, T, X), array(B, T, 1), array(B, H)
    results, wanted, (_, got), (_, want) = both(step, arguments)
    for n, (result, expected) in enumerate(zip(results, wanted, strict=True)):
        assert_close(f"result {n}", result, expected, FORWARD)
    for name, g, w in zip("xyh", got, want, strict=True):
        assert_close(f"gradient of {name}", g, w, GRADIENT)


def gated(x, y, h):
    """A step with products, a softmax, sums, moves and a fixed vector."""
    z = mx.concatenate([x, h], axis=-1) @ MIX + SHIFT
    share = mx.softmax(z.reshape(-1, 3, H // 3), axis=-1).reshape(-1, H)
    return [h + y * (mx.tanh(z @ SECOND) * share - h) * mx.sigmoid(SHIFT)], [(z * z).sum(axis=-1)]


MIX, SHIFT, SECOND = array(X + H, H), array(H), array(H, H)
mx.eval(MIX, SHIFT, SECOND)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("isa", _ext.isas() if _ext else [""])
def test_batches_and_instruction_sets(batch, length, isa):
    step = wide(gated)
    arguments = array(batch, length, X), mx.abs(array(batch, length, 1)), array(batch, H)
    program = trace(step, [X, 1], [H])

    def run(x, y, h, *captured):
        return _ext.program_sequence(native(program), [x, y], [h], list(captured))

    def reference(x, y, h, *captured):
        return by_steps(wide(of_weights(gated, *captured)), x, y, h)

    every = [*arguments, *program.captured]
    numbers = tuple(range(len(every)))
    before = _ext.isa()
    try:
        _ext.set_isa(isa)
        _, got = mx.value_and_grad(lambda *a: weighted(run(*a)), argnums=numbers)(*every)
        again = mx.grad(lambda *a: weighted(run(*a)), argnums=numbers)(*every)
        mx.eval(got, again)
    finally:
        _ext.set_isa(before)
    want = mx.grad(lambda *a: weighted(reference(*a)), argnums=numbers)(*every)
    for n, (g, w, a) in enumerate(zip(got, want, again, strict=True)):
        assert mx.array_equal(g, a), "not repeatable"
        assert_close(f"gradient {n}", g, w, GRADIENT)


def wide(step):
    def run(x, y, h):
        states, outputs = step(x, y, h)
        return states, [o.reshape(o.shape[0], -1) for o in outputs]

    return run


def of_weights(step, mix, shift, second):
    """The step with other captured arrays, in the order in which it reads them."""

    def run(x, y, h):
        z = mx.concatenate([x, h], axis=-1) @ mix + shift
        share = mx.softmax(z.reshape(-1, 3, H // 3), axis=-1).reshape(-1, H)
        new = h + y * (mx.tanh(z @ second) * share - h) * mx.sigmoid(shift)
        return [new], [(z * z).sum(axis=-1)]

    return run


def test_resets_start_the_state_anew():
    resets = mx.array(rng.random((B, T)) < 0.4)
    arguments = array(B, T, X), array(B, T, 1), array(B, H)
    results, wanted, (_, got), (_, want) = both(wide(gated), arguments, resets)
    for n, (result, expected) in enumerate(zip(results, wanted, strict=True)):
        assert_close(f"result {n}", result, expected, FORWARD)
    for name, g, w in zip("xyh", got, want, strict=True):
        assert_close(f"gradient of {name}", g, w, GRADIENT)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_threads(threads):
    program = trace(wide(gated), [X, 1], [H])
    x, y, h = array(37, 19, X), array(37, 19, 1), array(37, H)

    def gradients():
        def loss(x, y, h, *captured):
            return weighted(_ext.program_sequence(native(program), [x, y], [h], list(captured)))

        every = [x, y, h, *program.captured]
        result = mx.grad(loss, argnums=tuple(range(len(every))))(*every)
        mx.eval(result)
        return result

    before = _ext.num_threads()
    try:
        _ext.set_num_threads(1)
        want = gradients()
        _ext.set_num_threads(threads)
        got = gradients()
    finally:
        _ext.set_num_threads(before)
    assert all(mx.array_equal(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_batches_and_sequences(shape):
    program = trace(wide(gated), [X, 1], [H])
    x, y, h = mx.zeros((*shape, X)), mx.zeros((*shape, 1)), mx.zeros((shape[0], H))

    def loss(h, *captured):
        return weighted(_ext.program_sequence(native(program), [x, y], [h], list(captured)))

    every = [h, *program.captured]
    gradients = mx.grad(loss, argnums=tuple(range(len(every))))(*every)
    for a, g in zip(every, gradients, strict=True):
        assert g.shape == a.shape
        assert not mx.any(g != 0)
    states, outputs = _ext.program_sequence(native(program), [x, y], [h], list(program.captured))
    assert states.shape == (*shape, H)
    assert outputs.shape == (*shape, 1)


def test_every_result_is_written():
    program = trace(wide(gated), [X, 1], [H])
    x, y, h = array(B, T, X), array(B, T, 1), array(B, H)
    _ext.poison_outputs(True)
    try:

        def loss(x, y, h, *captured):
            return weighted(_ext.program_sequence(native(program), [x, y], [h], list(captured)))

        every = [x, y, h, *program.captured]
        gradients = mx.grad(loss, argnums=tuple(range(len(every))))(*every)
        mx.eval(gradients)
    finally:
        _ext.poison_outputs(False)
    assert not any(mx.any(mx.isnan(g)) for g in gradients)


def test_mapped_rows_and_mapped_weights():
    program = trace(wide(gated), [X, 1], [H])
    x, y, h = array(3, B, T, X), array(3, B, T, 1), array(3, B, H)
    scales = array(3)

    def run(x, y, h, scale=1.0):
        captured = [a * scale for a in program.captured]
        return _ext.program_sequence(native(program), [x, y], [h], captured)

    for axes, extra in (((0, 0, 0), ()), ((0, 0, 0, 0), (scales,))):
        got = mx.vmap(run, in_axes=axes)(x, y, h, *extra)
        for n in range(3):
            want = run(x[n], y[n], h[n], *(e[n] for e in extra))
            for g, w in zip(got, want, strict=True):
                assert_close("a mapped result", g[n], w, FORWARD)


def parts(**changes):
    """The text of a small program, with some of it other than it should be."""
    good = {
        "captured": [(H, X)],
        "steps": [X],
        "states": [H],
        "sizes": [H * X, X, H, H, H],
        "varying": [False, True, True, True, True],
        "constants": [],
        "once": [],
        "step": [("matmul", 3, [1, 0], [X, H, 1]), ("add", 4, [3, 2], [])],
        "next": [4],
        "outputs": [],
    }
    return good | changes


WRONG = {
    "sizes and varying": {"varying": [False]},
    "a step wants an input": {
        "steps": [],
        "sizes": [H * X, H, H, H],
        "varying": [False] + [True] * 3,
    },
    "must be the input of its place": {"steps": [X + 1]},
    "sizes must lie in": {"sizes": [H * X, X, H, 0, H]},
    "op must be an instruction": {"step": [("cosh", 3, [1], [])]},
    "wants 2 operands": {"step": [("add", 3, [1], [])]},
    "write a new value": {"step": [("tanh", 2, [2], [])]},
    "known before it": {"step": [("tanh", 3, [4], [])]},
    "its part of the program": {"once": [("tanh", 3, [0], [])]},
    "operands of its size": {"step": [("add", 3, [1, 2], [])]},
    "k, n, transposed": {"step": [("matmul", 3, [1, 0], [X])]},
    "a fixed matrix": {"step": [("matmul", 3, [1, 0], [X, X, 0])]},
    "leaves its operand": {"step": [("move", 3, [1], [0, 0, X + 1, 1])]},
    "runs of four": {"step": [("move", 3, [1], [0, 0, 1])]},
    "that are not those": {"step": [("sum", 3, [1], [1, X + 1, 1])]},
    "a result must be": {"next": [7]},
    "every state wants": {"next": []},
    "a constant must be": {"constants": [(0, 1.0)]},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_programs_are_refused(message):
    _ext.Program(**parts())
    with pytest.raises(ValueError, match=message):
        _ext.Program(**parts(**WRONG[message]))


def test_wrong_arrays_are_refused():
    program = _ext.Program(**parts())
    x, h, w = mx.zeros((2, 3, X)), mx.zeros((2, H)), mx.zeros((H, X))
    assert len(_ext.program_sequence(program, [x], [h], [w])) == 1
    for arrays, message in (
        (([x, x], [h], [w]), "steps must be 1 arrays, got 2"),
        (([x[0]], [h], [w]), "2 dimensions"),
        (([x[..., :2]], [h], [w]), "an input must be"),
        (([x], [h[:, :2]], [w]), "a state must be"),
        (([x], [h], [w.T]), "a captured array must be"),
        (([x.astype(mx.int32)], [h], [w]), "float32, float16 or bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            _ext.program_sequence(program, *arrays)
    with pytest.raises(ValueError, match="resets must be"):
        _ext.program_sequence(program, [x], [h], [w], mx.zeros((2, 4)))


def test_no_second_derivative():
    program = _ext.Program(**parts())
    x, h, w = mx.zeros((2, 3, X)), mx.zeros((2, H)), mx.zeros((H, X))

    def once(w):
        return mx.grad(lambda w: _ext.program_sequence(program, [x], [h], [w])[0].sum())(w).sum()

    with pytest.raises(RuntimeError, match=r"second derivative.*reference"):
        mx.grad(once)(w)
