"""Mixed memory (MATHS 4): against ncps.torch, against NumPy in float64, and in every kind of
call.
"""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, dispatch
from mlx_ncps.convert import from_torch
from mlx_ncps.ops import numpy as truth
from mlx_ncps.rnn import LTC, CfC
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close
from tests.support.rnn_layers import (
    GRADIENT,
    LAYERS,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    gradients,
    make,
    normal,
    spans,
    states_like,
    train,
)

all_layers = pytest.mark.parametrize("name", LAYERS)
backends = pytest.mark.parametrize("backend", available_backends())


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


# --- live ncps.torch ---------------------------------------------------------------------------

TORCH = {
    "cfc": ("CfC", {"units": 6, "backbone_units": 9}),
    "cfc_pure": ("CfC", {"units": 6, "mode": "pure", "backbone_layers": 0}),
    "cfc_no_gate": ("CfC", {"units": 5, "mode": "no_gate", "backbone_layers": 2, "proj_size": 3}),
    "cfc_wired": ("CfC", {"units": (10, 2)}),
    "ltc": ("LTC", {"units": 6, "ode_unfolds": 3}),
    "ltc_wired": ("LTC", {"units": (10, 2), "implicit_param_constraints": False}),
}


def torch_module(torch, name):
    """A float64 module whose parameters are float32 numbers."""
    ncps_torch = pytest.importorskip("ncps.torch")
    from ncps.wirings import AutoNCP

    kind, options = TORCH[name]
    options = dict(options)
    units = options.pop("units")
    units = AutoNCP(*units) if isinstance(units, tuple) else units
    torch.manual_seed(3)
    return getattr(ncps_torch, kind)(I, units, mixed_memory=True, **options).double()


def our_layer(module):
    """The layer that equals a module of ncps.torch with mixed memory."""
    arrays = {name: value.float().numpy() for name, value in module.state_dict().items()}
    module.use_mixed = False
    lstm = {name: mx.array(arrays.pop(name)) for name in list(arrays) if "lstm." in name}
    template = from_torch(_without_lstm(module))
    kind = type(template)
    layer = kind(
        template.rnn_cell,
        mixed_memory=True,
        return_sequences=True,
        return_state=True,
        **({"proj_size": template.proj_size} if template.proj_size else {}),
    )
    assert {n for n, _ in tree_flatten(layer.lstm.parameters())} == {
        name.removeprefix("lstm.") for name in lstm
    }
    if "fc" in template:
        layer.fc = template.fc
    layer.load_weights(list(lstm.items()), strict=False)
    return layer


def _without_lstm(module):
    """A view of the module whose state dict has no LSTM."""

    class View:
        rnn_cell = module.rnn_cell
        return_sequences = module.return_sequences
        batch_first = module.batch_first
        proj_size = getattr(module, "proj_size", None)

        def state_dict(self):
            return {k: v for k, v in module.state_dict().items() if not k.startswith("lstm.")}

    return View()


def run_torch(torch, module, x, h, c, ts):
    """Step by step, time spans as [B, 1]: ncps.torch squeezes them and breaks for batches."""
    outputs = []
    for t in range(x.shape[1]):
        h, c = module.lstm(x[:, t], (h, c))
        output, h = module.rnn_cell(x[:, t], h, 1.0 if ts is None else ts[:, t : t + 1])
        outputs.append(module.fc(output) if hasattr(module, "fc") else output)
    return torch.stack(outputs, dim=1), h, c


@backends
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("name", TORCH)
def test_layer_equals_ncps_torch_with_its_gradients(name, timed, backend):
    torch = pytest.importorskip("torch")
    module = torch_module(torch, name)
    layer, H = our_layer(module), module.state_size
    arrays = [normal(B, T, I), normal(B, H), normal(B, H), *([spans(B, T)] if timed else [])]

    theirs = [torch.from_numpy(np.array(a)).double().requires_grad_() for a in arrays]
    x, h, c = theirs[:3]
    outputs, h, c = run_torch(torch, module, x, h, c, theirs[3] if timed else None)
    cotangents = [normal(*result.shape) for result in (outputs, h, c)]
    weighted = zip((outputs, h, c), cotangents, strict=True)
    sum((r * torch.from_numpy(np.array(d))).sum() for r, d in weighted).backward()

    def loss(x, h, c, ts=None):
        output, (h, c) = layer(x, (h, c), ts)
        results = zip((output, h, c), cotangents, strict=True)
        return sum(mx.sum(r * d) for r, d in results)

    with dispatch.use_backend(backend):
        got, (got_h, got_c) = layer(arrays[0], tuple(arrays[1:3]), arrays[3] if timed else None)
        grads = gradients(layer, loss, *arrays)
    assert dispatch.last_backend() == backend
    for key, ours, want in (("output", got, outputs), ("h", got_h, h), ("c", got_c, c)):
        assert_close(key, ours, want.detach().numpy(), SAME)
    want = {f"arrays.{n}": leaf.grad.numpy() for n, leaf in enumerate(theirs)}
    want |= {_our_name(n): p.grad.numpy() for n, p in module.named_parameters() if p.requires_grad}
    assert_all_close(grads, want, GRADIENT)


def _our_name(name):
    return re.sub(r"backbone\.(\d+)", lambda match: f"backbone.{int(match[1]) // 2}", name)


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"return_sequences": False}])
@pytest.mark.parametrize("batched", [True, False])
def test_calls_equal_the_torch_layer(options, batched):
    """All that ncps.torch's own layer can do with mixed memory, its defaults included."""
    torch = pytest.importorskip("torch")
    module = torch_module(torch, "ltc_wired").float()
    layer = our_layer(module)
    module.use_mixed = True
    for key, value in options.items():
        setattr(module, key, value)
        setattr(layer, key, value)
    x = normal(2, 5, I) if batched else normal(5, I)
    output, state = module(torch.from_numpy(np.array(x)))
    got, got_state = layer(x)
    assert_close("output", got, output.detach().numpy(), SAME)
    for key, ours, want in zip("hc", got_state, state, strict=True):
        assert_close(key, ours, want.detach().numpy(), SAME)


# --- NumPy, float64 ----------------------------------------------------------------------------


def numpy_run(layer, weights, x, h, c, ts):
    """MATHS 4 in float64: outputs [B, T, H], h, c; a CfC or LTC without wiring or mappings."""
    outputs = []
    for t in range(x.shape[1]):
        z = x[:, t] @ weights["lstm.input_map.weight"].T + weights["lstm.input_map.bias"]
        z = z + h @ weights["lstm.recurrent_map.weight"].T
        i, ig, fg, og = np.split(z, 4, axis=1)
        c = c * truth.sigmoid(fg + 1) + np.tanh(i) * truth.sigmoid(ig)
        h = np.tanh(c) * truth.sigmoid(og)
        if isinstance(layer, CfC):
            pairs = {
                n: (weights[f"rnn_cell.{n}.weight"], weights[f"rnn_cell.{n}.bias"])
                for n in ("backbone.0", "ff1", "ff2", "time_a", "time_b")
            }
            params = truth.CfCParams((pairs.pop("backbone.0"),), **pairs)
            h = truth.cfc_step(x[:, t], h, ts[:, t], params)
        else:
            names = truth.LTCParams._fields
            params = truth.LTCParams(**{n: weights.get(f"rnn_cell.{n}") for n in names})
            h = truth.ltc_step(
                x[:, t], h, ts[:, t], params, ode_unfolds=3, implicit_param_constraints=True
            )
        outputs.append(cell_readout(weights, h))
    return np.stack(outputs, axis=1), h, c


def cell_readout(weights, h):
    if "rnn_cell.output_w" in weights:
        return h * weights["rnn_cell.output_w"] + weights["rnn_cell.output_b"]
    return h


@backends
@pytest.mark.parametrize("name", ["cfc", "ltc"])
def test_layer_equals_numpy_with_its_gradients(name, backend):
    """The gradients along random directions, by central differences of float64."""
    layer = make(name, mixed_memory=True)
    names = ("x", "h", "c", "ts")
    arrays = (normal(B, T, I), normal(B, 6), normal(B, 6), spans(B, T))
    weights = dict(tree_flatten(layer.trainable_parameters()))
    cotangents = [normal(B, T, 6), normal(B, 6), normal(B, 6)]

    def loss(x, h, c, ts):
        output, (h, c) = layer(x, (h, c), ts)
        return sum(mx.sum(r * d) for r, d in zip((output, h, c), cotangents, strict=True))

    with dispatch.use_backend(backend):
        got, (h, c) = layer(arrays[0], arrays[1:3], arrays[3])
        grads = gradients(layer, loss, *arrays)
    weights = {n: np.array(w, np.float64) for n, w in weights.items()}
    doubles = dict(zip(names, (np.array(a, np.float64) for a in arrays), strict=True))
    for key, ours, want in zip(
        "yhc", (got, h, c), numpy_run(layer, weights, **doubles), strict=True
    ):
        assert_close(key, ours, want, SAME)

    def numpy_loss(values):
        inputs = {n: values[n] for n in names}
        results = numpy_run(layer, {n: v for n, v in values.items() if n not in names}, **inputs)
        return sum(np.sum(r * np.array(d)) for r, d in zip(results, cotangents, strict=True))

    values, rng = weights | doubles, np.random.default_rng(0)
    for key, value in values.items():
        direction = rng.normal(size=value.shape)
        direction, step = direction / np.linalg.norm(direction), 1e-5
        ends = [numpy_loss(values | {key: value + s * direction}) for s in (step, -step)]
        want = (ends[0] - ends[1]) / (2 * step)
        grad = grads[f"arrays.{names.index(key)}" if key in names else key]
        assert_close(key, np.sum(np.array(grad, np.float64) * direction), want, GRADIENT)


# --- calls -------------------------------------------------------------------------------------


@all_layers
def test_names_and_sizes_of_the_memory(name):
    layer = make(name, mixed_memory=True)
    H = layer.state_size
    shapes = {n: a.shape for n, a in tree_flatten(layer.lstm.parameters())}
    assert shapes == {
        "input_map.weight": (4 * H, I),
        "input_map.bias": (4 * H,),
        "recurrent_map.weight": (4 * H, H),
    }
    assert layer._state_sizes == {"h": H, "c": H}


@all_layers
def test_state_continues_a_sequence(name):
    layer, x, ts = make(name, mixed_memory=True), normal(B, T, I), spans(B, T)
    hx = states_like(layer)
    outputs, state = layer(x, hx, ts)
    _, middle = layer(x[:, :2], hx, ts[:, :2])
    rest, end = layer(x[:, 2:], list(middle), ts[:, 2:])
    assert_close("output", rest, outputs[:, 2:], SAME)
    assert_trees_close("state", end, state, SAME)
    none = tuple(0 * h for h in hx)
    mx.eval(none)
    zeros, _ = layer(x, none, ts)
    assert_close("zeros", layer(x, timespans=ts)[0], zeros, 0.0)
    assert np.abs(np.array(zeros - outputs)).max() > 1e-3


@all_layers
@pytest.mark.parametrize("span", [None, 0.5, "0-d", "[T]", "[B, T]"])
def test_timespans_of_every_form(name, span):
    layer, x = make(name, mixed_memory=True), normal(B, T, I)
    forms = {"0-d": mx.array(0.5), "[T]": mx.full((T,), 0.5), "[B, T]": mx.full((B, T, 1), 0.5)}
    ts = forms.get(span, span)
    want, _ = layer(x, timespans=mx.full((B, T), 1.0 if span is None else 0.5))
    assert_close("output", layer(x, timespans=ts)[0], want, SAME)


@all_layers
@pytest.mark.parametrize("batch_first", [True, False])
def test_every_layout_gives_the_same(name, batch_first):
    layer = make(name, mixed_memory=True)
    x, hx, ts = normal(B, T, I), states_like(layer), spans(B, T)
    want, want_state = layer(x, hx, ts)
    alone, alone_state = layer(x[1], tuple(h[1] for h in hx), ts[1])
    assert_close("unbatched", alone, want[1], SAME)
    assert_trees_close("unbatched state", alone_state, tuple(h[1] for h in want_state), SAME)
    layer.batch_first = batch_first
    if not batch_first:
        got, state = layer(x.swapaxes(0, 1), hx, ts.T)
        assert_close("time-major", got.swapaxes(0, 1), want, SAME)
        assert_trees_close("time-major state", state, want_state, SAME)


@all_layers
def test_no_steps_and_no_samples(name):
    layer = make(name, mixed_memory=True)
    hx = states_like(layer)
    output, state = layer(mx.zeros((B, 0, I)), hx)
    assert output.shape == (B, 0, layer.output_size)
    assert_trees_close("state", state, hx, 0.0)
    layer.return_sequences = False
    assert_close("output", layer(mx.zeros((B, 0, I)), hx)[0], layer.rnn_cell.readout(hx[0]), 0.0)
    output, state = layer(mx.zeros((0, T, I)))
    assert (output.shape, state[1].shape) == ((0, layer.output_size), (0, layer.state_size))


@all_layers
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_float32_inside(name, dtype):
    layer, x = make(name, mixed_memory=True), normal(B, T, I, dtype=dtype)
    output, state = layer(x)
    want, want_state = layer(x.astype(mx.float32))
    assert output.dtype == state[0].dtype == state[1].dtype == dtype
    assert_close("output", output, want.astype(dtype), 0.0)  # rounded once, at the end
    assert_trees_close("state", state, tuple(h.astype(dtype) for h in want_state), 0.0)


@all_layers
@backends
def test_compiled_training_equals_the_uncompiled_and_learns(name, backend):
    x, ts = normal(B, T, I), spans(B, T)
    y = mx.sin(mx.cumsum(x[:, :, :2], axis=1))
    models = [make(name, mixed_memory=True, proj_size=2) for _ in range(2)]
    models[1].update(models[0].parameters())

    def loss(model):
        return mx.mean(mx.square(model(x, timespans=ts)[0] - y))

    with dispatch.use_backend(backend):
        plain, compiled = (train(m, loss, 6, c) for m, c in zip(models, (False, True), strict=True))
    assert_close("losses", compiled, plain, GRADIENT)
    assert plain[-1] < plain[0]
    moved = [n for n, _ in tree_flatten(models[0].lstm.parameters())]
    weights = dict(tree_flatten(models[0].lstm.parameters()))
    assert_all_close(dict(tree_flatten(models[1].lstm.parameters())), weights, GRADIENT)
    assert len(moved) == 3


def test_a_wiring_without_width_builds_the_memory_at_the_first_call():
    layer = LTC(None, AutoNCP(10, 2), mixed_memory=True)
    assert not tree_flatten(layer.lstm.parameters())
    output, _ = layer(normal(B, T, I))
    assert output.shape == (B, T, 2)
    assert layer.lstm.input_map.weight.shape == (40, I)
    with pytest.raises(ValueError, match="inputs must have 4 features, got 3"):
        layer(normal(B, T, 3))


def test_wrong_states_raise():
    for name in ("cfc", "ltc"):
        layer, x, H = make(name, mixed_memory=True), normal(B, T, I), 6
        op = name
        with pytest.raises(ValueError, match=rf"\[{op}\] hx must be \(h, c\), got array"):
            layer(x, mx.zeros((B, H)))
        with pytest.raises(ValueError, match=rf"\[{op}\] hx must be \(h, c\), got tuple of 3"):
            layer(x, (mx.zeros((B, H)),) * 3)
        with pytest.raises(ValueError, match=rf"\[{op}\] hx\.c must be \[B, H\] = \(3, 6\), got"):
            layer(x, (mx.zeros((B, H)), mx.zeros((B, H + 1))))
        with pytest.raises(ValueError, match=rf"\[{op}\] hx\.h must be \[H\] = \(6,\), got"):
            layer(x[0], (mx.zeros((B, H)), mx.zeros((B, H))))
