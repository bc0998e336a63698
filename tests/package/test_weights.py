"""load_weights and save_weights of every layer: exact round trips, hostile and corrupt files, and a
layer that is changed as a whole or not at all.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, LTCRNN, MMRNN, CfC, CfCCell, CfCRNN, LiquidRNN, LSTMCell, LTCCell
from mlx_ncps.convert import KerasMemoryCell
from mlx_ncps.weights import WeightFiles, load_weights, save_weights
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

from tests.support.cases import assert_all_close

MAKERS = {
    "cfc": lambda: CfC(3, 4, backbone_units=5, backbone_layers=2),
    "cfc_pure": lambda: CfC(3, 4, backbone_layers=0, mode="pure"),
    "cfc_keras": lambda: CfC(3, AutoNCP(8, 2), variant="keras"),
    "cfc_wired": lambda: CfC(3, AutoNCP(8, 2), mixed_memory=True, proj_size=3),
    "cfc_wired_backbone": lambda: CfC(3, AutoNCP(8, 2), backbone_units=4),
    "ltc": lambda: LTC(3, 4, input_mapping=None, bidirectional=True, merge_mode="sum"),
    "ltc_wired": lambda: LTC(3, NCP(3, 2, 2, 2, 2, 2, 2), mixed_memory=True, proj_size=2),
    "cfc_rnn": lambda: CfCRNN(3, 4, num_layers=2, bidirectional=True, backbone_units=5),
    "ltc_rnn": lambda: LTCRNN(3, Random(5, 2, 0.5), num_layers=2),
    "liquid": lambda: LiquidRNN(KerasMemoryCell(CfCCell(4, 4), 3), bidirectional=True),
    "mmrnn": lambda: MMRNN(LTCCell(4, 3)),
    "cell": lambda: LTCCell(Random(5, 2, 0.5), 3),
    "lstm": lambda: LSTMCell(3, 4),
    "wiring": lambda: Random(5, 2, 0.5, 3).copy(),
}
all_layers = pytest.mark.parametrize("name", MAKERS)
suffixes = pytest.mark.parametrize("suffix", ["safetensors", "npz"])


def weights(module):
    return {name: np.array(array) for name, array in tree_flatten(module.parameters())}


def shaken(module):
    """The module with other values in all it trains."""
    noise = mx.random.key(7)
    train = type(module).trainable_parameter_filter
    return module.apply(lambda a: a + mx.random.normal(a.shape, key=noise), filter_fn=train)


# --- round trips -------------------------------------------------------------------------------


@all_layers
@suffixes
def test_save_and_load_restore_everything_bit_by_bit(name, suffix, tmp_path):
    module, twin = MAKERS[name](), shaken(MAKERS[name]())
    path = tmp_path / f"layer.{suffix}"
    module.save_weights(path)
    assert twin.load_weights(str(path)) is twin
    assert_all_close(weights(twin), weights(module), 0.0)
    assert isinstance(module, WeightFiles)
    if name not in ("wiring", "lstm", "cell", "liquid"):
        x = mx.random.normal((2, 3, 3))
        for got, want in zip(tree_flatten(twin(x)), tree_flatten(module(x)), strict=True):
            assert mx.array_equal(got[1], want[1])


@suffixes
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_weights_keep_their_dtype(suffix, dtype, tmp_path):
    module = CfC(3, 4, backbone_units=5)
    module.set_dtype(dtype)
    module.save_weights(str(tmp_path / f"layer.{suffix}"))
    twin = CfC(3, 4, backbone_units=5).load_weights(tmp_path / f"layer.{suffix}")
    for (key, got), (_, want) in zip(
        tree_flatten(twin.parameters()), tree_flatten(module.parameters()), strict=True
    ):
        assert got.dtype == dtype, key
        assert mx.array_equal(got, want), key


@suffixes
def test_files_are_those_of_mlx(suffix, tmp_path):
    module, path = MAKERS["ltc_wired"](), str(tmp_path / f"layer.{suffix}")
    module.save_weights(path)
    assert_all_close(mx.load(path), weights(module), 0.0)
    nn.Module.save_weights(module, path)  # without checksums
    assert_all_close(
        weights(shaken(module).load_weights(path)),
        weights(MAKERS["ltc_wired"]().load_weights(path)),
        0.0,
    )
    nn.Module.load_weights(module, path)


def test_numpy_files_load(tmp_path):
    module = MAKERS["ltc"]()
    arrays = weights(module)
    floats = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    fortran = {n: np.asfortranarray(a).astype(a.dtype.newbyteorder(">")) for n, a in arrays.items()}
    for n, (save, given) in enumerate(
        ((np.savez, floats), (np.savez_compressed, arrays), (np.savez, fortran))
    ):
        save(tmp_path / f"{n}.npz", **given)
        twin = shaken(MAKERS["ltc"]()).load_weights(tmp_path / f"{n}.npz")
        assert_all_close(weights(twin), arrays, 0.0)
        assert twin.rnn_cell.w.dtype == mx.float32


def test_lists_and_strict_are_as_in_mlx():
    module = CfC(3, 4, backbone_units=5)
    before = weights(module)
    bias = ("rnn_cell.ff1.bias", mx.ones((4,)))
    assert module.load_weights([bias, ("unknown", mx.ones((2,)))], strict=False) is module
    assert_all_close(weights(module), before | {bias[0]: np.ones(4)}, 0.0)
    module.load_weights([], strict=False)
    with pytest.raises(ValueError, match=r"source must have rnn_cell\.A?.*backbone"):
        module.load_weights([bias])
    every = list(tree_flatten(module.parameters()))
    with pytest.raises(ValueError, match="the layer must have unknown, got none"):
        module.load_weights([*every, ("unknown", mx.ones((2,)))])
    with pytest.raises(ValueError, match=r"ff1\.bias must be given once, got it twice"):
        module.load_weights([*every, bias])
    with pytest.raises(ValueError, match=r"ff1\.bias must be an mx\.array, got a NumPy array"):
        module.load_weights([(bias[0], np.ones(4))], strict=False)


def test_masks_and_wirings_of_another_layer_take_over_whole(tmp_path):
    module, other = LTC(3, AutoNCP(8, 2)), LTC(3, AutoNCP(8, 2, seed=5))
    assert module.synapse_count != other.synapse_count or not np.array_equal(
        module.rnn_cell.wiring.adjacency, other.rnn_cell.wiring.adjacency
    )
    other.save_weights(tmp_path / "w.npz")
    module.load_weights(tmp_path / "w.npz")
    x = mx.random.normal((2, 5, 3))
    assert mx.array_equal(module(x)[0], other(x)[0])
    assert np.array_equal(module.rnn_cell.wiring.adjacency, other.rnn_cell.wiring.adjacency)


@suffixes
def test_any_module_loads_through_the_functions(suffix, tmp_path):
    def make():
        return nn.Sequential(LTC(3, AutoNCP(8, 2), return_state=False), nn.Linear(2, 1))

    model, path = make(), tmp_path / f"model.{suffix}"
    save_weights(model, path)
    twin = shaken(make())
    assert load_weights(twin, path) is twin
    assert_all_close(weights(twin), weights(model), 0.0)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"\[load_weights\] model"):
        load_weights(twin, path)
    assert_all_close(weights(twin), weights(model), 0.0)


# --- what is refused, in a list ----------------------------------------------------------------


def refused(module, source, message, strict=True):
    """Loading raises, and leaves every array of the module as it was."""
    before = weights(module)
    with pytest.raises(ValueError, match=message):
        module.load_weights(source, strict=strict)
    after = weights(module)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert np.array_equal(array, after[name]), name


@all_layers
@pytest.mark.parametrize("strict", [True, False])
def test_one_wrong_array_leaves_the_rest_alone(name, strict):
    module = MAKERS[name]()
    good = [(n, a + 1) for n, a in tree_flatten(module.parameters())]
    for n, (key, array) in enumerate(good):
        rest = [*good[:n], *good[n + 1 :]]
        wrong = mx.zeros((*array.shape, 2), array.dtype)
        refused(module, [*rest, (key, wrong)], rf"{key} must be \(.*\), got", strict)
        kind = mx.int32 if array.dtype == mx.float32 else mx.float32
        refused(module, [*rest, (key, array.astype(kind))], f"{key} must be of a .* dtype", strict)


def test_values_that_the_layer_itself_refuses_leave_the_rest_alone():
    module = LTC(3, AutoNCP(8, 2))
    good = {
        n: a + 1.0 if a.dtype == mx.float32 else a for n, a in tree_flatten(module.parameters())
    }
    wiring = "rnn_cell.wiring.adjacency_matrix"
    refused(module, list((good | {wiring: mx.full((8, 8), 7)}).items()), "must hold -1, 0 and")
    twice = LTC(3, AutoNCP(8, 2), bidirectional=True)  # refused when the first half is set
    good = {n: a + 1.0 if a.dtype == mx.float32 else a for n, a in tree_flatten(twice.parameters())}
    wrong = {f"backward.{wiring}": mx.full((8, 8), 7)}
    refused(twice, list((good | wrong).items()), "must hold -1, 0 and")
    good = {n: a for n, a in good.items() if not n.startswith("backward.")}
    for mask in ("rnn_cell.sparsity_mask", "rnn_cell.sensory_sparsity_mask"):
        nan = mx.full(good[mask].shape, float("nan"))
        refused(module, list((good | {mask: nan}).items()), f"{mask} must be finite")


def test_wirings_of_a_user_class_round_trip(tmp_path):
    wiring = FullyConnected(4, 2)
    wiring.build(3)
    wiring.save_weights(tmp_path / "w.npz")
    other = FullyConnected(4, 2, erev_init_seed=9)
    other.build(3)
    other.load_weights(tmp_path / "w.npz")
    assert np.array_equal(other.adjacency, wiring.adjacency)
