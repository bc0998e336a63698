"""Programs that leave out some steps: states and outputs as they were there, in float64; the form
that every program promises.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.programs import Program, holding, trace

from tests.support.run_program import check_form, run_program

pytestmark = pytest.mark.usefixtures("native")
N, X, H = 5, 3, 4
WEIGHT = mx.array(np.random.default_rng(1).normal(size=(X + H, H)).astype(np.float32))
STEPS = {  # (the step, widths of its inputs and of its states)
    "one state": (lambda x, h: ([mx.tanh(mx.concatenate([x, h], -1) @ WEIGHT)], []), [X], [H]),
    "an output": (lambda x, h: ([0.5 * h + x[:, :1]], [mx.exp(h), x]), [X], [H]),
    "states that change places": (lambda x, h, c: ([c, h + x], [h]), [H], [H, H]),
    "a state that stays": (lambda x, h, c: ([h, c * x], [h, h]), [1], [H, 1]),
    "constants": (lambda x, h: ([mx.where(h > 0.1, h - 0.3, x * 2.0)], [mx.sign(h)]), [H], [H]),
}


@pytest.mark.parametrize("name", STEPS)
def test_states_and_outputs_stay_where_a_step_is_held(name):
    step, inputs, states = STEPS[name]
    program = trace(step, inputs, states)
    assert isinstance(program, Program), program
    held = holding(program)
    check_form(held)
    assert held.steps == (*program.steps, 1)
    assert held is holding(program)
    rng = np.random.default_rng(2)
    at = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    x = [rng.normal(size=(N, n)) for n in inputs]
    x[0][0] = np.nan  # of a step that is held
    before = [rng.normal(size=(N, n)) for n in held.states]
    new, outputs = run_program(program, x, before[: len(states)])
    found, none = run_program(held, [*x, at], before)
    assert none == []
    for got, old, wanted in zip(found, before, [*new, *outputs], strict=True):
        assert np.array_equal(got, np.where(at != 0, old, wanted))
