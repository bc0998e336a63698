"""`resets`: every episode within a sequence equals a call of its own, in values and gradients."""

import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import _loader, available_backends, backends, carry_forward, dispatch
from mlx_ncps.cells import CTGRUCell, CTRNNCell, LTCCell, ODELSTMCell
from mlx_ncps.rnn import LTC, LTCRNN, MMRNN, CfC, CfCRNN, LiquidRNN, StreamingSession
from mlx_ncps.rnn.resets import started_anew

from tests.support.cases import assert_close, tolerance
from tests.support.pairs import pairs
from tests.support.rnn_layers import (
    GRADIENT,
    LAYERS,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    make,
    normal,
    spans,
    states_like,
)

KINDS = {
    "plain": {},
    "mixed": {"mixed_memory": True},
    "bidirectional": {"bidirectional": True},
    "mixed_bidirectional": {"mixed_memory": True, "bidirectional": True},
    "backwards": {"go_backwards": True},
    "projected": {"proj_size": 3},
}
all_layers = pytest.mark.parametrize("name", LAYERS)
RESETS = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
MASKS = {
    "no_mask": None,
    "padding": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "holes": [[1, 1, 0, 0, 1], [1, 0, 0, 1, 0], [0, 1, 0, 1, 1]],
}
all_masks = pytest.mark.parametrize("mask", MASKS)


class Leaky(nn.Module):
    """A cell of a user, whose output is not its state."""

    def __init__(self):
        super().__init__()
        self.map, self.head = nn.Linear(I + 5, 5), nn.Linear(5, 2)
        self.state_size, self.input_size, self.output_size = 5, I, 2

    def __call__(self, x, state, ts):
        state = state + ts * mx.tanh(self.map(mx.concatenate([x, state], axis=-1)))
        return self.head(state), state


WHOLE = {"return_sequences": True, "return_state": True}
OTHERS = {
    "ct_rnn": lambda: LiquidRNN(CTRNNCell(I, 5), **WHOLE),
    "ct_gru": lambda: LiquidRNN(CTGRUCell(I, 5), **WHOLE),
    "ode_lstm": lambda: LiquidRNN(ODELSTMCell(I, 5), **WHOLE),
    "user": lambda: LiquidRNN(Leaky(), **WHOLE),
    "mm_rnn": lambda: MMRNN(Leaky(), **WHOLE),
    "explicit": lambda: LTC(I, 4, ode_solver="explicit", ode_unfolds=20),
    "backbone": lambda: LTC(LTCCell(4, I, backbone_units=3), **WHOLE),
    "backbone_mixed": lambda: LTC(LTCCell(4, I, backbone_units=3), mixed_memory=True, **WHOLE),
    "dropout_of_one": lambda: CfC(I, 4, backbone_layers=2, backbone_units=3, backbone_dropout=0.5),
}


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def states_of(layer):
    one = states_like(layer) if isinstance(layer.state_size, int) else None
    if one is None:
        one = tuple(normal(B, size) for size in layer.state_size)
    return (one, tree_map(lambda a: a + 0.5, one)) if layer.bidirectional else one


def row(tree, b):
    return tree_map(lambda a: a[b : b + 1], tree)


def episodes_of(resets):
    """The episodes (first step, end) of one row."""
    cuts = sorted({0, *np.flatnonzero(resets).tolist()})
    return list(zip(cuts, [*cuts[1:], len(resets)], strict=True))


def each_alone(layer, x, hx, first, ts, resets, mask=None):
    """(outputs, state) of the episodes, each a call of its own."""
    rows = []
    for b in range(x.shape[0]):
        outputs, ends, episodes = [], [], episodes_of(resets[b])
        for begin, end in episodes:
            anew, last = bool(resets[b][begin]), end == x.shape[1]
            starts = row(first if anew else hx, b)
            if layer.bidirectional:
                starts = (row(first if anew else hx, b)[0], row(hx if last else first, b)[1])
            if layer.go_backwards:
                starts = row(hx if last else first, b)
            part = (slice(b, b + 1), slice(begin, end))
            masked = {} if mask is None else {"mask": mask[part]}
            output, state = layer(x[part], starts, ts[part], **masked)
            outputs.append(output)
            ends.append(state)
        if layer.go_backwards:
            outputs.reverse()
        state = ends[0] if layer.go_backwards else ends[-1]
        if layer.bidirectional:
            state = (ends[-1][0], ends[0][1])
        rows.append((mx.concatenate(outputs, axis=1), state))
    return tree_map(lambda *parts: mx.concatenate(parts), *rows)


def check(layer, mask=None):
    """The call and each episode alone give the same, in values and in every gradient."""
    x, ts, hx, first = normal(B, T, I), spans(B, T), states_of(layer), states_of(layer)
    mask = None if mask is None else mx.array(mask)
    cotangent = normal(B, T, layer.merged_size)

    def call(x, hx, first, ts):
        anew = {"resets": mx.array(RESETS), "reset_state": first}
        return layer(x, hx, ts, mask=mask, **anew)

    def alone(x, hx, first, ts):
        return each_alone(layer, x, hx, first, ts, RESETS, mask)

    def loss(f):
        def total(*arguments):
            output, state = f(*arguments)
            ends = sum((a * (n + 1.0)).sum() for n, (_, a) in enumerate(tree_flatten(state)))
            return (output * cotangent).sum() + ends

        return total

    arguments = x, hx, first, ts
    assert_trees_close("call", call(*arguments), alone(*arguments), SAME)
    got = gradients_of(layer, loss(call), *arguments)
    want = gradients_of(layer, loss(alone), *arguments)
    assert_trees_close("gradient", got, want, GRADIENT)


def gradients_of(layer, loss, *arguments):
    """Of the parameters and the arguments."""

    def of_parameters(parameters, arguments):
        layer.update(parameters)
        return loss(*arguments)

    return mx.grad(of_parameters, argnums=(0, 1))(layer.trainable_parameters(), arguments)


# --- against each episode alone -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "mask"), pairs(LAYERS, KINDS, MASKS))
def test_each_episode_equals_a_call_of_its_own(name, kind, mask):
    check(make(name, **KINDS[kind]), MASKS[mask])


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("kind", ["plain", "mixed"])
@all_layers
def test_every_backend_starts_anew(name, kind, backend):
    with dispatch.use_backend(backend):
        check(make(name, **KINDS[kind]))


@all_masks
@pytest.mark.parametrize("name", OTHERS)
def test_each_episode_of_any_cell_equals_a_call_of_its_own(name, mask):
    layer = OTHERS[name]()
    layer.build(I)
    layer.eval()
    check(layer, MASKS[mask])


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "bidirectional", "backwards"])
def test_what_is_known_of_features_starts_anew(kind, width):
    layer = make("cfc", inputs=width * I, **KINDS[kind])
    features = mx.random.uniform(shape=(B, T, I)) < 0.4
    x, ts, hx, first = normal(B, T, I), spans(B, T), states_of(layer), states_of(layer)
    got = layer(x, hx, ts, mask=features, resets=mx.array(RESETS), reset_state=first)
    want = each_alone(layer, x, hx, first, ts, RESETS, features)
    assert_trees_close("features", got, want, SAME)


def test_carry_forward_starts_anew_like_a_call_of_each_episode():
    x, mask, ts = normal(B, T, I), mx.random.uniform(shape=(B, T, I)) < 0.4, spans(B, T)
    last = carry_forward(x, mx.ones_like(x))[2]._replace(time=spans(B, I))
    got = carry_forward(x, mask, ts, last=last, resets=mx.array(RESETS))
    for b in range(B):
        for begin, end in episodes_of(RESETS[b]):
            known = None if RESETS[b][begin] else row(last, b)
            part = (slice(b, b + 1), slice(begin, end))
            values, time, seen = carry_forward(x[part], mask[part], ts[part], last=known)
            assert_close("values", got[0][part], values, SAME)
            assert_close("time", got[1][part], time, SAME)
        assert_trees_close("seen", row(tuple(got[2]), b), tuple(seen), SAME)


# --- contracts ------------------------------------------------------------------------------------


@all_layers
def test_steps_with_resets_equal_the_call(name):
    layer = make(name)
    x, ts, hx, first = normal(B, T, I), spans(B, T), states_of(layer), states_of(layer)
    want, end = layer(x, hx, ts, resets=RESETS, reset_state=first)
    state, outputs = hx, []
    for t in range(T):
        anew = {"resets": RESETS[:, t], "reset_state": first}
        output, state = layer.step(x[:, t], state, ts[:, t], **anew)
        outputs.append(output)
    assert_close("output", mx.stack(outputs, axis=1), want, SAME)
    assert_close("state", state, end, SAME)


FORMS = {
    "numpy": np.array,
    "numbers": lambda at: np.array(at, np.int64),
    "mx": mx.array,
    "half": lambda at: mx.array(at).astype(mx.bfloat16),
    "lazy": lambda at: mx.array(at) * mx.array(1),
}


@pytest.mark.parametrize(("name", "form", "given"), pairs(LAYERS, FORMS, [False, True]))
def test_a_step_of_evaluated_states_starts_anew(name, form, given):
    layer = make(name)
    x, state, first = normal(B, I), states_of(layer), states_of(layer)
    mx.eval(x, state, first)
    start = first if given else tree_map(mx.zeros_like, first)
    for at in ([1, 0, 1], [0, 0, 0], [1, 1, 1]):
        want = layer.step(x, started_anew(mx.array(at) != 0, start, state))
        got = layer.step(x, state, resets=FORMS[form](at), reset_state=first if given else None)
        assert_trees_close("step", got, want, 0)


@all_layers
@pytest.mark.parametrize("reset", [True, False, np.True_, np.array(1), mx.array(0)])
def test_a_step_of_one_sample_starts_anew(name, reset):
    layer = make(name)
    x, state = normal(I), row(states_of(layer), 0)
    state = tree_map(lambda a: a[0], state)
    mx.eval(x, state)
    want = layer.step(x, None if bool(reset) else state)
    assert_trees_close("step", layer.step(x, state, resets=reset), want, 0)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("at", [[1, 0, 1], [0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("name", ["cfc", "ltc"])
def test_a_step_with_resets_is_computed_at_once(name, at):
    layer = make(name)
    x, state = normal(B, I), states_of(layer)
    mx.eval(layer.parameters(), x, state)
    output, state = layer.step(x, state, resets=np.array(at))
    assert _loader.native.has_values(output)
    assert _loader.native.has_values(state)


def test_a_reset_starts_from_hx_or_zeros_or_the_given_state():
    layer, x = make("cfc"), normal(B, T, I)
    hx, zeros = states_of(layer), mx.zeros((B, 6))
    resets = mx.array(RESETS)

    def from_state(start, first):
        return each_alone(layer, x, start, first, mx.ones((B, T)), RESETS)

    assert_trees_close("hx", layer(x, hx, resets=resets), from_state(hx, hx), SAME)
    assert_trees_close("none", layer(x, resets=resets), from_state(zeros, zeros), SAME)
    got = layer(x, hx, resets=resets, reset_state=0)
    assert_trees_close("zeros", got, from_state(hx, zeros), SAME)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_kept_state_goes_on_and_an_episode_starts_from_zeros(mixed):
    layer, x = make("ltc", stateful=True, mixed_memory=mixed), normal(B, T, I)
    _, kept = layer(normal(B, T, I))
    output, state = layer(x, resets=RESETS)
    zeros = tree_map(mx.zeros_like, kept)
    want = each_alone(make_twin(layer), x, kept, zeros, mx.ones((B, T)), RESETS)
    assert_trees_close("kept", (output, state), want, SAME)
    output, stepped = layer.step(x[:, 0], resets=np.array([True, False, False]))
    want = each_alone(
        make_twin(layer), x[:, :1], state, zeros, mx.ones((B, 1)), [[True], [False], [False]]
    )
    assert_trees_close("stepped", (output[:, None], stepped), want, SAME)


def make_twin(layer):
    """The same layer without a memory of calls."""
    twin = make("ltc", mixed_memory=layer.mixed_memory)
    twin.update(layer.parameters())
    return twin


@pytest.mark.parametrize("dtype", [np.bool_, np.float32, np.int8, "mx"])
def test_numbers_of_any_kind_are_resets(dtype):
    layer, x = make("cfc"), normal(B, T, I)
    resets = mx.array(RESETS) if dtype == "mx" else RESETS.astype(dtype)
    want = layer(x, resets=mx.array(RESETS != 0))
    assert_trees_close("resets", layer(x, resets=resets), want, 0.0)


def test_every_layout_has_its_resets():
    layer, x = make("cfc"), normal(B, T, I)
    want, end = layer(x, resets=RESETS)
    layer.batch_first = False
    got, state = layer(x.swapaxes(0, 1), resets=RESETS.T)
    assert_trees_close("[T, B]", (got.swapaxes(0, 1), state), (want, end), SAME)
    layer.batch_first = True
    got, state = layer(x[1], resets=RESETS[1])
    assert_trees_close("[T]", (got, state), (want[1], end[1]), SAME)
    layer.return_sequences = False
    assert_close("last", layer(x, resets=RESETS)[0], want[:, -1], SAME)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [CfCRNN, LTCRNN])
def test_stacked_layers_start_anew_together(kind, bidirectional):
    stack, x = kind(I, 6, 2, bidirectional), normal(B, T, I)
    got, states = stack(x, resets=RESETS)
    below, zeros = x, None
    for layer, state in zip(stack.layers, states, strict=True):
        zeros = tree_map(mx.zeros_like, state)
        below, want = each_alone(layer, below, zeros, zeros, mx.ones((B, T)), RESETS)
        assert_trees_close("state", state, want, SAME)
    assert_close("output", got, below, SAME)
    if not bidirectional:
        states, outputs = None, []
        for t in range(T):
            output, states = stack.step(x[:, t], states, resets=RESETS[:, t])
            outputs.append(output)
        assert_close("steps", mx.stack(outputs, axis=1), got, SAME)


def test_a_session_starts_anew():
    layer, x = make("cfc"), normal(T, I)
    session, start = StreamingSession(layer, mx.ones((6,))), mx.ones((6,))
    want, _ = layer(x, start, resets=RESETS[1])
    for t in range(T):
        assert_close("output", session(x[t], resets=bool(RESETS[1, t])), want[t], SAME)
    session.reset()
    for t in range(T):
        output = session(np.array(x[t]), resets=RESETS[1, t])
        assert_close("from zeros", output, layer(x, resets=RESETS[1])[0][t], SAME)


# --- transformations, edges -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "mixed", "bidirectional"])
@all_layers
def test_compiled_lazy_and_mapped_calls_are_the_same(name, kind):
    layer, x = make(name, **KINDS[kind]), normal(2, B, T, I)
    resets = mx.random.uniform(shape=(2, B, T)) < 0.4
    want = [layer(x[n], resets=resets[n]) for n in range(2)]
    compiled = mx.compile(lambda x, resets: layer(x, resets=resets))
    assert_trees_close("compiled", compiled(x[0], resets[0]), want[0], SAME)
    lazily = layer(x[0] * 1.0, resets=(resets[0].astype(mx.float32) * 2.0 - 1.0) > 0)
    assert_trees_close("lazy", lazily, want[0], SAME)
    mapped = mx.vmap(lambda x, resets: layer(x, resets=resets))(x, resets)
    want = tree_map(lambda *parts: mx.stack(parts), *want)
    assert_trees_close("mapped", mapped, want, SAME)
    shared = mx.vmap(lambda x: layer(x, resets=resets[0]))(x)
    assert_trees_close("one", tree_map(lambda a: a[0], shared), layer(x[0], resets=resets[0]), SAME)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "mixed"])
@all_layers
def test_halves_are_near_float32(name, kind, dtype):
    layer = make(name, **KINDS[kind])
    x = normal(B, T, I).astype(getattr(mx, dtype))
    output, state = layer(x, resets=RESETS)
    want = layer(x.astype(mx.float32), resets=RESETS)
    assert output.dtype == x.dtype
    assert_trees_close("half", (output, state), want, tolerance(dtype, "forward"))


@pytest.mark.parametrize(
    ("name", "kind", "shape", "masked"),
    pairs(LAYERS, KINDS, [(B, 0), (0, T), (0, 0)], [False, True]),
)
def test_no_step_and_no_row_need_no_reset(name, kind, shape, masked):
    layer, x = make(name, **KINDS[kind]), mx.zeros((*shape, I))
    mask = mx.ones(shape) if masked else None
    got = layer(x, mask=mask, resets=mx.ones(shape))
    assert_trees_close("empty", got, layer(x, mask=mask), 0.0)


def test_value_and_grad_reach_the_first_state_from_each_episode_and_no_further():
    layer, x = make("cfc"), normal(B, T, I)

    def last(x, first):
        return layer(x, resets=RESETS, reset_state=first)[0][:, -1].sum()

    dx, dfirst = mx.grad(last, argnums=(0, 1))(x, mx.zeros((B, 6)))
    for b, (begin, _) in enumerate(episodes_of(row)[-1] for row in RESETS):
        assert mx.all(dx[b, :begin] == 0).item()
        assert mx.all(mx.abs(dx[b, begin:]).sum(axis=-1) > 0).item()
        assert (mx.abs(dfirst[b]).sum().item() > 0) == bool(RESETS[b].any())


def test_what_stands_in_another_episode_is_never_read():
    for kind in ({}, {"bidirectional": True}):
        layer, x = make("ltc_wired", **kind), np.array(normal(B, T, I))
        want, _ = layer(mx.array(x), resets=RESETS)
        x[1, 1] = np.nan  # an episode of one step
        got, _ = layer(mx.array(x), resets=RESETS)
        others = np.arange(T) != 1
        assert_close("others", mx.array(np.array(got)[1][others]), np.array(want)[1][others], SAME)


# --- explain --------------------------------------------------------------------------------------


def test_explain_says_what_starts_anew_fused_and_what_step_by_step():
    for name in LAYERS:
        with dispatch.use_backend("reference"):
            plan = make(name).explain((B, T, I), resets=True)
        assert plan.stepwise == ""
        assert plan.graph == ("the call has resets",)
        assert " over the whole sequence on reference" in str(plan)
    plan = OTHERS["user"]().explain((B, T, I), resets=True)
    assert "Leaky is called once for each step" in (plan.stepwise, plan.program)

    class Own(LTCCell):
        def sequence(self, inputs, state, ts):
            return super().sequence(inputs, state, ts)

    layer = LTC(Own(4, I), **WHOLE)
    assert layer.explain((B, T, I)).stepwise == ""
    assert layer.explain((B, T, I), resets=True).stepwise == "Own.sequence takes no resets"
    check(layer)


def test_explain_says_which_kernels_do_not_start_anew(monkeypatch):
    monkeypatch.setattr(backends.reference, "RESETS", ())
    with dispatch.use_backend("reference"):
        plan = CfCRNN(I, 6, 2).explain((B, T, I), resets=True)
        check(make("cfc"))
    assert plan.stepwise == "the kernels of reference don't start anew within a sequence"
    assert "cfc_sequence step by step on reference: " in str(plan)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"resets": np.ones((B, T + 1))}, "[cfc] resets must be [B, T] = (3, 5), got (3, 6)."),
        ({"resets": [[1] * T] * B}, "[cfc] resets must be an array [B, T], got"),
        ({"resets": mx.ones((B, T), mx.complex64)}, "[cfc] resets must be of real numbers"),
        ({"reset_state": 0}, "[cfc] reset_state wants resets beside it, got None."),
        (
            {"resets": np.ones((B, T)), "reset_state": mx.ones((B, 5))},
            "[cfc] reset_state must be [B, H] = (3, 6), got (3, 5).",
        ),
    ],
)
def test_wrong_resets_are_refused(keywords, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make("cfc")(normal(B, T, I), **keywords)


def test_wrong_resets_of_a_step_are_refused():
    with pytest.raises(ValueError, match=re.escape("[cfc] resets must be [B] = (3,), got (2,).")):
        make("cfc").step(normal(B, I), resets=mx.ones(2))
