"""Whole layers of ncps.torch, as golden arrays: from_torch gives their outputs, to_torch their
weights back; the same against live ncps.torch where it is installed.
"""

import pickle

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, CfCCell, LiquidRNN
from mlx_ncps import wirings as our_wirings
from mlx_ncps.convert import from_torch, save_torch, to_torch

from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.golden_arrays import load_golden, state_dict

SAME = tolerance("float32", "forward")
CASES = sorted(load_golden("torch_layers"))
all_cases = pytest.mark.parametrize("name", CASES)


def converted(name):
    """(the case, the layer that from_torch makes of its state dict)."""
    case = load_golden("torch_layers")[name]
    config = case["config"]
    told = {"units", "backbone_units", "backbone_layers", "proj_size", "mixed_memory"}
    options = {n: v for n, v in config["arguments"].items() if n not in told}
    if config["class"] == "LTC":
        options.setdefault("implicit_param_constraints", True)
    if config["wiring"]:
        wiring = dict(config["wiring"])
        options["wiring"] = getattr(our_wirings, wiring.pop("class"))(**wiring)
    return case, from_torch(state_dict(case), **options)


def check(case, layer):
    state = tuple(mx.array(case[part]) for part in ("h", "c") if part in case)
    mixed = len(state) == 2
    layer.eval()
    inputs, timespans = mx.array(case["inputs"]), mx.array(case["timespans"])
    output, state = layer(inputs, state if mixed else state[0], timespans)
    assert_close("outputs", output, case["outputs"], SAME)
    for part, last in zip(("h", "c"), state if mixed else (state,), strict=False):
        assert_close(part, last, case[f"last_{part}"], SAME)


@all_cases
def test_from_torch_gives_the_outputs(name):
    case, layer = converted(name)
    check(case, layer)
    assert layer.mixed_memory == ("c" in case)


@all_cases
def test_to_torch_gives_the_state_dict_back_bit_by_bit(name):
    case, layer = converted(name)
    back = to_torch(layer, numpy=True)
    assert_all_close(back, state_dict(case), 0.0)
    assert {array.dtype for array in back.values()} == {np.dtype(np.float32)}
    for array in back.values():
        array += 1.0  # copies: the layer stays
    assert_all_close(to_torch(layer, numpy=True), state_dict(case), 0.0)


@all_cases
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_save_torch_round_trips_through_a_file(name, suffix, tmp_path):
    case, layer = converted(name)
    path = tmp_path / f"model.{suffix}"
    save_torch(layer, path)
    before = to_torch(layer, numpy=True)
    changed = {n: a + 1.0 for n, a in before.items() if "mask" not in n}
    masks = {n: a for n, a in before.items() if "mask" in n}
    from_torch(changed | masks, layer)
    check(case, from_torch(path, layer))


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_backbone_numbers_are_those_of_ncps_torch(layers, dropout):
    layer = CfC(3, 4, backbone_units=5, backbone_layers=layers, backbone_dropout=dropout)
    got = [n.split(".")[2] for n in to_torch(layer, numpy=True) if "backbone" in n and "bias" in n]
    numbers = {0.0: "0 2 4 6", 0.2: "0 2 5 8"}[dropout].split()  # linear, act, (linear, act, drop)
    assert sorted(got) == numbers[:layers]


def test_to_torch_takes_cells_and_each_direction():
    cell = CfCCell(3, 4, backbone_units=5)
    arrays = to_torch(cell, numpy=True)
    assert set(arrays) >= {"backbone.0.weight", "ff1.bias", "time_b.weight"}
    other = from_torch(arrays, CfCCell(3, 4, backbone_units=5))
    assert_all_close(to_torch(other, numpy=True), arrays, 0.0)

    layer = LTC(3, 4, bidirectional=True, mixed_memory=True)
    halves = {d: to_torch(layer, direction=d, numpy=True) for d in ("forward", "backward")}
    assert set(halves["forward"]) == set(halves["backward"])
    assert_close("forward", halves["forward"]["rnn_cell.w"], layer.rnn_cell.w, 0.0)
    assert_close("backward", halves["backward"]["rnn_cell.w"], layer.backward.rnn_cell.w, 0.0)
    assert not np.array_equal(halves["forward"]["rnn_cell.w"], halves["backward"]["rnn_cell.w"])


def explicit_ltc():
    layer = LTC(3, 4)
    layer.rnn_cell.ode_solver = "explicit"
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CfC(3, 4, variant="keras"), "variant must be 'torch', got 'keras'"),
        (lambda: CfC(3, 4, backbone_units=[5, 6]), r"of one width, got \[5, 6\]"),
        (lambda: CfC(3, our_wirings.AutoNCP(8, 2), backbone_units=4), "must have no backbone"),
        (lambda: LTC(3, 4, proj_size=2), "proj_size must be None for an LTC, got 2"),
        (explicit_ltc, "ode_solver must be 'semi_implicit'"),
        (lambda: LTC(3, 4, bidirectional=True), r"direction must be one of \('forward', 'backward"),
        (lambda: CfC(None, our_wirings.AutoNCP(8, 2)), "that is built, got CfC"),
        (lambda: LiquidRNN(lambda x, h, t: (x, h)), "must be a CfC or LTC, or a cell of theirs"),
        (lambda: mx.zeros((2,)), "must be a CfC or LTC, or a cell of theirs"),
    ],
)
def test_to_torch_refuses_what_ncps_torch_cannot_compute(make, message, tmp_path):
    layer = make()
    with pytest.raises(ValueError, match=r"\[to_torch\] .*" + message):
        to_torch(layer, numpy=True)
    with pytest.raises(ValueError, match=r"\[save_torch\] .*" + message):
        save_torch(layer, tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


def test_pure_is_the_same_in_all_variants():
    layer = CfC(3, 4, mode="pure", variant="keras")
    assert_all_close(
        to_torch(from_torch(to_torch(layer, numpy=True)), numpy=True),
        to_torch(layer, numpy=True),
        0.0,
    )


def test_from_torch_refuses_another_variant():
    layer = CfC(3, 4, variant="keras")
    with pytest.raises(ValueError, match=r"variant='torch', .*, got variant='keras'"):
        from_torch(to_torch(CfC(3, 4), numpy=True), layer)


def test_save_torch_refuses_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.pt.*, got 'model.bin'"):
        save_torch(CfC(3, 4), tmp_path / "model.bin")


def test_torch_files_without_torch_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    parts = (0x1950A86A20F9469CFC6C, 1001, {}, {})  # as PyTorch wrote before 1.6
    (tmp_path / "model.pt").write_bytes(b"".join(map(pickle.dumps, parts)))
    with pytest.raises(ImportError, match=r"\[from_torch\] model.pt needs PyTorch"):
        from_torch(tmp_path / "model.pt")
    with pytest.raises(ImportError, match=r"\[to_torch\] tensors need PyTorch; numpy=True"):
        to_torch(CfC(3, 4))
    with pytest.raises(ImportError, match="need PyTorch"):
        save_torch(CfC(3, 4), tmp_path / "other.pt")


# --- with ncps.torch ---------------------------------------------------------------------------


def live(name):
    """(the case, our layer, a fresh module of ncps.torch of the same configuration)."""
    pytest.importorskip("torch")
    ncps_torch = pytest.importorskip("ncps.torch")
    ncps_wirings = pytest.importorskip("ncps.wirings")
    case, layer = converted(name)
    config, arguments = case["config"], dict(case["config"]["arguments"])
    units = arguments.pop("units", None)
    if config["wiring"]:
        wiring = dict(config["wiring"])
        units = getattr(ncps_wirings, wiring.pop("class"))(**wiring)
    return case, layer, getattr(ncps_torch, config["class"])(3, units, **arguments).eval()


@all_cases
def test_ncps_torch_loads_it_with_strict(name, tmp_path):
    case, layer, module = live(name)
    module.load_state_dict(to_torch(layer), strict=True)
    import torch

    x, h = torch.from_numpy(case["inputs"]), torch.from_numpy(case["h"])
    hx = (h, torch.from_numpy(case["c"])) if "c" in case else h
    want, _ = module(x, hx)  # without time spans, which ncps.torch breaks
    layer.eval()
    state = (mx.array(case["h"]), mx.array(case["c"])) if "c" in case else mx.array(case["h"])
    got, _ = layer(mx.array(case["inputs"]), state)
    assert_close("outputs", got, want.detach().numpy(), SAME)

    save_torch(layer, tmp_path / "model.pt")
    module.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    check(case, from_torch(tmp_path / "model.pt", layer))


@all_cases
def test_a_live_module_tells_everything(name):
    case, layer, module = live(name)
    module.load_state_dict(to_torch(layer), strict=True)
    check(case, from_torch(module))


@all_cases
def test_a_live_cell_becomes_a_cell(name):
    _, layer, module = live(name)
    module.load_state_dict(to_torch(layer), strict=True)
    cell = from_torch(module.rnn_cell)
    assert type(cell) is type(layer.rnn_cell)
    assert_all_close(to_torch(cell, numpy=True), to_torch(layer.rnn_cell, numpy=True), 0.0)
    for fact in ("mode", "ode_unfolds", "epsilon", "implicit_param_constraints"):
        assert getattr(cell, fact, None) == getattr(layer.rnn_cell, fact, None), fact


def test_hostile_tensors_are_refused():
    torch = pytest.importorskip("torch")
    arrays = to_torch(LTC(3, 4))
    huge = torch.zeros(1).expand(2**40)
    sparse = torch.eye(4).to_sparse()
    meta = torch.empty((4,), device="meta")
    for tensor, message in (
        (huge, "gleak must have 1099511627776 numbers .*, got 1"),
        (sparse, "gleak must be a dense tensor, got torch.sparse_coo"),
        (meta, "gleak must be a dense tensor, got torch.strided on meta"),
    ):
        with pytest.raises(ValueError, match=message):
            from_torch(arrays | {"rnn_cell.gleak": tensor})
