"""What a layer tells of its neurons: names, states of all steps, conductances, time constants,
gates.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import (
    LTC,
    LTCRNN,
    CfC,
    CfCRNN,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidRNN,
    LTCCell,
    ODELSTMCell,
    ops,
)
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

from tests.support.cases import MODES, VARIANTS, assert_close
from tests.support.rnn_layers import (
    LAYERS,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    leaves,
    make,
    normal,
    spans,
    states_like,
)

WIRINGS = {
    "auto": lambda: AutoNCP(12, 2),
    "ncp": lambda: NCP(6, 5, 2, 3, 3, 6, 3),
    "random": lambda: Random(8, 3, 0.4),
    "full": lambda: FullyConnected(5, 2),
}
all_layers = pytest.mark.parametrize("name", LAYERS)
all_memories = pytest.mark.parametrize("mixed", [False, True])
all_wirings = pytest.mark.parametrize("wiring", WIRINGS)


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


# --- names ---


@all_wirings
@all_memories
@pytest.mark.parametrize("kind", ["ltc", "cfc", "eltc"])
def test_outputs_are_the_states_of_the_neurons_that_are_named_motor(wiring, kind, mixed):
    wiring = WIRINGS[wiring]()
    if kind == "eltc":
        layer = LiquidRNN(ELTCCell(wiring, I), return_state=True, mixed_memory=mixed)
    elif kind == "ltc":
        layer = LTC(I, wiring, output_mapping=None, mixed_memory=mixed, return_sequences=False)
    else:
        layer = CfC(I, wiring, mixed_memory=mixed, return_sequences=False)
    output, state = layer(normal(B, T, I))
    names = layer.state_names()
    if mixed:
        (names, memory), (state, _) = names, state
        assert memory == [f"memory_{name}" for name in names]
    assert sorted(names) == sorted(
        f"{wiring.get_type_of_neuron(n)}_{n}" for n in range(wiring.units)
    )
    for k in range(wiring.output_dim):
        at = names.index(f"motor_{k}")
        assert mx.array_equal(output[:, k], state[:, at]), k


@all_wirings
@pytest.mark.parametrize("kind", ["ltc", "cfc"])
def test_a_name_tells_which_synapses_an_entry_of_the_state_has(wiring, kind):
    """Entry j of the new state depends on entry i of the same layer where the wiring says it."""
    wiring = WIRINGS[wiring]()
    if kind == "ltc":
        layer = LTC(LTCCell(wiring, I, ode_unfolds=1), return_state=True)
    else:
        layer = CfC(I, wiring, mode="pure", fully_recurrent=False)
    own = layer.rnn_cell.wiring
    ids = [int(name.split("_")[1]) for name in layer.state_names()]
    of_layer = {n: at for at in range(own.num_layers) for n in own.get_neurons_of_layer(at)}
    x, v = normal(1, I), normal(1, own.units)
    rows = [mx.grad(lambda v, j=j: layer(x[:, None], v)[1][0, j])(v)[0] for j in range(own.units)]
    for j, row in enumerate(rows):
        for i, slope in enumerate(row.tolist()):
            source, target = ids[i], ids[j]
            if i == j or (kind == "cfc" and of_layer[source] != of_layer[target]):
                continue
            synapse = own.adjacency[source, target] != 0
            assert (slope != 0) == synapse, (layer.state_names()[i], layer.state_names()[j])


def shape_of(names):
    if isinstance(names, list):
        return len(names)
    return tuple(shape_of(part) for part in names)


def shape_of_state(state):
    if isinstance(state, mx.array):
        return state.shape[-1]
    return tuple(shape_of_state(part) for part in state)


OF_ALL = [
    *[
        lambda name=name, mixed=mixed, both=both: make(name, mixed_memory=mixed, bidirectional=both)
        for name in LAYERS
        for mixed in (False, True)
        for both in (False, True)
    ],
    lambda: CfCRNN(I, AutoNCP(9, 2), 2, bidirectional=True, mixed_memory=True),
    lambda: LTCRNN(I, 5, 3),
    lambda: LiquidRNN(ODELSTMCell(I, 5), return_state=True),
    lambda: LiquidRNN(CTGRUCell(I, 3, scales=2), return_state=True, bidirectional=True),
    lambda: LiquidRNN(CTRNNCell(I, 3), return_state=True, mixed_memory=True),
]


@pytest.mark.parametrize("made", OF_ALL)
def test_names_have_the_form_of_the_state(made):
    layer = made()
    _, state = layer(normal(B, T, I))
    names = layer.state_names()
    assert shape_of(names) == shape_of_state(state)

    def lists(tree):
        return [tree] if isinstance(tree, list) else [one for part in tree for one in lists(part)]

    for one in lists(names):
        assert len(set(one)) == len(one)
        assert all(isinstance(name, str) for name in one)


class Plain(nn.Module):
    state_size, output_size = (2, 3), 2

    def __call__(self, inputs, state, ts):
        return state[0], state


def test_names_of_a_users_cell_are_numbers_and_one_without_sizes_is_refused():
    names = LiquidRNN(Plain()).state_names()
    assert names == (["state_0_0", "state_0_1"], ["state_1_0", "state_1_1", "state_1_2"])
    with pytest.raises(ValueError, match=r"\[rnn\] state_names want a cell with a state_size"):
        LiquidRNN(lambda inputs, state, ts: (state, state)).state_names()


def test_names_exist_before_the_layer_is_built():
    names = CfC(None, AutoNCP(5, 1)).state_names()
    assert names == ["inter_2", "inter_3", "inter_4", "command_1", "motor_0"]


# --- states ---


@all_layers
@all_memories
def test_states_are_those_of_every_step(name, mixed):
    layer = make(name, mixed_memory=mixed, proj_size=3)
    x, ts, hx = normal(B, T, I), spans(B, T), states_like(layer)
    states = layer.states(x, hx, ts)
    for t in range(T):
        _, hx = layer.step(x[:, t], hx, ts[:, t])
        for got, want in zip(leaves(states), leaves(hx), strict=True):
            assert_close(f"states {t}", got[:, t], want, SAME)


@all_layers
@all_memories
def test_states_lie_as_the_outputs_do_and_end_in_the_state_of_the_call(name, mixed):
    layer = make(name, mixed_memory=mixed)
    x = normal(T, B, I)
    layer.batch_first = False
    states, want = layer.states(x), layer(x)[1]
    layer.batch_first = True
    for got, last in zip(leaves(states), leaves(want), strict=True):
        assert_close("last", got[-1], last, SAME)
        assert got.shape[:2] == (T, B)
    one = layer.states(x[:, 0])
    for got, all_of_them in zip(leaves(one), leaves(states), strict=True):
        assert_close("one sample", got, all_of_them[:, 0], SAME)
    assert [s.shape[:2] for s in leaves(layer.states(normal(B, 0, I)))] == [(B, 0)] * (1 + mixed)


@all_layers
def test_states_of_both_directions_are_in_the_order_of_time(name):
    layer = make(name, bidirectional=True)
    x = normal(B, T, I)
    forward, backward = layer.states(x)
    _, (last, first) = layer(x)
    assert_close("forward", forward[:, -1], last, SAME)
    assert_close("backward", backward[:, 0], first, SAME)


@all_layers
def test_states_stay_where_a_mask_leaves_a_step_out(name):
    layer = make(name)
    x, mask = normal(B, T, I), mx.array([[1, 0, 1, 1, 0]] * B)
    x = mx.where(mask[..., None] != 0, x, mx.nan)
    states = layer.states(x, mask=mask)
    assert mx.array_equal(states[:, 1], states[:, 0])
    assert_close("last", states[:, -1], layer(x, mask=mask)[1], SAME)


def test_states_of_a_stack_are_a_tuple_with_those_of_each_layer():
    stack = LTCRNN(I, 5, 3)
    x = normal(B, T, I)
    states, (_, want) = stack.states(x), stack(x)
    assert_trees_close("last", [s[:, -1] for s in states], list(want), SAME)


def test_states_are_a_call_which_a_stateful_layer_keeps():
    layer, twin = make("ltc", stateful=True), make("ltc", stateful=True)
    twin.update(layer.parameters())
    x = normal(B, 2 * T, I)
    first = layer.states(x[:, :T])
    twin(x[:, :T])
    assert_close("kept", layer(x[:, T:])[1], twin(x[:, T:])[1], SAME)
    assert first.shape == (B, T, 6)


def test_states_are_differentiable_and_compile():
    layer = make("cfc_wired")
    x = normal(B, T, I)
    slope = mx.grad(lambda x: layer.states(x)[..., 0].sum())(x)
    assert float(mx.abs(slope).max()) > 0
    compiled = mx.compile(lambda x: layer.states(x))
    assert_close("compiled", compiled(x), layer.states(x), SAME)


def test_a_call_computed_at_once_is_so_again_after_states():
    layer = make("ltc")
    x = normal(B, T, I)
    want = layer(x)
    layer.states(x)
    assert mx.array_equal(layer(x)[0], want[0])


# --- time constants, conductances and gates against float64 ---


def float64(params):
    """LTCParams or CfCParams in float64."""

    def of(leaf):
        if isinstance(leaf, tuple):
            return tuple(map(of, leaf))
        return None if leaf is None else np.array(leaf, np.float64)

    kind = getattr(ops.numpy, type(params).__name__)
    return kind(*map(of, params))


def moments(layer, x, hx):
    """(inputs, states before) of all steps, [B T, I] and [B T, H], float64."""
    states = layer.states(x, hx)
    before = mx.concatenate([hx[:, None], states[:, :-1]], axis=1)
    return tuple(np.array(a, np.float64).reshape(-1, a.shape[-1]) for a in (x, before))


def ltc_rates(x, v, params, implicit):
    """1 / tau from two solver steps: c v' + k d v' = c v + k n, for two k."""
    options = {"ode_unfolds": 1, "epsilon": 0.0, "implicit_param_constraints": implicit}
    k, l = 0.5, 1.5
    vk, vl = (ops.numpy.ltc_step(x, v, ts, params, **options) for ts in (k, l))
    return ((vk - v) / k - (vl - v) / l) / (vl - vk)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("units", [6, AutoNCP(10, 2)], ids=["dense", "wired"])
def test_time_constants_of_an_ltc_are_those_of_its_equation(units, implicit):
    layer = LTC(I, units, implicit_param_constraints=implicit)
    x, hx = normal(B, T, I), normal(B, layer.state_size)
    tau = layer.time_constants(x, hx)
    assert tau.shape == (B, T, layer.state_size)
    want = ltc_rates(*moments(layer, x, hx), float64(layer.rnn_cell.params()), implicit)
    assert_close("rates", 1 / np.array(tau).reshape(want.shape), want, SAME)
    found = layer.conductances(x, hx)
    cm = layer.rnn_cell.cm
    cm = mx.logaddexp(cm, 0) if implicit else cm
    assert_close("total", found.total, cm / tau, SAME)
    assert_close("sum", found.leak + found.recurrent + found.sensory, found.total, SAME)
    assert all(float(part.min()) >= 0 for part in found)


def test_time_constants_behind_a_backbone_read_what_the_backbone_gives():
    layer = LTC(LTCCell(6, I, backbone_units=5), return_state=True)
    x, hx = normal(B, T, I), normal(B, 6)
    z = layer.rnn_cell._sensed(x)
    _, before = moments(layer, x, hx)
    z = np.array(z, np.float64).reshape(-1, 5)
    want = ltc_rates(z, before, float64(layer.rnn_cell.params()), False)
    got = 1 / np.array(layer.time_constants(x, hx)).reshape(want.shape)
    assert_close("rates", got, want, SAME)


def test_time_constants_with_mixed_memory_are_of_the_state_that_the_lstm_wrote():
    layer = LTC(I, 6, mixed_memory=True)
    x, (h, c) = normal(B, 1, I), (normal(B, 6), normal(B, 6))
    h_star, _ = layer.lstm(x[:, 0], (h, c))
    twin = LTC(layer.rnn_cell, return_state=True)
    assert_close("tau", layer.time_constants(x, (h, c)), twin.time_constants(x, h_star), SAME)


def cfc_gates(x, h, ts, params, options):
    """The gate, as the new state where the first head gives 0 and the second the same for all."""
    zero, one = np.zeros_like(params.ff1[0]), np.ones_like(params.ff1[1])
    params = params._replace(ff1=(zero, 0 * one), ff2=(zero, one))
    scale = {"torch": np.tanh(1.0), "keras": 1.0, "paper": 1.7159 * np.tanh(0.666)}
    return ops.numpy.cfc_step(x, h, ts, params, **options) / scale[options["variant"]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layers", [0, 2])
def test_time_constants_and_gates_of_a_cfc_are_those_of_its_equation(mode, variant, layers):
    layer = CfC(I, 6, mode=mode, variant=variant, backbone_units=5, backbone_layers=layers)
    layer.train()
    x, hx, ts = normal(B, T, I), normal(B, 6), 0.7
    now, before = moments(layer, x, hx)
    params = float64(layer.rnn_cell.params())
    options = {"mode": mode, "variant": variant, "activation": "lecun_tanh"}
    rates = 1 / np.array(layer.time_constants(x, hx)).reshape(-1, 6)
    if mode == "pure":
        f1 = (params.A - ops.numpy.cfc_step(now, before, 0.0, params, **options)) / params.A
        assert_close("rates", rates, np.abs(params.w_tau) + np.abs(f1), SAME)
        gates, tau = layer.gates(x, hx, ts), layer.time_constants(x, hx, ts)
        assert_close("gates", gates, 1 - np.exp(-ts / np.array(tau, np.float64)), SAME)
        return
    want = cfc_gates(now, before, ts, params, options)
    states = np.array(layer.states(x, hx, ts))
    now, before = x.reshape(-1, I), mx.concatenate([hx[:, None], mx.array(states)[:, :-1]], axis=1)
    before = before.reshape(-1, 6)
    want = cfc_gates(np.array(now, float), np.array(before, float), ts, params, options)
    assert_close("gates", np.array(layer.gates(x, hx, ts)).reshape(-1, 6), want, SAME)
    first, then = (
        cfc_gates(np.array(now, float), np.array(before, float), t, params, options)
        for t in (0.0, 1.0)
    )
    slope = np.abs(np.log(then / (1 - then)) - np.log(first / (1 - first)))
    rates = 1 / np.array(layer.time_constants(x, hx, ts)).reshape(-1, 6)
    assert_close("rates", rates, slope, SAME)


@pytest.mark.parametrize("backbone", [None, 5])
def test_a_wired_cfc_tells_what_each_of_its_layers_does(backbone):
    layer = CfC(I, AutoNCP(10, 2), backbone_units=backbone)
    cell = layer.rnn_cell
    x, hx, ts = normal(B, T, I), normal(B, 10), spans(B, T)
    states, gates = layer.states(x, hx, ts), layer.gates(x, hx, ts)
    taus = layer.time_constants(x, hx, ts)
    source, start = x, 0
    for n, size in enumerate(cell.layer_sizes):
        own = slice(start, start + size)
        if backbone:
            source = source * cell[f"source_mask_{n}"]
        alone = CfC(cell[f"layer_{n}"], return_state=True)
        for name, whole in (("gates", gates), ("time_constants", taus), ("states", states)):
            part, whole = getattr(alone, name)(source, hx[:, own], ts), whole[..., own]
            if name == "time_constants":  # of a gate near 0 thousands, with its rounding
                part, whole = 1 / part, 1 / whole
            assert_close(f"{name} {n}", part, whole, SAME)
        source, start = states[..., own], own.stop


@all_layers
def test_missing_steps_have_no_time_constant(name):
    layer = make(name)
    mask = mx.array([[1, 0, 1, 1, 0]] * B)
    x = mx.where(mask[..., None] != 0, normal(B, T, I), mx.nan)
    tau = layer.time_constants(x, mask=mask)
    assert mx.array_equal(mx.isnan(tau), mx.broadcast_to(mask[..., None] == 0, tau.shape))


@all_layers
def test_both_directions_tell_their_time_constants_in_the_order_of_time(name):
    layer = make(name, bidirectional=True)
    x = normal(B, T, I)
    forward, backward = layer.time_constants(x)
    alone = type(layer)(layer.backward.rnn_cell, return_state=True)
    assert_close("backward", backward, alone.time_constants(x[:, ::-1])[:, ::-1], SAME)
    assert forward.shape == backward.shape


def test_large_sizes_go_block_by_block(monkeypatch):
    layer = LTC(I, 6)
    x = normal(B, T, I)
    want = layer.time_constants(x)
    monkeypatch.setattr("mlx_ncps.cells.dynamics._BLOCK", 100)
    assert_close("tau", layer.time_constants(x), want, SAME)
    assert layer.time_constants(normal(B, 0, I)).shape == (B, 0, 6)


def test_a_stack_tells_the_time_constants_of_each_layer():
    stack = CfCRNN(I, AutoNCP(9, 2), 2)
    x = normal(B, T, I)
    first, second = stack.time_constants(x, timespans=0.5)
    assert_close("first", first, stack.layers[0].time_constants(x, timespans=0.5), SAME)
    between = stack.layers[0](x, timespans=0.5)[0]
    assert_close("second", second, stack.layers[1].time_constants(between, timespans=0.5), SAME)


@all_memories
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", ["ltc", "cfc"])
def test_at_a_reset_time_constants_are_of_the_state_from_which_it_starts(name, backwards, mixed):
    layer = make(name, mixed_memory=mixed, go_backwards=backwards)
    x, hx = normal(B, T, I), states_like(layer) if not mixed else None
    resets = np.zeros((B, T), int)
    resets[1, 2] = 1
    got = layer.time_constants(x, hx, resets=resets, reset_state=0)
    first, second = (x[1:2, :2], x[1:2, 2:]) if not backwards else (x[1:2, 2:], x[1:2, :2])
    parts = [
        layer.time_constants(first, None if hx is None else hx[1:2]),
        layer.time_constants(second),
    ]
    want = mx.concatenate(parts, axis=1)
    assert_close("row with a reset", got[1:2], want, SAME)
    rest = layer.time_constants(x, hx)
    assert_close("others", got[::2], rest[::2], SAME)
