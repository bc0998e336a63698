"""from_torch with the golden state dicts: every kind of source, what it infers, what it refuses."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps.convert import from_torch
from mlx_ncps.rnn import LTC, CfC
from mlx_ncps.wirings import AutoNCP, FullyConnected

from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.golden_arrays import load_golden, state_dict

SAME = tolerance("float32", "forward")
CASES = {  # (file, case, options that shapes and names don't tell)
    "cfc": ("cfc", "no_gate_timed", {"mode": "no_gate"}),
    "cfc_pure": ("cfc", "pure_timed", {}),
    "cfc_two_layers": ("cfc_backbone", "silu_2", {"activation": "silu"}),
    "cfc_no_backbone": ("cfc_backbone", "lecun_tanh_0", {}),
    "cfc_wired": ("cfc_wired", "default_timed", {"wiring": AutoNCP(10, 2)}),
    "ltc": ("ltc", "explicit_timed", {"implicit_param_constraints": False}),
    "ltc_wired": ("ltc_wired", "implicit_timed", {}),
}
all_cases = pytest.mark.parametrize("name", CASES)


def golden(name):
    stem, case, options = CASES[name]
    return load_golden(stem)[case], dict(options)


def check(layer, case):
    arrays = (mx.array(case[key].astype(np.float32)) for key in ("inputs", "hx", "timespans"))
    output, state = layer(*arrays)
    assert_close("output", output, case["outputs"], SAME)
    assert_close("state", state, case["states"][:, -1], SAME)


def weights(layer):
    return {name: np.array(array) for name, array in tree_flatten(layer.parameters())}


def float32(arrays):
    return {name: mx.array(array.astype(np.float32)) for name, array in arrays.items()}


# --- sources -----------------------------------------------------------------------------------


@all_cases
def test_state_dict_of_numpy_arrays(name):
    case, options = golden(name)
    check(from_torch(state_dict(case), **options), case)


@all_cases
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_state_dict_in_a_file(name, suffix, tmp_path):
    case, options = golden(name)
    arrays, path = float32(state_dict(case)), tmp_path / f"model.{suffix}"
    if suffix == "npz":
        mx.savez(str(path), **arrays)
    else:
        mx.save_safetensors(str(path), arrays)
    check(from_torch(path, **options), case)
    check(from_torch(str(path), **options), case)


@all_cases
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_state_dict_in_a_torch_file(name, suffix, tmp_path):
    torch = pytest.importorskip("torch")
    case, options = golden(name)
    path = tmp_path / f"model.{suffix}"
    torch.save({n: torch.from_numpy(a) for n, a in state_dict(case).items()}, path)
    check(from_torch(path, **options), case)


def test_bfloat16_tensors_are_read():
    torch = pytest.importorskip("torch")
    case, options = golden("cfc")
    tensors = {n: torch.from_numpy(a).bfloat16() for n, a in state_dict(case).items()}
    got = weights(from_torch(tensors, **options))
    assert_close("ff1", got["rnn_cell.ff1.weight"], tensors["rnn_cell.ff1.weight"].float(), 0.0)


def test_torch_files_that_run_code_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save({"rnn_cell.gleak": print}, path)
    with pytest.raises(ValueError, match=r"model\.pt: must hold tensors alone, got '__builtin__"):
        from_torch(path)


def test_torch_is_not_imported_for_other_sources(run_python, tmp_path):
    case, options = golden("cfc")
    path = tmp_path / "model.safetensors"
    mx.save_safetensors(str(path), float32(state_dict(case)))
    code = f"""
import sys
from mlx_ncps.convert import from_torch
from_torch({str(path)!r}, **{options})
assert "torch" not in sys.modules
"""
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr


@all_cases
def test_prefix_picks_a_layer_of_a_larger_model(name):
    case, options = golden(name)
    arrays = {f"policy.rnn.{n}": a for n, a in state_dict(case).items()}
    arrays["policy.head.weight"] = np.zeros((2, 2))
    check(from_torch(arrays, prefix="policy.rnn.", **options), case)
    with pytest.raises(ValueError, match="prefix must start some name, got 'actor'"):
        from_torch(arrays, prefix="actor", **options)
    with pytest.raises(ValueError, match=r"policy\.head\.weight.* needs prefix="):
        from_torch(arrays, **options)


# --- what is told and what is inferred ---------------------------------------------------------


@all_cases
def test_loads_into_a_given_layer(name):
    case, options = golden(name)
    layer = from_torch(state_dict(case), **options)
    want = weights(layer)
    layer.apply(lambda a: a + 1.0, filter_fn=type(layer).trainable_parameter_filter)
    assert from_torch(state_dict(case), layer) is layer
    assert_all_close(weights(layer), want, 0.0)
    check(layer, case)


def test_loads_into_a_given_cell():
    case, options = golden("ltc")
    cell = from_torch(state_dict(case), **options).rnn_cell
    cell.gleak = cell.gleak + 1.0
    assert from_torch(state_dict(case), cell, prefix="rnn_cell.") is cell
    assert_close("gleak", cell.gleak, case["param/rnn_cell.gleak"], SAME)


def test_keeps_the_dtype_of_the_given_layer():
    case, options = golden("cfc")
    layer = from_torch(state_dict(case), **options)
    layer.set_dtype(mx.float16)
    from_torch(state_dict(case), layer)
    assert {array.dtype for _, array in tree_flatten(layer.parameters())} == {mx.float16}


def test_options_reach_the_new_layer():
    case, options = golden("ltc")
    layer = from_torch(state_dict(case), ode_unfolds=3, return_state=False, **options)
    assert layer.rnn_cell.ode_unfolds == 3
    assert isinstance(layer(mx.zeros((1, 2, 3))), mx.array)
    assert from_torch(state_dict(golden("cfc_pure")[0])).rnn_cell.mode == "pure"


def test_proj_size_is_inferred():
    case, options = golden("cfc")
    arrays = state_dict(case) | {"fc.weight": np.ones((2, 4)), "fc.bias": np.zeros(2)}
    layer = from_torch(arrays, **options)
    output, _ = layer(mx.zeros((1, 2, 3)))
    assert output.shape == (1, 2, 2)
    assert_close("fc.weight", layer.fc.weight, np.ones((2, 4)), 0.0)


@pytest.mark.parametrize("left", ["affine", "linear", "identity"])
def test_mappings_of_an_ltc_are_inferred(left):
    case, options = golden("ltc")
    gone = {"affine": (), "linear": ("_b",), "identity": ("_b", "_w")}[left]
    names = [f"rnn_cell.{side}{end}" for side in ("input", "output") for end in gone]
    arrays = {n: a for n, a in state_dict(case).items() if n not in names}
    cell = from_torch(arrays, **options).rnn_cell
    assert cell.input_mapping == cell.output_mapping == left
    assert cell.output_size == (5 if left == "identity" else 2)


def test_wiring_of_an_ltc_is_inferred_from_masks_and_erev():
    case, options = golden("ltc_wired")
    arrays = state_dict(case)
    cell = from_torch(arrays, **options).rnn_cell
    exists = arrays["rnn_cell.sparsity_mask"] != 0
    sign = np.where(arrays["rnn_cell.erev"] < 0, -1, 1)
    assert_close("adjacency", cell.wiring.adjacency, np.where(exists, sign, 0), 0.0)
    assert cell.synapse_count == cell.wiring.synapse_count == int(exists.sum())
    assert cell.synapses is not None
    given = from_torch(arrays, wiring=AutoNCP(10, 2), **options).rnn_cell
    assert_close("adjacency", given.wiring.adjacency, case["adjacency"], 0.0)


def test_wiring_of_an_ltc_follows_the_loaded_masks():
    case, options = golden("ltc_wired")
    layer = LTC(3, FullyConnected(10, 2), **options)
    from_torch(state_dict(case), layer)
    check(layer, case)
    mask = state_dict(case)["rnn_cell.sparsity_mask"]
    assert_close("adjacency", np.abs(layer.rnn_cell.wiring.adjacency), mask, 0.0)
    assert layer.rnn_cell.synapse_count == int(mask.sum())


# --- errors ------------------------------------------------------------------------------------


def refused(name, arrays, message, error=ValueError):
    """Loading raises, both into a new layer and into a given one, which stays as it was."""
    case, options = golden(name)
    layer = from_torch(state_dict(case), **options)
    before = weights(layer)
    with pytest.raises(error, match=message):
        from_torch(arrays, layer)
    assert_all_close(weights(layer), before, 0.0)


@all_cases
def test_wrong_shapes_are_refused_by_name(name):
    case, _ = golden(name)
    for key, array in state_dict(case).items():
        arrays = state_dict(case) | {key: np.zeros((*array.shape, 2))}
        shape = r"\(" + ", ".join(map(str, array.shape)) + r",?\)"
        refused(name, arrays, rf"\[from_torch\] {key} must be {shape}, got \(.*2\)")


@all_cases
def test_missing_and_unknown_names_are_refused(name):
    case, _ = golden(name)
    for key in state_dict(case):
        arrays = {n: a for n, a in state_dict(case).items() if n != key}
        message = r"\[from_torch\] (source must have|the layer must have|.* must be)"
        refused(name, arrays, message)
    arrays = state_dict(case) | {"rnn_cell.extra": np.zeros(2)}
    refused(name, arrays, r"the layer must have rnn_cell\.extra")


def test_masks_of_another_wiring_are_refused():
    case, _ = golden("cfc_wired")
    other = AutoNCP(10, 2, seed=1)
    with pytest.raises(ValueError, match=r"layer_0\.sparsity_mask must be the mask of the layer"):
        from_torch(state_dict(case), wiring=other)
    refused(
        "cfc_wired",
        state_dict(case) | {"rnn_cell.layer_1.sparsity_mask": np.ones((3, 8))},
        r"layer_1\.sparsity_mask must be the mask of the layer's wiring .* got another \(24\)",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: from_torch(3), r"source must be a module, a state dict or a path, got int"),
        (lambda a: from_torch("model.ckpt"), r"source must end in .*, got 'model.ckpt'"),
        (lambda a: from_torch({"x": 1.0}), "x must be a tensor or an array of numbers, got float"),
        (lambda a: from_torch({"x": np.ones(2)}), r"source must have rnn_cell\.gleak \(LTC\) or"),
        (lambda a: from_torch(a, wiring=AutoNCP(10, 2)), "wiring must be None for a CfC without"),
        (lambda a: from_torch(a, CfC(3, 4), mode="pure"), "layer has its own options, got mode"),
        (lambda a: from_torch(a, CfC(3, 4), wiring=AutoNCP(10, 2)), "own options, got wiring"),
        (lambda a: from_torch(a, mx.zeros((2,))), "layer must be a layer or cell .*, got array"),
        (lambda a: from_torch(a, CfC(None, AutoNCP(10, 2))), "that is built, got CfC: call build"),
        (
            lambda a: from_torch(a, nn.Sequential(CfC(3, 4))),
            "got Sequential: give the layer within",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=r"\[from_torch\] .*" + message):
        call(state_dict(golden("cfc")[0]))


def test_a_wired_cfc_needs_its_wiring():
    with pytest.raises(ValueError, match="wiring must be given for a wired CfC, got None"):
        from_torch(state_dict(golden("cfc_wired")[0]))
