"""Everything that has weights survives its configuration, its files, copies and pickles, and is
drawn again by the same key.
"""

import copy
import json
import pickle

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_ncps import cells, config, rnn

from tests.support.round_trips import (
    ALL,
    BASES,
    DENSE,
    LAYERS,
    arguments,
    assert_same_results,
    assert_same_weights,
    differ,
    everything,
    made,
    parameters,
    results,
    trainable,
)

each = pytest.mark.parametrize("name", everything)
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
}


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(5)


def test_every_public_class_is_tested():
    used = {type(part()).__name__ for part in ALL.values()}
    public = [vars(module)[name] for module in (cells, rnn) for name in module.__all__]
    wanted = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, nn.Module)}
    assert {"CfC", "LTCRNN", "LTCCell"} <= wanted - BASES <= used


@each
def test_config_and_weights_restore_everything(name, tmp_path):
    one, inputs = made(name), arguments(name)
    stored = json.loads(json.dumps(one.get_config()))
    assert stored == one.get_config()
    mx.random.seed(99)
    other = type(one).from_config(stored).eval()
    assert other.get_config() == stored
    before, wanted = parameters(other), parameters(one)
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in wanted.items()}
    assert any(not mx.array_equal(before[k], wanted[k]) for k in wanted)
    path = str(tmp_path / "weights.safetensors")
    one.save_weights(path)
    other.load_weights(path)
    assert_same_results(one, other, inputs)
    assert trainable(other) == trainable(one)
    again = config.from_config(json.loads(json.dumps(config.to_config(one)))).eval()
    again.load_weights(path)
    assert_same_results(one, again, inputs)


@each
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_files_restore_everything(name, suffix, tmp_path):
    one, inputs = made(name), arguments(name)
    mx.random.seed(99)
    other = made(name)
    path = str(tmp_path / f"weights.{suffix}")
    one.save_weights(path)
    stored = mx.load(path)
    assert set(stored) == set(parameters(one))
    assert differ(results(one, inputs), results(other, inputs))
    other.load_weights(path)
    assert_same_results(one, other, inputs)
    assert_same_weights(one, other)


@each
@pytest.mark.parametrize("duplicate", COPIES)
def test_copies_compute_the_same_and_keep_what_is_frozen(name, duplicate):
    one, inputs = made(name), arguments(name)
    fixed = set(parameters(one)) - trainable(one)
    one.freeze(keys="bias")
    frozen = trainable(one)
    twin = COPIES[duplicate](one)
    assert type(twin) is type(one)
    assert twin.get_config() == one.get_config()
    assert_same_results(one, twin, inputs)
    assert trainable(twin) == frozen
    if duplicate != "copy":  # a shallow copy shares its modules
        twin.unfreeze()
        assert trainable(one) == frozen
    twin.unfreeze()
    assert set(parameters(twin)) - trainable(twin) == fixed
    assert_same_results(one, twin, inputs)


@each
@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle"])
def test_copies_are_independent(name, duplicate):
    one, inputs = made(name), arguments(name)
    twin = COPIES[duplicate](one)
    before = parameters(one)
    twin.redraw(mx.random.key(1))
    assert differ(before.values(), parameters(twin).values())
    assert not differ(before.values(), parameters(one).values())
    twin.load_weights(list(before.items()))
    assert_same_results(one, twin, inputs)


def test_a_shallow_copy_of_an_ltc_has_masks_of_its_own():
    cell, inputs = made("ltc"), arguments("ltc")
    twin, synapses = copy.copy(cell), cell.synapses
    before = results(cell, inputs)
    twin.sparsity_mask = mx.zeros_like(twin.sparsity_mask)
    assert twin.synapses != synapses
    assert cell._host_masks.lists is synapses is cell.synapses
    assert not differ(before, results(cell, inputs))
    assert differ(before, results(twin, inputs))


@each
def test_unbuilt_copies_and_configs_build_later(name):
    one, inputs = ALL[name]().eval(), arguments(name)
    stored = json.loads(json.dumps(one.get_config()))
    twins = [duplicate(one) for duplicate in COPIES.values() if duplicate is not copy.copy]
    twins.append(type(one).from_config(stored).eval())
    results(one, inputs)
    for twin in twins:
        results(twin, inputs)
        twin.load_weights(list(parameters(one).items()))
        assert_same_results(one, twin, inputs)


@each
def test_seed_and_key_draw_the_same_weights(name):
    built = []
    for seed in (3, 3, 4):
        mx.random.seed(seed)
        one = ALL[name]()
        mx.random.seed(seed)
        results(one, arguments(name))
        built.append(parameters(one))
    assert same(built[0], built[1])
    assert not same(built[0], built[2])
    state = mx.random.state[0].tolist()
    one.redraw(mx.random.key(7))
    first = parameters(one)
    other = made(name)
    other.redraw(mx.random.key(7))
    assert same(first, parameters(other))
    mx.random.seed(4)
    before = mx.random.state[0].tolist()
    other.redraw(mx.random.key(8))
    assert mx.random.state[0].tolist() == before != state
    assert not same(first, parameters(other))


def test_redraw_takes_a_key_or_its_seed():
    layer = made("CfC_mixed")
    layer.redraw(2**40 + 3)
    first = parameters(layer)
    layer.redraw(mx.random.key(2**40 + 3))
    assert same(first, parameters(layer))
    with pytest.raises(ValueError, match=r"\[redraw\] key must be an mx\.random\.key, .* got 'x'"):
        layer.redraw("x")


def same(one, other):
    assert set(one) == set(other)
    return all(mx.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", [*LAYERS, *DENSE])
def test_output_shape_of_layers(name):
    one, inputs = made(name), arguments(name)
    result = one(*inputs)
    if getattr(one, "return_state", False):
        result = result[0]
    wanted = tuple(r.shape for r in result) if isinstance(result, tuple) else result.shape
    assert one.compute_output_shape(inputs[0].shape) == wanted
