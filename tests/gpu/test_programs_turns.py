"""Stages that a step runs several times, such as a solver's unfolds, are a loop of a step program's
kernels; simulated, against MLX's operations step by step.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.backends import metal
from mlx_ncps.backends.gpu import programs
from mlx_ncps.backends.gpu.programs.backward import backward_text
from mlx_ncps.backends.gpu.programs.forward import forward_text
from mlx_ncps.backends.gpu.programs.plan import plan_of
from mlx_ncps.backends.gpu.programs.turns import rolled
from mlx_ncps.cells import CTRNNCell, ELTCCell, NeuralODECell, ODELSTMCell, ODERNNCell
from mlx_ncps.programs import step_program
from mlx_ncps.programs import trace as trace_step

from tests.gpu.test_programs import by_steps, weighted
from tests.support.cases import TOLERANCES, assert_close
from tests.support.generators import generator
from tests.support.simulated_metal import ORDERS, simulated

pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
B, T, H = 3, 3, 5
rng = generator(25)


def array(*shape):
    return mx.array(rng.uniform(-1.0, 1.0, shape).astype(np.float32))


def euler(turns, u, h, c, v, w, both):
    """A turn's product reads what the turn gives anew."""
    for _ in range(turns):
        h = h + 0.2 * mx.tanh(h @ v + u)
    return [h, c], [h]


def two_layers(turns, u, h, c, v, w, both):
    for _ in range(turns):
        h = h + 0.2 * (mx.tanh(mx.tanh(h @ v + u) @ w) - h)
    return [h, 0.5 * c + h], [h * c]


def two_carried(turns, u, h, c, v, w, both):
    for _ in range(turns):
        h, c = mx.tanh(c @ v + u), c + 0.2 * mx.sigmoid(h @ w)
    return [h, c], [h + c]


def from_the_first(turns, u, h, c, v, w, both):
    """All turns read the state that the first begins with."""
    first = h
    for _ in range(turns):
        h = h + 0.2 * mx.tanh(h @ v) - 0.1 * first * c
    return [h, first], [h]


def halves(turns, u, h, c, v, w, both):
    """What the first turn begins with is a part of a value."""
    whole = mx.tanh(mx.concatenate([h, c], axis=-1) * 2.0 + u[:, :1])
    h, c = whole[:, :H], whole[:, H:]
    for _ in range(turns):
        h = h + 0.2 * mx.tanh(h @ v + c)
    return [h, c], [whole]


def a_row_of_two(turns, u, h, c, v, w, both):
    """The product's row has what is carried, and what is not."""
    for _ in range(turns):
        h = 0.9 * h + 0.2 * mx.tanh(mx.concatenate([h, c], axis=-1) @ both + u)
    return [h, 0.5 * c], [h]


def read_within(turns, u, h, c, v, w, both):
    """What the last turn has within is read after it."""
    for _ in range(turns):
        slope = mx.tanh(h @ v + u)
        twice = mx.sigmoid(slope @ w)
        h = h + 0.2 * slope * twice
    return [h, slope], [twice]


def forgets(turns, u, h, c, v, w, both):
    """What a turn begins with is read by its first product alone."""
    for _ in range(turns):
        h = mx.tanh(mx.tanh(mx.tanh(h @ v + u) @ w) @ v)
    return [h, 0.5 * c + h], [h]


def four_layers(turns, u, h, c, v, w, both):
    """The first layer of the last turn is read after it."""
    for _ in range(turns):
        first = mx.tanh(h @ v + u)
        h = h + 0.2 * mx.tanh(mx.tanh(mx.tanh(first @ w) @ v) @ w)
    return [h, 0.5 * c], [first]


def a_sum_read(turns, u, h, c, v, w, both):
    """A product reads what no slope needs."""
    for _ in range(turns):
        h = h + 0.2 * mx.tanh((0.5 * h - c) @ v + u)
    return [h, 0.5 * c], [(0.5 * h + c) @ w]


def a_row_of_the_same(turns, u, h, c, v, w, both):
    for _ in range(turns):
        h = h + 0.2 * mx.tanh(mx.concatenate([h, h], axis=-1) @ both + u)
    return [h, 0.5 * c], [h]


def a_sum_of_the_last(turns, u, h, c, v, w, both):
    """A product's sums, which other turns do not keep, are read after the last."""
    for _ in range(turns):
        total = mx.sigmoid(h @ w) @ v
        h = h + 0.2 * mx.tanh(total)
    return [h, 0.5 * c + u], [total]


def then_another(turns, u, h, c, v, w, both):
    h = euler(turns, u, h, c, v, w, both)[0][0]
    return euler(turns, u, c, h, w, v, both)


def products_alone(turns, u, h, c, v, w, both):
    """A turn gives a product as it is."""
    for _ in range(turns):
        h = (h @ v) * 0.5 + u
        h = h @ w
    return [mx.tanh(h), c], [h]


def every_turn_read(turns, u, h, c, v, w, both):
    total = c
    found = []
    for _ in range(turns):
        h = h + 0.2 * mx.tanh(h @ v + u)
        found.append(h)
    for one in found:
        total = 0.5 * total + one
    return [h, total], [total]


def two_back(turns, u, h, c, v, w, both):
    before = c
    for _ in range(turns):
        h, before = h + 0.2 * mx.tanh(before @ v + u), h
    return [h, before], [h]


# The step, and the fewest turns that are a loop: some begin with a turn of their own; 0: none are.
STEPS = {
    euler: 2,
    two_layers: 2,
    two_carried: 0,  # MLX's graph has the turns' instructions in another order
    from_the_first: 3,
    halves: 3,
    a_row_of_two: 2,
    read_within: 2,
    forgets: 2,
    four_layers: 2,
    a_sum_read: 2,
    a_row_of_the_same: 2,
    a_sum_of_the_last: 2,
    then_another: 2,
    products_alone: 0,
    every_turn_read: 0,
    two_back: 0,
}


def loops(program):
    """Loops over turns in the kernels: of the forward, of the backward."""
    plan = plan_of(program)
    assert not isinstance(plan, str), plan
    return [text(plan).count("int turn = 0") for text in (forward_text, backward_text)]


@pytest.mark.parametrize("turns", [2, 3, 4, 9])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_values_and_gradients(step, turns):
    weights = array(H, H), array(H, H), array(2 * H, H)
    arrays = array(B, T, H), array(B, H), array(B, H), *weights
    resets = mx.array(rng.random((B, T)) < 0.4) if turns % 2 else None

    def of(*weights):
        return lambda u, h, c: step(turns, u, h, c, *weights)

    program = trace_step(of(*weights), [H], [H, H])
    assert not isinstance(program, str), program
    places = [
        next(n for n, w in enumerate(weights) if mx.array_equal(w, c)) for c in program.captured
    ]

    def on_gpu(u, h, c, *weights):
        captured = [weights[place] for place in places]
        at = None if resets is None else resets.astype(mx.float32)
        steps = programs.Steps([u], [h, c], at, [] if resets is None else [h, c])
        return programs.program_sequence(metal.run, program, captured, steps)

    def in_mlx(u, h, c, *weights):
        return by_steps(of(*weights), [u], [h, c], resets)

    def gradients(run):
        return mx.grad(lambda *a: weighted(run(*a)), argnums=tuple(range(6)))(*arrays)

    with simulated(ORDERS[turns % 3]):
        got = on_gpu(*arrays), gradients(on_gpu)
        mx.eval(got)
    want = in_mlx(*arrays), gradients(in_mlx)
    for n, (g, w) in enumerate(zip(got[0], want[0], strict=True)):
        assert_close(f"result {n}", g, w, FORWARD)
    for n, (g, w) in enumerate(zip(got[1], want[1], strict=True)):
        assert_close(f"gradient {n}", g, w, GRADIENT)
    assert loops(program) == ([1, 2] if 0 < STEPS[step] <= turns else [0, 0])


CELLS = {
    "ct_rnn": lambda n: CTRNNCell(4, 6, ode_unfolds=n),
    "elastic": lambda n: ELTCCell(4, 6, ode_unfolds=n),
    "euler": lambda n: NeuralODECell(4, 6, [5], ode_unfolds=n, ode_solver="explicit"),
    "runge_kutta": lambda n: NeuralODECell(4, 6, [5], ode_unfolds=n),
    "ode_lstm": lambda n: ODELSTMCell(4, 6, ode_unfolds=n),
    "ode_rnn": lambda n: ODERNNCell(4, 6, ode_unfolds=n),
}


@pytest.mark.parametrize("name", CELLS)
def test_more_unfolds_are_no_more_text(name):
    texts = []
    for unfolds in (4, 40):
        plan = plan_of(step_program(CELLS[name](unfolds), None).text)
        texts.append([text(plan).count("\n") for text in (forward_text, backward_text)])
    assert texts[0] == texts[1]


def test_what_no_loop_can_do_stays_as_it_is():
    one = ["m[{} + e] = v{} * 0.5f;", "g[{}u] = v{};"]

    def turns(*numbers):
        return [[line.format(n, n + 7) for line in one] for n in numbers]

    head, first, second, end = rolled(turns(3, 5, 7))
    assert (head, end) == ("for (int turn = 0; turn < 3 + int(none); ++turn) {", "}")
    assert first == "m[(3 + 2 * turn) + e] = v10 * 0.5f;"
    assert second == "g[uint(3 + 2 * turn)] = v10;"
    assert "(turn % 2 == 0 ? 3 : 5)" in rolled(turns(3, 5, 3))[1]
    assert rolled(turns(3, 5, 8)) is None
    assert rolled([*turns(3, 5), one]) is None
    assert rolled([["v1 = v2;"], ["v3 = v3;"]]) is None
    assert rolled([["v = 0.5f;"], ["v = 1.5f;"]]) is None
