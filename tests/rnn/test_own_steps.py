"""Steps of LSTMs and of users' cells at once: equal to the reference and to float64, computed again
when anything that they read changes, and left to a graph where that could not be seen.
"""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import (
    CfC,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidRNN,
    LSTMCell,
    ODELSTMCell,
    use_backend,
)
from mlx_ncps import at_once as at_once_module
from mlx_ncps.programs import Impure, Watch
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close, tolerance

pytestmark = [pytest.mark.usefixtures("cpu_device"), pytest.mark.usefixtures("native")]
I, H = 3, 5
FORWARD = tolerance("float32", "forward")
SCALE = 0.5


def squash(z):
    return mx.tanh(z) * SCALE


class Timed(nn.Module):
    state_size = output_size = H
    input_size = I

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(I + H, H)

    def pull(self, x, h):
        return squash(self.map(mx.concatenate([x, h], axis=-1)))

    def __call__(self, x, h, ts):
        h = h + (1 - mx.exp(-ts)) * (self.pull(x, h) - h)
        return 2 * h, h


class Untimed(nn.Module):
    state_size = output_size = H
    input_size = I

    def __init__(self):
        super().__init__()
        self.maps = [nn.Linear(I, H), nn.Linear(H, H)]

    def __call__(self, x, h):
        h = mx.sigmoid(self.maps[0](x) + self.maps[1](h))
        return h, h


class Pair(nn.Module):
    state_size = (H, H)

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(I + H, H)

    def __call__(self, x, state):
        h, c = state
        c = 0.5 * c + nn.relu(self.map(mx.concatenate([x, h], axis=-1)))
        return c[:, :2], (mx.tanh(c), c)


CELLS = {"timed": Timed, "untimed": Untimed, "pair": Pair, "lstm": lambda: LSTMCell(I, H)}


def layer_of(name, **options):
    mx.random.seed(1)
    layer = LiquidRNN(CELLS[name](), **options).eval()
    mx.eval(layer.parameters())
    return layer


def stream(layer, shape=(I,), count=4, ts=None, step=True):
    rng, state, outputs = np.random.default_rng(2), None, []
    for _ in range(count):
        x = mx.array(rng.normal(size=shape).astype("f"))
        y, state = layer.step(x, state, ts) if step else layer(x, state, ts)
        outputs.append(y)
    return mx.stack(outputs), state


def at_once(layer, x=None, state=None, ts=None):
    """Whether a step came without a graph."""
    x = mx.ones((I,)) if x is None else x
    mx.eval(x)
    y = layer.step(x, state, ts)[0]
    return not layer_graph(y)


def layer_graph(y):
    from benchmarks.launches import primitives

    return primitives(y)


OPTIONS = [(name, {}) for name in CELLS]
OPTIONS += [(name, {"proj_size": 2}) for name in ("timed", "untimed", "lstm")]
OPTIONS += [(name, {"mixed_memory": True}) for name in ("timed", "untimed")]


@pytest.mark.parametrize("shape", [(I,), (1, I), (4, I)], ids=str)
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_steps_equal_the_reference_and_come_at_once(name, options, shape):
    layer = layer_of(name, **options)
    assert at_once(layer)
    got, state = stream(layer, shape)
    with use_backend("reference"):
        want, wanted = stream(layer, shape)
    assert_close("outputs", got, want, FORWARD)
    for a, b in zip(tree_flatten(state), tree_flatten(wanted), strict=True):
        assert a[1].shape == b[1].shape
        assert_close("state", a[1], b[1], FORWARD)


@pytest.mark.parametrize("ts", [0.0, 0.3, mx.array([0.2])], ids=str)
def test_time_spans_reach_a_users_cell(ts):
    layer = layer_of("timed")
    got, _ = stream(layer, (1, I), ts=ts)
    with use_backend("reference"):
        want, _ = stream(layer, (1, I), ts=ts)
    assert_close("outputs", got, want, FORWARD)


def test_an_lstm_equals_float64():
    layer = layer_of("lstm")
    got, _ = stream(layer)
    cell, rng = layer.rnn_cell, np.random.default_rng(2)
    wx, b, wh = (np.array(a, np.float64) for a in cell.weights())
    h = c = np.zeros(H)
    for y in np.array(got):
        z = wx @ rng.normal(size=(I,)).astype("f") + b + wh @ h
        i, ig, fg, og = np.split(z, 4)
        gate = [1 / (1 + np.exp(-g)) for g in (ig, fg + 1, og)]
        c = c * gate[1] + np.tanh(i) * gate[0]
        h = np.tanh(c) * gate[2]
        assert_close("h", mx.array(y), mx.array(h.astype("f")), FORWARD)


@pytest.mark.parametrize("name", ["untimed", "pair", "lstm"])
def test_a_cell_without_time_still_refuses_spans(name):
    layer = layer_of(name)
    layer.step(mx.ones((I,)))
    layer.step(mx.ones((I,)), None, 1.0)
    with pytest.raises(ValueError, match="timespans must be left out"):
        layer.step(mx.ones((I,)), None, 0.5)


@pytest.mark.parametrize("name", CELLS)
def test_new_weights_copies_and_pickles_count(name):
    layer = layer_of(name)
    stream(layer)
    for twin in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        twin.update(tree_map(lambda a: a * 0.5, twin.trainable_parameters()))
        got, _ = stream(twin)
        with use_backend("reference"):
            want, _ = stream(twin)
        assert_close("outputs", got, want, FORWARD)


def test_what_a_cells_code_reads_counts(monkeypatch):
    layer = layer_of("timed")
    before, _ = stream(layer)
    assert at_once(layer)
    monkeypatch.setattr(f"{__name__}.SCALE", 0.25)
    changed, _ = stream(layer)
    monkeypatch.setattr(Timed, "pull", lambda self, x, h: 0 * h)
    pulled, _ = stream(layer)
    with use_backend("reference"):
        assert_close("pulled", pulled, stream(layer)[0], FORWARD)
        monkeypatch.undo()
        assert_close("before", before, stream(layer)[0], FORWARD)
        monkeypatch.setattr(f"{__name__}.SCALE", 0.25)
        assert_close("changed", changed, stream(layer)[0], FORWARD)


BESIDE, ARRAY, COUNTED = {"factor": 1.0}, mx.ones((H,)), []


def _with(call):
    class Cell(Untimed):
        __call__ = call

    return LiquidRNN(Cell())


def counts(self, x, h):
    COUNTED.append(1)
    return h, h


def prints(self, x, h):
    print("a step")
    return h, h


def reads_a_dict(self, x, h):
    return h * BESIDE["factor"], h


def reads_an_array(self, x, h):
    return h + ARRAY, h


def draws(self, x, h):
    return h, h + mx.random.normal(h.shape)


def keeps(self, x, h):
    self.count = getattr(self, "count", 0) + 1
    return h, h


def imports(self, x, h):
    import time

    return h * time.time(), h


IMPURE = [counts, prints, reads_a_dict, reads_an_array, draws, keeps, imports]


@pytest.mark.parametrize("call", IMPURE, ids=lambda f: f.__name__)
def test_steps_that_do_more_are_called_each_time(call, capsys):
    layer = _with(call)
    COUNTED.clear()
    for _ in range(6):
        y, _ = layer.step(mx.ones((I,)))
        mx.eval(y)
    if call is counts:
        assert len(COUNTED) == 6
    if call is prints:
        assert capsys.readouterr().out.count("a step") == 6
    if call is keeps:
        assert layer.rnn_cell.count >= 6


@pytest.mark.parametrize("call", [f for f in IMPURE if f not in (draws, keeps)])
def test_a_watch_says_what_it_can_not_see(call):
    with pytest.raises(Impure, match=r"COUNTED|print|BESIDE|ARRAY|getattr|IMPORT_NAME|append"):
        Watch([_with(call).rnn_cell])


def test_a_cell_that_changes_at_each_step_is_not_traced_at_each(monkeypatch):
    from mlx_ncps.rnn import own_steps

    layer, traced = layer_of("untimed"), []
    real = own_steps.programs_of
    monkeypatch.setattr(own_steps, "programs_of", lambda o: traced.append(1) or real(o))
    for _ in range(60):
        layer.rnn_cell.maps[0].weight = layer.rnn_cell.maps[0].weight * 1.0
        mx.eval(layer.step(mx.ones((I,))))
    assert len(traced) < 16


@pytest.mark.parametrize("name", CELLS)
def test_gradients_and_compiled_steps_are_the_graphs(name):
    layer = layer_of(name)
    x = mx.ones((2, I))
    layer.step(x)

    def loss(x):
        return layer.step(x)[0].sum()

    got = [loss(x), mx.compile(loss)(x), mx.grad(loss)(x), mx.vmap(loss)(x[None])]
    with use_backend("reference"):
        want = [loss(x), loss(x), mx.grad(loss)(x), mx.vmap(loss)(x[None])]
    for a, b in zip(got, want, strict=True):
        assert_close("step", a, b, tolerance("float32", "gradient"))


SHORT = [(name, call) for name in CELLS for call in ("sequence", "mask", "stateful")]


@pytest.mark.parametrize(("name", "call"), [*SHORT, ("lstm", "feature mask")])
def test_short_sequences_are_the_references(name, call):
    stateful = call == "stateful"
    layer = layer_of(name, stateful=stateful)
    x, arguments = mx.random.normal((2, 3, I), key=mx.random.key(3)), {}
    if call == "mask":
        arguments = {"mask": mx.array([[1, 0, 1], [0, 0, 1]])}
    if call == "feature mask":
        layer = LiquidRNN(LSTMCell(2 * I, H))
        arguments = {"mask": mx.random.bernoulli(0.6, x.shape, mx.random.key(4))}
    got = [layer(x, **arguments)[0] for _ in range(2)]
    if stateful:
        layer.reset_states()
    with use_backend("reference"):
        want = [layer(x, **arguments)[0] for _ in range(2)]
    for a, b in zip(got, want, strict=True):
        assert_close("outputs", a, b, FORWARD)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("weights", ["half", "float32"])
@pytest.mark.parametrize("name", CELLS)
def test_users_cells_in_half_precision(name, weights, dtype):
    whole = {"return_sequences": True, "return_state": True}
    layer, half = layer_of(name, **whole), getattr(mx, dtype)
    if weights == "half":
        layer.set_dtype(half)
    x = mx.random.normal((2, 6, I), key=mx.random.key(7)).astype(half)
    mx.eval(layer.parameters(), x)
    exact = layer_of(name, **whole)
    exact.update(tree_map(lambda a: a.astype(mx.float32), layer.parameters()))
    for ts in (None, 0.3) if name == "timed" else (None,):
        got = layer.step(x[:, 0], None, ts), layer(x, None, ts)
        with use_backend("reference"):
            graph = layer.step(x[:, 0], None, ts), layer(x, None, ts)
            full = x.astype(mx.float32)
            want = exact.step(full[:, 0], None, ts), exact(full, None, ts)
        for a, b, c in zip(*map(tree_flatten, (got, graph, want)), strict=True):
            assert a[1].dtype == b[1].dtype
            assert_close("state", a[1], c[1], tolerance(dtype, "forward"))
        compiled = mx.compile(lambda x, ts=ts: layer(x, None, ts))(x)  # in a graph
        for a, c in zip(*map(tree_flatten, (compiled, want[1])), strict=True):
            assert_close("compiled", a[1], c[1], tolerance(dtype, "forward"))
    if weights == "half":
        assert at_once(layer, x[0, 0])
        assert at_once(layer.set_dtype(mx.float32) or layer)  # steps of float32 are others


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("name", CELLS)
def test_explain_names_the_program_of_a_cell_that_tells_no_width(name, dtype):
    layer = layer_of(name)
    layer.set_dtype(dtype)
    assert layer.explain((2, 6, I), dtype=dtype).program


class ByItsDtype(nn.Module):
    """A cell that computes something else in half precision."""

    state_size = output_size = H

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(I, H)

    def __call__(self, x, h):
        h = mx.tanh(self.map(x) + (0.5 if x.dtype == mx.float32 else -0.5) * h)
        return h, h


def test_a_cell_that_asks_for_its_dtype_gets_it():
    layer = LiquidRNN(ByItsDtype(), return_sequences=True, return_state=False)
    full = mx.random.normal((2, 6, I), key=mx.random.key(8))
    mx.eval(layer.parameters(), full)
    for x in (full, full.astype(mx.float16), full):
        h, steps = None, []
        for t in range(6):
            y, h = layer.step(x[:, t], h)
            steps.append(y)
        with use_backend("reference"):
            want = layer(x)
        bound = tolerance(str(x.dtype).rsplit(".")[-1], "forward") * 4  # the graph rounds each step
        assert_close("steps", mx.stack(steps, axis=1), want, bound)
        assert_close("sequence", layer(x), want, bound)


@pytest.mark.parametrize("first", [1, 0])
@pytest.mark.parametrize("make", [CTRNNCell, CTGRUCell, ODELSTMCell, LSTMCell, ELTCCell])
def test_masks_of_cells_by_programs(make, first):
    cell = make(AutoNCP(9, 2), I) if make is ELTCCell else make(I, H)
    layer = LiquidRNN(cell)
    x = mx.random.normal((2, 3, I), key=mx.random.key(5))
    mask = mx.array([[first, 0, 1], [1, 0, 0]])
    mx.eval(layer.parameters(), x, mask)
    got, state = layer(x, mask=mask)
    assert (not layer_graph(got)) == (first == 1 or make not in (CTGRUCell, ELTCCell))
    with use_backend("reference"):
        want, wanted = layer(x, mask=mask)
    assert_close("outputs", got, want, FORWARD)
    for a, b in zip(tree_flatten(state), tree_flatten(wanted), strict=True):
        assert_close("state", a[1], b[1], FORWARD)


@pytest.mark.parametrize("make", [ODELSTMCell, LSTMCell])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_calls_of_cells_of_two_states(make, dtype):
    cell = make(I, H)
    x, h, c = (mx.random.normal((2, n)).astype(getattr(mx, dtype)) for n in (I, H, H))
    mx.eval(cell.parameters(), x, h, c)
    got = cell(x, (h, c))
    assert not layer_graph(got[0])
    with use_backend("reference"):
        want = cell(x, (h, c))
    for a, b in zip(tree_flatten(got), tree_flatten(want), strict=True):
        assert a[1].dtype == b[1].dtype
        assert_close("state", a[1], b[1], tolerance(dtype, "forward"))


@pytest.mark.parametrize("traced", ["state", "timespans", "mask"])
@pytest.mark.parametrize("memory", [False, True])
def test_a_call_with_something_traced_packs_no_cell(traced, memory, monkeypatch):
    layer, packed = CfC(I, H, mixed_memory=memory), []
    x, h, given = mx.ones((1, 2, I)), mx.zeros((1, H)), mx.ones((1, 2))
    mx.eval(layer.parameters(), x, h, given)
    real = at_once_module._pack
    monkeypatch.setattr(at_once_module, "_pack", lambda *a: packed.append(1) or real(*a))

    def call(a):
        if traced == "state":
            return layer(x, (a, a) if memory else a)[0].sum()
        return layer(x, **{traced: a})[0].sum()

    mx.eval(mx.compile(call)(h if traced == "state" else given))
    if traced != "mask":
        mx.eval(mx.grad(call)(h if traced == "state" else given))
    assert not packed
    mx.eval(call(h if traced == "state" else given))
    assert packed == [1]
