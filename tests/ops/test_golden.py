"""mlx_ncps.ops.numpy against ncps.torch in float64, outputs, states and every gradient."""

import importlib.util
from importlib.metadata import version
from itertools import pairwise

import numpy as np
import pytest
from mlx_ncps.ops import numpy as truth

from tests.support.cases import assert_all_close, assert_close, named_leaves, tolerance
from tests.support.golden_arrays import (
    FILES,
    cfc_layers,
    cfc_params,
    load_golden,
    ltc_params,
    state_dict,
)

FORWARD, GRADIENT = tolerance("float64", "forward"), tolerance("float64", "gradient")


def golden_cases(*stems):
    cases = [(stem, name) for stem in stems for name in load_golden(stem)]
    return pytest.mark.parametrize(("stem", "name"), cases, ids=["-".join(c) for c in cases])


def plus_state(cotangents, cotangent_state):
    """Cotangents [B, T, H] of states whose last step [B, H] is returned a second time."""
    cotangents = cotangents.copy()
    cotangents[:, -1] += cotangent_state
    return cotangents


def assert_gradients(case, dinputs, dhx, dts):
    got = {"inputs": dinputs, "hx": dhx} | ({} if dts is None else {"timespans": dts})
    want = {name: case[f"grad/{name}"] for name in got}
    assert_all_close(got, want, GRADIENT)


@golden_cases("cfc", "cfc_backbone")
def test_cfc_sequence_equals_ncps_torch(stem, name):
    case = load_golden(stem)[name]
    arguments = case["config"]["arguments"]
    keywords = {key: arguments[key] for key in ("mode", "activation") if key in arguments}
    call = case["inputs"], case["hx"], case.get("timespans"), cfc_params(state_dict(case))

    states = truth.cfc_sequence(*call, **keywords)
    assert_close("states", states, case["states"], FORWARD)
    assert_close("outputs", states, case["outputs"], FORWARD)

    cotangents = plus_state(case["cotangent_outputs"], case["cotangent_state"])
    *gradients, dparams = truth.cfc_sequence_backward(cotangents, *call, **keywords)
    assert_gradients(case, *gradients)
    want = cfc_params(state_dict(case, "grad/param/"))
    assert_all_close(named_leaves(dparams), named_leaves(want), GRADIENT)


@golden_cases("cfc_wired")
def test_cfc_sequence_layer_by_layer_equals_wired_ncps_torch(stem, name):
    case = load_golden(stem)[name]
    mode, ts = case["config"]["arguments"]["mode"], case.get("timespans")
    weights = state_dict(case)
    layers = cfc_layers(weights, weights)
    ends = np.cumsum([0, *(layer.ff1[0].shape[0] for layer in layers)])
    parts = [slice(*pair) for pair in pairwise(ends)]

    values = [case["inputs"]]
    for layer, part in zip(layers, parts, strict=True):
        values.append(truth.cfc_sequence(values[-1], case["hx"][:, part], ts, layer, mode=mode))
    assert_close("states", np.concatenate(values[1:], axis=2), case["states"], FORWARD)
    assert_close("outputs", values[-1], case["outputs"], FORWARD)

    wanted = cfc_layers(state_dict(case, "grad/param/"), weights)
    cotangents, dhx, dts = case["cotangent_outputs"], [], 0.0
    for n in reversed(range(len(layers))):
        cotangents = plus_state(cotangents, case["cotangent_state"][:, parts[n]])
        call = cotangents, values[n], case["hx"][:, parts[n]], ts, layers[n]
        cotangents, dh, dlayer_ts, dparams = truth.cfc_sequence_backward(*call, mode=mode)
        dhx.insert(0, dh)
        dts = None if ts is None else dts + dlayer_ts
        mask = weights[f"rnn_cell.layer_{n}.sparsity_mask"]
        dparams = masked_heads(dparams, mask)
        assert_all_close(named_leaves(dparams), named_leaves(wanted[n]), GRADIENT)
    assert_gradients(case, cotangents, np.concatenate(dhx, axis=1), dts)


def masked_heads(dparams, mask):
    """The gradient of the weights from that of the masked weights."""
    heads = {name: getattr(dparams, name) for name in ("ff1", "ff2")}
    heads = {name: (head[0] * mask, head[1]) for name, head in heads.items() if head is not None}
    return dparams._replace(**heads)


@golden_cases("ltc", "ltc_wired")
def test_ltc_sequence_equals_ncps_torch(stem, name):
    case = load_golden(stem)[name]
    weights, dweights = state_dict(case), state_dict(case, "grad/param/")
    call = case["inputs"], case["hx"], case.get("timespans"), ltc_params(weights, weights)
    keywords = dict(case["config"]["arguments"])

    states = truth.ltc_sequence(*call, **keywords)
    output_w, output_b = weights["rnn_cell.output_w"], weights["rnn_cell.output_b"]
    motor = len(output_w)
    assert_close("states", states, case["states"], FORWARD)
    outputs = states[:, :, :motor] * output_w + output_b
    assert_close("outputs", outputs, case["outputs"], FORWARD)

    cotangents = np.zeros_like(states)
    cotangents[:, :, :motor] = case["cotangent_outputs"] * output_w
    cotangents = plus_state(cotangents, case["cotangent_state"])
    *gradients, dparams = truth.ltc_sequence_backward(cotangents, *call, **keywords)
    assert_gradients(case, *gradients)
    assert_all_close(named_leaves(dparams), named_leaves(ltc_params(dweights, {})), GRADIENT)
    assert_close(
        "output_b", case["cotangent_outputs"].sum((0, 1)), dweights["rnn_cell.output_b"], GRADIENT
    )


@pytest.mark.parametrize("stem", FILES)
def test_golden_arrays_are_complete(stem):
    """Every trainable parameter has a gradient that isn't zero, every case what its kind needs."""
    for name, case in load_golden(stem).items():
        config, weights = case["config"], state_dict(case)
        trainable = {key for key in weights if not key.endswith("sparsity_mask")}
        gradients = state_dict(case, "grad/param/")
        assert set(gradients) == trainable, name
        assert all(np.any(gradient != 0) for gradient in gradients.values()), name
        assert ("timespans" in case) == config["timed"] == ("grad/timespans" in case), name
        assert ("adjacency" in case) == (config["wiring"] is not None), name


def installed_ncps():
    return all(importlib.util.find_spec(name) for name in ("torch", "ncps")) and version("ncps")


@pytest.mark.skipif(installed_ncps() != "1.0.1", reason="needs torch and ncps 1.0.1")
@pytest.mark.parametrize(("stem", "name"), [("cfc_wired", "pure_timed"), ("ltc", "implicit_timed")])
def test_make_golden_gives_the_committed_arrays(stem, name):
    torch = pytest.importorskip("torch")
    from tests.golden import make_golden

    before = torch.get_default_dtype()
    try:
        fresh = make_golden.make_case(make_golden.configs()[stem][name])
    finally:
        torch.set_default_dtype(before)
    fresh.pop("config")
    case = {key: value for key, value in load_golden(stem)[name].items() if key != "config"}
    assert_all_close(fresh, case, FORWARD)
