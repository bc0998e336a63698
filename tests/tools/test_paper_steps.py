"""Steps of training on event-based XOR against those of the CfC paper's own TensorFlow code, whose
weights are stored (tests/golden/make_paper_steps.py).
"""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from tests.support.cases import assert_close, relative_error, tolerance

pytest.importorskip("tqdm")

from benchmarks.papers import xor
from tests.golden.make_paper_steps import EVENTS, FILE, SETUPS, STEPS, flat, row_of


@pytest.fixture(scope="module")
def stored():
    with np.load(FILE) as file:
        return {name: file[name] for name in file.files}


def model_of(case, line):
    """Our model with the weights of a line of the file."""
    model = xor.build(row_of(case), SETUPS[case])
    shapes = {name: a.shape for name, a in tree_flatten(model.trainable_parameters())}
    ends = np.cumsum([np.prod(shapes[name]) for name in sorted(shapes)], dtype=int)
    parts = dict(zip(sorted(shapes), np.split(line, ends[:-1]), strict=True))
    weights = [(name, mx.array(parts[name].reshape(shapes[name]))) for name in shapes]
    model.update(tree_unflatten(weights))
    return model


def steps_of(model, case, optimizer):
    """The weights after each step, in one line."""
    setup = SETUPS[case]
    optimizer.init(model.trainable_parameters())
    step = xor.make_step(model, optimizer, setup)
    events = shifted(EVENTS) if case == "ltc" else EVENTS
    for n in range(STEPS):
        step(events, np.arange(n * setup.batch, (n + 1) * setup.batch))
        yield flat(dict(tree_flatten(model.trainable_parameters())))


def shifted(events):
    """Times as the paper's LTC reads them: 0.001 later."""
    return events._replace(elapsed=events.elapsed + np.float32(1e-3))


@pytest.mark.parametrize("case", SETUPS)
def test_three_steps_equal_those_of_the_papers_code(case, stored):
    model = model_of(case, stored[f"{case}/0"])
    optimizer = xor.make_optimizer(SETUPS[case], 0, STEPS)
    for n, got in enumerate(steps_of(model, case, optimizer), 1):
        want = stored[f"{case}/{n}"]
        assert relative_error(want, stored[f"{case}/{n - 1}"]) > 1e-4  # a step is seen
        assert_close(f"weights after step {n}", got, want, tolerance("float32", "gradient"))


@pytest.mark.parametrize("case", [case for case in SETUPS if case.endswith("clipped")])
def test_clipping_is_seen(case, stored):
    """With the limits of the rows no gradient of these steps is clipped."""
    got, clipped = stored[f"{row_of(case)}/{STEPS}"], stored[f"{case}/{STEPS}"]
    assert relative_error(got, clipped) > 1e-4


def test_the_optimisers_of_mlx_differ_from_kerass(stored):
    """So the test above sees where epsilon is added."""
    model = model_of("cfc", stored["cfc/0"])
    rate = optim.exponential_decay(0.05, 0.95 ** (1 / STEPS))
    *_, got = steps_of(model, "cfc", optim.RMSprop(rate, alpha=0.9, eps=1e-7))
    assert relative_error(got, stored[f"cfc/{STEPS}"]) > 1e-4
