"""What layers and cells print, and `summary`."""

import mlx.nn as nn
import mlx_ncps
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, LTCRNN, CfC, CfCRNN, LiquidRNN, summary
from mlx_ncps.wirings import AutoNCP

from tests.package.test_public_names import OBJECTS

LAYERS = [name for name in OBJECTS if name != "NCPDense"]


def numbers(tree):
    return sum(array.size for _, array in tree_flatten(tree))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_prints_its_sizes_and_counts_in_one_line(name):
    layer = OBJECTS[name][0]()
    text = repr(layer)
    assert text == str(layer)
    assert "\n" not in text
    assert len(text) < 200
    assert text.startswith(f"{name}(")
    trainable = numbers(layer.trainable_parameters())
    assert f"trainable={trainable:,}, other={numbers(layer.parameters()) - trainable:,})" in text
    if name not in ("LTCCell", "ELTCCell"):
        assert "inputs=3" in text


def test_what_is_not_built_says_so_and_errors_never_reach_a_repr():
    assert repr(CfC(wiring=AutoNCP(8, 2))).endswith("not built)")
    layer = CfC(3, AutoNCP(8, 2))
    layer.rnn_cell = nn.Linear(3, 4)
    assert repr(layer).startswith("CfC(")
    assert repr(mlx_ncps.LiquidCell()) == "LiquidCell(...)"
    plain = LiquidRNN(lambda x, state, ts: (state, state))
    assert repr(plain).startswith("LiquidRNN(cell=<lambda>")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            lambda: CfC(3, 4, mode="pure", backbone_units=[8, 5]),
            ["mode=pure", "backbone=[8, 5] lec"],
        ),
        (
            lambda: LTC(3, AutoNCP(8, 2), ode_unfolds=3),
            ["wiring=AutoNCP", "outputs=2", "unfolds=3"],
        ),
        (
            lambda: LTC(3, 4, mixed_memory=True, stateful=True),
            ["mixed_memory=True", "stateful=True"],
        ),
        (lambda: CfCRNN(3, 4, 3, bidirectional=True), ["layers=3", "outputs=8", "bidirectional="]),
        (lambda: CfC(3, 4, proj_size=2), ["outputs=2", "proj_size=2"]),
    ],
)
def test_a_layer_prints_what_is_unusual(layer, words):
    text = repr(layer())
    assert [word for word in words if word not in text] == []
    assert "variant" not in text


def test_a_model_prints_its_layers():
    model = nn.Sequential(CfC(3, 4), nn.Linear(4, 2))
    assert "(layers.0): CfC(inputs=3, units=4" in repr(model)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_summary_counts_every_parameter_of_every_part(name, depth):
    layer = OBJECTS[name][0]()
    if name == "NCPDense":
        layer.build(3)
    found = summary(layer, depth)
    assert found.trainable == numbers(layer.trainable_parameters())
    assert found.trainable + found.other == numbers(layer.parameters())
    modules = dict(layer.named_modules())
    for part in found.parts:
        module = modules[part.name]
        assert part.trainable == numbers(nn.Module.trainable_parameters(module))
        assert part.kind == type(module).__name__
    deep = {key for key in modules if key and "." not in key}
    assert (deep <= {part.name for part in found.parts}) == (depth > 0 or not deep)
    lines = str(found).splitlines()
    assert lines[0].split() == ["part", "kind", "trainable", "other"]
    assert len(lines) == len(found.parts) + 1
    assert f"{found.trainable:,}" in lines[-1]


def test_summary_of_a_frozen_model_and_of_one_that_is_not_built():
    model = nn.Sequential(LTC(3, 4, return_state=False), nn.Linear(4, 2))
    model.layers[0].freeze()
    found = summary(model)
    assert found.trainable == 10
    assert found.other == numbers(model.layers[0].parameters())
    lines = str(summary(LTCRNN(None, AutoNCP(8, 2), 2))).splitlines()
    assert sum("not built: call it once" in line for line in lines) >= 3


@pytest.mark.parametrize(("module", "depth"), [(3, 2), (CfC, 2), (CfC(3, 4), -1), (CfC(3, 4), "x")])
def test_summary_refuses_what_it_does_not_know(module, depth):
    with pytest.raises(ValueError, match=r"\[summary\] (module|depth) must be"):
        summary(module, depth)
