"""Single steps computed at once, without a graph: equal to the graph's, and left to it wherever
the arrays are not plain evaluated ones.
"""

import copy
import gc
import pickle
import threading
import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import CfC, CfCCell, LTCCell, StreamingSession, dispatch, use_backend
from mlx_ncps.at_once import _pack
from mlx_ncps.rnn import LTCRNN
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
    make,
    normal,
    spans,
)
from tests.support.step_layers import all_layers, at_once, built, evaluated, few_layers, randomise

pytestmark = pytest.mark.usefixtures("seeded_and_poisoned")


@all_layers
@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_a_step_equals_the_reference(native, name, batch):
    layer = built(name)
    x, h, ts = evaluated(normal(batch, I), normal(batch, layer.state_size), spans(batch))
    with use_backend("reference"):
        want, want_state = layer.step(x, h, ts)
    output, state = layer.step(x, h, ts)
    assert at_once(native, output, state)
    assert dispatch.last_backend() == "cpu"
    assert_close("output", output, want, SAME)
    assert_close("state", state, want_state, SAME)
    cell_output, cell_state = layer.rnn_cell(x, h, ts)
    assert at_once(native, cell_output, cell_state)
    assert_close("cell", cell_output, output, 0.0)
    assert_close("cell", cell_state, state, 0.0)


@few_layers
def test_a_stream_equals_the_sequence(native, name):
    layer = built(name, proj_size=3)
    x, ts = evaluated(normal(B, T, I), spans(B, T))
    want, want_state = layer(x, None, ts)
    state = None
    for t in range(T):
        sample, span = evaluated(mx.array(x[:, t]), mx.array(ts[:, t]))
        output, state = layer.step(sample, state, span)
        assert at_once(native, output, state)
        assert_close(f"output {t}", output, want[:, t], SAME)
    assert_close("state", state, want_state, SAME)


@few_layers
def test_a_sequence_of_one_step(native, name):
    layer, last = built(name), built(name, return_sequences=False, return_state=False)
    x, h = evaluated(normal(B, I), normal(B, layer.state_size))
    want, want_state = layer.step(x, h, 0.4)
    output, state = layer(x[:, None], h, 0.4)
    assert at_once(native, output, state)
    assert_close("output", output, want[:, None], 0.0)
    assert_close("state", state, want_state, 0.0)
    one = evaluated(mx.array(np.array(x)[:1]), mx.array(np.array(h)[0]))  # [T, I], T = 1, and [H]
    one_output, one_state = layer(*one, 0.4)
    assert at_once(native, one_output, one_state)
    assert_close("one", one_output, want[:1], SAME)
    assert_close("one state", one_state, want_state[0], SAME)
    last.update(layer.parameters())
    assert_close("last", last(x[:, None], h, 0.4), want, 0.0)
    assert_close("last of one", last(*one, 0.4), one_output[0], 0.0)


@few_layers
def test_timespans_of_a_sequence_of_one_step(name):
    layer = built(name)
    x, h = evaluated(normal(B, 1, I), normal(B, layer.state_size))
    ts = evaluated(spans(B, 1))
    with use_backend("reference"):
        want, _ = layer(x, h, ts)
        same, _ = layer(x, h, ts[0])
    assert_close("[B, T]", layer(x, h, ts)[0], want, SAME)
    assert_close("[B, T, 1]", layer(x, h, ts[..., None])[0], want, SAME)
    assert_close("[T]", layer(x, h, mx.array([ts[0].item()]))[0], same, SAME)
    with pytest.raises(ValueError, match=r"timespans must be \[B, T\] = \(3, 1\), got \(3,"):
        layer(x, h, evaluated(spans(B)))


@few_layers
def test_kinds_of_timespans(native, name):
    layer = built(name)
    x, h = evaluated(normal(B, I), normal(B, layer.state_size))
    want, _ = layer.step(x, h, 0.5)
    arrays = evaluated(mx.array(0.5), mx.full((B,), 0.5), mx.full((B, 1), 0.5))
    for ts in (*arrays, np.full(B, 0.5), np.float32(0.5), np.float64(0.5), np.array(0.5)):
        output, _ = layer.step(x, h, ts)
        assert at_once(native, output)
        assert_close(f"{np.shape(ts)}", output, want, SAME)
    with pytest.raises(ValueError, match="timespans must be real numbers"):
        layer.step(x, h, np.array(True))
    assert_close("none", layer.step(x, h)[0], layer.step(x, h, 1)[0], 0.0)
    assert_close("zeros", layer.step(x)[0], layer.step(x, mx.zeros_like(h))[0], SAME)
    for bad in (-1.0, float("nan"), -2):
        with pytest.raises(ValueError, match=r"timespans must be >= 0"):
            layer.step(x, h, bad)
    state = np.array(layer.step(x, h, mx.array([0.5, -0.5, float("nan")]))[1])
    assert np.isfinite(state[0]).all()
    assert np.isnan(state[1:]).all()
    ts = mx.array(0.0)
    mx.eval(ts)
    if "ltc" in name:
        assert_close("ts = 0", layer.step(x, h, ts)[1], h, SAME)


@pytest.mark.parametrize("name", ["cfc", "cfc_pure", "cfc_keras", "ltc", "ltc_wired"])
@pytest.mark.parametrize("batch", [1, 3, 33])
def test_steps_of_mixed_memory_equal_the_graphs(native, name, batch):
    layer = built(name, mixed_memory=True, proj_size=3)
    x, h, c = evaluated(normal(batch, I), *(normal(batch, layer.state_size) for _ in "hc"))
    with use_backend("reference"):
        want = layer.step(x, (h, c), 0.6)
        want_first = layer.step(x, None, 0.6)
    got, first = layer.step(x, (h, c), 0.6), layer.step(x, None, 0.6)
    assert at_once(native, got[0], *got[1], first[0], *first[1])
    assert_trees_close("step", got, want, SAME)
    assert_trees_close("first", first, want_first, SAME)
    randomise(layer)
    with use_backend("reference"):
        want = layer.step(x[:1], (h[:1], c[:1]))
    one = evaluated(*(mx.array(np.array(a)[0]) for a in (x, h, c)))
    output, (h, c) = layer.step(one[0], one[1:])
    assert_trees_close("one", (output[None], (h[None], c[None])), want, SAME)
    assert at_once(native, output, h, c)
    assert_trees_close("list", layer.step(one[0], list(one[1:])), (output, (h, c)), SAME)
    with pytest.raises(ValueError, match=r"hx must be \(h, c\)"):
        layer.step(x, h)


@pytest.mark.parametrize("rows", [slice(None), 0], ids=["[B, I]", "[I]"])
def test_stateful_mixed_memory(native, rows):
    layer, x = built("ltc", stateful=True, mixed_memory=True), evaluated(normal(B, T, I))
    want, _ = layer(x)
    layer.reset_states()
    for t in range(T):
        output, state = layer.step(evaluated(mx.array(x[rows, t])))
        assert at_once(native, output, *state)
        assert_close(f"output {t}", output, want[rows, t], SAME)


def test_what_is_left_to_the_graph(native):
    layer = built("cfc")
    x, h = evaluated(normal(B, I), normal(B, 6))
    layer.step(x, h)  # the parameters are packed
    assert layer.step(mx.zeros((0, I)))[0].shape == (0, 6)
    with use_backend("reference"):
        assert not at_once(native, layer.step(x, h)[0])
        assert dispatch.last_backend() == "reference"
    with pytest.raises(ValueError, match=r"inputs must have 4 features, got 3"):
        layer.step(mx.ones((B, 3)), h)
    with pytest.raises(ValueError, match=r"hx must be \[B, H\] = \(3, 6\), got \(2, 6\)"):
        layer.step(x, evaluated(mx.zeros((2, 6))))
    with pytest.raises(ValueError, match=r"inputs must be \[B, I\] or \[I\], got \(3, 1, 4\)"):
        layer.step(evaluated(x[:, None]), h)


@all_layers
def test_every_parameter_counts_when_it_changes(name):
    layer = built(name)
    x, h = evaluated(normal(1, I), normal(1, layer.state_size))
    layer.step(x, h, 0.7)
    randomise(layer)
    with use_backend("reference"):
        want, _ = layer.step(x, h, 0.7)
    assert_close("replaced", layer.step(x, h, 0.7)[0], want, SAME)
    for key, value in tree_flatten(layer.rnn_cell.trainable_parameters()):
        value[...] = value + 0.1  # in place: the same Python object
        with use_backend("reference"):
            want, _ = layer.step(x, h, 0.7)
        assert_close(f"in place {key}", layer.step(x, h, 0.7)[0], want, SAME)


def test_options_and_masks_count_when_they_change(native):
    layer = built("ltc_wired")
    cell = layer.rnn_cell
    x, h = evaluated(normal(1, I), normal(1, layer.state_size))
    before = np.array(layer.step(x, h)[1])
    changes = {"ode_unfolds": 5, "epsilon": 0.5, "implicit_param_constraints": False}
    changes["sparsity_mask"] = mx.ones_like(cell.sparsity_mask)
    for option, value in changes.items():
        setattr(cell, option, value)
        with use_backend("reference"):
            want = layer.step(x, h)[1]
        got = np.array(layer.step(x, h)[1])
        assert_close(option, got, want, SAME)
        assert not np.allclose(got, before, rtol=1e-4), option
        before = got
    isa_before = native.isa()
    try:
        for isa in native.isas():
            native.set_isa(isa)
            assert_close(isa, layer.step(x, h)[1], before, SAME)
    finally:
        native.set_isa(isa_before)


def test_modules_and_options_count_when_they_change():
    cell = CfCCell(I, 6, backbone_units=[7, 9])
    other = CfCCell(I, 6, backbone_units=[7, 9], sparsity_mask=np.eye(9, 6))
    x, h = evaluated(normal(1, I), normal(1, 6))
    mx.eval(cell.parameters(), other.parameters())
    before = np.array(cell(x, h)[0])

    def swap():
        cell.ff1, cell.ff2 = cell.ff2, cell.ff1

    changes = {
        "module": lambda: setattr(cell, "ff1", other.ff1),
        "array of a new module": lambda: setattr(cell.ff1, "bias", mx.ones(6)),
        "item of a list": lambda: cell.backbone.__setitem__(1, other.backbone[1]),
        "list": lambda: setattr(cell, "backbone", other.backbone),
        "array of a new list": lambda: setattr(cell.backbone[0], "bias", mx.ones(7)),
        "two modules": swap,
        "mask": lambda: setattr(cell, "sparsity_mask", other.sparsity_mask),
        "option": lambda: setattr(cell, "variant", "keras"),
        "tuple": lambda: setattr(
            cell, "backbone_options", cell.backbone_options._replace(activation="relu")
        ),
    }
    for name, change in changes.items():
        change()
        mx.eval(cell.parameters())
        with use_backend("reference"):
            want, _ = cell(x, h)
        got = np.array(cell(x, h)[0])
        assert_close(name, got, want, SAME)
        assert not np.array_equal(got, before), name
        before = got


def test_one_parameter_many_times_in_place():
    cell = CfCCell(I, 6, backbone_units=7)
    x, h = evaluated(normal(1, I), normal(1, 6))
    for _ in range(50):  # identities of arrays that are gone may come again
        cell.ff1.bias[...] = cell.ff1.bias + 0.1
        mx.eval(cell.parameters())
        with use_backend("reference"):
            want, _ = cell(x, h)
        assert_close("step", cell(x, h)[0], want, SAME)


def test_what_no_step_depends_on_packs_nothing(monkeypatch):
    packed = []
    monkeypatch.setattr("mlx_ncps.at_once._pack", lambda *a, f=_pack: packed.append(1) or f(*a))
    cell = CfCCell(I, 6)
    x, h = evaluated(normal(1, I), normal(1, 6))
    cell(x, h)
    cell.eval()
    cell.note = "of the user"
    cell(x, h)
    cell.train()
    cell.freeze()
    cell(x, h)
    assert packed == [1]


@few_layers
def test_a_cell_that_stepped_is_freed(name):
    layer = built(name, mixed_memory="wired" not in name)
    layer.rnn_cell.users_own = CfCCell(I, 3)
    layer.step(evaluated(normal(1, I)))
    cell, what_it_holds = (weakref.ref(m) for m in (layer.rnn_cell, layer.rnn_cell.users_own))
    del layer
    gc.collect()
    assert cell() is None
    assert what_it_holds() is None  # nor does the packed cell, once unreachable, hold anything


def test_parameters_that_another_thread_changes():
    cell = CfCCell(I, 6)
    x, h = evaluated(normal(1, I), normal(1, 6))
    biases = [evaluated(mx.full((6,), float(n))) for n in range(2)]
    want = []
    for bias in biases:
        cell.ff1.bias = bias
        want.append(np.array(cell(x, h)[0]))

    def change():
        for n in range(400):
            cell.ff1.bias = biases[n % 2]

    thread = threading.Thread(target=change)
    thread.start()
    while thread.is_alive():
        got = np.array(cell(x, h)[0])
        assert any(np.array_equal(got, one) for one in want)
    thread.join()
    assert_close("in the end", cell(x, h)[0], want[1], 0.0)


@pytest.mark.parametrize("make_cell", [lambda: CfCCell(I, 6), lambda: LTCCell(6, I)])
def test_calls_of_a_cell_that_are_refused(make_cell):
    cell = make_cell()
    x, h = evaluated(normal(B, I), normal(B, 6))
    cell(x, h)
    for bad in (x[0], None, np.ones((B, I), np.float32)):
        with pytest.raises(ValueError, match="inputs must be"):
            cell(bad, h)
    with pytest.raises(ValueError, match=r"state must be \[B, H\] = \(3, 6\), got \(6,\)"):
        cell(x, h[0])
    with pytest.raises(ValueError, match=r"inputs must have 4 features, got 3"):
        cell(evaluated(mx.ones((B, 3))), h)


@few_layers
def test_gradients_after_a_step_was_packed(name):
    layer = built(name)
    x, h = evaluated(normal(B, I), normal(B, layer.state_size))
    layer.step(x, h, 0.3)

    def loss(x, h):
        output, state = layer.step(x, h, 0.3)
        return (output**2).sum() + (state**3).sum()

    got = gradients(layer, loss, x, h)
    with use_backend("reference"):
        want = gradients(layer, loss, x, h)
    assert any(np.abs(np.array(g)).max() > 0 for g in got.values())
    for key in want:
        assert_close(key, got[key], want[key], GRADIENT)


@few_layers
def test_compile_and_vmap_after_a_step_was_packed(name):
    layer = built(name)
    x, h = evaluated(normal(B, I), normal(B, layer.state_size))
    want, _ = layer.step(x, h)
    assert_close("compiled", mx.compile(layer.step)(x, h)[0], want, SAME)
    mapped = mx.vmap(lambda x, h: layer.step(x, h)[0])(x[:, None], h[:, None])
    assert_close("mapped", mapped[:, 0], want, SAME)
    captured = mx.compile(lambda scale: layer.step(x, h)[0] * scale)
    assert_close("captured", captured(mx.array(2.0)), want * 2.0, SAME)


def test_dropout_in_training_is_left_to_the_graph(native):
    layer = CfC(I, 6, backbone_units=8, backbone_layers=3, backbone_dropout=0.5)
    x, h = evaluated(normal(64, I), normal(64, 6))
    assert not at_once(native, layer.step(x, h)[0])
    layer.eval()
    assert at_once(native, layer.step(x, h)[0])


@few_layers
def test_copies_pack_anew(name):
    layer = built(name)
    x = evaluated(normal(1, I))
    want = np.array(layer.step(x)[0])
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)):
        assert_close("copy", other.step(x)[0], want, 0.0)
    randomise(layer)
    other = copy.deepcopy(layer)
    randomise(other)
    with use_backend("reference"):
        want, wanted = layer.step(x)[0], other.step(x)[0]
    assert_close("original", layer.step(x)[0], want, SAME)
    assert_close("copy", other.step(x)[0], wanted, SAME)


def test_a_subclass_with_its_own_equations_is_called():
    class Doubled(LTCCell):
        def readout(self, states):
            return 2.0 * super().readout(states)

    class Shifted(CfCCell):
        def sequence(self, inputs, state, ts):
            return super().sequence(inputs, state, ts) + 1.0

    x = evaluated(normal(1, I))
    cell = Doubled(AutoNCP(10, 2), I)
    h = evaluated(mx.zeros((1, 10)))
    output, state = cell(x, h)
    assert_close("readout", output, 2.0 * state[:, :2], SAME)
    cell = Shifted(I, 6)
    plain = CfCCell(I, 6)
    plain.update(cell.parameters())
    h = evaluated(mx.zeros((1, 6)))
    assert_close("sequence", cell(x, h)[0], plain(x, h)[0] + 1.0, SAME)


def test_threads_share_a_packed_cell():
    layer = built("ltc_wired")
    samples = [evaluated(normal(1, I)) for _ in range(4)]
    want = [np.array(layer.step(x)[0]) for x in samples]
    wrong = []

    def run(n):
        for _ in range(200):
            if not np.array_equal(np.array(layer.step(samples[n])[0]), want[n]):
                wrong.append(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_stateful_steps_equal_the_sequence(native):
    layer, x = built("ltc", stateful=True), evaluated(normal(B, T, I))
    want, _ = layer(x)
    layer.reset_states()
    for t in range(T):
        output, state = layer.step(evaluated(mx.array(x[:, t])))
        assert at_once(native, output, state)
        assert_close(f"output {t}", output, want[:, t], SAME)
    layer.reset_states()
    for t in range(T):  # inputs [I]
        output, state = layer.step(evaluated(mx.array(x[0, t])))
        assert at_once(native, output, state, *layer._kept["states"])
        assert_close(f"one sample {t}", output, want[0, t], SAME)
    assert layer._kept["states"][0].shape == (1, layer.state_size)
    assert at_once(native, layer(evaluated(mx.array(x[0])))[0])  # [T, I] goes on
    layer.step(evaluated(mx.array(x[:1, 0])))  # and [B, I]
    with pytest.raises(ValueError, match="inputs must be of the batch of the kept state, 1, got 3"):
        layer.step(evaluated(mx.array(x[:, 0])))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_session_equals_the_sequence(mixed):
    layer = make("ltc_wired", mixed_memory=mixed)
    x, ts = evaluated(normal(T, I), spans(T))
    want, want_state = layer(x, None, ts)
    session = StreamingSession(layer)
    for _ in range(2):
        for t in range(T):
            output = session(x[t], ts[t])
            assert isinstance(output, mx.array)
            assert_close(f"output {t}", output, want[t], SAME)
        for got, wanted in zip(tree_flatten(session.state), tree_flatten(want_state), strict=True):
            assert_close("state", got[1], wanted[1], SAME)
        session.reset()
    for t in range(T):
        output = session(np.array(x[t], np.float64), ts[t].item())
        assert isinstance(output, np.ndarray)
        assert output.dtype == np.float32
        assert_close(f"output {t}", output, want[t], SAME)
    again = StreamingSession(layer, session.state)
    assert_close("state given", again(x[0]), session(x[0]), 0.0)


def test_sessions_of_stacks_and_of_what_has_no_step():
    stack = LTCRNN(I, 5, num_layers=2)
    x = evaluated(normal(B, T, I))
    want, _ = stack(x)
    session = StreamingSession(stack)
    for t in range(T):
        assert_close(f"output {t}", session(x[:, t]), want[:, t], SAME)
    with pytest.raises(ValueError, match=r"layer must have step\(x, state, ts\).*got Linear"):
        StreamingSession(nn.Linear(2, 2))
