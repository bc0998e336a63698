"""What the guides of the MLX ports and of ncps.torch show: each of their uses where its API exists,
with the values that it should give. (`ncps.mlx` has these very classes: package/test_alias.py.)
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CfCCell, CfCRNN, LiquidCell, LiquidRNN, LTCCell, WiredCfCCell
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Wiring

from tests.support.cases import assert_close, tolerance

FORWARD = tolerance("float32", "forward")
B, T, I = 6, 10, 8


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(0)


@pytest.fixture
def x():
    return mx.random.normal((B, T, I))


def test_cell_of_a_wiring_with_a_backbone_in_both_directions(x):
    wiring = AutoNCP(units=32, output_size=4)
    cell = CfCCell(
        wiring=wiring,
        activation="tanh",
        backbone_units=[64, 64],
        backbone_layers=2,
    )
    model = CfC(cell=cell, return_sequences=True, bidirectional=True, merge_mode="concat")
    outputs = model(x, time_delta=mx.ones((B, T)))
    assert outputs.shape == (B, T, 8)
    assert model.cell is model.rnn_cell is cell
    assert isinstance(cell, WiredCfCCell)
    assert model.cell.units == wiring.units == 32
    with pytest.raises(ValueError, match=r"\[cfc\] wiring must be a Wiring, got int"):
        CfCCell(wiring=32)
    assert_close("unit time", outputs, model(x), FORWARD)
    both = CfC(cell=cell, return_sequences=True, return_state=True)
    outputs, state = both(x, time_delta=mx.random.uniform(low=0.5, high=1.5, shape=(B, T)))
    assert (outputs.shape, state.shape) == ((B, T, 4), (B, 32))


def test_ltc_of_a_cell_gives_its_last_output(x):
    wiring = AutoNCP(units=32, output_size=4)
    cell = LTCCell(wiring=wiring, activation="tanh", backbone_units=[64], backbone_layers=1)
    last = LTC(cell=cell, return_sequences=False)
    assert last(x).shape == (B, 4)
    assert cell.wiring.input_dim == 64
    every = LTC(cell=last.cell, return_sequences=True)
    assert_close("last", last(x), every(x)[:, -1], 0.0)


def test_initial_states_are_given_in_a_list(x):
    model = CfC(cell=CfCCell(AutoNCP(units=16, output_size=4)), return_state=True)
    start = mx.random.normal((B, model.cell.units))
    outputs, state = model(x, initial_states=[start])
    wanted, wanted_state = model(x, initial_state=start)
    assert_close("outputs", outputs, wanted, 0.0)
    assert_close("state", state, wanted_state, 0.0)
    assert np.abs(np.array(outputs - model(x)[0])).max() > 1e-3
    with pytest.raises(ValueError, match=r"hx must be an mx\.array, got list"):
        model(x, initial_states=[start, start])


def test_a_model_hands_its_state_on(x):
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.cfc = CfC(cell=CfCCell(AutoNCP(16, 4)), return_state=True)

        def __call__(self, inputs, state=None):
            return self.cfc(inputs, initial_state=state)

    model = Stateful()
    whole, state = model(x)
    _, half = model(x[:, :4])
    rest, last = model(x[:, 4:], half)
    assert_close("outputs", rest, whole, FORWARD)
    assert_close("state", last, state, FORWARD)


@pytest.mark.parametrize("cell_class", [CfCCell, LTCCell])
def test_a_training_loop_lowers_the_loss(cell_class, x):
    layer_class = {CfCCell: CfC, LTCCell: LTC}[cell_class]
    model = layer_class(cell=cell_class(AutoNCP(16, 2)), return_sequences=True)
    y = mx.sin(mx.linspace(0, 6, T)).reshape(1, T, 1) * mx.ones((B, 1, 2))
    mx.eval(model(x))

    def loss_fn(model, x, y):
        return mx.mean((model(x, time_delta=0.5) - y) ** 2)

    optimizer = optim.Adam(learning_rate=0.01)
    loss_and_grad = nn.value_and_grad(model, loss_fn)
    losses = []
    for _ in range(12):
        loss, grads = loss_and_grad(model, x, y)
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_sizes_first_as_in_ncps(x):
    output, state = CfC(input_size=I, units=50)(x)
    assert (output.shape, state.shape) == ((B, T, 50), (B, 50))
    rnn = CfC(input_size=I, units=AutoNCP(units=28, output_size=4))
    assert rnn(x)[0].shape == (B, T, 4)
    assert rnn.output_size == 4
    last, _ = CfC(input_size=I, units=50, return_sequences=False)(x)
    assert last.shape == (B, 50)
    output, _ = LTC(input_size=I, units=AutoNCP(units=32, output_size=8))(x)
    assert output.shape == (B, T, 8)
    stack = CfCRNN(input_size=I, hidden_size=32, num_layers=2, bidirectional=True)
    assert stack(x)[0].shape == (B, T, 64)


def test_a_classifier_of_sequences(x):
    class Classifier(nn.Module):
        def __init__(self, inputs, neurons, classes):
            super().__init__()
            self.rnn = CfC(inputs, AutoNCP(neurons, neurons - 3), return_sequences=False)
            self.head = nn.Linear(self.rnn.output_size, classes)

        def __call__(self, x):
            output, _ = self.rnn(x)
            return self.head(output)

    assert Classifier(I, 24, 10)(x).shape == (B, 10)


def test_wirings_of_the_guides():
    auto = AutoNCP(units=32, output_size=4, sparsity_level=0.5)
    manual = NCP(
        inter_neurons=16,
        command_neurons=8,
        motor_neurons=4,
        sensory_fanout=4,
        inter_fanout=4,
        recurrent_command_synapses=3,
        motor_fanin=4,
    )
    for wiring, units in ((auto, 32), (manual, 28), (FullyConnected(units=16, output_dim=8), 16)):
        assert not wiring.is_built()
        wiring.build(input_dim=10)
        assert (wiring.units, wiring.input_dim) == (units, 10)
        assert isinstance(wiring.synapse_count, int)
        assert isinstance(wiring.adjacency_matrix, mx.array)
        other = type(wiring).from_config(wiring.get_config())
        other.load_state_dict(wiring.state_dict())
        assert mx.array_equal(other.adjacency_matrix, wiring.adjacency_matrix)
    sparse = Random(units=20, output_dim=2, sparsity_level=0.5, input_dim=3)
    assert sparse.synapse_count == 200


def test_a_wiring_of_ones_own(x):
    class Skip(Wiring):
        """A chain of neurons that also skips one, and feeds back from its end."""

        def __init__(self, units, output_size):
            super().__init__(units)
            self.set_output_dim(output_size)
            for n in range(units - 2):
                self.add_synapse(n, n + 1, 1)
                self.add_synapse(n, n + 2, -1)
            self.add_synapse(units - 1, 0, 1)

        def build(self, input_dim):
            super().build(input_dim)
            for n in range(input_dim):
                self.add_sensory_synapse(n, n % self.units, 1)

    wiring = Skip(7, output_size=2)
    assert wiring.synapse_count == 11
    for model in (CfC(cell=CfCCell(wiring)), LTC(cell=LTCCell(wiring)), CfC(I, wiring)):
        result = model(x)
        output = result[0][:, -1] if isinstance(result, tuple) else result
        assert output.shape == (B, 2)
    assert mx.array_equal(model.cell.wiring.adjacency_matrix, wiring.adjacency_matrix)


def test_a_cell_of_ones_own(x):
    class Decay(LiquidCell):
        op = "decay"

        def __init__(self, units):
            super().__init__()
            self.units = units

        state_size = property(lambda self: self.units)
        output_size = property(lambda self: self.units)
        sensory_size = property(lambda self: self.built_width)

        def build(self, input_shape):
            self.weight = mx.ones((self.units, input_shape[-1]))
            super().build(input_shape)

        def sequence(self, inputs, state, ts):
            states = []
            for t in range(inputs.shape[1]):
                span = ts[:, t, None] if isinstance(ts, mx.array) and ts.ndim else ts
                state = state * mx.exp(-mx.array(span)) + inputs[:, t] @ self.weight.T
                states.append(state)
            return mx.stack(states, axis=1)

        def readout(self, states):
            return states

    model = LiquidRNN(Decay(3), return_sequences=True, return_state=True)
    outputs, state = model(x, time_delta=0.5)
    wanted, sums = np.zeros((B, 3)), np.array(x, np.float64).sum(-1)
    for t in range(T):
        wanted = wanted * np.exp(-0.5) + sums[:, t, None]
    assert_close("state", state, wanted, FORWARD)
    assert outputs.shape == (B, T, 3)
    assert model.get_config()["cell"]["config"] == {"units": 3, "built_for": I}


def test_one_step_of_a_cell_and_gradients_of_time(x):
    model = LTC(cell=LTCCell(AutoNCP(16, 4)), return_sequences=True)
    spans = mx.random.uniform(0.5, 1.5, (B, T))
    outputs, state, states = model(x, time_delta=spans), mx.zeros((B, 16)), []
    for t in range(T):
        output, state = model.cell(x[:, t], state, spans[:, t])
        states.append(output)
    assert_close("outputs", mx.stack(states, axis=1), outputs, FORWARD)
    gradient = mx.grad(lambda ts: model(x, time_delta=ts).sum())(spans)
    assert gradient.shape == (B, T)
    assert np.isfinite(np.array(gradient)).all()
    assert mx.abs(gradient).max() > 0


def test_an_ensemble_averages(x):
    models = [CfC(cell=CfCCell(AutoNCP(16, 4))) for _ in range(3)]
    outputs = [model(x, time_delta=None) for model in models]
    mean = mx.mean(mx.stack(outputs), axis=0)
    assert_close("mean", mean, sum(np.array(o, np.float64) for o in outputs) / 3, FORWARD)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_checkpoints_give_the_same_layer(suffix, x, tmp_path):
    model = CfC(I, AutoNCP(16, 4))
    path = str(tmp_path / f"weights.{suffix}")
    model.save_weights(path)
    other = CfC.from_config(model.get_config())
    other.load_weights(path)
    assert_close("output", other(x)[0], model(x)[0], 0.0)
    assert len(tree_flatten(other.parameters())) == len(tree_flatten(model.parameters()))
