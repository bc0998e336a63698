"""The LTC cell's mappings, ranges of first values and constraints, each by numbers."""

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, LTCRNN, LTCCell
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close
from tests.support.rnn_layers import SAME, B, I, T, normal, spans

NAMES = ("gleak", "vleak", "cm", "w", "sigma", "mu", "sensory_w", "sensory_sigma", "sensory_mu")
mappings = pytest.mark.parametrize("mapping", ["affine", "linear", "identity", None])


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


# --- mappings ----------------------------------------------------------------------------------


@mappings
def test_input_mapping_reads_mapped_inputs(mapping):
    """MATHS 3: x w + b (affine), x w (linear), x; then all as with unmapped inputs."""
    cell = LTCCell(AutoNCP(10, 2), I, mapping)
    plain = LTCCell(AutoNCP(10, 2), I, None)
    x, h, ts = normal(B, I), normal(B, 10), spans(B)
    mapped = x
    if mapping in ("affine", "linear"):
        cell.input_w = mx.array([0.5, -2.0, 3.0, 1.5])
        mapped = mapped * cell.input_w
    if mapping == "affine":
        cell.input_b = mx.array([0.1, 0.2, -0.3, 0.4])
        mapped = mapped + cell.input_b
    shared = {k: a for k, a in cell.parameters().items() if not k.startswith("input_")}
    plain.update(shared)
    assert_close("state", cell(x, h, ts)[1], plain(mapped, h, ts)[1], SAME)
    if mapped is not x:
        assert np.abs(np.array(cell(x, h, ts)[1] - plain(x, h, ts)[1])).max() > 1e-3


@mappings
def test_output_mapping_maps_the_motor_neurons(mapping):
    cell = LTCCell(AutoNCP(10, 2), I, output_mapping=mapping)
    w, b = [2.0, -3.0], [0.5, 0.25]
    for name, value in (("output_w", w), ("output_b", b)):
        if name in cell:
            cell[name] = mx.array(value)
    output, state = cell(normal(B, I), normal(B, 10), 0.7)
    factor = w if mapping in ("affine", "linear") else 1.0
    want = np.array(state)[:, :2] * factor + (b if mapping == "affine" else 0.0)
    assert_close("output", output, want, SAME)


# --- ranges of the first values ----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_initialization_ranges_override_one_range(name):
    low, high = (20.0, 21.0)
    cell = LTCCell(40, 30, initialization_ranges={name: (low, high)})
    for other in NAMES:
        value = np.array(cell[other])
        if other == name:
            assert low <= value.min() < low + 0.1 < high - 0.1 < value.max() <= high
        else:
            assert value.max() <= 8.0


def test_initialization_ranges_reach_layers_and_stacks_and_stay():
    ranges = {"w": (0.0, 0.0), "cm": [0.25, 0.25]}
    layer = LTC(I, AutoNCP(10, 2), initialization_ranges=ranges, bidirectional=True)
    stack = LTCRNN(I, 5, 2, initialization_ranges=ranges)
    cells = [h.rnn_cell for one in (layer, *stack.layers) for h in one._directions]
    assert len(cells) == 4
    lazy = LTCCell(6, initialization_ranges=ranges)
    lazy(normal(B, I), normal(B, 6))
    cells += [lazy, copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))]
    for cell in cells:
        for again in (False, True):
            if again:
                cell.redraw()
            assert mx.all(cell.w == 0.0)
            assert mx.all(cell.cm == 0.25)
            assert mx.all(cell.sensory_w > 0.0)
    assert "w" in lazy.trainable_parameters()
    assert not any("range" in key for key in lazy.state)


def test_negative_ranges_are_for_implicit_parameters():
    ranges = {"w": (-2.0, -1.0)}
    cell = LTCCell(6, I, implicit_param_constraints=True, initialization_ranges=ranges)
    assert cell.w.max().item() <= -1.0
    with pytest.raises(ValueError, match=r"\[ltc\] initialization_ranges\['w'\] must be >= 0 unl"):
        LTCCell(6, I, initialization_ranges=ranges)
    assert LTCCell(6, I, initialization_ranges={"vleak": (-2, -1)}).vleak.max().item() <= -1


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"weight": (0, 1)}, r"must name gleak, vleak, .*, got 'weight'"),
        ({"erev": (0, 1)}, r"must name gleak, vleak, .*, got 'erev'"),
        ({"w": (1.0, 0.5)}, r"\['w'\] must be \(low, high\), got \(1.0, 0.5\)"),
        ({"w": (1.0,)}, r"\['w'\] must be \(low, high\), got \(1.0,\)"),
        ({"w": 1.0}, r"\['w'\] must be \(low, high\), got 1.0"),
        ({"mu": (float("nan"), 1.0)}, r"\['mu'\] must be \(low, high\), got \(nan"),
    ],
)
def test_wrong_ranges_raise(ranges, message):
    for make in (lambda **o: LTCCell(6, **o), lambda **o: LTC(I, 6, **o)):
        with pytest.raises(ValueError, match=r"\[ltc\] initialization_ranges" + f".*{message}"):
            make(initialization_ranges=ranges)
    with pytest.raises(ValueError, match=r"\[ltc\] initialization_ranges must be left out with"):
        LTC(LTCCell(6, I), initialization_ranges=ranges)


# --- constraints -------------------------------------------------------------------------------


def test_constrained_cell_is_the_one_with_clipped_parameters():
    """Clipping is what the model sees afterwards: the output is that of max(parameter, 0)."""
    layer = LTC(I, AutoNCP(10, 2), implicit_param_constraints=False)
    cell, x, ts = layer.rnn_cell, normal(B, T, I), spans(B, T)
    for name in ("w", "sensory_w", "cm", "gleak"):
        cell[name] = cell[name] - 0.45
    params = truth.LTCParams(*(None if p is None else np.array(p) for p in cell.params()))
    clipped = {n: np.maximum(getattr(params, n), 0) for n in ("w", "sensory_w", "cm", "gleak")}
    want = truth.ltc_sequence(x, np.zeros((B, 10)), ts, params._replace(**clipped))
    layer.apply_constraints()
    assert_close("output", layer(x, timespans=ts)[0], want[..., :2], SAME)


def test_layer_takes_ranges_of_its_own():
    layer = LTC(I, 6, implicit_param_constraints=False, bidirectional=True)
    layer.apply_weight_constraints({"cm": (0.45, 0.5), "sensory_sigma": (None, 4.0)})
    for half in layer._directions:
        cell = half.rnn_cell
        assert np.float32(0.45) == cell.cm.min().item()
        assert cell.cm.max().item() == 0.5
        assert cell.sensory_sigma.max().item() == 4.0
        assert cell.sensory_sigma.min().item() < 4.0
        assert cell.w.min().item() < 0.2
    with pytest.raises(ValueError, match=r"\[ltc\] ranges must name parameters .*, got 'speed'"):
        layer.apply_constraints({"speed": (0, 1)})


def test_implicit_parameters_are_left_alone_whatever_the_ranges():
    layer = LTC(I, 6)
    before = {name: np.array(layer.rnn_cell[name]) for name in NAMES}
    layer.apply_weight_constraints({"w": (5.0, 6.0)})
    for name, value in before.items():
        assert_close(name, layer.rnn_cell[name], value, 0.0)
