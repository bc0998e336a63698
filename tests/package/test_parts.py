"""Modules that users put in place of a layer's linear maps: used wherever the map would be, with
the gradients of the merged weight; or refused by their name.
"""

import copy

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import (
    LTC,
    CfC,
    CfCCell,
    CfCRNN,
    LiquidRNN,
    LSTMCell,
    StreamingSession,
    convert,
    last_backend,
    use_backend,
)
from mlx_ncps.cells import ODELSTMCell
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close
from tests.support.parts import ALL, LAYERS, Adapter, I, LoRALinear, at, put, replaced
from tests.support.rnn_layers import GRADIENT, SAME, assert_trees_close

B = 3
KINDS = {"adapter": Adapter, "lora": LoRALinear}


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(3)


def merge(layer, plain, path):
    """`plain` with the merged weight of the part of `layer`."""
    at(plain, path).weight = at(layer, path).merged(at(plain, path).weight)
    return plain


def outputs(layer, x, ts):
    """The leaves of a call."""
    return [leaf for _, leaf in tree_flatten(layer(x, timespans=ts))]


def stream(run, x):
    """The output of each step of a function of [B, I]."""
    return mx.stack([run(x[:, t]) for t in range(x.shape[1])], axis=1)


def one_way(layer):
    return not getattr(layer, "bidirectional", False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "path"), ALL)
def test_replaced_part_acts_as_the_merged_weight(name, path, kind):
    layer, plain = replaced(name, path, KINDS[kind])
    unchanged = outputs(plain, mx.ones((B, 4, I)), None)[0]
    assert mx.abs(outputs(layer, mx.ones((B, 4, I)), None)[0] - unchanged).max() > 1e-4
    merge(layer, plain, path)
    for T, ts in ((1, None), (1, mx.full((B, 1), 0.3)), (12, mx.full((B, 12), 0.7))):
        x = mx.random.normal((B, T, I))
        mx.eval(x)
        got = outputs(layer, x, ts)
        with use_backend("reference"):
            wanted = outputs(plain, x, ts)
        for n, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert_close(f"T={T} result {n}", a, b, SAME)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "path"), [case for case in ALL if one_way(LAYERS[case[0]]())])
def test_step_and_session_use_replaced_part(name, path, kind):
    layer, plain = replaced(name, path, KINDS[kind])
    merge(layer, plain, path)
    x, states = mx.random.normal((B, 3, I)), []
    mx.eval(x)

    def step(x):
        output, state = layer.step(x, states[-1] if states else None, 0.5)
        states.append(state)
        return output

    with use_backend("reference"):
        session = StreamingSession(plain)
        wanted = stream(lambda x: session(x, 0.5), x)
    assert_close("steps", stream(step, x), wanted, SAME)
    session = StreamingSession(layer)
    assert_close("session", stream(lambda x: session(x, 0.5), x), wanted, SAME)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "path"), ALL)
def test_gradients_of_replaced_part_are_those_of_the_merged_weight(name, path, kind):
    layer, plain = replaced(name, path, KINDS[kind])
    x = mx.random.normal((B, 3, I))

    def loss(layer, x):
        return sum(leaf.square().sum() for leaf in outputs(layer, x, 0.5))

    got = nn.value_and_grad(layer, loss)(layer, x)[1]
    got = dict(tree_flatten(got)) | {"x": mx.grad(lambda x: loss(layer, x))(x)}

    def merged(parameters, x):
        """The loss of the plain layer with the weight that the replaced layer's parameters make."""
        layer.update(parameters)
        part, target = at(layer, path), at(plain, path)
        plain.update(tree_without(parameters, path))
        linear = part if kind == "adapter" else part.linear
        target.weight = part.merged(linear.weight)
        if "bias" in target:
            target.bias = linear.bias
        return loss(plain, x)

    with use_backend("reference"):
        wanted = mx.grad(merged, argnums=(0, 1))(layer.trainable_parameters(), x)
    wanted = dict(tree_flatten(wanted[0])) | {"x": wanted[1]}
    assert_trees_close("gradient", got, wanted, GRADIENT)
    inner = [key for key in got if key.startswith(path + ".")]
    assert len(inner) >= 3
    assert all(mx.abs(got[key]).max() > 0 for key in inner)


def tree_without(tree, path):
    """The parameters of all other parts."""
    keys = path.split(".")
    tree = tree_map(lambda p: p, tree)
    holder = tree
    for key in keys[:-1]:
        holder = holder[int(key) if isinstance(holder, list) else key]
    holder[int(keys[-1]) if isinstance(holder, list) else keys[-1]] = {}
    return tree


def test_replacing_a_part_of_a_packed_cell_acts_at_the_next_step():
    layer, x = CfC(I, 6, backbone_units=7), mx.random.normal((B, I))
    state = mx.zeros((B, 6))
    mx.eval(layer.parameters(), x, state)
    cell = layer.rnn_cell
    before = layer.step(x, state)[0], cell(x, state)[0], layer(x[:, None], state)[0][:, 0]
    assert last_backend() == "cpu"
    cell.update_modules({"time_a": Adapter(cell.time_a)})
    after = layer.step(x, state)[0], cell(x, state)[0], layer(x[:, None], state)[0][:, 0]
    for a, b, again in zip(before, after, after[1:] + after[:1], strict=True):
        assert mx.abs(a - b).max() > 1e-3
        assert_close("forms of a call", again, b, SAME)


@pytest.mark.parametrize("path", ["ff1", "backbone.0"])
def test_function_as_part_is_called(path):
    layer = CfC(I, 6, backbone_units=7)
    plain = copy.deepcopy(layer)
    linear = at(layer.rnn_cell, path)
    put(layer.rnn_cell, path, lambda z: 2 * linear(z))
    target = at(plain.rnn_cell, path)
    target.update(tree_map(lambda p: 2 * p, target.parameters()))
    x = mx.random.normal((B, 4, I))
    for got, wanted in zip(layer(x), plain(x), strict=True):
        assert_close("outputs", got, wanted, SAME)
    assert "function" in layer.rnn_cell.stepwise() or "lambda" in layer.rnn_cell.stepwise()


def test_function_as_projection_or_memory_is_called():
    layer = CfC(I, 6, 3, mixed_memory=True)
    plain, x = copy.deepcopy(layer), mx.random.normal((B, 4, I))
    fc, lstm = layer.fc, layer.lstm
    layer.fc, layer.lstm = (lambda h: -fc(h)), (lambda x, state: lstm(x, state))
    mx.eval(x, layer.parameters(), plain.parameters())
    assert_close("call", layer(x)[0], -plain(x)[0], SAME)
    assert_close("step", layer.step(x[:, 0])[0], -plain.step(x[:, 0])[0], SAME)
    assert "lstm is <lambda>, no LSTMCell" in layer._stepwise()


def test_linear_without_bias_stays_fused():
    layer = CfC(I, 6, backbone_units=7)
    layer.rnn_cell.ff2 = nn.Linear(7, 6, bias=False)
    plain = copy.deepcopy(layer)
    plain.rnn_cell.ff2.bias = mx.zeros((6,))
    assert layer._stepwise() == ""
    x = mx.random.normal((B, 1, I))
    mx.eval(x, layer.parameters(), plain.parameters())
    assert_close("call", layer(x)[0], plain(x)[0], SAME)
    assert_close("step", layer.step(x[:, 0])[0], plain(x)[0][:, 0], SAME)


class Doubled(CfCCell):
    def __call__(self, inputs, state, ts=1.0):
        output, state = super().__call__(2 * inputs, state, ts)
        return output, state


@pytest.mark.parametrize("mixed", [False, True])
def test_subclass_of_a_cell_with_its_own_call_is_called(mixed):
    layer = LiquidRNN(Doubled(I, 6), return_sequences=True, mixed_memory=mixed)
    plain = LiquidRNN(CfCCell(I, 6), return_sequences=True, mixed_memory=mixed)
    plain.update(layer.parameters())
    if mixed:  # the LSTM reads the inputs as they are
        first = plain.rnn_cell.backbone[0]
        first.weight = first.weight * mx.where(mx.arange(I + 6) < I, 2.0, 1.0)
    for T in (1, 5):
        x = mx.random.normal((B, T, I))
        mx.eval(x, layer.parameters(), plain.parameters())
        wanted = plain(x if mixed else 2 * x)
        assert_close("call", layer(x), wanted, SAME)
        assert_close("step", layer.step(x[:, 0])[0], wanted[:, 0], SAME)
    assert "Doubled is called once for each step" in layer._stepwise()
    assert layer(x[:, :0]).shape == (B, 0, 6)


def test_subclass_of_the_lstm_is_called():
    class Negative(LSTMCell):
        def __call__(self, inputs, state):
            output, (h, c) = super().__call__(inputs, state)
            return output, (-h, c)

    layer = CfC(I, 6, mixed_memory=True)
    plain = copy.deepcopy(layer)
    lstm = Negative(I, 6)
    lstm.update(layer.lstm.parameters())
    layer.lstm = lstm
    x = mx.random.normal((B, 1, I))
    mx.eval(x, layer.parameters(), plain.parameters())
    _, (h, c) = plain.lstm(x[:, 0], (mx.zeros((B, 6)), mx.zeros((B, 6))))
    wanted = plain.rnn_cell(x[:, 0], -h)[1]
    for got in (layer(x)[1], layer.step(x[:, 0])[1]):
        assert_close("h", got[0], wanted, SAME)
        assert_close("c", got[1], c, SAME)


class Wrong(nn.Module):
    def __call__(self, x, *_):
        return x


REFUSED = {  # layer, part, message
    "width": (lambda: CfC(I, 6, backbone_units=7), "rnn_cell.ff1", r"\[cfc\] ff1 must give"),
    "no_function": (lambda: CfC(I, 6), "rnn_cell.time_a", r"\[cfc\] time_a must be a module"),
    "wired_layer": (lambda: CfC(I, AutoNCP(8, 2)), "rnn_cell.layer_1", "layer_1 must be a CfCCell"),
    "wired_mask": (lambda: CfC(I, AutoNCP(8, 2)), "rnn_cell.layer_0", "with a sparsity_mask"),
    "backbone": (lambda: CfC(I, 6), "rnn_cell.backbone", "backbone must be a list"),
    "lstm": (lambda: LTC(I, 6, mixed_memory=True), "lstm", "lstm must return"),
    "lstm_part": (lambda: LTC(I, 6, mixed_memory=True), "lstm.input_map", "input_map must give"),
    "stack": (lambda: CfCRNN(I, 6, 2), "layers.1", r"layers\.1 must be a layer"),
    "backward": (lambda: CfC(I, 6, bidirectional=True), "backward", "backward must be a layer"),
    "ode_lstm": (lambda: LiquidRNN(ODELSTMCell(I, 6)), "rnn_cell.lstm", "lstm must be an LSTMCell"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_part_that_cannot_be_used_is_refused_by_name(name):
    make, path, message = REFUSED[name]
    layer, x = make(), mx.random.normal((B, 1, I))
    others = {"no_function": "text", "wired_mask": CfCCell(I, 3)}
    put(layer, path, others.get(name, Wrong()))
    mx.eval(x)
    calls = [lambda: layer(x), lambda: layer(mx.concatenate([x, x], axis=1))]
    if name != "backward":
        calls.append(lambda: layer.step(x[:, 0]))
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("kind", [Adapter, LoRALinear, lambda part: part.to_quantized(32, 8)])
@pytest.mark.parametrize("path", ["rnn_cell.ff1", "rnn_cell.backbone.0", "lstm.recurrent_map"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_replaced_part_in_compiled_training(path, kind, dtype):
    layer = CfC(32, 32, 2, backbone_units=32, mixed_memory=True)
    layer.fc = Adapter(layer.fc)
    put(layer, path, kind(at(layer, path)))
    x, other = mx.random.normal((2, B, 3, 32)).astype(dtype)
    mx.eval(layer.parameters())

    def loss(layer, x):
        return layer(x)[0].astype(mx.float32).square().mean()

    def train(compiled):
        model, optimizer = copy.deepcopy(layer), optim.SGD(0.1)

        def step(x):
            value, grads = nn.value_and_grad(model, loss)(model, x)
            optimizer.update(model, grads)
            return value

        if compiled:
            state = [model.state, optimizer.state]
            step = mx.compile(step, inputs=state, outputs=state)
        losses = mx.stack([step(x) for _ in range(3)])
        return losses, model.parameters(), model(other)[0]

    plain = train(False)
    assert plain[0][0] > plain[0][2]
    assert_trees_close("training", train(True), plain, GRADIENT)


def test_forced_backend_refuses_replaced_part():
    layer = CfC(I, 6)
    layer.rnn_cell.ff1 = Adapter(layer.rnn_cell.ff1)
    with use_backend("cpu"), pytest.raises(RuntimeError, match=r"ff1 is Adapter, no nn\.Linear"):
        layer(mx.zeros((B, 2, I)))


@pytest.mark.parametrize(("name", "path"), [c for c in ALL if c[0].startswith("cfc_wired")])
def test_explain_names_replaced_part(name, path):
    layer, plain = replaced(name, path, Adapter)
    if ".layer_" in path:
        assert f"layer_{path.split('layer_')[1][0]}: " in layer._stepwise()
    assert f"{path.split('.', 1)[1]} is Adapter".split(".", 1)[-1] in layer._stepwise()
    assert layer._stepwise() in str(layer.explain((B, 4, I)))
    assert "Adapter" not in str(plain.explain((B, 4, I)))


@pytest.mark.parametrize(
    "make", [lambda: CfCCell(I, 6), lambda: CfCCell(AutoNCP(8, 2, input_dim=I))]
)
def test_redraw_and_params_refuse_replaced_part(make):
    cell = make()
    owner = getattr(cell, "layer_0", cell)
    owner.ff1 = Adapter(owner.ff1)
    before = dict(tree_flatten(cell.parameters()))
    with pytest.raises(ValueError, match="ff1, which would be lost"):
        cell.redraw()
    after = dict(tree_flatten(cell.parameters()))
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[key], after[key]) for key in before)
    with pytest.raises(ValueError, match="which would be lost"):
        CfC(cell, bidirectional=True)
    with pytest.raises(ValueError, match=r"\[cfc\] ff1 must be an nn.Linear here, got Adapter"):
        owner.params()


@pytest.mark.parametrize("path", ["rnn_cell.backbone.0", "rnn_cell.ff1", "fc"])
@pytest.mark.parametrize("kind", [Adapter, LoRALinear, lambda p: p.to_quantized(32)])
def test_export_refuses_replaced_part(path, kind):
    layer = CfC(22, 10, 3, backbone_units=32)
    layer.rnn_cell.ff1, layer.fc = nn.Linear(32, 10), nn.Linear(32, 3)
    assert convert.to_torch(layer, numpy=True)
    put(layer, path, kind(at(layer, path)))
    with pytest.raises(ValueError, match=rf"\[to_torch\] {path}\S* must be an nn.Linear, got "):
        convert.to_torch(layer, numpy=True)


def test_layer_with_replaced_parts_keeps_masked_steps_and_dropout():
    layer = CfC(I, 6, backbone_units=[7, 7], backbone_dropout=0.5)
    layer.rnn_cell.ff1 = Adapter(layer.rnn_cell.ff1)
    x = mx.random.normal((B, 6, I))
    assert not mx.allclose(layer(x)[0], layer(x)[0])
    layer.eval()
    wanted = layer(x[:, :4])[1]
    mask = mx.array([[1, 1, 0, 1, 0, 1]] * B)
    kept = mx.concatenate([x[:, :2], x[:, 3:4], x[:, 5:]], axis=1)
    assert_close("masked", layer(x, mask=mask)[1], layer(kept)[1], SAME)
    assert mx.abs(layer(x)[1] - wanted).max() > 0
