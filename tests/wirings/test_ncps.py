"""The wirings are those of ncps: golden hashes, and ncps itself where it is installed."""

import hashlib
import random

import numpy as np
import pytest
from mlx_ncps import wirings

# (class, arguments, inputs, synapses, sensory synapses, md5, md5 of the sensory matrix)
GOLDEN = [
    ("AutoNCP", {"units": 28, "output_size": 4}, 20, 84, 140,
     "d56c50799f33850f08c8f07d6232fcad", "818ac9aa08d5c0b1f51e28209bd79359"),
    ("AutoNCP", {"units": 16, "output_size": 4}, 8, 28, 32,
     "10b6863aa69d8216cc483acae627f950", "4505586b1ffc7c49ad75e0de760bb697"),
    ("NCP", {"inter_neurons": 10, "command_neurons": 10, "motor_neurons": 8, "sensory_fanout": 6,
             "inter_fanout": 6, "recurrent_command_synapses": 4, "motor_fanin": 6}, 8, 112, 48,
     "bc78391cd8941b2bace62b67b334cdd3", "1b0ecb54bd6df1a8f38d60bf601fd7c3"),
    ("FullyConnected", {"units": 8, "output_dim": 4}, 8, 64, 64,
     "6a7e02469d561dd9ed301f4cb7adeb6c", "9dce2ab9fb2da0f5d4b642ce16229894"),
    ("FullyConnected", {"units": 8, "self_connections": False}, 3, 56, 24,
     "c8fa7741638b25d1764cb37e70f88ecc", "3642c2ceb3bad3be2bdbecc96e140f30"),
    ("Random", {"units": 32, "output_dim": 1, "sparsity_level": 0.5}, 2, 512, 32,
     "1309799d6e9b1cbab555c6002ed86edf", "f8f9a4ec0f634527446acbaafcec46d9"),
    ("Random", {"units": 20, "output_dim": 5, "sparsity_level": 0.75, "random_seed": 7}, 4, 100, 20,
     "8f55e5a6d75e5992b8b4f131acc5fe61", "5277204787220645e69a243b141a237a"),
    # a command neuron that no inter neuron chose, repaired with ncps's limit on its fan-in
    ("NCP", {"inter_neurons": 6, "command_neurons": 2, "motor_neurons": 1, "sensory_fanout": 1,
             "inter_fanout": 1, "recurrent_command_synapses": 1, "motor_fanin": 1, "seed": 19},
     2, 11, 6, "7e24970ae6ced93d8d2bed089af0739f",
     "0f88b7c51a57b750fcf9a40a039b3261"),
]  # fmt: skip


def md5(matrix):
    return hashlib.md5(np.array(matrix).astype(np.int8).tobytes(order="C")).hexdigest()


@pytest.mark.parametrize(
    ("cls", "arguments", "inputs", "synapses", "sensory_synapses", "digest", "sensory_digest"),
    GOLDEN,
)
def test_wirings_are_those_of_ncps(
    cls, arguments, inputs, synapses, sensory_synapses, digest, sensory_digest
):
    wiring = getattr(wirings, cls)(**arguments)
    wiring.build(inputs)
    assert (wiring.synapse_count, wiring.sensory_synapse_count) == (synapses, sensory_synapses)
    assert md5(wiring.adjacency_matrix) == md5(wiring.adjacency) == digest
    assert md5(wiring.sensory_adjacency_matrix) == md5(wiring.sensory_adjacency) == sensory_digest


def random_case(seed):
    """A class name and arguments that ncps accepts, and a number of inputs."""
    draw = random.Random(seed)
    cls = ("FullyConnected", "Random", "NCP", "AutoNCP")[seed % 4]
    units, inputs, drawn_seed = draw.randint(4, 24), draw.randint(1, 9), draw.randint(0, 9999)
    outputs = draw.randint(1, units)
    if cls == "FullyConnected":
        flag = draw.random() < 0.5
        arguments = (units, draw.choice([None, outputs]), drawn_seed, flag)
    elif cls == "Random":
        arguments = (
            units,
            draw.choice([None, outputs]),
            draw.choice([0.0, 0.3, 0.9, 0.99]),
            drawn_seed,
        )
    elif cls == "AutoNCP":
        arguments = (
            units,
            draw.randint(1, max(units - 3, 1)),
            draw.choice([0.1, 0.5, 0.8, 1.0]),
            drawn_seed,
        )
    else:
        inter, command, motor = (draw.randint(1, 12) for _ in range(3))
        arguments = (inter, command, motor, draw.randint(0, inter), draw.randint(0, command),
                     draw.randint(0, 20), draw.randint(0, command), drawn_seed)  # fmt: skip
    return cls, arguments, inputs


@pytest.mark.parametrize("seed", range(80))
def test_wiring_equals_ncps(seed):
    reference = pytest.importorskip("ncps.wirings")
    cls, arguments, inputs = random_case(seed)
    ours, theirs = getattr(wirings, cls)(*arguments), getattr(reference, cls)(*arguments)
    np.testing.assert_array_equal(ours.adjacency, theirs.adjacency_matrix)
    ours.build(inputs)
    theirs.build(inputs)
    np.testing.assert_array_equal(ours.adjacency, theirs.adjacency_matrix)
    np.testing.assert_array_equal(ours.sensory_adjacency, theirs.sensory_adjacency_matrix)
    assert (ours.units, ours.input_dim) == (theirs.units, theirs.input_dim)
    assert (ours.output_dim, ours.num_layers) == (theirs.output_dim, theirs.num_layers)
    for layer in range(ours.num_layers):
        assert ours.get_neurons_of_layer(layer) == theirs.get_neurons_of_layer(layer)
    for neuron in range(ours.units):
        assert ours.get_type_of_neuron(neuron) == theirs.get_type_of_neuron(neuron)


def test_get_graph_equals_ncps():
    pytest.importorskip("networkx")
    reference = pytest.importorskip("ncps.wirings")
    ours, theirs = wirings.AutoNCP(12, 3), reference.AutoNCP(12, 3)
    ours.build(5)
    theirs.build(5)
    assert dict(ours.get_graph().nodes(data=True)) == dict(theirs.get_graph().nodes(data=True))
    edges = [{(a, b): d for a, b, d in w.get_graph().edges(data=True)} for w in (ours, theirs)]
    assert edges[0] == edges[1]


@pytest.mark.parametrize("cls", ["FullyConnected", "Random", "AutoNCP", "Wiring"])
def test_from_config_reads_ncps(cls):
    reference = pytest.importorskip("ncps.wirings")
    arguments = {"AutoNCP": (12, 3), "Wiring": (5,)}.get(cls, (6, 2))
    theirs = getattr(reference, cls)(*arguments)
    if cls == "Wiring":
        theirs.build(3)
        theirs.set_output_dim(2)
        theirs.add_synapse(0, 4, -1)
        theirs.add_sensory_synapse(2, 1, 1)
    ours = getattr(wirings, cls).from_config(theirs.get_config())
    if cls != "Wiring":
        theirs.build(3)
        ours.build(3)
    np.testing.assert_array_equal(ours.adjacency, theirs.adjacency_matrix)
    np.testing.assert_array_equal(ours.sensory_adjacency, theirs.sensory_adjacency_matrix)
    assert (ours.input_dim, ours.output_dim) == (theirs.input_dim, theirs.output_dim)
