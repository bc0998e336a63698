"""Building, editing and describing wirings, and every error they raise."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random, Wiring

NCP_SIZES = {
    "inter_neurons": 5,
    "command_neurons": 4,
    "motor_neurons": 3,
    "sensory_fanout": 2,
    "inter_fanout": 2,
    "recurrent_command_synapses": 3,
    "motor_fanin": 2,
}
MAKERS = {
    "Wiring": lambda **kw: Wiring(12, output_dim=3, **kw),
    "FullyConnected": lambda **kw: FullyConnected(12, 3, self_connections=False, **kw),
    "Random": lambda **kw: Random(12, 3, 0.5, **kw),
    "NCP": lambda **kw: NCP(**NCP_SIZES, **kw),
    "AutoNCP": lambda **kw: AutoNCP(12, 3, **kw),
}
DRAWN = [name for name in MAKERS if name != "Wiring"]


class TwoInterLayers(Wiring):
    """A user's wiring, written as for ncps: its build draws each time that it is called."""

    def __init__(self, units, output_dim=None, seed=3):
        super().__init__(units)
        self.set_output_dim(output_dim)
        self._rng = np.random.default_rng(seed)
        for src in range(units - 1):
            self.add_synapse(src, src + 1, 1)

    num_layers = 3

    def get_neurons_of_layer(self, layer_id):
        ids = list(range(self.units))
        return [ids[4:], ids[2:4], ids[:2]][layer_id]

    def build(self, input_shape):
        super().build(input_shape)
        for src in range(self.input_dim):
            self.add_sensory_synapse(src, self._rng.integers(self.units), self._rng.choice([-1, 1]))


def same(a, b):
    return np.array_equal(a.adjacency, b.adjacency) and np.array_equal(
        a.sensory_adjacency, b.sensory_adjacency
    )


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_build_twice_is_once(make):
    once, twice = make(), make()
    once.build(5)
    twice.build(5)
    assert twice.build(5) is None
    assert same(once, twice)
    with pytest.raises(ValueError, match=r"\[build\] input_dim must be 5, .* got 6\."):
        twice.build(6)
    assert same(once, twice)


def test_build_custom_subclass_is_once():
    wiring = TwoInterLayers(7, output_dim=2)
    wiring.build(4)
    before = wiring.sensory_adjacency
    wiring.build(4)
    np.testing.assert_array_equal(wiring.sensory_adjacency, before)
    with pytest.raises(ValueError, match=r"must be 4, .* got 3\."):
        wiring.build(3)


def test_build_that_fails_leaves_unbuilt():
    class Failing(Wiring):
        def build(self, input_dim):
            super().build(input_dim)
            raise RuntimeError("no")

    wiring = Failing(3)
    with pytest.raises(RuntimeError):
        wiring.build(2)
    assert not wiring.is_built()
    assert wiring.sensory_adjacency is wiring.sensory_adjacency_matrix is None


def test_input_dim_builds(make):
    built, later = make(input_dim=5), make()
    assert built.is_built()
    assert not later.is_built()
    assert later.sensory_adjacency_matrix is None
    assert later.sensory_adjacency is None
    assert later.sensory_synapse_count == 0
    later.build(5)
    assert same(built, later)


def test_sizes_are_ints(make):
    wiring = make(input_dim=np.int64(5))
    sizes = [wiring.units, wiring.input_dim, wiring.output_dim, wiring.num_layers]
    assert sizes[:3] == [12, 5, 3]
    counts = [wiring.synapse_count, wiring.sensory_synapse_count]
    assert all(type(number) is int for number in sizes + counts)
    assert counts == [np.sum(wiring.adjacency != 0), np.sum(wiring.sensory_adjacency != 0)]


def test_output_dim_default_and_alias():
    assert FullyConnected(6).output_dim == Random(6).output_dim == 6
    assert Wiring(6).output_dim is None
    assert same(AutoNCP(12, output_dim=3, input_dim=4), AutoNCP(12, 3, input_dim=4))
    for arguments in ({}, {"output_size": 3, "output_dim": 3}):
        with pytest.raises(
            ValueError, match=r"\[AutoNCP\] wanted either output_size or output_dim"
        ):
            AutoNCP(12, **arguments)


def test_matrices_are_int32_arrays(make):
    wiring = make(input_dim=5)
    for name, shape in (("adjacency", (12, 12)), ("sensory_adjacency", (5, 12))):
        matrix, host = getattr(wiring, name + "_matrix"), getattr(wiring, name)
        assert isinstance(matrix, mx.array)
        assert isinstance(host, np.ndarray)
        assert matrix.shape == host.shape == shape
        assert (matrix.dtype, host.dtype) == (mx.int32, np.int32)
        with pytest.raises(ValueError, match="read-only"):
            host[0, 0] = 1


def test_a_neuron_may_connect_to_itself():
    assert not FullyConnected(5, self_connections=False).adjacency.diagonal().any()
    assert FullyConnected(5).adjacency.diagonal().all()


def test_add_synapse_sets_its_polarity():
    wiring = Wiring(4, input_dim=3)
    wiring.add_synapse(0, 3, -1)
    wiring.add_sensory_synapse(2, 1, 1)
    wiring.add_sensory_synapse(np.int64(0), 1, np.int32(-1))
    assert wiring.adjacency[0, 3] == wiring.adjacency_matrix[0, 3].item() == -1
    assert wiring.sensory_adjacency[:, 1].tolist() == [-1, 0, 1]
    assert wiring.sensory_adjacency_matrix[:, 1].tolist() == [-1, 0, 1]
    assert (wiring.synapse_count, wiring.sensory_synapse_count) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 0, 1), r"src must be an integer in \[0, 4\), got 4\."),
        ((-1, 0, 1), r"src must be an integer in \[0, 4\), got -1\."),
        ((0, 4, 1), r"dest must be an integer in \[0, 4\), got 4\."),
        ((0, 1.0, 1), r"dest must be an integer in \[0, 4\), got 1\.0\."),
        ((0, 0, 0), r"polarity must be -1 or \+1, got 0\."),
        ((0, 0, 0.5), r"polarity must be -1 or \+1, got 0\.5\."),
    ],
)
def test_wrong_synapses_are_refused(arguments, message):
    wiring = Wiring(4, input_dim=4)
    with pytest.raises(ValueError, match=r"\[add_synapse\] " + message):
        wiring.add_synapse(*arguments)
    with pytest.raises(ValueError, match=r"\[add_sensory_synapse\] " + message):
        wiring.add_sensory_synapse(*arguments)
    assert wiring.synapse_count == wiring.sensory_synapse_count == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda w: w.add_sensory_synapse(0, 0, 1),
        lambda w: w.sensory_erev_initializer(),
        lambda w: w.get_graph(),
        lambda w: w.draw_graph(),
    ],
)
def test_an_unbuilt_wiring_says_so(call):
    with pytest.raises(ValueError, match="must be built, got input_dim=None"):
        call(Wiring(4))


def test_layers_and_types():
    wiring = NCP(**NCP_SIZES)
    assert wiring.num_layers == 3
    layers = [wiring.get_neurons_of_layer(layer) for layer in range(3)]
    assert layers == [[7, 8, 9, 10, 11], [3, 4, 5, 6], [0, 1, 2]]
    kinds = [[wiring.get_type_of_neuron(i) for i in layer] for layer in layers]
    assert kinds == [["inter"] * 5, ["command"] * 4, ["motor"] * 3]
    single = FullyConnected(4, 1)
    assert single.get_neurons_of_layer(0) == [0, 1, 2, 3]
    assert [single.get_type_of_neuron(i) for i in range(4)] == ["motor"] + ["inter"] * 3
    for w, layer in ((wiring, 3), (single, 1)):
        with pytest.raises(ValueError, match=rf"layer_id must be .* \[0, {layer}\), got {layer}\."):
            w.get_neurons_of_layer(layer)
        with pytest.raises(ValueError, match=rf"neuron_id must be .*, got {w.units}\."):
            w.get_type_of_neuron(w.units)


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda: Wiring(0), r"\[Wiring\] units must be an integer >= 1, got 0"),
        (lambda: Wiring(True), r"\[Wiring\] units must be an integer >= 1, got True"),
        (lambda: Wiring(4.0), r"\[Wiring\] units must be an integer >= 1, got 4.0"),
        (lambda: Wiring(4, input_dim=0), r"\[build\] input_dim must be an integer >= 1, got 0"),
        (lambda: FullyConnected(4, 5), r"\[FullyConnected\] output_dim must be at most units = 4"),
        (lambda: Random(4, 0), r"\[Random\] output_dim must be an integer >= 1, got 0"),
        (lambda: Random(4, sparsity_level=1.0), r"\[Random\] sparsity_level .* \[0, 1\), got 1\.0"),
        (lambda: Random(4, sparsity_level=-0.1), r"sparsity_level must be in \[0, 1\), got -0\.1"),
        (lambda: AutoNCP(5, 3), r"\[AutoNCP\] output_size must be less than units - 2 = 3, got 3"),
        (lambda: AutoNCP(12, 0), r"\[AutoNCP\] output_size must be an integer >= 1, got 0"),
        (lambda: AutoNCP(12, 3, 0.05), r"\[AutoNCP\] sparsity_level must be in \[0.1, 1.0\], got"),
        (lambda: AutoNCP(12, 3, 1.1), r"\[AutoNCP\] sparsity_level must be in \[0.1, 1.0\], got"),
        (lambda: FullyConnected(4, key=[1, 2, 3]), r"\[FullyConnected\] key must be an mx.random"),
    ],
)
def test_wrong_arguments_are_refused(make_wrong, message):
    with pytest.raises(ValueError, match=message):
        make_wrong()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"motor_fanin": 5}, "motor_fanin must be at most command_neurons = 4, got 5"),
        ({"sensory_fanout": 6}, "sensory_fanout must be at most inter_neurons = 5, got 6"),
        ({"inter_fanout": 5}, "inter_fanout must be at most command_neurons = 4, got 5"),
        ({"motor_fanin": -1}, "motor_fanin must be an integer >= 0, got -1"),
        ({"motor_neurons": 0}, "motor_neurons must be an integer >= 1, got 0"),
        ({"recurrent_command_synapses": -1}, "recurrent_command_synapses must be .* >= 0, got -1"),
    ],
)
def test_impossible_ncps_are_refused(changed, message):
    with pytest.raises(ValueError, match=r"\[NCP\] " + message):
        NCP(**{**NCP_SIZES, **changed})


def test_erev_initializers_give_the_polarities():
    wiring = FullyConnected(4, input_dim=3)
    erev = wiring.erev_initializer()
    sensory = wiring.sensory_erev_initializer((3, 4), mx.float16)
    assert (erev.dtype, sensory.dtype) == (mx.float32, mx.float16)
    np.testing.assert_array_equal(np.array(erev), wiring.adjacency)
    np.testing.assert_array_equal(np.array(sensory), wiring.sensory_adjacency)
    with pytest.raises(
        ValueError, match=r"\[erev_initializer\] shape must be \(4, 4\), got \(3, 4\)"
    ):
        wiring.erev_initializer((3, 4))


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("edited", [False, True])
def test_config_round_trip(make, built, edited):
    wiring = make(input_dim=5 if built else None)
    if edited:
        wiring.add_synapse(0, 0, 1)
        wiring.add_synapse(0, 1, -1)
    config = json.loads(json.dumps(wiring.get_config()))
    drawn_again = type(wiring) is not Wiring and not edited
    assert ("adjacency_matrix" in config) is not drawn_again
    assert ("sensory_adjacency_matrix" in config) is (type(wiring) is Wiring)
    again = type(wiring).from_config(config)
    assert type(again) is type(wiring)
    assert same(wiring, again)
    assert (again.input_dim, again.output_dim) == (wiring.input_dim, wiring.output_dim)
    assert again.get_config() == config
    wiring.build(5)
    again.build(5)
    assert same(wiring, again)


def test_config_custom_subclass():
    wiring = TwoInterLayers(7, output_dim=2)
    wiring.build(4)
    wiring.add_sensory_synapse(0, 0, -1)
    again = TwoInterLayers.from_config(wiring.get_config())
    assert same(wiring, again)
    assert again.get_neurons_of_layer(2) == [0, 1]


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_key_draws_the_same_synapses(name):
    make = MAKERS[name]
    state = mx.random.state[0].tolist()
    a, b = make(key=mx.random.key(3), input_dim=5), make(key=mx.random.key(3), input_dim=5)
    other, seeded = make(key=mx.random.key(4), input_dim=5), make(input_dim=5)
    assert mx.random.state[0].tolist() == state
    assert same(a, b)
    assert not same(a, other)
    assert not same(a, seeded)
    assert same(a, type(a).from_config(json.loads(json.dumps(a.get_config()))))
    if name in ("FullyConnected", "Random"):
        assert a.synapse_count == seeded.synapse_count
        assert a.sensory_synapse_count == seeded.sensory_synapse_count
        assert {-1, 1} == set(a.adjacency[a.adjacency != 0].tolist())
        square = make(key=mx.random.key(3), input_dim=12)
        assert not np.array_equal(abs(square.adjacency), square.sensory_adjacency)
        assert np.any(square.adjacency * square.sensory_adjacency < 0)


def test_key_draws_differ_from_each_other():
    wiring = FullyConnected(12, key=mx.random.key(3), input_dim=12)
    assert not np.array_equal(wiring.adjacency, wiring.sensory_adjacency)


def test_repr_tells_sizes_and_synapses():
    text = repr(AutoNCP(28, 4, input_dim=20))
    assert text == (
        "AutoNCP(units=28, output_dim=4, input_dim=20, synapses=84, sensory_synapses=140)"
    )
