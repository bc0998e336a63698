"""`NCPLayer` and `NCPDense`: lazy building, shapes, values with and without a wiring, errors; cells
as such layers.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import (
    LTC,
    CfC,
    CfCCell,
    CfCRNN,
    LiquidRNN,
    LSTMCell,
    LTCCell,
    NCPDense,
    NCPLayer,
    NCPRNNCell,
)
from mlx_ncps.ops import ACTIVATIONS
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Wiring

from tests.support.cases import assert_close, tolerance

FORWARD, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
B, T, I, H = 3, 4, 5, 6


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(2)


class Scale(NCPLayer):
    """A user's layer, as one writes it for Keras."""

    op = "scale"
    builds = 0

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def build(self, input_shape):
        self.builds += 1
        self.gain = mx.full((input_shape[-1],), self.factor)
        super().build(input_shape)

    def call(self, inputs, offset=0.0):
        return inputs * self.gain + offset

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


class Deeper(Scale):
    """Builds on top of what its base builds."""

    def build(self, input_shape):
        super().build(input_shape)
        self.bias = mx.ones((input_shape[-1],))


@pytest.mark.parametrize("cls", [Scale, Deeper])
def test_a_layer_builds_once_at_its_first_call(cls):
    layer = cls(2.0)
    assert (layer.built, layer.built_width) == (False, None)
    x = mx.ones((B, I))
    assert_close("output", layer(x, offset=1.0), np.full((B, I), 3.0), 0.0)
    gain = layer.gain
    layer(x)
    layer.build(I)
    layer.build((None, None, I))
    assert (layer.built, layer.built_width, layer.builds) == (True, I, 1)
    assert layer.gain is gain
    assert ("bias" in layer) == (cls is Deeper)
    assert layer.compute_output_shape((None, I)) == (None, I)
    with pytest.raises(ValueError, match=r"\[scale\] inputs must have 5 features, got 4"):
        layer(mx.ones((B, 4)))


def test_a_layer_built_ahead_has_its_weights():
    for shape in (I, (I,), (None, T, I)):
        layer = Scale(3.0)
        layer.build(shape)
        assert set(dict(tree_flatten(layer.trainable_parameters()))) == {"gain"}
    for wrong in ((B, None), -1, (B, 2.0)):
        with pytest.raises(ValueError, match=r"\[scale\] input_shape must end with a number"):
            Scale(1.0).build(wrong)


def test_a_build_that_fails_is_not_done():
    class Failing(Scale):
        def build(self, input_shape):
            if input_shape[-1] == 1:
                raise RuntimeError("no")
            super().build(input_shape)

    layer = Failing(1.0)
    with pytest.raises(RuntimeError, match="no"):
        layer.build(1)
    assert not layer.built
    assert layer(mx.ones((B, I))).shape == (B, I)


def test_a_layer_says_what_is_missing():
    class Empty(NCPLayer):
        pass

    with pytest.raises(NotImplementedError, match=r"\[layer\] Empty must define call"):
        Empty()(mx.ones((B, I)))
    with pytest.raises(NotImplementedError, match="Empty must define compute_output_shape"):
        Empty().compute_output_shape((B, I))


WIRINGS = {
    None: lambda: None,
    "FullyConnected": lambda: FullyConnected(H),
    "Random": lambda: Random(H, sparsity_level=0.6),
    "NCP": lambda: NCP(3, 2, 1, 2, 1, 2, 2),
}


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_equals_its_equation(activation, wiring, use_bias):
    layer = NCPDense(H, activation, use_bias, WIRINGS[wiring]())
    x = mx.random.normal((B, T, I))
    layer.build(x.shape)
    assert ("bias" in layer) == use_bias
    if use_bias:
        layer.bias = mx.random.normal((H,))
    mask = np.ones((I, H))
    if wiring:
        built = WIRINGS[wiring]()
        built.build(I)
        mask = np.abs(built.sensory_adjacency)
        assert 0 < mask.sum() <= I * H
    wanted = np.array(x, np.float64) @ (np.array(layer.weight, np.float64).T * mask)
    wanted = wanted + np.array(layer.bias, np.float64) if use_bias else wanted
    wanted = wanted if activation is None else truth.get_activation(activation)(wanted)
    assert_close("output", layer(x), wanted, FORWARD)
    assert_close("output of rows", layer(x[0, 0]), wanted[0, 0], FORWARD)


def test_dense_of_an_ncp_reaches_inter_neurons_alone():
    wiring = NCP(3, 2, 1, 2, 1, 2, 2)
    layer = NCPDense(wiring=wiring)
    assert layer.units == H
    output = layer(mx.random.normal((B, I)))
    silent = [n for n in range(H) if n not in wiring.get_neurons_of_type("inter")]
    assert_close("silent", output[:, mx.array(silent)], np.zeros((B, 3)), 0.0)
    assert mx.all(mx.any(output[:, 3:] != 0, axis=0))


def test_dense_starts_as_xavier_uniform_with_zero_biases():
    layer = NCPDense(200)
    layer.build(300)
    bound = (6 / 500) ** 0.5
    weight = np.array(layer.weight)
    assert 0.999 * bound < np.abs(weight).max() <= bound
    assert abs(weight.std() / (bound / 3**0.5) - 1) < 0.01
    assert not mx.any(layer.bias)


def test_dense_keeps_its_own_wiring_which_is_never_trained():
    wiring = Random(H, sparsity_level=0.5)
    layer = NCPDense(wiring=wiring)
    layer(mx.ones((1, I)))
    assert not wiring.is_built()
    layer.unfreeze()
    assert set(dict(tree_flatten(layer.trainable_parameters()))) == {"weight", "bias"}
    names = set(dict(tree_flatten(layer.parameters())))
    assert {"wiring.sensory_adjacency_matrix", "wiring.adjacency_matrix"} <= names
    built = Random(H, sparsity_level=0.5, input_dim=I)
    assert NCPDense(wiring=built).built_width == I


def test_dense_trains_and_absent_synapses_have_no_gradient():
    layer = NCPDense(wiring=Random(H, sparsity_level=0.5), activation="tanh")
    x = mx.random.normal((B, I))
    layer(x)
    _, grads = nn.value_and_grad(layer, lambda m: m(x).square().sum())(layer)
    absent = np.array(layer.mask) == 0
    assert absent.sum() == I * H // 2
    assert np.all(np.array(grads["weight"])[absent] == 0)
    z = np.array(x, np.float64) @ (np.array(layer.weight, np.float64) * ~absent).T
    dz = 2 * np.tanh(z) * (1 - np.tanh(z) ** 2)
    assert_close("dweight", grads["weight"], (dz.T @ np.array(x)) * ~absent, GRADIENT)
    assert_close("dbias", grads["bias"], dz.sum(0), GRADIENT)
    compiled = mx.compile(layer, inputs=layer.state)
    assert_close("compiled", compiled(x), layer(x), FORWARD)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_dense_gives_the_dtype_of_its_inputs(dtype):
    layer = NCPDense(H, "relu")
    assert layer(mx.ones((B, I), dtype)).dtype == dtype


def test_dense_takes_a_function_as_activation():
    layer = NCPDense(H, nn.softplus)
    x = mx.random.normal((B, I))
    output = layer(x)
    z = np.array(x, np.float64) @ np.array(layer.weight, np.float64).T
    assert_close("output", output, truth.softplus(z), FORWARD)


def test_repr_of_a_dense_layer_names_its_options():
    assert repr(NCPDense(4, "tanh")) == (
        "NCPDense(units=4, activation=tanh, use_bias=True, inputs=None)"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCPDense(), "units must be an integer >= 1, got None"),
        (lambda: NCPDense(0), "units must be an integer >= 1, got 0"),
        (lambda: NCPDense(True), "units must be an integer >= 1, got True"),
        (lambda: NCPDense(2.0), "units must be an integer >= 1, got 2.0"),
        (lambda: NCPDense(4, wiring=Wiring(5)), "units must be those of the wiring, 5, got 4"),
        (lambda: NCPDense(4, wiring=3), "wiring must be a Wiring or None, got int"),
        (lambda: NCPDense(4, "no"), "activation must be one of"),
        (lambda: NCPDense(4, wiring=Wiring(4, input_dim=2)).build(3), "must have 2 features"),
        (lambda: NCPDense(4).compute_output_shape(()), "input_shape must have one size or more"),
    ],
)
def test_wrong_dense_layers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_output_shapes_follow_the_input_shape():
    dense = NCPDense(H)
    assert dense.compute_output_shape((None, T, I)) == (None, T, H)
    dense.build(I)
    assert dense.compute_output_shape([I]) == (H,)
    with pytest.raises(ValueError, match=r"\[dense\] input_shape must end with 5, got \(3, 4\)"):
        dense.compute_output_shape((B, 4))
    for cell, units in ((CfCCell(I, H), H), (LTCCell(AutoNCP(10, 2)), 2), (LSTMCell(I, H), H)):
        assert cell.compute_output_shape((None, I)) == (None, units)
        with pytest.raises(ValueError, match=r"input_shape must have 2 sizes, got \(3, 4, 5\)"):
            cell.compute_output_shape((B, T, I))
    with pytest.raises(ValueError, match=r"\[cfc\] input_shape must end with 5, got \(3, 4\)"):
        CfCCell(I, H).compute_output_shape((B, 4))


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"bidirectional": True}])
@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("make", [CfC, LTC, CfCRNN])
def test_output_shapes_of_layers(make, options, sequences):
    layer = make(I, H, return_sequences=sequences, **options)
    for shape in ((B, T, I), (T, I)):
        assert layer.compute_output_shape(shape) == layer(mx.zeros(shape))[0].shape
    assert layer.compute_output_shape((None, None, I))[-1] == H * (1 + layer_is_wide(options))
    with pytest.raises(ValueError, match="input_shape must have 3 sizes"):
        layer.compute_output_shape((1, B, T, I))


def layer_is_wide(options):
    return options.get("bidirectional", False)


def test_output_shape_of_a_pair():
    layer = CfC(I, H, bidirectional=True, merge_mode=None)
    assert layer.compute_output_shape((B, T, I)) == ((B, T, H), (B, T, H))


class Masked(NCPRNNCell):
    """A user's wired cell: h' = tanh(x Wx + h Wh), the weights masked and signed by the wiring."""

    op = "masked"

    def __init__(self, wiring, gain=1.0):
        super().__init__(wiring)
        self.gain = gain

    def build(self, input_shape):
        super().build(input_shape)
        self.w = self.gain * mx.random.uniform(shape=(self.units, self.units))
        self.sensory_w = self.gain * mx.random.uniform(shape=(input_shape[-1], self.units))

    def sequence(self, inputs, state, ts):
        states = []
        for t in range(inputs.shape[1]):
            drive = inputs[:, t] @ (self.sensory_w * self.wiring.sensory_adjacency_matrix)
            state = mx.tanh(drive + state @ (self.w * self.wiring.adjacency_matrix))
            states.append(state)
        return mx.stack(states, axis=1)

    def readout(self, states):
        return states[..., : self.output_size]


def test_a_wired_cell_of_ones_own():
    layer = LiquidRNN(Masked(AutoNCP(10, 2), gain=0.5), return_sequences=True, return_state=True)
    x = mx.random.normal((B, T, I))
    output, state = layer(x)
    cell, h = layer.cell, np.zeros((B, 10))
    assert (cell.sensory_size, cell.units, cell.output_size) == (I, 10, 2)
    w = np.array(cell.w) * cell.wiring.adjacency
    sensory_w = np.array(cell.sensory_w) * cell.wiring.sensory_adjacency
    for t in range(T):
        h = np.tanh(np.array(x)[:, t] @ sensory_w + h @ w)
    assert_close("state", state, h, FORWARD)
    assert_close("output", output[:, -1], h[:, :2], FORWARD)
    layer.unfreeze()
    assert set(dict(tree_flatten(cell.trainable_parameters()))) == {"w", "sensory_w"}
    again = LiquidRNN.from_config(layer.get_config())
    again.load_weights(tree_flatten(layer.parameters()))
    assert_close("restored", again(x)[0], output, 0.0)


def test_cells_are_layers():
    assert issubclass(NCPRNNCell, NCPLayer)
    cell = LTCCell(AutoNCP(10, 2))
    assert isinstance(cell, NCPRNNCell)
    assert cell.get_initial_state(batch_size=B).shape == (B, 10)
    assert cell.get_initial_state(mx.zeros((2, I), mx.float16)).dtype == mx.float16
    assert [s.shape for s in LSTMCell(I, H).get_initial_state(batch_size=B)] == [(B, H)] * 2
    with pytest.raises(ValueError, match=r"\[lstm\] get_initial_state needs inputs or batch_size"):
        LSTMCell(I, H).get_initial_state()
    assert (cell.units, CfCCell(I, H).units) == (10, H)
