"""A wiring within an MLX model: frozen, saved, copied, its NumPy copy equal to its array."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Wiring

WIRINGS = {
    "Wiring": lambda: Wiring(6, output_dim=2),
    "FullyConnected": lambda: FullyConnected(6, 2),
    "Random": lambda: Random(6, 2, 0.5),
    "NCP": lambda: NCP(3, 2, 1, 2, 1, 2, 2),
    "AutoNCP": lambda: AutoNCP(6, 2),
    "keyed": lambda: FullyConnected(6, 2, key=mx.random.key(1)),
}
NAMES = {"wiring.adjacency_matrix", "wiring.sensory_adjacency_matrix"}


class Model(nn.Module):
    def __init__(self, wiring):
        super().__init__()
        self.wiring = wiring.copy()
        self.linear = nn.Linear(6, 6, bias=False)

    def __call__(self, x):
        return self.linear(x) @ self.wiring.adjacency_matrix.astype(mx.float32)


def names(tree):
    return {name for name, _ in tree_flatten(tree)}


def assert_consistent(wiring):
    np.testing.assert_array_equal(wiring.adjacency, np.array(wiring.adjacency_matrix))
    np.testing.assert_array_equal(
        wiring.sensory_adjacency, np.array(wiring.sensory_adjacency_matrix)
    )


def assert_same(a, b):
    np.testing.assert_array_equal(a.adjacency, b.adjacency)
    np.testing.assert_array_equal(a.sensory_adjacency, b.sensory_adjacency)


@pytest.fixture(params=WIRINGS)
def wiring(request):
    built = WIRINGS[request.param]()
    built.build(4)
    return built


def test_parameters_saved_never_trained(wiring):
    model = Model(wiring)
    every = NAMES | {"linear.weight"}
    for change in (
        lambda: None,
        lambda: model.unfreeze(),
        lambda: model.unfreeze(keys=["adjacency_matrix", "sensory_adjacency_matrix"]),
        lambda: model.wiring.unfreeze(),
        lambda: model.wiring.unfreeze(recurse=False, keys="adjacency_matrix"),
        lambda: model.freeze().unfreeze(),
    ):
        change()
        assert names(model.parameters()) == every
        assert names(model.trainable_parameters()) == {"linear.weight"}
    model.freeze()
    assert names(model.trainable_parameters()) == set()


def test_value_and_grad_leaves_wiring_alone(wiring):
    model = Model(wiring)
    model.unfreeze()
    loss = nn.value_and_grad(model, lambda m, x: m(x).sum())
    _, gradients = loss(model, mx.ones((2, 6)))
    assert names(gradients) == {"linear.weight"}


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_save_load_weights(wiring, tmp_path, suffix):
    wiring.add_synapse(0, 0, -1)
    wiring.add_sensory_synapse(0, 0, 1)
    model, other = Model(wiring), Model(Wiring(6, input_dim=4))
    path = str(tmp_path / f"weights.{suffix}")
    model.save_weights(path)
    other.load_weights(path)
    assert_same(model.wiring, other.wiring)
    assert_consistent(other.wiring)
    assert other.wiring.synapse_count == model.wiring.synapse_count > 0


def test_update_and_assignment_keep_copies_equal():
    wiring = Wiring(3, input_dim=2)
    model = nn.Module()
    model.wiring = wiring
    model.update({"wiring": {"adjacency_matrix": mx.eye(3, dtype=mx.int32)}})
    np.testing.assert_array_equal(wiring.adjacency, np.eye(3))
    wiring.sensory_adjacency_matrix = [[1, 0, -1], [0, 1, 0]]
    assert wiring.sensory_adjacency.tolist() == [[1, 0, -1], [0, 1, 0]]
    wiring.adjacency_matrix = -np.eye(3)
    assert wiring.adjacency_matrix.dtype == mx.int32
    np.testing.assert_array_equal(wiring.adjacency, -np.eye(3))
    wiring.adjacency_matrix[0, 2] = 1
    assert wiring.adjacency[0, 2] == 1
    wiring.adjacency_matrix = mx.eye(3, dtype=mx.bfloat16)
    np.testing.assert_array_equal(wiring.adjacency, np.eye(3))
    assert_consistent(wiring)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32, mx.int8])
def test_cast_model_keeps_wiring(wiring, dtype):
    before = wiring.copy()
    model = nn.Module()
    model.wiring = wiring
    model.apply(lambda p: p.astype(dtype))
    assert wiring.adjacency_matrix.dtype == wiring.sensory_adjacency_matrix.dtype == mx.int32
    assert_same(wiring, before)
    assert_consistent(wiring)


@pytest.mark.parametrize(
    ("name", "matrix", "message"),
    [
        ("adjacency_matrix", np.ones((3, 2)), r"must be \[units, units\] = \(3, 3\), got \(3, 2\)"),
        ("adjacency_matrix", mx.ones((2, 3)), r"must be \[units, units\] = \(3, 3\), got \(2, 3\)"),
        ("adjacency_matrix", None, r"must be an array of numbers, got None"),
        (
            "sensory_adjacency_matrix",
            mx.ones((1, 3)),
            r"must be \[input_dim, units\] = \(2, 3\), got \(1, 3\)",
        ),
        ("adjacency_matrix", mx.full((3, 3), 0.5), r"must hold -1, 0 and \+1 alone, got 0\.5"),
        ("adjacency_matrix", np.full((3, 3), 2), r"must hold -1, 0 and \+1 alone, got 2"),
    ],
)
def test_wrong_matrices_are_refused_and_change_nothing(name, matrix, message):
    wiring = Wiring(3, input_dim=2)
    wiring.add_synapse(0, 1, 1)
    before = wiring.copy()
    with pytest.raises(ValueError, match=r"\[Wiring\] \w+ " + message):
        setattr(wiring, name, matrix)
    assert_same(wiring, before)
    assert_consistent(wiring)


def test_state_dict_round_trip(wiring, tmp_path):
    state = wiring.state_dict()
    assert set(state) == {"adjacency_matrix", "sensory_adjacency_matrix"}
    mx.savez(str(tmp_path / "wiring.npz"), **state)
    other = Wiring(6)
    other.load_state_dict(mx.load(str(tmp_path / "wiring.npz")))
    assert (other.input_dim, other.is_built()) == (4, True)
    assert_same(wiring, other)
    assert_consistent(other)


def test_load_state_dict_errors():
    wiring = Wiring(3, input_dim=2)
    wiring.add_synapse(0, 1, 1)
    before = wiring.copy()
    good = wiring.state_dict()
    wrong = [
        ({"adjacency_matrix": good["adjacency_matrix"]}, r"wanted .*sensory_.*, got \['adj"),
        ({**good, "extra": 1}, "got .*'extra'"),
        (Wiring(3, input_dim=5).state_dict(), r"= \(2, 3\), got \(5, 3\)"),
        ({**FullyConnected(3, input_dim=2).state_dict(), "sensory_adjacency_matrix": [[7] * 3] * 2},
         "alone, got 7"),
    ]  # fmt: skip
    for state, message in wrong:
        with pytest.raises(ValueError, match=message):
            wiring.load_state_dict(state)
        assert_same(wiring, before)


@pytest.mark.parametrize(
    "duplicate",
    [lambda w: w.copy(), copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("name", WIRINGS)
def test_copies_are_equal_and_independent(duplicate, name):
    unbuilt = WIRINGS[name]()
    other = duplicate(unbuilt)
    unbuilt.build(4)
    assert not other.is_built()
    other.build(4)
    assert type(other) is type(unbuilt)
    assert_same(unbuilt, other)
    again = duplicate(other)
    assert_same(again, other)
    again.add_synapse(0, 0, int(-other.adjacency[0, 0]) or 1)
    assert again.adjacency[0, 0] != other.adjacency[0, 0]
    assert_consistent(again)
    assert_consistent(other)
    again.unfreeze()
    assert not tree_flatten(again.trainable_parameters())


def test_adjacency_inside_compile():
    model = Model(FullyConnected(6, 2, input_dim=4))
    state = mx.random.key(0)
    seen = []

    def step(x):
        seen.append((model.wiring.adjacency, model.wiring.synapse_count))
        return model(x).sum()

    x = mx.random.normal((2, 6), key=state)
    compiled = mx.compile(step, inputs=model.state, outputs=model.state)
    values = [compiled(x).item() for _ in range(2)]
    expected = model.wiring.copy()
    assert values == pytest.approx([step(x).item()] * 2)
    for adjacency, count in seen:
        np.testing.assert_array_equal(adjacency, expected.adjacency)
        assert count == 36
    assert_consistent(model.wiring)


def test_adjacency_inside_compile_after_load():
    model, other = Model(FullyConnected(6, 2, input_dim=4)), Model(Random(6, 2, 0.5, input_dim=4))
    model.load_weights(tree_flatten(other.parameters()))
    seen = []

    def step(x):
        seen.append(model.wiring.adjacency)
        return model(x)

    mx.eval(mx.compile(step, inputs=model.state)(mx.ones((1, 6))))
    np.testing.assert_array_equal(seen[0], other.wiring.adjacency)


def test_initialisation_of_all_parameters_leaves_the_wiring_alone():
    model = Model(FullyConnected(6, 2, input_dim=4))
    before = model.wiring.state_dict()
    for draw in (nn.init.uniform(), nn.init.constant(0.0)):
        model.apply(draw)
        assert_consistent(model.wiring)
        for name, matrix in before.items():
            assert mx.array_equal(model.wiring[name], matrix)


def test_update_with_mapped_matrices_is_refused_unless_it_is_off_by_ulps():
    model = Model(FullyConnected(6, 2, input_dim=4))
    before = model.wiring.state_dict()
    with pytest.raises(ValueError, match=r"take trainable_parameters\(\)"):
        model.update(tree_map(lambda p: 0.5 * p, model.parameters()))
    model.update(tree_map(lambda p: p * (1 + 1e-6), model.parameters()))
    assert_consistent(model.wiring)
    for name, matrix in before.items():
        assert mx.array_equal(model.wiring[name], matrix)
