"""Layers whose weights are made at the first call: nothing may train, trace, freeze or switch them
before as if they were whole.
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import (
    LTC,
    LTCRNN,
    MMRNN,
    CfC,
    CfCCell,
    CfCRNN,
    LiquidCell,
    LiquidRNN,
    LSTMCell,
    LTCCell,
    NCPDense,
    NCPLayer,
    NCPRNNCell,
    WiredCfCCell,
    cells,
    chunked_value_and_grad,
)
from mlx_ncps.wirings import AutoNCP, Random

from tests.support.cases import assert_close, tolerance
from tests.support.round_trips import KnownLeaky

B, T, I = 2, 4, 3
ONE, BOTH = {"return_state": False}, {"bidirectional": True}


class Scale(NCPLayer):
    """A user's layer."""

    def build(self, input_shape):
        self.gain = mx.ones((input_shape[-1],))
        super().build(input_shape)

    def call(self, inputs):
        return inputs * self.gain


class Outer(NCPLayer):
    """A user's layer that makes others."""

    def _create(self, width):
        self.dense = NCPDense(5)
        self.dense.build(width)

    def call(self, inputs):
        return self.dense(inputs)


class Wired(NCPRNNCell):
    """A user's cell that follows a wiring."""

    op = "user"

    def build(self, input_shape):
        super().build(input_shape)
        self.w = mx.random.normal(self.wiring.adjacency.shape)
        self.w_in = mx.random.normal(self.wiring.sensory_adjacency.shape)

    def sequence(self, inputs, state, ts):
        states = []
        for t in range(inputs.shape[1]):
            drive = inputs[:, t] @ (self.w_in * mx.array(self.wiring.sensory_adjacency))
            state = mx.tanh(drive + state @ (self.w * mx.array(self.wiring.adjacency)))
            states.append(state)
        return mx.stack(states, axis=1)

    def readout(self, states):
        return states[..., : self.output_size]


def wired():
    return AutoNCP(10, 2)


LAYERS = {  # from inputs [B, T, I] to one array
    "cfc_cell": lambda: CfC(cell=CfCCell(wired())),
    "cfc_backbone": lambda: CfC(CfCCell(wired(), backbone_units=[4, 5]), proj_size=3),
    "cfc_none": lambda: CfC(None, wired(), **ONE),
    "cfc_mixed": lambda: CfC(None, wired(), mixed_memory=True, **ONE),
    "cfc_both": lambda: CfC(None, Random(6, 2, 0.4), **BOTH, **ONE),
    "wired": lambda: CfC(WiredCfCCell(None, wired())),
    "ltc_cell": lambda: LTC(LTCCell(wired())),
    "ltc_number": lambda: LTC(LTCCell(5)),
    "ltc_backbone": lambda: LTC(LTCCell(wired(), backbone_units=4)),
    "ltc_mixed": lambda: LTC(None, wired(), mixed_memory=True, **BOTH, **ONE),
    "cfc_stack": lambda: CfCRNN(None, wired(), 2, **ONE),
    "ltc_stack": lambda: LTCRNN(None, wired(), 2, **BOTH, **ONE),
    "mmrnn": lambda: MMRNN(LTCCell(wired())),
    "lstm": lambda: LiquidRNN(LSTMCell(None, 5)),
    "user": lambda: LiquidRNN(KnownLeaky(6), **BOTH),
    "user_wired": lambda: LiquidRNN(Wired(wired()), proj_size=2),
    "user_mixed": lambda: MMRNN(Wired(wired())),
    "dense": lambda: NCPDense(4, "tanh"),
    "dense_wired": lambda: NCPDense(wiring=wired()),
    "scale": Scale,
    "outer": Outer,
    **{
        name: lambda name=name: LiquidRNN(getattr(cells, name)(None, 5))
        for name in ("CTRNNCell", "CTGRUCell", "NeuralODECell", "ODERNNCell", "ODELSTMCell")
    },
    "ELTCCell": lambda: LiquidRNN(cells.ELTCCell(wired())),
}
all_layers = pytest.mark.parametrize("name", LAYERS)
FIRST = "the weights must exist before nn.value_and_grad"


@pytest.fixture(autouse=True)
def inputs():
    mx.random.seed(5)
    x = mx.random.normal((B, T, I))
    mx.eval(x)
    return x


def names(module):
    return {name for name, _ in tree_flatten(nn.Module.trainable_parameters(module))}


def loss(model, x):
    return model(x).square().sum()


@all_layers
def test_training_before_the_first_call_raises_and_leaves_the_layer_alone(name, inputs):
    layer = LAYERS[name]()
    before = names(layer)
    arrays = {n for n, _ in tree_flatten(layer.parameters())}
    message = FIRST if before else "the weights must exist before they are trained"
    with pytest.raises(ValueError, match=rf"\[\w+\] {message}"):
        nn.value_and_grad(layer, loss)(layer, inputs)
    assert names(layer) == before
    assert {n for n, _ in tree_flatten(layer.parameters())} == arrays
    if not before:
        with pytest.raises(ValueError, match="must exist before they are trained"):
            optim.Adam(1e-3).init(layer.trainable_parameters())
        with pytest.raises(ValueError, match="must exist before they are trained"):
            chunked_value_and_grad(layer, lambda m, s, x: (loss(m, x), s))([(inputs,)], None)
        for ask in (
            lambda: layer.set_dtype(mx.float16),
            lambda: layer.save_weights("never_written.npz"),
            lambda: layer.load_weights([], strict=False),
        ):
            with pytest.raises(ValueError, match="must exist before they are trained, changed, s"):
                ask()
    layer.build(I)
    made = names(layer)
    assert dict(tree_flatten(nn.value_and_grad(layer, loss)(layer, inputs)[1])).keys() == made
    layer(inputs)
    assert names(layer) == made


@all_layers
def test_training_a_model_around_it_raises_at_the_first_call(name, inputs):
    layer = LAYERS[name]()
    model = nn.Sequential(nn.Linear(I, I), layer)
    gradients = nn.value_and_grad(model, loss)
    for train in (gradients, gradients, lambda m, x: mx.grad(lambda x: loss(m, x))(x)):
        with pytest.raises(ValueError, match=rf"{FIRST}.*or build\({I}\)"):
            train(model, inputs)
    model(inputs)
    optimizer = optim.Adam(1e-2)
    for _ in range(3):
        _, grads = nn.value_and_grad(model, loss)(model, inputs)
        assert len(tree_flatten(grads)) == len(names(model))
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)


@all_layers
def test_first_call_in_a_trace_raises(name, inputs):
    for trace in (mx.compile, lambda f: lambda x: mx.vmap(f)(x[None])):
        layer = LAYERS[name]()
        with pytest.raises(ValueError, match=FIRST):
            trace(lambda x, layer=layer: layer(x))(inputs)
        wanted = layer(inputs)
        got = trace(lambda x, layer=layer: layer(x))(inputs).reshape(wanted.shape)
        assert mx.allclose(got, wanted, atol=1e-5)


def test_known_widths_build_at_once(inputs):
    wiring = wired()
    wiring.build(I)
    for layer in (
        CfC(cell=CfCCell(wiring)),
        CfC(None, wiring, mixed_memory=True, **ONE),
        LTC(LTCCell(wired(), I)),
        LTCRNN(I, wired(), 2, **BOTH, **ONE),
        MMRNN(LTCCell(wiring)),
        LiquidRNN(LSTMCell(I, 4), **BOTH),
        NCPDense(wiring=wiring),
    ):
        made = names(layer)
        assert dict(tree_flatten(nn.value_and_grad(layer, loss)(layer, inputs)[1])).keys() == made
        layer(inputs)
        assert names(layer) == made


def test_step_and_cells_raise_in_a_gradient(inputs):
    layer = CfC(cell=CfCCell(wired()), proj_size=2)
    with pytest.raises(ValueError, match=FIRST):
        nn.value_and_grad(layer, lambda m, x: m.step(x)[0].sum())(layer, inputs[:, 0])
    for cell in (CfCCell(wired()), LTCCell(4), KnownLeaky(4), LSTMCell(None, 4)):
        state = mx.zeros((B, 10 if hasattr(cell, "wiring") and cell.wiring.units == 10 else 4))
        state = (state, state) if isinstance(cell, LSTMCell) else state
        with pytest.raises(ValueError, match=FIRST):
            mx.grad(lambda x, c=cell, s=state: c(x, s)[0].sum())(inputs[:, 0])
        assert not cell.built
        cell(inputs[:, 0], state)


class Ready(LiquidCell):
    """A user's cell that has its weights from the start."""

    op, state_size, sensory_size, output_size = "ready", 1, I, 1

    def __init__(self):
        super().__init__()
        self.gain = mx.ones((I,))

    def _create(self, width):
        pass

    def sequence(self, inputs, state, ts):
        return state[:, None] + mx.cumsum(inputs * self.gain, axis=1).sum(-1, keepdims=True)

    def readout(self, states):
        return states


def test_cell_that_makes_nothing_may_be_called_first_in_a_trace(inputs):
    layer = LiquidRNN(Ready())
    grads = nn.value_and_grad(layer, loss)(layer, inputs)[1]
    assert names(layer) == set(dict(tree_flatten(grads)))
    assert mx.compile(lambda x: LiquidRNN(Ready())(x))(inputs).shape == (B, 1)


def test_layers_made_in_a_trace_are_built_there(inputs):
    def made(x):
        mx.random.seed(1)
        return CfC(I, 4)(x)[0].sum()

    mx.random.seed(1)
    grad = mx.grad(made)(inputs)
    layer = CfC(I, 4)
    assert mx.abs(grad).max() > 0
    assert layer(inputs)[0].shape == (B, T, 4)


def test_dropout_is_off_when_eval_came_before_the_first_call(inputs):
    cell = CfCCell(wired(), backbone_units=6, backbone_layers=2, backbone_dropout=0.5)
    model = nn.Sequential(CfC(cell)).eval()
    first, second = model(inputs), model(inputs)  # the second may run on the CPU
    assert_close("output", second, first, tolerance("float32", "forward"))


def test_build_takes_shapes_and_both_directions():
    layer = CfC(CfCCell(wired()), **BOTH)
    layer.build((None, None, I))
    assert layer.rnn_cell.built
    assert layer.backward.rnn_cell.built
    stack = LTCRNN(None, wired(), 3)
    stack.build((B, T, I))
    assert [half.rnn_cell.sensory_size for half in stack.layers] == [I, 2, 2]
    with pytest.raises(ValueError, match="inputs must have 3 features, got 4"):
        layer.build(4)
    LiquidRNN(lambda x, state: (x, state)).build(3)
