"""The synapse lists of an LTC cell follow its masks, however these are set, and never a tracer."""

import copy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import available_backends, dispatch
from mlx_ncps.cells import LTCCell
from mlx_ncps.cells import ltc as ltc_module
from mlx_ncps.ops import SynapseLists
from mlx_ncps.rnn import LTC
from mlx_ncps.wirings import AutoNCP, FullyConnected

from tests.support.cases import assert_close, tolerance
from tests.support.step_layers import in_a_graph

B, T, I, H = 2, 3, 4, 10
SAME = tolerance("float32", "forward")


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def sparse_layer(seed=22222):
    return LTC(I, AutoNCP(H, 2, seed=seed))


def lists_of(cell):
    masks = [np.array(cell[name] != 0) for name in cell.fixed_keys]
    return None if all(mask.all() for mask in masks) else SynapseLists(*masks)


def assert_lists_are_those_of_the_masks(layer, monkeypatch):
    """Both of the property and of what the op gets."""
    cell = layer.rnn_cell
    assert cell.synapses == lists_of(cell)
    seen, op = [], ltc_module.prepare_ltc
    with monkeypatch.context() as patch, in_a_graph():
        patch.setattr(ltc_module, "prepare_ltc", lambda *a: (seen.append(a[5]), op(*a))[1])
        layer(mx.zeros((B, T, I)))
    assert seen == [lists_of(cell)]
    for name in cell.fixed_keys:
        count = int(np.count_nonzero(np.array(cell[name] != 0)))
        assert count == getattr(cell, name.replace("sparsity_mask", "synapse_count"))


def new_mask(density, rows=H):
    return mx.random.uniform(shape=(rows, H)) < density


def test_constructor_makes_lists_of_a_sparse_wiring(monkeypatch):
    layer = sparse_layer()
    assert layer.rnn_cell.synapses is not None
    assert_lists_are_those_of_the_masks(layer, monkeypatch)


def test_a_full_wiring_has_no_lists(monkeypatch):
    layer = LTC(I, H)
    assert layer.rnn_cell.synapses is None
    assert_lists_are_those_of_the_masks(layer, monkeypatch)
    assert LTC(I, FullyConnected(H, self_connections=False)).rnn_cell.synapses is not None


def test_assigned_masks_make_new_lists(monkeypatch):
    layer = sparse_layer()
    cell, before = layer.rnn_cell, layer.rnn_cell.synapses
    cell.sparsity_mask = new_mask(0.5).astype(mx.float32)
    assert cell.synapses != before
    assert_lists_are_those_of_the_masks(layer, monkeypatch)
    cell["sensory_sparsity_mask"] = new_mask(0.5, I).astype(mx.float16)
    assert_lists_are_those_of_the_masks(layer, monkeypatch)
    cell.sparsity_mask = mx.ones((H, H))
    cell.sensory_sparsity_mask = -mx.ones((I, H))
    assert cell.synapses is None
    assert_lists_are_those_of_the_masks(layer, monkeypatch)


def test_equal_masks_keep_their_lists():
    cell = sparse_layer().rnn_cell
    lists = cell.synapses
    cell.sparsity_mask = -2.0 * cell.sparsity_mask
    assert cell.synapses is lists


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_loaded_masks_make_new_lists(suffix, tmp_path, monkeypatch):
    path = str(tmp_path / f"weights.{suffix}")
    source, layer = sparse_layer(seed=1), sparse_layer(seed=2)
    source.save_weights(path)
    assert layer.rnn_cell.synapses != source.rnn_cell.synapses
    layer.load_weights(path)
    assert layer.rnn_cell.synapses == source.rnn_cell.synapses
    assert_lists_are_those_of_the_masks(layer, monkeypatch)


def test_updated_and_cast_masks_make_new_lists(monkeypatch):
    layer = sparse_layer()
    model = nn.Sequential(layer)
    mask = new_mask(0.4).astype(mx.float32)
    model.update({"layers": [{"rnn_cell": {"sparsity_mask": mask}}]})
    assert_lists_are_those_of_the_masks(layer, monkeypatch)
    model.set_dtype(mx.bfloat16)
    assert layer.rnn_cell.sparsity_mask.dtype == mx.float32  # a mask is no weight
    layer.rnn_cell.sparsity_mask = mask.astype(mx.bfloat16)
    assert_lists_are_those_of_the_masks(layer, monkeypatch)


def test_copied_cells_have_their_own_lists(monkeypatch):
    layer = sparse_layer()
    twin = copy.deepcopy(layer)
    assert twin.rnn_cell.synapses == layer.rnn_cell.synapses
    twin.rnn_cell.sparsity_mask = new_mask(0.5).astype(mx.float32)
    for each in (layer, twin):
        assert_lists_are_those_of_the_masks(each, monkeypatch)


def test_masks_of_a_wrong_shape_raise_and_change_nothing():
    cell = sparse_layer().rnn_cell
    mask = cell.sparsity_mask
    with pytest.raises(ValueError, match=r"\[ltc\] sparsity_mask must be .* = \(10, 10\), got"):
        cell.sparsity_mask = mx.ones((H, H + 1))
    with pytest.raises(ValueError, match=r"\[ltc\] sensory_sparsity_mask must be .* \(4, 10\)"):
        cell.sensory_sparsity_mask = mx.ones((H, H))
    assert cell.sparsity_mask is mask


@pytest.mark.parametrize("backend", available_backends())
def test_captured_masks_keep_their_lists_in_a_compiled_function(backend, monkeypatch):
    """mx.compile replaces captured arrays by tracers, which have no values."""
    layer, x = sparse_layer(), mx.random.normal((B, T, I))
    lists, traced = layer.rnn_cell.synapses, []

    def call(x):
        traced.append(layer.rnn_cell.synapses)
        return layer(x)[0]

    with dispatch.use_backend(backend):
        compiled = mx.compile(call, inputs=[layer.state], outputs=[layer.state])
        want = layer(x)[0]
        for _ in range(2):
            assert_close("output", compiled(x), want, SAME)
        assert traced == [lists]
        assert traced[0] is lists
        assert layer.rnn_cell.synapses is lists
        assert_close("output", layer(x)[0], want, SAME)
    assert_lists_are_those_of_the_masks(layer, monkeypatch)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("side", ["", "sensory_"])
def test_compiled_function_follows_a_sparser_mask_and_refuses_a_denser_one(backend, side):
    """Its lists are those of its first call: what they don't know gives NaN, not a wrong number."""
    layer, x = sparse_layer(), mx.random.normal((B, T, I))
    cell, name = layer.rnn_cell, f"{side}sparsity_mask"
    full = mx.array(cell[name])
    with dispatch.use_backend(backend):
        compiled = mx.compile(lambda x: layer(x)[0], inputs=[layer.state], outputs=[layer.state])
        first = compiled(x)
        source, target = np.argwhere(np.array(full))[0]
        cell[name] = mx.array(full).at[int(source), int(target)].add(-1.0)
        assert_close("sparser", compiled(x), layer(x)[0], SAME)
        cell[name] = mx.ones_like(full)
        assert np.isnan(np.array(compiled(x))).any()
        assert np.isfinite(np.array(layer(x)[0])).all()
        cell[name] = full
        assert_close("first", compiled(x), first, SAME)


def test_a_tracer_assigned_in_a_compiled_function_keeps_the_lists():
    cell = LTCCell(AutoNCP(H, 2), I)
    lists, mask = cell.synapses, mx.array(cell.sparsity_mask)

    def call(mask, x):
        cell.sparsity_mask = mask
        result = cell(x, mx.zeros((B, H)))[0]
        assert cell.synapses is lists
        return result

    x = mx.random.normal((B, I))
    want = cell(x, mx.zeros((B, H)))[0]
    assert_close("output", mx.compile(call)(mask, x), want, SAME)
    cell.sparsity_mask = mask
    assert cell.synapses is lists


def test_a_mask_changed_by_a_compiled_function_makes_new_lists(monkeypatch):
    layer = sparse_layer()
    cell = layer.rnn_cell
    row = mx.arange(H)[:, None] == 3

    def prune():
        cell.sparsity_mask = mx.where(row, 1.0, cell.sparsity_mask)

    mx.compile(prune, inputs=[layer.state], outputs=[layer.state])()
    assert mx.all(cell.sparsity_mask[3] == 1)
    assert_lists_are_those_of_the_masks(layer, monkeypatch)


def test_errors_that_are_not_of_tracers_are_not_hidden(monkeypatch):
    from mlx_ncps.cells import host_masks

    def broken(array):
        raise ValueError("no such buffer")

    monkeypatch.setattr(host_masks.np, "array", broken)
    with pytest.raises(ValueError, match="no such buffer"):
        host_masks._values(mx.ones((2,)))
