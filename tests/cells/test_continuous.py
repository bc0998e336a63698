"""The continuous-time baselines against float64 NumPy twins written from their equations, in values
and gradients; identities at ts = 0, orders of convergence, and all that `LiquidRNN` does with them.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import (
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidCell,
    LiquidRNN,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
)
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close, tolerance
from tests.support.rnn_layers import B, I, T, assert_trees_close, gradients, normal, spans, train

H = 6
SAME, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
CELLS = {
    "ctrnn": lambda inputs=I, **o: CTRNNCell(inputs, H, **o),
    "ctrnn_tau": lambda inputs=I, **o: CTRNNCell(
        inputs, H, tau=0.7, learn_tau=True, ode_solver="semi_implicit", **o
    ),
    "neural_ode": lambda inputs=I, **o: NeuralODECell(inputs, H, **o),
    "neural_ode_deep": lambda inputs=I, **o: NeuralODECell(inputs, H, (5, 7), ode_unfolds=2, **o),
    "eltc": lambda inputs=I, **o: ELTCCell(H, inputs, **o),
    "eltc_wired": lambda inputs=I, **o: ELTCCell(AutoNCP(10, 3), inputs, "lecun_tanh", **o),
    "ctgru": lambda inputs=I, **o: CTGRUCell(inputs, H, scales=4, **o),
    "ctgru_tau": lambda inputs=I, **o: CTGRUCell(inputs, H, scales=3, tau=0.2, **o),
    "ode_rnn": lambda inputs=I, **o: ODERNNCell(inputs, H, **o),
    "ode_lstm": lambda inputs=I, **o: ODELSTMCell(inputs, H, (5,), **o),
}
ODE_CELLS = ("ctrnn", "ctrnn_tau", "neural_ode", "neural_ode_deep", "eltc", "eltc_wired")
all_cells = pytest.mark.parametrize("name", CELLS)
ode_cells = pytest.mark.parametrize("name", ODE_CELLS)


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(11)


def make(name, **options):
    cell = CELLS[name](**options)
    for key, array in tree_flatten(cell.trainable_parameters()):
        if key.endswith("bias") or key == "b":  # zeros would hide a forgotten bias
            cell.load_weights([(key, array + 0.3 * normal(*array.shape))], strict=False)
    return cell


def state_of(cell):
    sizes = cell.state_size
    return tuple(normal(B, n) for n in sizes) if isinstance(sizes, tuple) else normal(B, sizes)


# --- float64 twins: (parameters by name, x [B, I], state, ts [B, 1], cell's options) -> state ---


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def integrate(slope, h, ts, cell):
    dt = ts / cell.ode_unfolds
    for _ in range(cell.ode_unfolds):
        if cell.ode_solver == "explicit":
            h = h + dt * slope(h)
        else:
            k1 = slope(h)
            k2 = slope(h + dt / 2 * k1)
            k3 = slope(h + dt / 2 * k2)
            k4 = slope(h + dt * k3)
            h = h + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return h


def network(p, h):
    layers = sum(key.startswith("field.") and key.endswith("weight") for key in p)
    for n in range(layers):
        h = linear(p, f"field.{n}", h)
        h = np.tanh(h) if n < layers - 1 else h
    return h


def ctrnn(p, x, h, ts, cell):
    tau = np.exp(p["log_tau"]) if cell.learn_tau else cell.tau

    def drive(h):
        return np.tanh(linear(p, "input_map", x) + linear(p, "recurrent_map", h))

    if cell.ode_solver != "semi_implicit":
        return integrate(lambda h: drive(h) - h / tau, h, ts, cell)
    dt = ts / cell.ode_unfolds
    for _ in range(cell.ode_unfolds):  # (h' - h) / dt = drive(h) - h' / tau
        h = (h + dt * drive(h)) / (1 + dt / tau)
    return h


def neural_ode(p, x, h, ts, cell):
    def slope(h):
        first = np.tanh(linear(p, "input_map", x) + linear(p, "recurrent_map", h))
        return np.tanh(network(p, first)) if "field.0.weight" in p else first

    return integrate(slope, h, ts, cell)


def eltc(p, x, v, ts, cell):
    w, sensory = p["w"] * p["sparsity_mask"], p["sensory_w"] * p["sensory_sparsity_mask"]

    def act(z):
        return 1.7159 * np.tanh(0.666 * z) if cell.activation == "lecun_tanh" else np.tanh(z)

    return integrate(lambda v: act(x @ sensory + p["b"] + v @ w) - v, v, ts, cell)


def ctgru(p, x, state, ts, cell):
    traces = [state.reshape(B, H, cell.scales)[..., i] for i in range(cell.scales)]
    taus = [cell.tau * 10 ** (i / 2) for i in range(cell.scales)]
    inputs = np.concatenate([x, sum(traces)], -1)

    def shares(name):
        ln = linear(p, name, inputs)
        e = [np.exp(-((ln - np.log(tau)) ** 2)) for tau in taus]
        return [one / sum(e) for one in e]

    retrieved = sum(r * g for r, g in zip(shares("retrieve"), traces, strict=True))
    q = np.tanh(linear(p, "detect", np.concatenate([x, retrieved], -1)))
    new = [
        ((1 - s) * g + s * q) * np.exp(-ts / tau)
        for s, g, tau in zip(shares("store"), traces, taus, strict=True)
    ]
    return np.stack(new, -1).reshape(state.shape)


def ode_rnn(p, x, h, ts, cell):
    h = integrate(lambda h: network(p, h), h, ts, cell)
    gates = sigmoid(linear(p, "gates", np.concatenate([x, h], -1)))
    r, z = gates[:, :H], gates[:, H:]
    n = np.tanh(linear(p, "candidate", np.concatenate([x, r * h], -1)))
    return (1 - z) * n + z * h


def ode_lstm(p, x, state, ts, cell):
    h, c = state
    z = linear(p, "lstm.input_map", x) + linear(p, "lstm.recurrent_map", h)
    i, ig, fg, og = np.split(z, 4, -1)
    c = c * sigmoid(fg + 1) + np.tanh(i) * sigmoid(ig)
    h = np.tanh(c) * sigmoid(og)
    return integrate(lambda h: network(p, h), h, ts, cell), c


TWINS = {f.__name__: f for f in (ctrnn, neural_ode, eltc, ctgru, ode_rnn, ode_lstm)}


def float64(tree):
    return {key: np.array(array, np.float64) for key, array in tree_flatten(tree)}


def want(cell, p, x, state, ts):
    """All states of a sequence, [B, T, H], or a pair of them."""
    x, ts = np.array(x, np.float64), np.array(ts, np.float64)
    pair = isinstance(state, tuple)
    state = tuple(np.array(s, np.float64) for s in state) if pair else np.array(state, np.float64)
    states = []
    for t in range(x.shape[1]):
        state = TWINS[cell.op](p, x[:, t], state, ts[:, t : t + 1], cell)
        states.append(state)
    return tuple(np.stack(s, 1) for s in zip(*states, strict=True)) if pair else np.stack(states, 1)


# --- values and gradients ---


@all_cells
def test_sequence_equals_float64(name):
    cell = make(name)
    x, state, ts = normal(B, T, I), state_of(cell), spans(B, T)
    got = cell.sequence(x, state, ts)
    assert_trees_close("states", got, want(cell, float64(cell.parameters()), x, state, ts), SAME)


@all_cells
def test_cell_steps_equal_the_sequence_and_the_layer(name):
    cell = make(name)
    x, start, ts = normal(B, T, I), state_of(cell), spans(B, T)
    outputs, state = [], start
    for t in range(T):
        output, state = cell(x[:, t], state, ts[:, t])
        outputs.append(output)
    layer = LiquidRNN(cell, return_sequences=True, return_state=True)
    got, last = layer(x, start, ts)
    assert got.shape == (B, T, cell.output_size)
    assert_close("output", got, mx.stack(outputs, 1), SAME)
    assert_trees_close("state", last, state, SAME)


@all_cells
def test_output_is_read_from_the_state(name):
    cell = make(name)
    output, state = cell(normal(B, I), state_of(cell), 0.6)
    if name == "eltc_wired":  # the motor neurons come first
        want = np.array(state)[:, :3]
    elif name.startswith("ctgru"):
        want = np.array(state).reshape(B, H, -1).sum(axis=-1)
    else:
        want = np.array(state[0] if name == "ode_lstm" else state)
    assert_close("output", output, want, SAME)


@all_cells
def test_gradients_equal_differences_of_the_twin(name):
    """Derivatives of a random sum of all states along random directions of each array."""
    cell = make(name)
    x, state, ts = normal(B, T, I), state_of(cell), spans(B, T)
    weights = [normal(*s.shape) for _, s in tree_flatten(cell.sequence(x, state, ts))]
    pair = isinstance(state, tuple)
    arrays = [x, ts, *(state if pair else (state,))]

    def loss(x, ts, *state):
        states = cell.sequence(x, state if pair else state[0], ts)
        parts = tree_flatten(states)
        return sum(mx.sum(w * s) for w, (_, s) in zip(weights, parts, strict=True))

    def truth(p, x, ts, *state):
        states = want(cell, p, x, state if pair else state[0], ts)
        states = states if pair else (states,)
        return sum(np.sum(np.array(w) * s) for w, s in zip(weights, states, strict=True))

    got = gradients(cell, loss, *arrays)
    p, values = float64(cell.parameters()), [np.array(a, np.float64) for a in arrays]
    assert {key for key in got if key[:7] != "arrays."} == set(float64(cell.trainable_parameters()))
    rng = np.random.default_rng(3)
    for key, gradient in got.items():
        gradient = np.array(gradient, np.float64)
        direction = 1e-5 * rng.standard_normal(gradient.shape)

        def moved(sign, key=key, direction=direction):
            if not key.startswith("arrays."):
                return truth({**p, key: p[key] + sign * direction}, *values)
            n = int(key[7:])
            return truth(p, *values[:n], values[n] + sign * direction, *values[n + 1 :])

        error = abs(np.sum(gradient * direction) - (moved(1) - moved(-1)) / 2)
        bound = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert bound > 0, f"{name}: d{key} is 0"
        assert error < GRADIENT * bound, f"{name}: d{key}: {error / bound:.1e}"


# --- identities ---


@ode_cells
def test_no_time_leaves_an_ode_where_it_is(name):
    cell = make(name)
    state = state_of(cell)
    assert np.array_equal(np.array(cell(normal(B, I), state, 0.0)[1]), np.array(state))


def test_ode_lstm_and_ode_rnn_without_time_have_no_field():
    """At ts = 0 an ODE-LSTM is its LSTM, and an ODE-RNN its GRU, whatever its field."""
    x, lstm, rnn = normal(B, I), make("ode_lstm"), make("ode_rnn")
    state = state_of(lstm)
    assert_trees_close("lstm", lstm(x, state, 0.0)[1], lstm.lstm(x, state)[1], SAME)
    before = rnn(x, state[0], 0.0)[0]
    rnn.field[0].weight = 2 * rnn.field[0].weight
    assert np.array_equal(np.array(before), np.array(rnn(x, state[0], 0.0)[0]))
    assert not np.array_equal(np.array(before), np.array(rnn(x, state[0], 0.1)[0]))


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ctrnn", {"ode_solver": "explicit"}, 1),
        ("ctrnn", {"ode_solver": "semi_implicit"}, 1),
        ("ctrnn", {"ode_solver": "runge_kutta"}, 4),
        ("neural_ode", {"ode_solver": "explicit"}, 1),
        ("neural_ode", {"ode_solver": "runge_kutta"}, 4),
        ("eltc", {"ode_solver": "explicit"}, 1),
        ("eltc", {"ode_solver": "semi_implicit"}, 1),
        ("eltc", {"ode_solver": "runge_kutta"}, 4),
        ("ode_rnn", {"ode_solver": "explicit"}, 1),
        ("ode_rnn", {"ode_solver": "runge_kutta"}, 4),
        ("ode_lstm", {"ode_solver": "explicit"}, 1),
        ("ode_lstm", {"ode_solver": "runge_kutta"}, 4),
    ],
)
def test_solver_converges_at_its_order(name, options, order):
    """Halving the step divides the distance to the solution by 2 ** order; all solvers reach the
    same one.
    """
    cell = make(name)
    x, state = normal(B, I), state_of(cell)

    def error(solver, unfolds):
        cell.ode_solver, cell.ode_unfolds = solver, unfolds
        return np.linalg.norm(np.array(cell(x, state, 3.0)[0]) - solution)

    solution = 0.0
    cell.ode_solver, cell.ode_unfolds = "runge_kutta", 48
    solution = np.array(cell(x, state, 3.0)[0])
    unfolds = 4 if order == 4 else 64  # float32 hides what is smaller
    errors = [error(options["ode_solver"], n) for n in (unfolds, 2 * unfolds)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25 * order)


def test_ctrnn_relaxes_with_its_time_constant():
    cell = CTRNNCell(I, H, tau=0.5, ode_solver="runge_kutta", ode_unfolds=20)
    cell.update({"recurrent_map": {"weight": mx.zeros((H, H))}})
    x, h = normal(B, I), normal(B, H)
    target, ts = 0.5 * mx.tanh(cell.input_map(x)), mx.array([[0.1], [1.0], [3.0]])
    want = target + (h - target) * mx.exp(-ts / 0.5)
    assert_close("h", cell(x, h, ts)[0], want, 10 * SAME)  # the solver's own error


def test_learned_tau_equals_a_number():
    fixed, learned = CTRNNCell(I, H, tau=0.3), CTRNNCell(I, H, tau=0.3, learn_tau=True)
    learned.update(fixed.parameters())
    x, h = normal(B, I), normal(B, H)
    assert_close("h", learned(x, h, 0.7)[0], fixed(x, h, 0.7)[0], SAME)
    assert "log_tau" in dict(tree_flatten(learned.trainable_parameters()))


def test_ctgru_trace_decays_at_its_scale():
    """With no signal, exp(-ts / tau_i) is left of a trace that stores nothing."""
    cell = CTGRUCell(I, H, scales=3, tau=0.5)
    cell.update({"detect": {"weight": mx.zeros((H, I + H)), "bias": mx.zeros((H,))}})
    cell.update({"store": {"weight": mx.zeros((H, I + H)), "bias": mx.full((H,), 1e3)}})
    state = normal(B, H, 3)  # lnS is far beyond the longest scale, which takes what is stored
    _, new = cell(normal(B, I), state.reshape(B, -1), 0.8)
    decay = mx.exp(-0.8 / (0.5 * 10 ** (mx.arange(3) / 2)))
    want = state * decay * mx.array([1.0, 1.0, 0.0])
    assert_close("traces", new.reshape(B, H, 3), want, SAME)


def test_eltc_absent_synapses_carry_nothing():
    cell = make("eltc_wired")
    x, v, wiring = normal(1, I), normal(1, 10), cell.wiring
    for kind, array, adjacency in (
        ("v", v, np.array(wiring.adjacency)),
        ("x", x, np.array(wiring.sensory_adjacency)),
    ):

        def slope(array, kind=kind):
            inputs, state = (array, v) if kind == "x" else (x, array)
            cell.ode_solver, cell.ode_unfolds = "explicit", 1
            return (cell(inputs, state, 1.0)[1])[0]  # v + act - v

        jacobian = np.stack(
            [np.array(mx.vjp(slope, [array], [mx.eye(10)[j]])[1][0])[0] for j in range(10)], 1
        )
        assert np.array_equal(jacobian != 0, adjacency != 0), kind
    assert cell.synapse_count == wiring.synapse_count
    assert cell.sensory_synapse_count == wiring.sensory_synapse_count


# --- as cells of LiquidRNN ---


@all_cells
def test_layer_with_a_mask_equals_shorter_sequences(name):
    cell = make(name)
    layer = LiquidRNN(cell, return_sequences=True, return_state=True)
    lengths = [T, 2, 0]
    mask = mx.arange(T) < mx.array(lengths)[:, None]
    x, ts, start = normal(B, T, I), spans(B, T), state_of(cell)
    x = mx.where(mask[..., None], x, mx.array(np.nan))
    output, state = layer(x, start, ts, mask=mask)
    for b, length in enumerate(lengths):
        one = mx.array([b])
        begin = tuple(s[one] for s in start) if isinstance(start, tuple) else start[one]
        alone, last = layer(x[one, :length], begin, ts[one, :length])
        assert_close(f"output {b}", output[one, :length], alone, SAME)
        got = tuple(s[one] for s in state) if isinstance(state, tuple) else state[one]
        assert_trees_close(f"state {b}", got, last, SAME)


@all_cells
def test_compiled_training_equals_eager_and_learns(name):
    def losses(compiled):
        mx.random.seed(5)
        cell = make(name)
        cell.ode_unfolds = 1  # compiling the unrolled graph takes its time
        model = LiquidRNN(cell, proj_size=2)
        x, ts, target = normal(B, 2, I), spans(B, 2), normal(B, 2)
        return train(
            model, lambda m: 0.3 * mx.mean((m(x, timespans=ts) - target) ** 2), 12, compiled
        )

    eager, compiled = losses(False), losses(True)
    assert_close("losses", mx.array(compiled), mx.array(eager), 10 * GRADIENT)
    assert eager[-1] < 0.9 * eager[0]


@all_cells
def test_sizes_building_and_redrawing(name):
    cell, lazy = make(name), CELLS[name](None)
    assert isinstance(cell, LiquidCell)
    assert (lazy.sensory_size, lazy.built) == (None, False)
    layer = LiquidRNN(lazy)
    assert layer(normal(B, T, I)).shape == (B, cell.output_size)
    assert lazy.sensory_size == cell.sensory_size == I
    assert lazy.state_size == cell.state_size
    assert cell.motor_size == cell.output_size
    zeros = cell.get_initial_state(batch_size=2)
    assert_trees_close("zeros", zeros, _map(lambda n: mx.zeros((2, n)), cell.state_size), SAME)
    before = {key: np.array(a) for key, a in tree_flatten(cell.trainable_parameters())}
    cell.redraw()
    after = dict(tree_flatten(cell.trainable_parameters()))
    assert set(before) == set(after)
    for key in before:
        if before[key].ndim == 2:
            assert not np.array_equal(before[key], np.array(after[key])), key


def _map(function, state):
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


@all_cells
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_inputs_round_once(name, dtype):
    cell = make(name)
    x, state, ts = normal(B, T, I).astype(dtype), state_of(cell), spans(B, T)
    state = _map(lambda s: s.astype(dtype), state)
    got = cell.sequence(x, state, ts)
    x, state, full = (_map(lambda s: s.astype(mx.float32), one) for one in (x, state, got))
    truth = want(cell, float64(cell.parameters()), x, state, ts)
    assert all(s.dtype == dtype for _, s in tree_flatten(got))
    assert_trees_close("states", full, truth, tolerance(str(dtype).split(".")[-1], "forward"))


@all_cells
def test_sequence_of_no_steps_and_a_nan_time(name):
    cell = make(name)
    layer = LiquidRNN(cell, return_sequences=True, return_state=True)
    start = state_of(cell)
    output, state = layer(mx.zeros((B, 0, I)), start)
    assert output.shape == (B, 0, cell.output_size)
    assert_trees_close("state", state, start, SAME)
    ts = mx.ones((B, T)) * mx.array([1.0, 1.0, -1.0, 1.0, 1.0])
    output, _ = layer(normal(B, T, I), start, ts)
    assert np.isfinite(np.array(output[:, :2])).all()
    assert np.isnan(np.array(output[:, 2:])).all()


@pytest.mark.parametrize("name", ["ctrnn", "ctgru", "ode_rnn"])
def test_layer_is_bidirectional_and_has_mixed_memory(name):
    x, ts = normal(B, T, I), spans(B, T)
    layer = LiquidRNN(make(name), bidirectional=True, return_sequences=True)
    forward = LiquidRNN(layer.rnn_cell, return_sequences=True)(x, timespans=ts)
    backward = LiquidRNN(layer.backward.rnn_cell, return_sequences=True)
    backward = backward(x[:, ::-1], timespans=ts[:, ::-1])[:, ::-1]
    assert_close("both", layer(x, timespans=ts), mx.concatenate([forward, backward], -1), SAME)
    output, (h, c) = LiquidRNN(make(name), mixed_memory=True, return_state=True)(x, timespans=ts)
    assert output.shape == (B, H)
    assert h.shape == c.shape


# --- errors ---


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        (CTRNNCell, {"hidden_size": 0}, r"\[ctrnn\] hidden_size must be an integer >= 1, got 0"),
        (
            CTRNNCell,
            {"input_size": True},
            r"\[ctrnn\] input_size must be an integer >= 1, got True",
        ),
        (CTRNNCell, {"tau": 0.0}, r"\[ctrnn\] tau must be a number > 0, got 0.0"),
        (CTRNNCell, {"ode_unfolds": 0}, r"\[ctrnn\] ode_unfolds must be an integer >= 1, got 0"),
        (
            CTRNNCell,
            {"ode_solver": "rk4"},
            r"\[ctrnn\] ode_solver must be one of .* 'rk4'",
        ),
        (
            NeuralODECell,
            {"ode_solver": "semi_implicit"},
            r"\[neural_ode\] ode_solver must be one of",
        ),
        (
            NeuralODECell,
            {"field_units": (3, 0)},
            r"\[neural_ode\] field_units\[1\] must be",
        ),
        (CTGRUCell, {"scales": 0}, r"\[ctgru\] scales must be an integer >= 1, got 0"),
        (CTGRUCell, {"tau": -1}, r"\[ctgru\] tau must be a number > 0, got -1"),
        (ODERNNCell, {"ode_solver": "semi_implicit"}, r"\[ode_rnn\] ode_solver must be one of"),
        (ODELSTMCell, {"field_units": (0,)}, r"\[ode_lstm\] field_units\[0\] must be an integer"),
    ],
)
def test_wrong_options_raise(cell, options, message):
    with pytest.raises(ValueError, match=message):
        cell(**{"input_size": I, "hidden_size": H, **options})


def test_eltc_wrong_options_raise():
    with pytest.raises(ValueError, match=r"\[eltc\] wiring must be an integer >= 1, got 'x'"):
        ELTCCell("x", I)
    with pytest.raises(ValueError, match="activation"):
        ELTCCell(H, I, activation="step")


@all_cells
def test_wrong_shapes_raise(name):
    cell = make(name)
    x, state = normal(B, T, I), state_of(cell)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] inputs must be \[B, T, I\]"):
        cell.sequence(x[0], state, 1.0)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] inputs must have 4 features, got 3"):
        cell.sequence(x[..., :3], state, 1.0)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] state"):
        cell.sequence(x, normal(B, 3), 1.0)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] timespans must be"):
        cell.sequence(x, state, -1.0)
    with pytest.raises(ValueError, match=rf"\[{cell.op}\] timespans must be"):
        cell.sequence(x, state, spans(B, T + 1))
