"""The native StepCell by itself: what it declines, what it refuses, and readouts that no cell has.
What it computes for cells and layers is in test_stepping.py.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import CfC, use_backend
from mlx_ncps.at_once import EVERY, LAST, STEP
from mlx_ncps.backends import cpu
from mlx_ncps.backends.fold import fold_cfc
from mlx_ncps.rnn import LTC

from tests.support.cases import assert_close
from tests.support.rnn_layers import GRADIENT, SAME, B, I, normal

H = 6


@pytest.fixture(autouse=True)
def seed(native):
    mx.random.seed(5)


def evaluated(*arrays):
    mx.eval(arrays)
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.fixture
def cell():
    layer = CfC(I, H, backbone_units=8)
    mx.eval(layer.parameters())
    return layer.rnn_cell


def weights(cell):
    return cpu._plain(fold_cfc(cell.params(), mx.ones((1,)), cell.mode, cell.variant).arrays)


def stage(native, cell, arrays=None):
    folded = fold_cfc(cell.params(), mx.ones((1,)), cell.mode, cell.variant)
    return native.CfcStage(
        weights(cell) if arrays is None else arrays,
        inputs=I,
        layers=len(folded.backbone),
        mode=cell.mode,
        activation=cell.backbone_options.activation,
        head_activation=folded.head_activation,
    )


def watched(native, made, arrays):
    """The call of a StepCell whose cell is a dict of nothing but arrays."""
    made.watch(native.Places({"arrays": arrays}, None))
    return lambda x, h, ts, arrays, form: made({"arrays": arrays}, None, x, h, ts, form)


@pytest.fixture
def made(native, cell):
    return native.StepCell.cfc(
        [stage(native, cell)], [], native.Readout(0, H), cell._step_plan(False).arrays
    )


@pytest.fixture
def packed(native, cell, made):
    """(step(x, h, ts, arrays, form), the arrays that it was made from, x [B, I], h [B, H])."""
    arrays = cell._step_plan(False).arrays
    return watched(native, made, arrays), arrays, *evaluated(normal(B, I), normal(B, H))


@pytest.mark.parametrize(
    "inputs",
    [
        lambda x: normal(B, I + 1),
        lambda x: normal(0, I),
        lambda x: x.astype(mx.int32),
        lambda x: x.astype(mx.complex64),
        lambda x: x[:, None],
        lambda x: x[None, None, None],
        lambda x: x[0, 0],
    ],
    ids=["width", "no rows", "int32", "complex64", "three sizes", "five sizes", "no sizes"],
)
def test_a_step_of_these_inputs_is_declined(packed, inputs):
    step, arrays, x, h = packed
    wrong = evaluated(inputs(x))
    assert step(wrong, None if wrong.ndim != 2 else h, None, arrays, STEP) is None
    assert step(wrong, None, None, arrays, STEP) is None
    assert step(x, h, None, arrays, STEP) is not None


@pytest.mark.parametrize("form", [EVERY, LAST])
def test_a_sequence_without_steps_and_a_long_one_are_declined(packed, form):
    step, arrays, _, h = packed
    for steps in (0, 20000):
        assert step(evaluated(normal(B, steps, I)), h, None, arrays, form) is None
    for steps in (1, 2):
        assert step(evaluated(normal(B, steps, I)), h, None, arrays, form) is not None
    assert step(evaluated(normal(20000, 1, I)), None, None, arrays, form) is not None


@pytest.mark.parametrize(
    "ts",
    [True, -0.5, float("nan"), 10**400, "1", [1.0] * B, np.ones(B, np.float32)],
    ids=["bool", "negative", "NaN", "too large", "text", "list", "NumPy"],
)
def test_these_timespans_are_declined(packed, ts):
    step, arrays, x, h = packed
    assert step(x, h, ts, arrays, STEP) is None


@pytest.mark.parametrize("shape", [(1,), (B + 1,), (1, B), (B, 2), (1, 1), (B, 1, 1)], ids=str)
def test_timespans_of_these_shapes_are_declined(packed, shape):
    step, arrays, x, h = packed
    assert step(x, h, evaluated(mx.ones(shape)), arrays, STEP) is None


def test_other_arrays_do_not_match(packed, made):
    step, arrays, x, h = packed
    assert step(x, h, None, arrays, STEP)
    same = evaluated(mx.array(arrays[-1]) + 0.0)
    for others in (arrays[:-1], [*arrays, x], [*arrays[:-1], same], [*arrays[:-1], None], []):
        assert step(x, h, None, others, STEP) is False
        assert not made.made_from(others)
    assert made.made_from(list(arrays))
    arrays.append(x)
    assert step(x, h, None, arrays, STEP) is False
    arrays.pop()
    assert step(x, h, None, arrays, STEP)
    arrays[0] = x
    assert step(x, h, None, arrays, STEP) is False


def test_nothing_matches_before_places_are_watched(native, cell, made):
    x = evaluated(normal(B, I))
    assert made(cell, None, x, None, None, STEP) is False
    made.watch(native.Places(cell, None))
    assert made(cell, None, x, None, None, STEP)
    assert made(cell, cell, x, None, None, STEP) is False  # an LSTM that was not there
    made.watch(native.Places(cell, cell))
    assert made(cell, cell, x, None, None, STEP)
    assert made(cell, None, x, None, None, STEP) is False
    made.watch(native.Places({}, None))
    assert made({}, None, x, None, None, STEP)
    for other in ({"a": 1}, [], cell):
        assert made(other, None, x, None, None, STEP) is False


def test_kernels_of_another_instruction_set_do_not_match(native, packed):
    step, arrays, x, h = packed
    before = native.isa()
    others = [isa for isa in native.isas() if isa != before]
    if not others:
        pytest.skip("one instruction set here")
    native.set_isa(others[0])
    try:
        assert step(x, h, None, arrays, STEP) is False
    finally:
        native.set_isa(before)
    assert step(x, h, None, arrays, STEP)


@pytest.mark.parametrize("has_values", [False, True])
@pytest.mark.parametrize("traced", range(4), ids=["x", "h", "ts", "a parameter"])
def test_tracers_are_declined(packed, traced, has_values):
    step, (parameter, *others), x, h = packed
    arguments, results = [x, h, evaluated(mx.ones((B,))), parameter], []

    def function(tracer):
        x, h, ts, first = [*arguments[:traced], tracer, *arguments[traced + 1 :]]
        if has_values:
            mx.eval(tracer)
        results.append(step(x, h, ts, [first, *others], STEP))
        return tracer.sum()

    mx.grad(function)(arguments[traced])
    assert results == [None if traced < 3 else False]  # `at_once` asks for those


@pytest.mark.parametrize("traced", range(3), ids=["x", "h", "ts"])
@pytest.mark.parametrize("make", [CfC, LTC])
def test_gradients_of_one_argument_alone(make, traced):
    """The parameters are no tracers then, and match."""
    layer = make(I, H)
    arguments = list(evaluated(normal(B, I), normal(B, H), mx.array([0.3, 0.5, 0.7])))
    layer.step(*arguments)
    gradient = mx.grad(lambda *a: (layer.step(*a)[1] ** 2).sum(), argnums=traced)
    got = np.array(gradient(*arguments))
    with use_backend("reference"):
        want = gradient(*arguments)
    assert np.abs(got).max() > 0
    assert_close("gradient", got, want, GRADIENT)


def test_a_step_says_what_is_wrong_with_evaluated_arrays():
    layer = CfC(I, H)
    x, wide, one = evaluated(normal(B, I), normal(B, I - 1), mx.ones((1,)))
    layer.step(x)
    with pytest.raises(ValueError, match=r"inputs must have 4 features, got 3"):
        layer.step(wide)
    with pytest.raises(ValueError, match=r"ts must be \[B\] = \(3,\), got \(1,\)"):
        layer.step(x, None, one)
    with pytest.raises(ValueError, match="timespans must be a number >= 0 or an array, got bool"):
        layer.step(x, None, True)
    strided = evaluated(mx.contiguous(x.T).T)
    assert_close("strided", layer.step(strided)[0], layer.step(x)[0], SAME)


# --- readouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("mapped", ["", "w", "b", "wb"])
def test_readout_of_some_or_all_neurons(native, cell, first, mapped):
    count = H - first
    w, b = evaluated(normal(count), normal(count))
    readout = native.Readout(
        first, count, w if "w" in mapped else None, b if "b" in mapped else None
    )
    arrays = cell._step_plan(False).arrays
    made = native.StepCell.cfc([stage(native, cell)], [], readout, arrays)
    step = watched(native, made, arrays)
    x, h = evaluated(normal(B, I), normal(B, H))
    output, state = step(x, h, 0.5, arrays, STEP)
    want = np.array(state)[:, first:]
    want = want * (np.array(w) if "w" in mapped else 1) + (np.array(b) if "b" in mapped else 0)
    assert_close("output", output, want, SAME)
    assert_close("state", state, cell(x, h, 0.5)[1], 0.0)


def test_an_ltc_whose_outputs_are_all_neurons_mapped_linearly():
    layer = LTC(I, H, output_mapping="linear")
    layer.rnn_cell.output_w = layer.rnn_cell.output_w + 0.5
    mx.eval(layer.parameters())
    x, h = evaluated(normal(B, I), normal(B, H))
    output, state = layer.step(x, h)
    assert_close("output", output, state * layer.rnn_cell.output_w, SAME)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0, -1), (0, H + 1), (1, H)])
def test_a_readout_outside_of_the_state_is_refused(native, cell, first, count):
    with pytest.raises(ValueError, match="the outputs must lie within the state"):
        native.StepCell.cfc([stage(native, cell)], [], native.Readout(first, count), [])


def test_a_mapping_of_another_shape_or_dtype_is_refused(native, cell):
    for options, message in (
        ({"w": mx.ones((H + 1,))}, r"output_w must be \[O\]"),
        ({"b": mx.ones((1,))}, r"output_b must be \[O\]"),
        ({"w": mx.ones((H,), mx.int32)}, "output_w must be an evaluated array of floats"),
    ):
        mx.eval(options)
        with pytest.raises(ValueError, match=message):
            native.StepCell.cfc([stage(native, cell)], [], native.Readout(0, H, **options), [])
    lazy = native.Readout(0, H, b=mx.ones((H,)) + 1.0)
    with pytest.raises(ValueError, match="output_b must be an evaluated array of floats"):
        native.StepCell.cfc([stage(native, cell)], [], lazy, [])


@pytest.mark.parametrize(
    "spoil",
    [lambda a: a + 1.0, lambda a: evaluated(mx.contiguous(a.T).T), lambda a: a.astype(mx.float16)],
    ids=["not evaluated", "strided", "float16"],
)
def test_parameters_that_the_kernels_cannot_read_are_refused(native, cell, spoil):
    arrays = weights(cell)
    matrix = next(n for n, a in enumerate(arrays) if a.ndim == 2)
    arrays[matrix] = spoil(arrays[matrix])
    with pytest.raises(ValueError, match="parameters must be evaluated, row-contiguous float32"):
        native.StepCell.cfc([stage(native, cell, arrays)], [], native.Readout(0, H), [])


def lstm(*more):
    return list(evaluated(mx.ones((4 * H, I)), mx.ones((4 * H,)), mx.ones((4 * H, H)), *more))


def test_memory_of_other_shapes_is_refused(native, cell):
    plain, readout = stage(native, cell), native.Readout(0, H)
    for wrong in range(3):
        arrays = lstm()
        arrays[wrong] = evaluated(mx.ones((*arrays[wrong].shape[:-1], arrays[wrong].shape[-1] + 1)))
        with pytest.raises(ValueError, match="memory must be the LSTM's"):
            native.StepCell.cfc([plain], arrays, readout, [])
    for arrays in (lstm()[:2], lstm(mx.ones((1,)))):
        with pytest.raises(ValueError, match="memory must be 3 arrays"):
            native.StepCell.cfc([plain], arrays, readout, [])
    with pytest.raises(ValueError, match="memory wants a chain of one"):
        native.StepCell.cfc([plain, plain], lstm(), readout, [])
    assert native.StepCell.cfc([plain], lstm(), readout, [])


def test_states_with_memory(native, cell):
    made = native.StepCell.cfc([stage(native, cell)], lstm(), native.Readout(0, H), [])
    none = []
    step = watched(native, made, none)
    x, h, wide = evaluated(normal(B, I), mx.zeros((B, H)), normal(B, H + 1))
    for state in (h, (h,), (h, h, h), [h, h], (h, None), (h, wide), (wide, h)):
        assert step(x, state, None, none, STEP) is None
    want, (_, want_c) = step(x, (h, h), None, none, STEP)
    output, (state, c) = step(x, None, None, none, STEP)
    for name, got in (("output", output), ("h", state)):
        assert_close(name, got, want, 0.0)
    assert_close("c", c, want_c, 0.0)


# --- the linear map after a step ------------------------------------------------------------------


def test_linear_equals_the_product_and_declines_the_rest(native):
    x, w, b = evaluated(normal(2, B, 19), normal(5, 19), normal(5))
    want = np.array(x, np.float64) @ np.array(w, np.float64).T
    assert_close("linear", native.linear(x, w, None), want, SAME)
    assert_close("with bias", native.linear(x, w, b), want + np.array(b), SAME)
    narrow, short = evaluated(normal(5, 18), normal(4))
    assert_close("lazy", native.linear(x * 1.0, w * 1.0, b * 1.0), want + np.array(b), SAME)
    for arguments in ((x, narrow, b), (x, w, short), (x, b, None), (x, w, 1.0)):
        assert native.linear(*arguments) is None
    assert native.linear(evaluated(x.astype(mx.int32)), w, b) is None
