"""What a call of CfC and LTC takes and gives: contracts, layouts, states, time spans, errors."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import dispatch
from mlx_ncps.backends import CfCFacts, LTCFacts
from mlx_ncps.cells import CfCCell, LTCCell, WiredCfCCell
from mlx_ncps.rnn import LTC, CfC
from mlx_ncps.wirings import AutoNCP, FullyConnected, Random

from tests.support.cases import assert_close, tolerance
from tests.support.pairs import pairs

B, T, I = 3, 5, 4
SAME = tolerance("float32", "forward")
LAYERS = {  # name: (layer of these options, H, O)
    "cfc": (lambda **options: CfC(I, 6, **options), 6, 6),
    "cfc_wired": (lambda **options: CfC(I, AutoNCP(10, 2), **options), 10, 2),
    "cfc_random": (lambda **options: CfC(I, Random(8, 3, 0.4), **options), 8, 3),
    "ltc": (lambda **options: LTC(I, 6, **options), 6, 6),
    "ltc_wired": (lambda **options: LTC(I, AutoNCP(10, 2), **options), 10, 2),
}
CELLS = {
    "cfc": lambda: CfCCell(I, 6),
    "cfc_wired": lambda: WiredCfCCell(I, AutoNCP(10, 2)),
    "cfc_of_wiring": lambda: CfCCell(AutoNCP(10, 2)),
    "ltc": lambda: LTCCell(AutoNCP(10, 2), I),
}
all_layers = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def make(name, **options):
    return LAYERS[name][0](**options)


def normal(*shape, dtype=mx.float32):
    return mx.random.normal(shape).astype(dtype)


def layer_of(cell, **options):
    return (LTC if isinstance(cell, LTCCell) else CfC)(cell, **options)


# --- contracts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sequences", "state"), pairs(LAYERS, [None, True, False], [None, True, False])
)
def test_sizes_first_returns_sequence_and_state_unless_told(name, sequences, state):
    _, H, O = LAYERS[name]
    result = make(name, return_sequences=sequences, return_state=state)(normal(B, T, I))
    if state is not False:
        result, last = result
        assert last.shape == (B, H)
    assert result.shape == ((B, O) if sequences is False else (B, T, O))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("sequences", [None, True, False])
@pytest.mark.parametrize("state", [None, True, False])
def test_cell_first_returns_last_output_unless_told(name, sequences, state):
    cell = CELLS[name]()
    layer = layer_of(cell, return_sequences=sequences, return_state=state)
    result = layer(normal(B, T, I))
    if state:
        result, last = result
        assert last.shape == (B, cell.state_size)
    assert result.shape == ((B, T, cell.output_size) if sequences else (B, cell.output_size))


@all_layers
def test_last_output_is_the_end_of_the_sequence(name):
    layer, x = make(name), normal(B, T, I)
    outputs, state = layer(x)
    layer.return_sequences = False
    last, same_state = layer(x)
    assert_close("output", last, outputs[:, -1], SAME)
    assert_close("state", same_state, state, SAME)


@all_layers
def test_state_continues_a_sequence(name):
    layer, x, ts = make(name), normal(B, T, I), mx.random.uniform(0.1, 2.0, (B, T))
    outputs, state = layer(x, timespans=ts)
    _, middle = layer(x[:, :2], timespans=ts[:, :2])
    rest, end = layer(x[:, 2:], middle, ts[:, 2:])
    assert_close("output", rest, outputs[:, 2:], SAME)
    assert_close("state", end, state, SAME)


@all_layers
def test_layer_equals_its_cell_step_by_step(name):
    layer, x, ts = make(name), normal(B, T, I), mx.random.uniform(0.1, 2.0, (B, T))
    outputs, last = layer(x, timespans=ts)
    state = layer.rnn_cell.get_initial_state(x)
    for t in range(T):
        output, state = layer.rnn_cell(x[:, t], state, ts[:, t])
        assert_close(f"output {t}", output, outputs[:, t], SAME)
    assert_close("state", state, last, SAME)


@pytest.mark.parametrize(("name", "O"), [("cfc", 6), ("cfc_wired", 2), ("ltc_wired", 2)])
def test_proj_size_maps_the_output(name, O):
    layer, x = make(name, proj_size=7), normal(B, T, I)
    output, state = layer(x)
    assert output.shape == (B, T, 7)
    weight, bias = layer.fc.weight, layer.fc.bias
    assert weight.shape == (7, O)
    layer.proj_size = None
    del layer["fc"]
    plain, same_state = layer(x)
    assert_close("output", output, plain @ weight.T + bias, SAME)
    assert_close("state", state, same_state, SAME)


# --- layouts -----------------------------------------------------------------------------------


@all_layers
@pytest.mark.parametrize("sequences", [True, False])
def test_time_major_equals_batch_first(name, sequences):
    layer = make(name, return_sequences=sequences)
    x, hx, ts = normal(B, T, I), normal(B, layer.state_size), mx.random.uniform(0.1, 2, (B, T))
    output, state = layer(x, hx, ts)
    layer.batch_first = False
    for span in (ts.T, ts.T[:, :, None], np.array(ts).T):
        got, got_state = layer(x.swapaxes(0, 1), hx, span)
        assert_close("output", got.swapaxes(0, 1) if sequences else got, output, SAME)
        assert_close("state", got_state, state, SAME)


@pytest.mark.parametrize(
    ("name", "batch_first", "sequences"), pairs(LAYERS, [True, False], [True, False])
)
def test_unbatched_equals_a_batch_of_one(name, batch_first, sequences):
    layer = make(name, batch_first=batch_first, return_sequences=sequences)
    x, hx, ts = normal(T, I), normal(layer.state_size), mx.random.uniform(0.1, 2.0, (T,))
    axis = 0 if batch_first else 1
    output, state = layer(mx.expand_dims(x, axis), hx[None], ts)
    for span in (ts, ts[:, None]):
        got, got_state = layer(x, hx, span)
        assert_close("output", got, output.squeeze(axis if sequences else 0), SAME)
        assert_close("state", got_state, state[0], SAME)


@all_layers
def test_samples_of_a_batch_do_not_mix(name):
    layer, x, ts = make(name), normal(B, T, I), mx.random.uniform(0.1, 2.0, (B, T))
    outputs, _ = layer(x, timespans=ts)
    for b in range(B):
        alone, _ = layer(x[b], timespans=ts[b])
        assert_close(f"sample {b}", alone, outputs[b], SAME)


@all_layers
def test_strided_inputs_give_what_contiguous_ones_give(name):
    layer, x = make(name), normal(2 * T, I, B)
    strided = x[::2].transpose(2, 0, 1)
    want, _ = layer(mx.array(np.array(strided)))
    assert_close("output", layer(strided)[0], want, SAME)


@all_layers
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_outputs_have_the_dtype_of_the_inputs(name, dtype):
    layer, x = make(name), normal(B, T, I, dtype=dtype)
    output, state = layer(x)
    want, want_state = layer(x.astype(mx.float32))
    assert output.dtype == state.dtype == dtype
    tol = tolerance(str(dtype).rsplit(".", 1)[-1], "forward")
    assert_close("output", output.astype(mx.float32), want, tol)
    assert_close("state", state.astype(mx.float32), want_state, tol)
    assert make(name, proj_size=3)(x)[0].dtype == dtype


# --- time spans --------------------------------------------------------------------------------


@all_layers
def test_timespans_of_every_shape_agree(name):
    layer, x = make(name), normal(B, T, I)
    per_step = mx.random.uniform(0.1, 2.0, (T,))
    want, _ = layer(x, timespans=mx.broadcast_to(per_step, (B, T)))
    grid = mx.broadcast_to(per_step, (B, T))
    for span in (per_step, grid[:, :, None], np.array(grid, np.float64), np.array(per_step)):
        assert_close(f"{np.shape(span)}", layer(x, timespans=span)[0], want, SAME)


@all_layers
def test_timespans_of_every_scalar_kind_agree(name):
    layer, x = make(name), normal(B, T, I)
    want, _ = layer(x, timespans=mx.full((B, T), 2.0))
    for span in (2.0, 2, np.float32(2.0), np.array(2.0), mx.array(2.0), mx.array(2)):
        assert_close(repr(span), layer(x, timespans=span)[0], want, SAME)
    ones, _ = layer(x, timespans=mx.ones((B, T)))
    assert_close("None", layer(x)[0], ones, SAME)
    assert np.abs(np.array(want - ones)).max() > 1e-3


@all_layers
@pytest.mark.parametrize("size", [2, 6, 10])
def test_timespans_are_of_the_sample_also_when_batch_equals_units(name, size):
    """The shape in which ncps.torch takes one sample's time span for another neuron's."""
    layer, x = make(name), normal(size, 3, I)
    ts = mx.random.uniform(0.1, 3.0, (size, 3))
    outputs, _ = layer(x, timespans=ts)
    alone, _ = layer(x[1:2], timespans=ts[1:2])
    assert_close("sample 1", alone[0], outputs[1], SAME)


@pytest.mark.parametrize("name", ["ltc", "ltc_wired"])
def test_timespan_zero_keeps_the_state_of_an_ltc(name):
    layer = make(name)
    hx = normal(B, layer.state_size)
    assert_close("state", layer(normal(B, T, I), hx, 0.0)[1], hx, SAME)


@all_layers
def test_negative_and_nan_elements_of_timespans_give_nan_from_there_on(name):
    layer, ts = make(name), np.ones((2, T), np.float32)
    ts[0, 2], ts[1, 3] = -1.0, np.nan
    output = np.array(layer(normal(2, T, I), timespans=mx.array(ts))[0])
    assert np.isfinite(output[0, :2]).all()
    assert np.isfinite(output[1, :3]).all()
    assert np.isnan(output[0, 2:]).all()
    assert np.isnan(output[1, 3:]).all()


@all_layers
def test_aliases_of_hx_and_timespans(name):
    layer, x = make(name), normal(B, T, I)
    hx, ts = normal(B, layer.state_size), mx.random.uniform(0.1, 2.0, (B, T))
    want, _ = layer(x, hx, ts)
    for alias in ("initial_state", "initial_states"):
        assert_close(alias, layer(x, time_delta=ts, **{alias: hx})[0], want, SAME)
    with pytest.raises(ValueError, match="one of hx, initial_state, initial_states"):
        layer(x, hx, initial_state=hx)
    with pytest.raises(ValueError, match="one of timespans, time_delta"):
        layer(x, timespans=ts, time_delta=ts)


# --- nothing to do -----------------------------------------------------------------------------


@all_layers
@pytest.mark.parametrize("hx_given", [True, False])
def test_no_steps_give_an_empty_sequence_and_the_initial_state(name, hx_given):
    _, H, O = LAYERS[name]
    layer = make(name)
    hx = normal(B, H) if hx_given else None
    output, state = layer(mx.zeros((B, 0, I)), hx, mx.zeros((B, 0)))
    assert output.shape == (B, 0, O)
    assert_close("state", state, hx if hx_given else mx.zeros((B, H)), 0.0)
    layer.return_sequences = False
    output, _ = layer(mx.zeros((B, 0, I)), hx)
    assert_close("output", output, layer.rnn_cell.readout(state), 0.0)


@all_layers
def test_an_empty_batch_gives_empty_arrays(name):
    _, H, O = LAYERS[name]
    output, state = make(name)(mx.zeros((0, T, I)))
    assert output.shape == (0, T, O)
    assert state.shape == (0, H)


# --- explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "calls"), [("cfc", 1), ("cfc_wired", 3), ("ltc_wired", 1)])
def test_explain_names_the_backend_of_every_call(name, calls):
    layer = make(name)
    with dispatch.use_backend("reference"):
        plan = layer.explain((B, T, I))
        assert len(layer.explain((T, I)).calls) == calls
    assert len(plan.calls) == calls
    assert str(plan).count("reference: asked for by use_backend") == calls
    with pytest.raises(ValueError, match=r"shape must be \[B, T, I\] or \[T, I\]"):
        layer.explain((I,))


def test_explain_tells_the_backend_all_it_may_ask(monkeypatch):
    seen = []

    def explain(*call, **keywords):
        seen.append((*call, keywords))
        return dispatch.Choice("reference", "")

    monkeypatch.setattr(dispatch, "explain", explain)
    ltc = LTC(I, AutoNCP(8, 2), batch_first=False, ode_unfolds=3)
    ltc.explain((T, B, I), scalar_timespans=False)
    cfc = CfC(I, 5, mode="no_gate", activation="relu", backbone_units=7, variant="keras").eval()
    cfc.explain((B, T, I), dtype=mx.float16)
    wanted = LTCFacts(
        I, 8, 3, "semi_implicit", ltc.rnn_cell.synapses, True, B, T, mx.float32, False
    )
    assert seen[0] == ("ltc_sequence", wanted, {"stepwise": False})
    wanted = CfCFacts(I, 5, (7,), "no_gate", "relu", "keras", False, B, T, mx.float16, True)
    assert seen[1] == ("cfc_sequence", wanted, {"stepwise": False})


# --- errors ------------------------------------------------------------------------------------


@all_layers
def test_wrong_inputs_raise(name):
    op, layer = name[:3], make(name)
    with pytest.raises(ValueError, match=rf"\[{op}\] inputs must be \[B, T, I\] or \[T, I\], got"):
        layer(normal(I))
    with pytest.raises(ValueError, match=rf"\[{op}\] inputs must be .*, got a NumPy array"):
        layer(np.zeros((B, T, I), np.float32))
    with pytest.raises(ValueError, match=rf"\[{op}\] inputs must have {I} features, got 3"):
        layer(normal(B, T, 3))
    with pytest.raises(ValueError, match="float32, float16 or bfloat16, got int32"):
        layer(mx.zeros((B, T, I), mx.int32))


@all_layers
def test_wrong_timespans_raise(name):
    op, layer, x = name[:3], make(name), normal(B, T, I)
    for shape in ((T - 1,), (B, T - 1), (T, B), (B, T, 2), (1, T), (B, T, 1, 1)):
        with pytest.raises(ValueError, match=rf"\[{op}\] timespans must be \[B, T\] = \(3, 5\)"):
            layer(x, timespans=mx.ones(shape))
    layer.batch_first = False
    with pytest.raises(ValueError, match=rf"\[{op}\] timespans must be \[T, B\] = \(5, 3\)"):
        layer(x.swapaxes(0, 1), timespans=mx.ones((B, T)))
    with pytest.raises(ValueError, match=rf"\[{op}\] timespans must be \[T\] = \(5,\), got"):
        layer(x[0], timespans=mx.ones((1, T)))
    for number in (-0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"\[{op}\] timespans must be >= 0"):
            layer(x.swapaxes(0, 1), timespans=number)
    with pytest.raises(ValueError, match=rf"\[{op}\] timespans must be"):
        layer(x.swapaxes(0, 1), timespans="1.0")


@all_layers
def test_wrong_hx_raises(name):
    op, layer, x = name[:3], make(name), normal(B, T, I)
    H = layer.state_size
    wanted = rf"\[{op}\] hx must be \[B, H\] = \(3, {H}\), got"
    for hx in (mx.zeros((H,)), mx.zeros((B, H + 1)), mx.zeros((1, H)), mx.zeros((1, B, H))):
        with pytest.raises(ValueError, match=wanted):
            layer(x, hx)
    with pytest.raises(ValueError, match=rf"\[{op}\] hx must be \[H\] = \({H},\), got"):
        layer(x[0], mx.zeros((1, H)))
    with pytest.raises(ValueError, match=rf"\[{op}\] hx must be an mx.array, got tuple"):
        layer(x, (mx.zeros((B, H)), mx.zeros((B, H))))


@pytest.mark.parametrize("layer", [CfC, LTC])
def test_wrong_first_arguments_raise(layer):
    op = layer.__name__.lower()
    with pytest.raises(ValueError, match=rf"\[{op}\] units must be .*, got None"):
        layer(I)
    other = CfCCell(I, 6) if layer is LTC else LTCCell(6, I)
    kind = type(other).__name__
    with pytest.raises(ValueError, match=rf"input_size, which is a cell, must be .*, got {kind}"):
        layer(other)
    own = LTCCell(6, I) if layer is LTC else CfCCell(I, 6)
    with pytest.raises(ValueError, match=rf"\[{op}\] units must be left out with a cell"):
        layer(own, 6)
    wiring = FullyConnected(5)
    wiring.build(I + 1)
    with pytest.raises(ValueError, match=f"input_dim must be {I + 1}"):
        layer(I, wiring)


def test_unknown_options_raise():
    with pytest.raises(ValueError, match=r"\[cfc\] mode must be one of .*, got 'fast'"):
        CfC(I, 6, mode="fast")
    with pytest.raises(ValueError, match=r"activation must be one of .*, got 'swish'"):
        CfC(I, 6, activation="swish")
    with pytest.raises(ValueError, match=r"\[cfc\] variant must be one of .*, got 'jax'"):
        CfC(I, 6, variant="jax")
    with pytest.raises(ValueError, match=r"\[ltc\] merge_mode must be one of .*, got 'max'"):
        LTC(I, 6, merge_mode="max")
    with pytest.raises(ValueError, match=r"\[ltc\] input_mapping must be one of .*, got 'quad'"):
        LTC(I, 6, input_mapping="quad")
    with pytest.raises(ValueError, match=r"\[ltc\] ode_unfolds must be an integer >= 1, got 0"):
        LTC(I, 6, ode_unfolds=0)(normal(B, T, I))
