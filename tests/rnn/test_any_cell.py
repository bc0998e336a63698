"""`LiquidRNN` and `MMRNN` with the package's cells, a user's cells and plain functions."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import MMRNN, LiquidRNN, LSTMCell
from mlx_ncps.cells import CfCCell, LiquidCell, LTCCell, WiredCfCCell
from mlx_ncps.rnn import LTC, CfC
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close
from tests.support.rnn_layers import (
    GRADIENT,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    gradients,
    normal,
    spans,
    train,
)

H, O = 6, 2
BOTH = {"return_sequences": True, "return_state": True}


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


class Leaky(nn.Module):
    """h' = h + (1 - exp(-ts)) (tanh(W x + U h) - h), output V h': a user's own cell."""

    state_size, output_size, input_size = H, O, I

    def __init__(self):
        super().__init__()
        self.W = nn.Linear(I, H)
        self.U = nn.Linear(H, H)
        self.V = nn.Linear(H, O)

    def __call__(self, inputs, state, ts):
        target = mx.tanh(self.W(inputs) + self.U(state))
        state = state + (1 - mx.exp(-mx.array(ts))) * (target - state)
        return self.V(state), state


class Pair:
    """A plain class whose state is a tuple: a sum over time and a count of steps."""

    state_size, output_size = (I, 1), I

    def __call__(self, inputs, state, ts):
        total, count = state
        total, count = total + ts * inputs, count + 1
        return total / count, (total, count)


class Halving(LiquidCell):
    """A user's LiquidCell: its own loop over the sequence; it can't run without steps."""

    op, state_size, sensory_size, output_size = "halving", 1, I, 1

    def _create(self, width):
        self.gain = mx.ones((width,))

    def sequence(self, inputs, state, ts):
        states = []
        for t in range(inputs.shape[1]):
            span = ts if isinstance(ts, float) else ts[:, t, None]
            state = state / 2 + span * (inputs[:, t] * self.gain).sum(-1, keepdims=True)
            states.append(state)
        return mx.stack(states, axis=1)

    def readout(self, states):
        return -states


def accumulate(inputs, state, ts):
    """A plain function without state_size."""
    state = state + ts * inputs
    return 2 * state, state


def step_by_step(cell, x, states, ts):
    """The cell step by step: outputs [B, T, O] and the last state."""
    outputs = []
    for t in range(x.shape[1]):
        output, states = cell(x[:, t], states, ts[:, t : t + 1])
        outputs.append(output)
    return mx.stack(outputs, axis=1), states


CELLS = {
    "leaky": (Leaky, lambda: normal(B, H)),
    "pair": (Pair, lambda: (normal(B, I), mx.ones((B, 1)))),
    "function": (lambda: accumulate, lambda: normal(B, I)),
    "cfc": (lambda: CfCCell(I, H), lambda: normal(B, H)),
    "cfc_wired": (lambda: WiredCfCCell(I, AutoNCP(10, 2)), lambda: normal(B, 10)),
    "ltc": (lambda: LTCCell(AutoNCP(10, 2), I), lambda: normal(B, 10)),
    "halving": (Halving, lambda: normal(B, 1)),
}
all_cells = pytest.mark.parametrize("name", CELLS)


def make(name, **options):
    cell, state = CELLS[name]
    layer = LiquidRNN(cell(), **options)
    if isinstance(layer.rnn_cell, LiquidCell):
        layer.build(I)
    return layer, state()


# --- LiquidRNN ---------------------------------------------------------------------------------


@all_cells
def test_layer_equals_its_cell_step_by_step(name):
    layer, hx = make(name, **BOTH)
    x, ts = normal(B, T, I), spans(B, T)
    want, want_state = step_by_step(layer.rnn_cell, x, hx, ts)
    output, state = layer(x, hx, ts)
    assert_close("output", output, want, SAME)
    assert_trees_close("state", state, want_state, SAME)
    layer.return_sequences = layer.return_state = False
    assert_close("last", layer(x, hx, ts), want[:, -1], SAME)


@pytest.mark.parametrize("name", ["leaky", "pair", "cfc", "ltc", "halving"])
def test_state_starts_at_zero(name):
    layer, hx = make(name)
    zeros = tuple(0 * h for h in hx) if isinstance(hx, tuple) else 0 * hx
    x = normal(B, T, I)
    assert_close("output", layer(x), layer(x, zeros), 0.0)


def test_a_cell_may_make_its_own_initial_state():
    class Started:
        def __call__(self, inputs, state, ts):
            return state["sum"], {"sum": state["sum"] + inputs}

        def get_initial_state(self, inputs=None, batch_size=None):
            return {"sum": mx.full((batch_size, I), 3.0)}

    x = normal(B, T, I)
    output, state = LiquidRNN(Started(), **BOTH)(x)
    assert_close("state", state["sum"], 3 + x.sum(axis=1), SAME)
    assert_close("output", output[:, 1], 3 + x[:, 0], SAME)
    _, alone = LiquidRNN(Started(), **BOTH)(x[0], {"sum": mx.zeros((I,))})
    assert_close("unbatched", alone["sum"], x[0].sum(axis=0), SAME)


@all_cells
def test_every_layout_gives_the_same(name):
    layer, hx = make(name, **BOTH)
    x, ts = normal(B, T, I), spans(B, T)
    want, state = layer(x, hx, ts)
    one = tuple(h[1] for h in hx) if isinstance(hx, tuple) else hx[1]
    alone, alone_state = layer(x[1], one, ts[1])
    assert_close("unbatched", alone, want[1], SAME)
    want_one = tuple(h[1] for h in state) if isinstance(hx, tuple) else state[1]
    assert_trees_close("unbatched state", alone_state, want_one, SAME)
    layer.batch_first = False
    assert_close("time-major", layer(x.swapaxes(0, 1), hx, ts.T)[0].swapaxes(0, 1), want, SAME)


@all_cells
def test_masked_batch_equals_the_shorter_sequences(name):
    layer, hx = make(name, **BOTH)
    x, ts = normal(B, T, I), spans(B, T)
    mask = mx.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 0, 0, 0]]) != 0
    output, state = layer(mx.where(mask[..., None], x, 1e30), hx, ts, mask=mask)
    for b in range(B):
        real = mx.array(np.flatnonzero(np.array(mask[b])))
        one = tuple(h[b] for h in hx) if isinstance(hx, tuple) else hx[b]
        want, want_state = layer(x[b, real], one, ts[b, real])
        assert_close(f"output {b}", output[b, real], want, SAME)
        got = tuple(s[b] for s in state) if isinstance(state, tuple) else state[b]
        assert_trees_close(f"state {b}", got, want_state, SAME)
    if not isinstance(layer.rnn_cell, LiquidCell):
        assert_close("before any step", output[1, 0], np.zeros(output.shape[-1]), 0.0)


@pytest.mark.parametrize("name", ["leaky", "pair", "function", "ltc"])
def test_bidirectional_is_two_passes(name):
    layer, hx = make(name, bidirectional=True, **BOTH)
    x, ts = normal(B, T, I), spans(B, T)
    forward, f_state = LiquidRNN(layer.rnn_cell, **BOTH)(x, hx, ts)
    backward, b_state = LiquidRNN(layer.backward.rnn_cell, **BOTH)(x[:, ::-1], hx, ts[:, ::-1])
    output, states = layer(x, (hx, hx), ts)
    assert_close("output", output, mx.concatenate([forward, backward[:, ::-1]], axis=-1), SAME)
    assert_trees_close("states", states, (f_state, b_state), SAME)


def test_the_backward_cell_can_be_given():
    first, second = Leaky(), Leaky()
    layer = LiquidRNN(first, bidirectional=True, backward_cell=second, merge_mode=None)
    assert layer.backward.rnn_cell is second
    x = normal(B, T, I)
    assert_close("backward", layer(x)[1], LiquidRNN(second)(x[:, ::-1]), SAME)
    copied = LiquidRNN(first, bidirectional=True).backward.rnn_cell
    assert copied is not first
    assert_close("a copy has the same weights", copied.W.weight, first.W.weight, 0.0)


@all_cells
def test_no_steps_and_no_samples(name):
    layer, hx = make(name, **BOTH)
    output, state = layer(mx.zeros((B, 0, I)), hx)
    width = layer(normal(B, T, I), hx)[0].shape[-1]
    assert output.shape == (B, 0, width)
    assert_trees_close("state", state, hx, 0.0)
    layer.return_sequences = False
    output, _ = layer(mx.zeros((B, 0, I)), hx)
    plain = not isinstance(layer.rnn_cell, LiquidCell)
    assert_close("output", output, mx.zeros((B, width)) if plain else layer.rnn_cell.readout(hx), 0)
    nobody = tuple(h[:0] for h in hx) if isinstance(hx, tuple) else hx[:0]
    assert layer(mx.zeros((0, T, I)), nobody)[0].shape == (0, width)


def test_a_users_module_trains_compiles_and_is_saved(tmp_path):
    models = [LiquidRNN(Leaky(), bidirectional=True, proj_size=1) for _ in range(2)]
    models[1].update(models[0].parameters())
    names = set(dict(tree_flatten(models[0].trainable_parameters())))
    assert {"rnn_cell.W.weight", "backward.rnn_cell.V.bias", "fc.weight"} <= names
    x, ts = normal(B, T, I), spans(B, T)
    mask = mx.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 0, 0, 0]])

    def loss(model):
        return mx.mean(mx.square(model(x, None, ts, mask=mask) - 1.0))

    plain, compiled = (train(m, loss, 5, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    assert plain[-1] < plain[0]
    models[0].save_weights(str(tmp_path / "w.npz"))
    other = LiquidRNN(Leaky(), bidirectional=True, proj_size=1)
    other.load_weights(str(tmp_path / "w.npz"))
    assert_close("output", other(x, None, ts), models[0](x, None, ts), SAME)


def test_liquid_rnn_is_what_cfc_and_ltc_are():
    x, ts = normal(B, T, I), spans(B, T)
    for kind, cell in ((CfC, CfCCell(I, H)), (LTC, LTCCell(H, I))):
        want = kind(cell, **BOTH)(x, None, ts)
        assert_trees_close("result", LiquidRNN(cell, **BOTH)(x, None, ts), want, 0.0)
        plan = LiquidRNN(cell).explain((B, T, I))
        assert plan == kind(cell).explain((B, T, I))
        assert plan.stepwise == ""


def test_explain_of_plain_cells():
    plan = LiquidRNN(Leaky()).explain((B, T, I))
    assert plan.calls == ()
    assert "step by step: Leaky is called once for each step" in str(plan)
    assert "accumulate is called once" in str(LiquidRNN(accumulate).explain((B, T, I)))


def test_the_lstm_cell_is_a_cell_too():
    """An LSTM knows no time: it refuses time spans rather than to ignore them."""
    torch = pytest.importorskip("torch")
    cell = LSTMCell(I, H)
    layer, x = LiquidRNN(cell, **BOTH), normal(B, T, I)
    theirs = torch.nn.LSTM(I, H, batch_first=True)
    order = [1, 2, 0, 3]  # torch: input gate, forget gate, candidate, output gate
    parts = {
        "weight_ih_l0": np.split(np.array(cell.input_map.weight), 4),
        "weight_hh_l0": np.split(np.array(cell.recurrent_map.weight), 4),
        "bias_ih_l0": np.split(np.array(cell.input_map.bias), 4),
    }
    parts["bias_ih_l0"][2] = parts["bias_ih_l0"][2] + 1.0  # our forget gate opens by 1
    state = {k: torch.from_numpy(np.concatenate([v[n] for n in order])) for k, v in parts.items()}
    theirs.load_state_dict(state | {"bias_hh_l0": torch.zeros(4 * H)})
    want, (h, c) = theirs(torch.from_numpy(np.array(x)))
    output, state = layer(x)
    assert_close("output", output, want.detach().numpy(), SAME)
    assert_trees_close("state", state, (h[0].detach().numpy(), c[0].detach().numpy()), SAME)
    with pytest.raises(ValueError, match=r"\[rnn\] timespans must be left out for LSTMCell"):
        layer(x, timespans=spans(B, T))
    with pytest.raises(ValueError, match=r"\[rnn\] timespans must be left out for LSTMCell"):
        layer(x, timespans=0.5)
    assert_close("ones", layer(x, timespans=1.0)[0], output, 0.0)


# --- MMRNN -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["leaky", "cfc", "cfc_wired", "ltc", "halving"])
def test_mixed_memory_of_any_cell_is_an_lstm_in_front_of_it(name):
    cell = CELLS[name][0]()
    layer = MMRNN(cell, **BOTH)
    x, ts = normal(B, T, I), spans(B, T)
    units = cell.state_size
    h, c = hx = normal(B, units), normal(B, units)
    got, state = layer(x, hx, ts)
    for t in range(T):
        h, (_, c) = layer.lstm(x[:, t], (h, c))
        output, h = cell(x[:, t], h, ts[:, t : t + 1])
        assert_close(f"output {t}", got[:, t], output, SAME)
    assert_trees_close("state", state, (h, c), SAME)


def test_mixed_memory_equals_that_of_the_layers():
    x, ts = normal(B, T, I), spans(B, T)
    for kind, cell in ((CfC, CfCCell(I, H)), (LTC, LTCCell(H, I))):
        layer = kind(cell, mixed_memory=True, **BOTH)
        memory = MMRNN(cell, **BOTH)
        memory.lstm = layer.lstm
        assert_trees_close("result", memory(x, None, ts), layer(x, None, ts), 0.0)


def test_mixed_memory_of_a_users_cell_has_gradients():
    layer, x, ts = MMRNN(Leaky()), normal(B, T, I), spans(B, T)
    grads = gradients(layer, lambda x, ts: mx.sum(layer(x, None, ts)), x, ts)
    for key, grad in grads.items():
        assert np.abs(np.array(grad)).max() > 0, key
    assert {"lstm.input_map.bias", "rnn_cell.U.weight"} <= set(grads)


# --- errors ------------------------------------------------------------------------------------


def test_wrong_cells_raise():
    x = normal(B, T, I)
    with pytest.raises(ValueError, match=r"\[rnn\] cell must be callable .*, got int"):
        LiquidRNN(5)
    with pytest.raises(ValueError, match=r"\[rnn\] cell must be callable .*, got NoneType"):
        LiquidRNN(None)
    with pytest.raises(ValueError, match=r"\[rnn\] backward_cell wants bidirectional=True"):
        LiquidRNN(Leaky(), backward_cell=Leaky())
    with pytest.raises(ValueError, match=r"\[rnn\] hx must be given for accumulate, which has"):
        LiquidRNN(accumulate)(x)
    with pytest.raises(ValueError, match=r"\[rnn\] hx must be \[B, \.\.\.\], B = 3, got \(2, 4\)"):
        LiquidRNN(accumulate)(x, mx.zeros((2, I)))
    with pytest.raises(ValueError, match=r"\[rnn\] <lambda> must return \(output, state\), got"):
        LiquidRNN(lambda x, h, ts: h)(x, mx.zeros((B, I)))
    with pytest.raises(ValueError, match=r"\[mmrnn\] mixed_memory wants a cell whose state_size"):
        MMRNN(Pair())
    with pytest.raises(ValueError, match=r"\[rnn\] proj_size wants a cell with an output_size"):
        LiquidRNN(accumulate, proj_size=3)
    with pytest.raises(ValueError, match=r"\[mmrnn\] mixed_memory must be True or left out"):
        MMRNN(Leaky(), mixed_memory=False)
    with pytest.raises(ValueError, match=r"\[rnn\] hx must be \(0, 1\), got array"):
        LiquidRNN(Pair())(x, mx.zeros((B, I)))
    with pytest.raises(ValueError, match="float32, float16 or bfloat16, got int32"):
        LiquidRNN(Leaky())(mx.zeros((B, T, I), mx.int32))
