"""An LTC cell with a backbone: dense layers, then the LTC, by the float64 equations; in layers."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, LTCCell, _loader, available_backends, config, dispatch
from mlx_ncps.cells import BackboneLTCCell
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import AutoNCP, FullyConnected

from tests.support.cases import assert_close, tolerance

FORWARD, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
B, T, I = 3, 4, 5


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(6)


def backbone(cell, x):
    """The backbone in float64."""
    activate, z = truth.get_activation(cell.backbone_options.activation), np.array(x, np.float64)
    for layer in cell.backbone:
        z = activate(z @ np.array(layer.weight, np.float64).T + np.array(layer.bias, np.float64))
    return z


OPTIONS = [
    ({"backbone_units": 7}, [7]),
    ({"backbone_units": [8, 6], "activation": "tanh"}, [8, 6]),
    ({"backbone_units": 4, "backbone_layers": 3, "activation": "silu"}, [4, 4, 4]),
    (
        {
            "backbone_layers": 1,
            "activation": "relu",
            "ode_solver": "runge_kutta",
            "ode_unfolds": 64,
        },
        [128],
    ),
]


@pytest.mark.parametrize(("options", "sizes"), OPTIONS)
def test_sequence_equals_the_equations(options, sizes):
    cell = LTCCell(AutoNCP(10, 2), **{"ode_unfolds": 2} | options)
    assert type(cell) is BackboneLTCCell
    layer = LTC(cell=cell, return_sequences=True, return_state=True)
    x, ts = mx.random.normal((B, T, I)), mx.random.uniform(0.1, 2.0, (B, T))
    state = mx.random.normal((B, 10))
    output, last = layer(x, state, ts)
    assert [layer.weight.shape[0] for layer in cell.backbone] == sizes
    assert (cell.sensory_size, cell.wiring.input_dim) == (I, sizes[-1])
    solver = options.get("ode_solver", "semi_implicit")
    z = backbone(cell, x)
    solving = {"ode_unfolds": cell.ode_unfolds, "ode_solver": solver}
    wanted = truth.ltc_sequence(z, state, ts, cell.params(), **solving)
    assert_close("state", last, wanted[:, -1], FORWARD)
    assert_close("output", output, cell.readout(mx.array(wanted.astype(np.float32))), FORWARD)
    _, first = cell(x[:, 0], state, ts[:, 0])
    assert_close("step", first, wanted[:, 0], FORWARD)
    _, streamed = layer.step(x[:, 0], state, ts[:, 0])
    assert_close("streamed", streamed, wanted[:, 0], FORWARD)


def test_gradient_by_differences():
    cell = LTCCell(4, I, ode_unfolds=2, backbone_units=3)
    x, state = mx.random.normal((B, I)), mx.zeros((B, 4))
    _, grads = nn.value_and_grad(cell, lambda c: c(x, state)[1].sum())(cell)
    weight, epsilon = np.array(cell.backbone[0].weight, np.float64), 1e-5

    def loss(w):
        z = truth.lecun_tanh(np.array(x, np.float64) @ w.T + np.array(cell.backbone[0].bias))
        return truth.ltc_step(z, state, 1.0, cell.params(), ode_unfolds=2).sum()

    wanted = np.zeros_like(weight)
    for at in np.ndindex(*weight.shape):
        change = np.zeros_like(weight)
        change[at] = epsilon
        wanted[at] = (loss(weight + change) - loss(weight - change)) / (2 * epsilon)
    assert_close("dweight", grads["backbone"][0]["weight"], wanted, GRADIENT)


@pytest.mark.parametrize("mixed", [False, True])
def test_layers_of_it_merge_restore_and_mix(mixed, tmp_path):
    cell = LTCCell(AutoNCP(10, 2), backbone_units=[8, 6])
    layer = LTC(cell, mixed_memory=mixed, bidirectional=True, return_sequences=True)
    x = mx.random.normal((B, T, I))
    output = layer(x)
    again = LTC.from_config(json.loads(json.dumps(layer.get_config())))
    layer.save_weights(str(tmp_path / "w.safetensors"))
    again.load_weights(str(tmp_path / "w.safetensors"))
    assert_close("restored", again(x), output, 0.0)
    plan = layer.explain((B, T, I))
    if mixed and "cpu" in available_backends():
        assert "ltc_mixed_sequence over the whole sequence on " in str(plan)
    assert mixed or "step by step" not in str(plan)
    if not mixed:  # the forward half is the cell
        states = truth.ltc_sequence(backbone(cell, x), np.zeros((B, 10)), 1.0, cell.params())
        wanted = cell.readout(mx.array(states.astype(np.float32)))
        assert_close("forward", output[..., :2], wanted, FORWARD)


CALLS = {
    "plain": ({}, {}),
    "masked": ({}, {"mask": mx.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]])}),
    "feature_mask": ({}, {"mask": mx.random.uniform(shape=(B, T, I)) < 0.6}),
    "bidirectional": ({"bidirectional": True}, {}),
    "backwards": ({"go_backwards": True, "proj_size": 3}, {}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("neurons", ["wired", "dense"])
def test_mixed_memory_equals_the_reference(call, neurons):
    options, arguments = CALLS[call]
    wiring = AutoNCP(10, 2) if neurons == "wired" else FullyConnected(7)
    cell = LTCCell(wiring, backbone_units=[8, 6])
    layer = LTC(cell, mixed_memory=True, return_sequences=True, return_state=True, **options)
    features = 2 * I if call == "feature_mask" else I
    layer.build((B, T, features))
    x, ts = mx.random.normal((B, T, I)), mx.random.uniform(0.1, 2.0, (B, T))

    def run(backend):
        def loss(x, ts):
            output, states = layer(x, timespans=ts, **arguments)
            arrays = [output, *(a for _, a in tree_flatten(states))]
            return sum((a * a).sum() for a in arrays), arrays

        with dispatch.use_backend(backend):
            (_, arrays), gradients = nn.value_and_grad(layer, loss)(x, ts)
        return arrays, dict(tree_flatten(gradients))

    states, gradients = run("auto")
    wanted_states, wanted = run("reference")
    for n, (got, want) in enumerate(zip(states, wanted_states, strict=True)):
        assert_close(f"result {n}", got, want, FORWARD)
    for name, want in wanted.items():
        assert_close(name, gradients[name], want, GRADIENT)


def test_mixed_memory_streams_and_takes_empty_inputs():
    cell = LTCCell(AutoNCP(10, 2), backbone_units=6)
    layer = LTC(cell, mixed_memory=True, return_sequences=True, return_state=True)
    x = mx.random.normal((B, T, I))
    outputs, state = layer(x)
    h = tuple(mx.zeros((B, 10)) for _ in range(2))
    for t in range(T):
        output, h = layer.step(x[:, t], h)
        assert_close(f"step {t}", output, outputs[:, t], FORWARD)
    for name, got, want in zip("hc", h, state, strict=True):
        assert_close(name, got, want, FORWARD)
    for batch, steps in ((0, T), (B, 0), (0, 0)):
        outputs, (h, c) = layer(mx.zeros((batch, steps, I)))
        assert outputs.shape == (batch, steps, 2)
        assert h.shape == c.shape == (batch, 10)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_in_and_out(dtype):
    cell = LTCCell(6, I, backbone_units=4)
    x, state = mx.random.normal((B, I)).astype(dtype), mx.zeros((B, 6), dtype)
    output, new_state = cell(x, state)
    assert output.dtype == new_state.dtype == dtype
    wanted = truth.ltc_step(backbone(cell, x.astype(mx.float32)), state, 1.0, cell.params())
    name = str(dtype).removeprefix("mlx.core.")
    assert_close("state", new_state, wanted, tolerance(name, "forward"))


def test_without_a_backbone_nothing_changes():
    for options in ({}, {"backbone_layers": 0}, {"activation": "tanh"}):
        assert type(LTCCell(4, I, **options)) is LTCCell
    wiring = FullyConnected(4)
    cell = BackboneLTCCell(wiring, I, backbone_units=3)
    assert wiring.input_dim == 3
    nested = config.from_config(config.to_config(cell))
    names = [{n for n, _ in tree_flatten(c.parameters())} for c in (cell, nested)]
    assert names[0] == names[1] > {"backbone.0.weight", "sensory_w", "input_w"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LTCCell(4, I, backbone_units=0), "backbone_units must be an integer >= 1, got 0"),
        (lambda: LTCCell(4, I, backbone_units=[3], backbone_layers=2), "must be 2 sizes"),
        (lambda: LTCCell(4, I, backbone_layers=-1), "backbone_layers must be an integer >= 0"),
        (
            lambda: LTCCell(FullyConnected(4, input_dim=I), backbone_units=3),
            "wiring must be built for the backbone's 3 outputs or not at all, got input_dim=5",
        ),
        (lambda: LTCCell(4, I, backbone_units=3).build(4), "inputs must have 5 features, got 4"),
    ],
)
def test_wrong_backbones_are_refused(make, message):
    with pytest.raises(ValueError, match=rf"\[ltc\] .*{message}"):
        make()
    with pytest.raises(ValueError, match="activation must be one of"):
        LTCCell(4, I, activation="no", backbone_units=3)
    with pytest.raises(ValueError, match="backbone"):
        BackboneLTCCell(4, I)


@pytest.mark.parametrize("rows", [None, 1, 5, 17])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("options", "sizes"), OPTIONS[:3])
def test_steps_and_short_calls_equal_the_reference(options, sizes, mixed, rows):
    layer = LTC(LTCCell(AutoNCP(10, 2), I, **options), mixed_memory=mixed, return_state=True)
    shape = (I,) if rows is None else (rows, I)
    _, state = layer.step(mx.zeros(shape))
    mx.eval(layer.parameters(), state)
    for n in range(3):
        x, ts = mx.random.normal(shape), 0.5 + 0.5 * n
        mx.eval(x)
        with dispatch.use_backend("reference"):
            want = layer.step(x, state, ts)
        got = layer.step(x, state, ts)
        for (name, a), (_, b) in zip(tree_flatten(got), tree_flatten(want), strict=True):
            assert_close(name, a, b, FORWARD)
        state = got[1]
        first = layer.rnn_cell.backbone[0]  # what comes next must notice it
        first.weight = 1.5 * first.weight
    x, ts = mx.random.normal((2, 3, I)), mx.random.uniform(0.1, 1.0, (2, 3))
    with dispatch.use_backend("reference"):
        want = layer(x, None, ts)
    for (name, a), (_, b) in zip(tree_flatten(layer(x, None, ts)), tree_flatten(want), strict=True):
        assert_close(name, a, b, FORWARD)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("mixed", [False, True])
def test_a_step_is_packed_with_the_backbone_in_front(mixed):
    cell = LTCCell(AutoNCP(10, 2), I, backbone_units=7)
    layer = LTC(cell, mixed_memory=mixed)
    plan = layer.rnn_cell._step_plan(mixed)
    assert plan.stages[0].front is not None
    output, state = layer.step(mx.zeros(I))
    values = [a for _, a in tree_flatten((output, state))]
    assert all(_loader.native.has_values(a) for a in values)
