"""Step programs whose states start anew at some steps, from the first states or from others."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import _loader, cells, use_backend
from mlx_ncps.programs import Declined, run_program
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import TOLERANCES, assert_close
from tests.support.generators import generator

_ext: Any = _loader.native
pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
B, T, I, H = 5, 9, 4, 6
rng = generator(5)
CELLS = {
    "ct_rnn": lambda: cells.CTRNNCell(I, H),
    "ct_gru": lambda: cells.CTGRUCell(I, H, scales=4),
    "neural_ode": lambda: cells.NeuralODECell(I, H),
    "ode_rnn": lambda: cells.ODERNNCell(I, H),
    "ode_lstm": lambda: cells.ODELSTMCell(I, H),
    "eltc": lambda: cells.ELTCCell(AutoNCP(10, 2), I),
}
RESETS = {
    "some": rng.random((B, T)) < 0.3,
    "first": np.arange(T) == np.zeros((B, 1)),
    "all": np.ones((B, T), bool),
    "none": np.zeros((B, T), bool),
}


def array(*shape):
    return mx.array(rng.uniform(-1.0, 1.0, shape).astype(np.float32))


def made(name):
    mx.random.seed(3)
    cell = CELLS[name]()
    mx.eval(cell.parameters())
    sizes = cell.state_size if isinstance(cell.state_size, tuple) else (cell.state_size,)
    return cell, sizes


def by_steps(cell, x, ts, states, resets, anew):
    """The same by MLX's operations, the states put back by hand."""
    every = []
    with use_backend("reference"):
        for t in range(x.shape[1]):
            at = resets[:, t : t + 1]
            states = [mx.where(at, a, s) for a, s in zip(anew, states, strict=True)]
            states, _ = cell._program(x[:, t], ts[:, t : t + 1], *states)
            every.append(states)
    return [mx.stack(parts, axis=1) for parts in zip(*every, strict=True)]


def fused(cell, x, ts, states, resets, anew):
    result = run_program(cell, [cell], cell._program, x, ts, states, resets, anew)
    assert not isinstance(result, Declined), result
    return result[0]


def weighted(results):
    return sum((r * mx.cos(mx.arange(r.size)).reshape(r.shape)).sum() for r in results)


@pytest.mark.parametrize("pattern", RESETS)
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_states_start_anew(name, other, pattern):
    cell, sizes = made(name)
    x, ts, resets = array(B, T, I), mx.abs(array(B, T)), mx.array(RESETS[pattern])
    states = [array(B, n) for n in sizes]
    anew = [array(B, n) for n in sizes] if other else []

    def run(way):
        def loss(x, ts, *parts):
            first, others = list(parts[: len(sizes)]), list(parts[len(sizes) :])
            given = others or (first if way is by_steps else None)
            results = way(cell, x, ts, first, resets, given)
            return weighted(results), results

        arguments = (x, ts, *states, *anew)
        numbers = list(range(len(arguments)))
        return mx.value_and_grad(loss, argnums=numbers)(*arguments)

    (_, results), gradients = run(fused)
    (_, wanted_results), wanted = run(by_steps)
    for n, (got, want) in enumerate(zip(results, wanted_results, strict=True)):
        assert_close(f"state {n}", got, want, FORWARD)
    for n, (got, want) in enumerate(zip(gradients, wanted, strict=True)):
        assert_close(f"gradient {n}", got, want, GRADIENT)


def small():
    """A program of h' = h + x of one element, by hand."""
    return _ext.Program(
        captured=[],
        steps=[1],
        states=[1],
        sizes=[1, 1, 1],
        varying=[True] * 3,
        constants=[],
        once=[],
        step=[("add", 2, [0, 1], [])],
        next=[2],
        outputs=[],
    )


def test_exact_values_and_gradients():
    resets = mx.array([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]])

    def run(x, h, anew):
        return _ext.program_sequence(small(), [x], [h], [], resets, [anew])[0]

    given = mx.ones((2, 5, 1)), mx.full((2, 1), 100.0), mx.full((2, 1), 200.0)
    states = run(*given)[..., 0]
    assert states.tolist() == [[201, 202, 203, 201, 202], [101, 102, 201, 202, 203]]
    _, (dx, dh, danew) = mx.vjp(run, list(given), [mx.ones((2, 5, 1))])
    assert dx[..., 0].tolist() == [[3, 2, 1, 2, 1], [2, 1, 3, 2, 1]]
    assert dh[:, 0].tolist() == [0, 2]
    assert danew[:, 0].tolist() == [5, 3]


def test_mapped_and_compiled():
    resets = mx.array(rng.random((3, 2, 5)) < 0.4)
    x, h, anew = array(3, 2, 5, 1), array(3, 2, 1), array(3, 2, 1)

    def run(x, h, anew, resets):
        return _ext.program_sequence(small(), [x], [h], [], resets, [anew])[0]

    want = mx.stack([run(*parts) for parts in zip(x, h, anew, resets, strict=True)])
    assert mx.array_equal(mx.vmap(run)(x, h, anew, resets), want)
    shared = mx.vmap(run, in_axes=(0, 0, None, 0))(x, h, anew[0], resets)
    again = [run(*parts, anew[0], r) for *parts, r in zip(x, h, resets, strict=True)]
    assert mx.array_equal(shared, mx.stack(again))
    assert mx.array_equal(mx.compile(run)(x[0], h[0], anew[0], resets[0]), want[0])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_batches_and_sequences(shape):
    _ext.poison_outputs(True)
    try:

        def run(h, anew):
            arrays = mx.zeros((*shape, 1)), mx.zeros(shape)
            return _ext.program_sequence(small(), [arrays[0]], [h], [], arrays[1], [anew])[0]

        h = mx.zeros((shape[0], 1))
        _, gradients = mx.vjp(run, [h, h], [mx.zeros((*shape, 1))])
        assert not any(mx.any(g != 0) for g in gradients)
    finally:
        _ext.poison_outputs(False)


def test_wrong_reset_states_are_refused():
    x, h, resets = mx.zeros((2, 3, 1)), mx.zeros((2, 1)), mx.zeros((2, 3))
    with pytest.raises(ValueError, match="reset_states must be 1 arrays, got 2"):
        _ext.program_sequence(small(), [x], [h], [], resets, [h, h])
    with pytest.raises(ValueError, match="reset_states must come with resets"):
        _ext.program_sequence(small(), [x], [h], [], None, [h])
    with pytest.raises(ValueError, match="a reset state must be"):
        _ext.program_sequence(small(), [x], [h], [], resets, [h[:1]])
