"""What a call of a small layer costs beside its kernels: operations launched around them, and those
of a large CfC's steps.
"""

from collections import Counter
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_ncps import LTC, CfC
from mlx_ncps.backends.gpu import cfc
from mlx_ncps.backends.gpu.cfc_products import BLOCK
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner
from mlx_ncps.wirings import AutoNCP

from benchmarks.launches import on_gpu
from tests.support.case_arrays import to_mlx
from tests.support.cases import CfcCase, make

X = mx.zeros((8, 16, 5))
LAYERS = {
    "cfc": lambda: CfC(5, 64),
    "ltc": lambda: LTC(5, 64),
    "ltc implicit": lambda: LTC(5, 64, implicit_param_constraints=True),
    "ltc wired": lambda: LTC(5, AutoNCP(64, 8)),
}
MOST = {"ltc wired": (14, 58)}  # its lists are gathered for each kernel


def launched(layer, training):
    mx.eval(layer.parameters())
    layer.train(training)

    def loss(x):
        return layer(x)[0].sum()

    call = nn.value_and_grad(layer, loss) if training else layer
    return on_gpu(lambda: call(X))


@pytest.mark.parametrize("name", LAYERS)
def test_a_call_of_a_small_layer_is_few_launches(name):
    for training, most in zip((False, True), MOST.get(name, (12, 40)), strict=True):
        found = launched(LAYERS[name](), training)
        assert len(found) <= most, Counter(found)


def per_step(training):
    """Launches that a step of a large CfC adds."""
    counts = []
    for steps in (8, 24):
        layer = CfC(5, 600, backbone_units=256)
        mx.eval(layer.parameters())
        layer.train(training)

        def loss(x, layer=layer):
            return layer(x)[0].sum()

        call = nn.value_and_grad(layer, loss) if training else layer
        x = mx.zeros((2, steps, 5))
        counts.append(Counter(on_gpu(lambda call=call, x=x: call(x))))
    counts[1].subtract(counts[0])
    return {name: count / 16 for name, count in counts[1].items() if count}


def test_a_step_of_a_large_cfc_adds_its_products_and_its_kernel():
    """lecun_tanh are three operations; compiled they are one."""
    assert per_step(False) == {"AddMM": 2, "Multiply": 2, "Tanh": 1, "ncps_cfc_update_forward": 1}


def test_the_gradient_of_a_step_has_no_product_with_the_gradient_of_a_weight():
    found = per_step(True)
    assert found.pop("ncps_cfc_update_forward_save") == 1
    assert found.pop("ncps_cfc_update_backward") == 1
    assert found == {"AddMM": 3, "Matmul": 1, "Multiply": 3, "Tanh": 1}


STEPS = 2 * BLOCK + 5


def states(compiles, activation="relu"):
    """(states, names of the kernels that were traced) of a CfC by products, its kernels replaced by
    an operation of MLX.
    """
    traced = []

    def register(**kernel):
        def launch(*, inputs, output_shapes, **_):
            traced.append(kernel["name"])
            return [inputs[1][:, : shape[1]] * 0.5 for shape in output_shapes]

        return launch

    geometry = replace(APPLE, product_weights=1)
    run = Runner("metal", register, mx.cpu, geometry, compiles=compiles)
    call = to_mlx(make(CfcCase(batch=2, steps=STEPS, units=6, activation=activation)))
    keywords = call.keywords | {"training": False}
    found = cfc.sequence(run, call.inputs, call.state, 1.0, call.params, **keywords)
    again = cfc.sequence(run, call.inputs, call.state, 1.0, call.params, **keywords)
    assert mx.array_equal(found, again)
    return found, traced


def test_steps_are_traced_once_for_all_blocks_of_a_length():
    plain, all_steps = states(compiles=False)
    compiled, traced = states(compiles=True)
    assert mx.array_equal(plain, compiled)
    assert len(all_steps) == 2 * STEPS
    assert len(traced) == BLOCK + 5
