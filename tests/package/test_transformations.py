"""What MLX does to whole models, done to one layer of each kind, alone and inside a model:
quantized, cast, mapped, averaged, frozen, copied; the result is what the transformation means.
"""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import LTC, CfC, use_backend
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close
from tests.support.parts import at, linear_parts, put
from tests.support.rnn_layers import SAME
from tests.support.round_trips import (
    ALL,
    arguments,
    assert_same_results,
    everything,
    made,
    parameters,
    trainable,
)

FIXED = ("mask", "adjacency_matrix")  # what the names of fixed arrays end with, or nearly
all_kinds = pytest.mark.parametrize("name", everything)
nested = pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(3)


def model_of(layer, inside):
    """The layer, or a model of MLX's that holds it."""
    return nn.Sequential(nn.Linear(2, 2), layer) if inside else layer


def fixed(layer):
    """The arrays that are never trained."""
    names = set(parameters(layer)) - trainable(layer)
    return {name: value for name, value in parameters(layer).items() if name in names}


def assert_same_arrays(got, wanted):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert got[key].dtype == value.dtype, key
        assert mx.array_equal(got[key], value), key


@all_kinds
@nested
def test_apply_leaves_fixed_arrays_as_they_were(name, inside):
    layer = made(name)
    before, weights = fixed(layer), {n: parameters(layer)[n] for n in trainable(layer)}
    assert all(any(part in key for part in FIXED) for key in before)
    draw = nn.init.uniform(0.1, 0.2)
    model_of(layer, inside).apply(lambda p: draw(p.astype(mx.float32)))
    assert_same_arrays(fixed(layer), before)
    after = parameters(layer)
    assert all(not mx.array_equal(after[n], value) for n, value in weights.items())
    assert all(mx.all((after[n] >= 0.1) & (after[n] <= 0.2)) for n in weights)
    model_of(layer, inside).apply(mx.zeros_like)
    assert_same_arrays(fixed(layer), before)
    layer(*arguments(name))


@all_kinds
@nested
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_set_dtype_rounds_the_weights_alone(name, inside, dtype):
    layer = made(name)
    before = fixed(layer)
    rounded = copy.deepcopy(layer)
    half = {n: p.astype(dtype) for n, p in tree_flatten(rounded.trainable_parameters())}
    rounded.load_weights([(n, p.astype(mx.float32)) for n, p in half.items()], strict=False)
    model_of(layer, inside).set_dtype(dtype)
    assert_same_arrays(fixed(layer), before)
    assert {parameters(layer)[n].dtype for n in trainable(layer)} == {dtype}
    x = arguments(name)
    got = [leaf for _, leaf in tree_flatten(layer(*x))]
    reset(layer)
    with use_backend("reference"):
        wanted = [leaf for _, leaf in tree_flatten(rounded(*x))]
    for n, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert_close(f"result {n}", a, b, SAME)


def reset(layer):
    if hasattr(layer, "reset_states"):
        layer.reset_states()


@all_kinds
def test_average_of_all_parameters_can_be_set(name):
    layer, other = made(name), None
    other = copy.deepcopy(layer)
    average = tree_map(lambda p: p, layer.parameters())
    for _ in range(3):
        average = tree_map(lambda a, p: 0.999 * a + 0.001 * p, average, layer.parameters())
    other.update(average)
    before, after = parameters(layer), parameters(other)
    for key, value in before.items():
        assert_close(key, after[key].astype(mx.float32), value.astype(mx.float32), SAME)
        assert ("adjacency" not in key) or mx.array_equal(after[key], value)
    x = arguments(name)
    got, wanted = tree_flatten(other(*x)), tree_flatten(layer(*x))
    for (key, a), (_, b) in zip(got, wanted, strict=True):
        assert_close(key, a, b, SAME)


@all_kinds
@nested
def test_freezing_acts_before_the_weights_exist_and_never_frees_fixed_arrays(name, inside):
    layer = made(name)
    wanted = trainable(layer)
    for one in (layer, ALL[name]()):
        model = model_of(one, inside)
        model.freeze()
        one(*arguments(name))
        assert trainable(one) == set()
        model.unfreeze()
        assert trainable(one) == wanted
        model.unfreeze(keys=["sparsity_mask", "adjacency_matrix", "sensory_adjacency_matrix"])
        assert trainable(one) == wanted
        one.freeze()
        one.unfreeze(recurse=False)
        assert not trainable(one) & set(fixed(layer))


@all_kinds
@nested
def test_eval_before_the_weights_exist_holds_for_them(name, inside):
    layer = ALL[name]()
    model_of(layer, inside).eval()
    layer(*arguments(name))
    assert not any(module.training for module in layer.modules())


@all_kinds
def test_maps_and_replacements_by_the_same_change_nothing(name):
    layer, x = made(name), arguments(name)
    wanted = copy.deepcopy(layer)
    names = []
    layer.apply_to_modules(lambda key, _: names.append(key))
    assert len(names) == len(set(names)) == len(layer.modules())
    layer.update(layer.filter_and_map(nn.Module.valid_parameter_filter, lambda p: p + 0))
    layer.update_modules(layer.leaf_modules())
    layer.update_modules(layer.children())
    if trainable(layer):
        layer.update(tree_map(lambda p: p, layer.trainable_parameters()))
    mx.eval(layer.parameters())
    assert_same_results(wanted, layer, x)


# --- nn.quantize ---------------------------------------------------------------------------------

W = 32
WIDE = {  # layers of which every map has whole groups of 32 inputs
    "cfc": lambda: CfC(W, W, backbone_units=64, backbone_layers=2),
    "cfc_pure": lambda: CfC(W, W, 3, mode="pure", backbone_layers=0),
    "cfc_keras": lambda: CfC(W, W, variant="keras", backbone_units=W),
    "cfc_wired": lambda: CfC(W, AutoNCP(64, 8), backbone_units=W),
    "cfc_both": lambda: CfC(W, W, backbone_units=64, bidirectional=True),
    "cfc_mixed": lambda: CfC(W, W, W, backbone_units=W, mixed_memory=True),
    "ltc": lambda: LTC(W, W, proj_size=3, ode_unfolds=2),
    "ltc_mixed": lambda: LTC(W, W, mixed_memory=True, ode_unfolds=2),
}


def quantized(name, inside, **options):
    """(a layer quantized, how many of its maps were, the same with the rounded weights)."""
    layer = WIDE[name]().eval()
    layer(mx.zeros((1, 1, W)))
    plain = copy.deepcopy(layer)
    model = model_of(layer, inside)
    maps = linear_parts(plain)
    only = {"class_predicate": lambda _, m: isinstance(m, nn.Linear) and m.weight.shape[-1] > 2}
    nn.quantize(model, **only, **options)
    changed = [path for path in maps if type(at(layer, path)) is nn.QuantizedLinear]
    for path in changed:
        part = at(layer, path)
        scales = part["weight"], part["scales"], part.get("biases")
        weight = mx.dequantize(*scales, part.group_size, part.bits, part.mode)
        at(plain, path).weight = weight
    mx.eval(layer.parameters(), plain.parameters())
    return layer, changed, plain


@pytest.mark.parametrize("name", WIDE)
@nested
@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 4}, {"mode": "mxfp8"}], ids=str)
def test_quantized_layer_computes_with_the_rounded_weights(name, inside, options):
    size = {} if "mode" in options else {"group_size": W}
    layer, changed, plain = quantized(name, inside, **options, **size)
    assert changed == [
        path for path in linear_parts(plain) if at(plain, path).weight.shape[1] % W == 0
    ]
    assert changed
    assert layer._stepwise() == plain._stepwise()
    for T in (1, 9):
        x = mx.random.normal((2, T, W))
        mx.eval(x)
        with use_backend("reference"):
            wanted = tree_flatten(plain(x))
        for (key, a), (_, b) in zip(tree_flatten(layer(x)), wanted, strict=True):
            assert_close(f"T={T} {key}", a, b, SAME)
    if not layer.bidirectional:
        got, wanted = tree_flatten(layer.step(x[:, 0])), tree_flatten(plain.step(x[:, 0]))
        for (key, a), (_, b) in zip(got, wanted, strict=True):
            assert_close(f"step {key}", a, b, SAME)


@pytest.mark.parametrize("name", WIDE)
def test_quantized_layer_trains_what_is_left_and_copies(name):
    layer, changed, plain = quantized(name, False, group_size=W, bits=8)
    x = mx.random.normal((2, 4, W))

    def loss(layer, x):
        return sum(leaf.square().sum() for _, leaf in tree_flatten(layer(x)))

    got = dict(tree_flatten(nn.value_and_grad(layer, loss)(layer, x)[1]))
    wanted = dict(tree_flatten(nn.value_and_grad(plain, loss)(plain, x)[1]))
    assert not set(got) & {f"{path}.weight" for path in changed}
    for key, value in got.items():
        assert_close(key, value, wanted[key], SAME * 10)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_results(layer, other, (x,))


@pytest.mark.parametrize(
    "make", [lambda: CfC(5, 16), lambda: LTC(5, 16, proj_size=3, mixed_memory=True)]
)
@pytest.mark.parametrize("options", [{}, {"mode": "nvfp4", "quantize_input": True}], ids=str)
def test_model_around_a_layer_of_odd_sizes_can_be_quantized(make, options):
    layer, x = make(), mx.random.normal((2, 3, 64))
    model = nn.Sequential(nn.Linear(64, 64, bias=False), layer)
    before = parameters(layer)
    nn.quantize(model, **options)
    assert type(model.layers[0]) is not nn.Linear
    for path in linear_parts(make()):
        whole = before[f"{path}.weight"].shape[1] % 64 == 0 and not options
        assert (type(at(layer, path)) is nn.QuantizedLinear) == whole
    assert layer(x[..., :5])[0].shape[:2] == (2, 3)


def test_quantizing_a_packed_cell_acts_at_the_next_step():
    layer, x = CfC(W, W, backbone_units=W), mx.random.normal((2, W))
    mx.eval(layer.parameters(), x)
    before = layer.step(x)[0]
    nn.quantize(layer, group_size=W, bits=2)
    after = layer.step(x)[0]
    assert mx.abs(after - before).max() > 1e-3
    with use_backend("reference"):
        assert_close("step", after, layer.step(x)[0], SAME)


def test_replaced_parts_travel_with_copies_and_files(tmp_path):
    layer, x = CfC(W, W), mx.random.normal((2, 3, W))
    mx.eval(x)  # beside a GPU lazy arrays go another way
    put(layer, "rnn_cell.ff1", nn.Sequential(nn.Linear(128, 4), nn.Linear(4, W)))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_results(layer, other, (x,))
    layer.save_weights(str(tmp_path / "weights.safetensors"))
    other = copy.deepcopy(layer)
    other.apply(mx.zeros_like)
    other.load_weights(str(tmp_path / "weights.safetensors"))
    assert_same_results(layer, other, (x,))
    with pytest.raises(ValueError, match=r"must have rnn_cell\.ff1\.bias"):
        CfC(W, W).load_weights(str(tmp_path / "weights.safetensors"))
