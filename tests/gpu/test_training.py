"""The modules CfC and LTC with the Metal backend forced, in the simulator: training and MLX's
transformations.
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx_ncps import dispatch, rnn, wirings
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner

from tests.support.cases import assert_close
from tests.support.simulated_metal import simulated

MODELS = {
    "cfc": lambda: rnn.CfC(2, 9, backbone_units=12),
    "cfc_wired": lambda: rnn.CfC(2, wirings.AutoNCP(10, 3)),
    "ltc": lambda: rnn.LTC(2, 9),
    "ltc_wired": lambda: rnn.LTC(2, wirings.AutoNCP(10, 3)),
}


def losses(make, steps=4):
    """The losses of a few steps of gradient descent on noise, the same for the same seed."""
    mx.random.seed(3)
    model, optimizer = make(), optim.Adam(learning_rate=0.02)
    x, wanted = mx.random.normal((4, 5, 2)), mx.random.normal((4, 5, 1))

    def loss(model):
        return mx.mean(mx.square(model(x)[0] - wanted))

    values, step = [], nn.value_and_grad(model, loss)
    for _ in range(steps):
        value, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), value)
        values.append(value.item())
    return mx.array(values)


@pytest.mark.parametrize("model", MODELS)
def test_training_on_metal_equals_the_reference(model):
    with dispatch.use_backend("reference"):
        want = losses(MODELS[model])
    assert want[-1] < want[0]
    with simulated(metal_versions=(310,)):
        got = losses(MODELS[model])
        assert dispatch.last_backend() == "metal"
    assert_close("losses", got, want, 1e-5)


def _cube():
    """An operator of Runner without a kernel: x, y -> x^3 y, x."""
    run = Runner("metal", None, mx.cpu, APPLE)

    def backward(primals, cotangents, outputs):
        x, y = primals
        return 3 * x * x * y * cotangents[0] + cotangents[1], x * x * x * cotangents[0]

    return run.operator(lambda x, y: (x * x * x * y, x), backward)


def test_operator_has_gradients_and_vmap_in_any_nesting():
    op, x, y = _cube(), mx.array([1.0, -2.0, 3.0]), mx.array([2.0, 0.5, 1.0])

    def total(x, y):
        a, b = op(x, y)
        return (a + 2 * b).sum()

    want = 3 * x * x * y + 2
    assert_close("grad", mx.grad(total)(x, y), want, 1e-6)
    assert_close("vmap of grad", mx.vmap(mx.grad(total))(x, y), want, 1e-6)
    mapped = mx.vmap(total, in_axes=(0, None))
    assert_close("grad of vmap", mx.grad(lambda x: mapped(x, y[0]).sum())(x), 6 * x * x + 2, 1e-6)
    stacked = mx.vmap(op, in_axes=(1, None))(mx.stack([x, y], axis=1), y)
    assert_close("vmap along an axis", stacked[0], mx.stack([x**3 * y, y**4]), 1e-6)


DERIVATIVES = {
    "jvp": lambda f, x: mx.jvp(f, [x], [x]),
    "gradient of a gradient": lambda f, x: mx.grad(lambda x: mx.grad(f)(x).sum())(x),
}


@pytest.mark.parametrize("what", DERIVATIVES)
def test_operator_refuses_other_derivatives_and_names_the_reference(what):
    op, x = _cube(), mx.array([1.0, 2.0])
    with pytest.raises(RuntimeError, match=rf'metal has no .*{what}.*use_backend\("reference"\)'):
        DERIVATIVES[what](lambda x: op(x, x)[0].sum(), x)
