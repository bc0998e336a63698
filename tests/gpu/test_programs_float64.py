"""Step programs in kernels of a GPU, simulated, against the equations of their cells in float64
NumPy: values, and every element of every gradient by central differences.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import last_backend

from tests.cells.test_continuous import ctrnn
from tests.cells.test_wired import layers_of
from tests.gpu.test_programs import array, build, weighted
from tests.support.cases import TOLERANCES, assert_close
from tests.support.rnn_layers import gradients
from tests.support.simulated_metal import ORDERS, simulated

pytestmark = pytest.mark.usefixtures("native", "cpu_device")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
B, T, I = 3, 5, 4
STEP = 1e-5  # of the differences, in float64


def linear(p, name, z, mask=1.0):
    return z @ (p[f"{name}.weight"] * mask).T + p[f"{name}.bias"]


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def wired_cfc(p, x, h, ts, cell):
    """MATHS 1 and 2: (output, state)."""
    z, new, start = x, [], 0
    for n, (own, incoming, recurrent) in enumerate(layers_of(cell.wiring)):
        mask = np.abs(np.concatenate([incoming, np.ones_like(recurrent)])).T
        z = np.concatenate([z, h[:, start : start + len(own)]], axis=1)
        f1, f2 = (np.tanh(linear(p, f"layer_{n}.{head}", z, mask)) for head in ("ff1", "ff2"))
        a, b = (linear(p, f"layer_{n}.{head}", z) for head in ("time_a", "time_b"))
        gate = sigmoid(a * ts + b)
        z = f1 * (1.0 - gate) + gate * f2
        new.append(z)
        start += len(own)
    return z, np.concatenate(new, axis=1)


def continuous_time_rnn(p, x, h, ts, cell):
    h = ctrnn(p, x, h, ts, cell)
    return h, h


def own_cell(p, x, h, ts, cell):
    """`OwnCell` of test_programs.py."""
    z = np.concatenate([x, h], axis=1)
    gate, new = sigmoid(linear(p, "gate", z)) * np.exp(-ts), linear(p, "new", z)
    h = gate * h + (1.0 - gate) * new * sigmoid(new)
    return 2.0 * h, h


# The step, and the output of a state that no step has made yet.
TWINS = {
    "wired": (wired_cfc, lambda h: h[:, -3:]),
    "ctrnn": (continuous_time_rnn, lambda h: h),
    "own": (own_cell, np.zeros_like),
}
MASK = np.array([[0, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
RESETS = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 0, 1, 0]], bool)
CALLS = {
    "plain": {},
    "resets": {"resets": RESETS},
    "mask": {"mask": MASK},
    "resets and mask": {"resets": RESETS, "mask": MASK},
}


def results(name, cell, p, x, h, ts, resets=None, mask=None):
    """[all outputs, the last state] in float64."""
    step, read = TWINS[name]
    first, output, outputs = h, read(h), []
    for t in range(T):
        if resets is not None:
            at = resets[:, t : t + 1]
            h, output = np.where(at, first, h), np.where(at, read(first), output)
        new = step(p, x[:, t], h, ts[:, t : t + 1], cell)
        kept = np.ones((B, 1), bool) if mask is None else mask[:, t : t + 1]
        output, h = np.where(kept, new[0], output), np.where(kept, new[1], h)
        outputs.append(output)
    return [np.stack(outputs, axis=1), h]


def differences(loss, values):
    """The gradient of loss(values) for each array of a dict, element by element."""
    found = {}
    for name, value in values.items():
        gradient = np.zeros_like(value)
        for at in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[at] += sign * STEP
                ends.append(loss(values | {name: moved}))
            gradient[at] = (ends[0] - ends[1]) / (2 * STEP)
        found[name] = gradient
    return found


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", TWINS)
def test_values_and_gradients_equal_float64(name, call):
    layer, arguments = build(name), CALLS[call]
    x, h, ts = array(B, T, I), array(B, layer.rnn_cell.state_size), array(B, T, low=0.05)
    given = {key: mx.array(value) for key, value in arguments.items()}

    def loss(x, h, ts):
        return weighted(layer(x, h, ts, **given))

    with simulated(ORDERS[len(call) % 3], metal_versions=(310,)):
        got = layer(x, h, ts, **given)
        of_call = gradients(layer, loss, x, h, ts)
        mx.eval(got, of_call)
        assert last_backend() == "metal"
    values = {f"arrays.{n}": np.array(a, np.float64) for n, a in enumerate((x, h, ts))}
    for key, a in tree_flatten(layer.trainable_parameters()):
        values[key] = np.array(a, np.float64)

    def truth(values):
        p = {key.removeprefix("rnn_cell."): v for key, v in values.items()}
        read = (values[f"arrays.{n}"] for n in range(3))
        return results(name, layer.rnn_cell, p, *read, **arguments)

    def true_loss(values):
        weights = (np.cos(np.arange(a.size).reshape(a.shape)) for a in truth(values))
        return sum((w * a).sum() for w, a in zip(weights, truth(values), strict=True))

    for what, g, want in zip(("outputs", "state"), got, truth(values), strict=True):
        assert_close(what, g, want, FORWARD)
    wanted = differences(true_loss, values)
    assert {*of_call} == {*wanted}
    for key, want in wanted.items():
        assert_close(f"gradient of {key}", of_call[key], want, GRADIENT)
