"""Layers and cells against the golden arrays of ncps.torch: outputs, states and every gradient."""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, dispatch, wirings
from mlx_ncps.convert import from_torch

from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.golden_arrays import FILES, load_golden, state_dict

FORWARD, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
INFERRED = ("units", "backbone_units", "backbone_layers")  # from_torch reads these off the shapes

golden_cases = pytest.mark.parametrize(
    ("stem", "name"), [(stem, name) for stem in FILES for name in load_golden(stem)]
)
backends = pytest.mark.parametrize("backend", available_backends())


def golden_layer(case):
    config = case["config"]
    options = {k: v for k, v in config["arguments"].items() if k not in INFERRED}
    wiring = None
    if config["wiring"]:
        arguments = dict(config["wiring"])
        wiring = getattr(wirings, arguments.pop("class"))(**arguments)
    return from_torch(state_dict(case), wiring=wiring, **options)


def arrays_of(case, *keys):
    return [mx.array(case[key].astype(np.float32)) if key in case else None for key in keys]


def torch_name(name):
    return re.sub(r"backbone\.(\d+)", lambda match: f"backbone.{2 * int(match[1])}", name)


@golden_cases
@backends
def test_layer_equals_ncps_torch(stem, name, backend):
    case = load_golden(stem)[name]
    layer = golden_layer(case)
    with dispatch.use_backend(backend):
        output, state = layer(*arrays_of(case, "inputs", "hx", "timespans"))
    assert dispatch.last_backend() == backend
    assert_close("output", output, case["outputs"], FORWARD)
    assert_close("state", state, case["states"][:, -1], FORWARD)


@golden_cases
@backends
def test_cell_step_by_step_equals_ncps_torch(stem, name, backend):
    case = load_golden(stem)[name]
    cell = golden_layer(case).rnn_cell
    inputs, state, ts = arrays_of(case, "inputs", "hx", "timespans")
    with dispatch.use_backend(backend):
        for t in range(inputs.shape[1]):
            span = {} if ts is None else {"ts": ts[:, t : t + 1]}
            output, state = cell(inputs[:, t], state, **span)
            assert_close(f"output {t}", output, case["outputs"][:, t], FORWARD)
            assert_close(f"state {t}", state, case["states"][:, t], FORWARD)


@golden_cases
@backends
def test_layer_gradients_equal_ncps_torch(stem, name, backend):
    case = load_golden(stem)[name]
    layer = golden_layer(case)
    keys = [key for key in ("inputs", "hx", "timespans") if key in case]
    leaves = dict(zip(keys, arrays_of(case, *keys), strict=True))
    d_output, d_state = arrays_of(case, "cotangent_outputs", "cotangent_state")

    def loss(parameters, leaves):
        layer.update(parameters)
        output, state = layer(leaves["inputs"], leaves["hx"], leaves.get("timespans"))
        return mx.sum(output * d_output) + mx.sum(state * d_state)

    parameters = layer.trainable_parameters()
    with dispatch.use_backend(backend):
        grads, leaf_grads = mx.grad(loss, argnums=(0, 1))(parameters, leaves)
    got = leaf_grads | {f"param/{torch_name(n)}": g for n, g in tree_flatten(grads)}
    want = {key.removeprefix("grad/"): g for key, g in case.items() if key.startswith("grad/")}
    assert_all_close(got, want, GRADIENT)


@backends
def test_layer_gradients_are_the_same_in_eval_mode(backend):
    case = load_golden("ltc_wired")["implicit_timed"]
    layer = golden_layer(case)
    inputs, hx, ts = arrays_of(case, "inputs", "hx", "timespans")

    def grads():
        def loss(parameters):
            layer.update(parameters)
            return layer(inputs, hx, ts)[0].sum()

        return dict(tree_flatten(mx.grad(loss)(layer.trainable_parameters())))

    with dispatch.use_backend(backend):
        training = grads()
        layer.eval()
        evaluating = grads()
    assert_all_close(evaluating, training, GRADIENT)


@pytest.mark.parametrize("stem", FILES)
def test_layer_parameters_have_the_names_of_ncps_torch(stem):
    for case in load_golden(stem).values():
        ours = {torch_name(name) for name, _ in tree_flatten(golden_layer(case).parameters())}
        assert {name for name in ours if ".wiring." not in name} == set(state_dict(case))
