"""Configurations: what they hold, which classes they may make, and every error."""

import json
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, CfCCell, LiquidRNN, LTCCell, NCPDense, config, register
from mlx_ncps.wirings import AutoNCP, Random

I = 3


@register
class Plain(nn.Module):
    """A user's cell that is no LiquidCell: it brings get_config and from_config."""

    state_size = output_size = 4

    def __init__(self, gain):
        super().__init__()
        self.gain = gain
        self.map = nn.Linear(I + 4, 4)

    def __call__(self, inputs, state):
        state = mx.tanh(self.gain * self.map(mx.concatenate([inputs, state], axis=-1)))
        return state, state

    def get_config(self):
        return {"gain": self.gain}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Unregistered(nn.Module):
    state_size = output_size = 4

    def __call__(self, inputs, state):
        return state, state

    def get_config(self):
        return {}


class Variadic(CfCCell):
    def __init__(self, *sizes, mode="default"):
        super().__init__(*sizes, mode=mode)


class Narrow(CfC):
    """A user's subclass with a constructor of its own."""

    def __init__(self, units, *, double=False, **options):
        super().__init__(I, 2 * units if double else units, **options)


def test_config_names_the_arguments_and_the_built_width():
    layer = LTC(None, AutoNCP(10, 2), ode_unfolds=3)
    assert "built_for" not in layer.get_config()
    layer(mx.zeros((1, 1, I)))
    stored = layer.get_config()
    assert stored["built_for"] == I
    assert stored["ode_unfolds"] == 3
    assert stored["implicit_param_constraints"] is True
    assert stored["units"]["class"] == "AutoNCP"
    assert stored["units"]["config"]["sparsity_level"] == 0.5
    assert "input_dim" in stored["units"]["config"]


def test_config_holds_the_wiring_as_it_was_given():
    wiring = Random(6, 2, 0.5)
    cell = LTCCell(wiring, I)
    stored = cell.get_config()
    wiring.build(I)
    wiring.add_synapse(0, 0, 1)
    assert cell.get_config() == stored
    edited = LTCCell(wiring)
    again = LTCCell.from_config(json.loads(json.dumps(edited.get_config())))
    assert mx.array_equal(again.sparsity_mask, edited.sparsity_mask)
    assert again.sparsity_mask[0, 0] == 1


def test_config_makes_arrays_and_numbers_plain():
    mask = np.eye(5, dtype=np.int64)
    cell = CfCCell(np.int64(I), 5, backbone_units=(np.int32(5),), sparsity_mask=mask)
    stored = cell.get_config()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["sparsity_mask"] == mask.tolist()
    assert stored["backbone_units"] == [5]
    assert mx.array_equal(CfCCell.from_config(stored).sparsity_mask, cell.sparsity_mask)


def test_config_of_a_subclass_with_its_own_constructor():
    layer = Narrow(3, double=True, mode="pure", mixed_memory=True)
    stored = json.loads(json.dumps(layer.get_config()))
    assert stored == {
        "units": 3,
        "double": True,
        "mode": "pure",
        "mixed_memory": True,
        "built_for": I,
    }
    again = Narrow.from_config(stored)
    assert again.state_size == 6
    assert again.mixed_memory


def test_config_of_a_registered_plain_cell():
    layer = LiquidRNN(Plain(0.5), return_state=True)
    again = LiquidRNN.from_config(json.loads(json.dumps(layer.get_config())))
    again.load_weights([(k, v) for k, v in nn.utils.tree_flatten(layer.parameters())])
    x = mx.random.normal((2, 4, I))
    for a, b in zip(layer(x), again(x), strict=True):
        assert mx.array_equal(a, b)


def test_a_later_class_of_a_name_counts_unless_the_package_has_it():
    first = type("Twice", (CfCCell,), {})
    with pytest.raises(ValueError, match="that name is taken"):
        type("Twice", (CfCCell,), {}) and config.to_config(first(I, 4))
    mine = type("LTCCell", (CfCCell,), {})
    assert type(config.from_config(config.to_config(LTCCell(4, I)))) is LTCCell
    with pytest.raises(ValueError, match=r"\[get_config\] LTCCell must be a registered class"):
        LiquidRNN(mine(I, 4)).get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LiquidRNN(lambda x, h, ts: (h, h)), r"LiquidRNN\.cell must be JSON.*got <lambda>"),
        (lambda: LiquidRNN(partial(max)), r"LiquidRNN\.cell must be JSON.*got partial"),
        (lambda: LiquidRNN(nn.GRU(3, 4)), r"LiquidRNN\.cell must be JSON.*got GRU"),
        (lambda: LiquidRNN(Unregistered()), r"Unregistered must be a registered class.*use mlx_nc"),
        (lambda: NCPDense(3, mx.tanh), r"NCPDense\.activation must be JSON"),
        (lambda: Variadic(I, 4), r"Variadic must define it itself, as it was given \*args"),
    ],
)
def test_get_config_errors(make, message):
    with pytest.raises(ValueError, match=r"\[get_config\] " + message):
        make().get_config()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "config must hold class and config, got None"),
        ({"class": "CfC"}, "config must hold class and config"),
        ({"class": "os.system", "config": {}}, "class must be registered, got 'os.system'"),
        ({"class": "Unregistered", "config": {}}, "class must be registered"),
        ({"class": ["CfC"], "config": {}}, "class must be registered"),
        ({"class": "CfC", "config": [1]}, "config of CfC must be a dict, got list"),
        (
            {"class": "CfC", "config": {"inputs": 3}},
            "config must hold the arguments of CfC: .*'inputs'",
        ),
        (
            {"class": "LTCCell", "config": {}},
            "config must hold the arguments of LTCCell: .*'wiring'",
        ),
        (
            {"class": "CfC", "config": {"cell": {"class": "subprocess.Popen", "config": {}}}},
            "class must be registered, got 'subprocess.Popen'",
        ),
        ({"class": "AutoNCP", "config": "x"}, "config of AutoNCP must be a dict, got str"),
        (
            {"class": "AutoNCP", "config": {"size": 1}},
            "config must hold the arguments of AutoNCP: ",
        ),
    ],
)
def test_from_config_errors(stored, message):
    with pytest.raises(ValueError, match=r"\[from_config\] " + message):
        config.from_config(stored)


def test_constructor_errors_are_not_hidden():
    stored = CfC(I, 4).get_config()
    with pytest.raises(ValueError, match=r"\[cfc\] mode must be one of"):
        CfC.from_config({**stored, "mode": "none"})
    with pytest.raises(TypeError):
        CfC(I, 4, unknown=1)
    with pytest.raises(ValueError, match="config of CfC must be a dict"):
        CfC.from_config(3)
