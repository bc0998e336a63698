"""Walks over users' objects and files end: what holds itself, is nested deep, or is shared over and
over gives a ValueError, and soon. test_places.py has the walk that steps make.
"""

import sys

import pytest
from mlx_ncps import CfC, config_bounds, rnn
from mlx_ncps.config import Configurable, from_config, to_config
from mlx_ncps.convert import from_keras

from tests.support.rnn_layers import I


class Holder(Configurable):
    def __init__(self, value):
        self.value = value


def own_list():
    value = []
    value.append(value)
    return value


def own_dict():
    value = {}
    value["again"] = value
    return value


def deep_list():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


def deep_dict():
    value = {}
    for _ in range(100_000):
        value = {"inside": value}
    return value


def shared_lists():  # 2**60 ways through 60 lists
    value = []
    for _ in range(60):
        value = [value, value]
    return value


VALUES = pytest.mark.parametrize(
    "make", [own_list, own_dict, deep_list, deep_dict, shared_lists], ids=lambda f: f.__name__
)


@VALUES
def test_get_config_ends(make):
    value = make()
    with pytest.raises(ValueError, match=r"\[get_config\] config must"):
        Holder(value).get_config()
    assert Holder([1]).get_config() == {"value": [1]}


def test_get_config_of_object_in_its_own_argument_ends():
    inside = []
    holder = Holder(inside)
    inside.append(holder)
    with pytest.raises(ValueError, match=r"\[get_config\] config must be nested less deep"):
        holder.get_config()


@VALUES
def test_from_config_ends(make):
    with pytest.raises(ValueError, match=r"\[from_config\] config must"):
        Holder.from_config({"value": make()})
    assert Holder.from_config({"value": [1]}).value == [1]


def test_from_config_of_many_levels_ends():
    inner = {"value": 1}
    for _ in range(20_000):
        inner = {"value": {"class": "Holder", "config": inner}}
    with pytest.raises(ValueError, match=r"\[from_config\] config must .* nested at most"):
        Holder.from_config(inner)


def test_configurations_below_the_bound_are_whole():
    many = list(range(config_bounds.MOST_VALUES - 10))
    assert Holder(many).get_config()["value"] == many
    assert Holder(many).get_config()["value"] == many  # counted anew
    for layer in (CfC(I, 6), rnn.LTCRNN(I, 6, 3)):
        assert type(from_config(to_config(layer))) is type(layer)


@pytest.mark.parametrize("parts", [["rnn_cell"], ["rnn_cell", "time_a", "time_b"]])
def test_from_keras_of_cell_linked_to_itself_ends(tmp_path, parts):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "knot.weights.h5"
    with h5py.File(path, "w") as file:
        cell = file.create_group("layers/cfc/cell")
        cell.create_group("vars").create_dataset("0", data=[1.0])
        for part in parts:
            cell[part] = cell
    with pytest.raises(ValueError, match=r"\[from_keras\]"):
        from_keras(path)


def test_recursion_limit_is_left_alone():
    limit = sys.getrecursionlimit()
    with pytest.raises(ValueError, match="nested"):
        Holder(deep_list()).get_config()
    assert sys.getrecursionlimit() == limit
