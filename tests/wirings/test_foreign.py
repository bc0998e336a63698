"""Wirings of the package ncps, given to our cells and layers as they are, before and after they are
built: the same synapses as in ncps, and of the same classes as ours.
"""

import copy
import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CfCCell, CfCRNN, LTCCell, NCPDense, WiredCfCCell, wirings

from tests.support.cases import assert_close

theirs = pytest.importorskip("ncps.wirings")
I = 5
MAKERS = {
    "FullyConnected": lambda: theirs.FullyConnected(8, 3, 77, self_connections=False),
    "Random": lambda: theirs.Random(8, 3, 0.6, 77),
    "AutoNCP": lambda: theirs.AutoNCP(12, 3, 0.4, 77),
    "NCP": lambda: theirs.NCP(4, 3, 2, 2, 2, 3, 2, seed=77),
}
CELLS = {
    "LTCCell": lambda wiring: LTCCell(wiring),
    "LTC": lambda wiring: LTC(I, wiring).rnn_cell,
    "CfCCell": lambda wiring: CfCCell(wiring),
    "CfCCell_wiring": lambda wiring: CfCCell(wiring=wiring, activation="tanh"),
    "WiredCfCCell": lambda wiring: WiredCfCCell(I, wiring, "no_gate"),
    "CfC": lambda wiring: CfC(I, wiring).rnn_cell,
    "CfC_cell": lambda wiring: CfC(cell=CfCCell(wiring=wiring)).rnn_cell,
    "NCPDense": lambda wiring: NCPDense(wiring=wiring),
}


def same(ours, reference):
    np.testing.assert_array_equal(ours.adjacency, reference.adjacency_matrix)
    np.testing.assert_array_equal(ours.sensory_adjacency, reference.sensory_adjacency_matrix)
    assert ours.output_dim == reference.output_dim


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", MAKERS)
def test_cells_take_wirings_of_ncps(name, cell, built):
    given, reference = MAKERS[name](), MAKERS[name]()
    if built:
        given.build(I)
    before = copy.deepcopy(given.adjacency_matrix)
    made = CELLS[cell](given)
    made.build(I)
    reference.build(I)
    assert type(made.wiring) is getattr(wirings, name)
    same(made.wiring, reference)
    np.testing.assert_array_equal(given.adjacency_matrix, before)
    assert (given.input_dim is not None) == built
    again = type(made).from_config(json.loads(json.dumps(made.get_config())))
    assert type(again.wiring) is type(made.wiring)
    same(again.wiring, reference)


def test_an_edited_wiring_of_ncps_keeps_its_synapses():
    given = theirs.Wiring(6)
    given.build(I)
    given.set_output_dim(2)
    given.add_synapse(1, 0, -1)
    given.add_sensory_synapse(4, 1, 1)
    for cell in (LTCCell(given), WiredCfCCell(None, given)):
        assert type(cell.wiring) is wirings.Wiring
        same(cell.wiring, given)


def test_a_used_generator_is_copied():
    wiring = MAKERS["NCP"]()
    wiring._rng.rand()
    cell = LTCCell(wiring, I)
    wiring.build(I)
    same(cell.wiring, wiring)


def test_a_stack_builds_a_wiring_of_ncps_for_each_layer():
    stack = CfCRNN(I, MAKERS["AutoNCP"](), num_layers=2)
    output, _ = stack(mx.zeros((2, 3, I)))
    assert output.shape == (2, 3, 3)
    for layer, width in zip(stack.layers, (I, 3), strict=True):
        reference = MAKERS["AutoNCP"]()
        reference.build(width)
        same(layer.rnn_cell.wiring, reference)


def test_layers_of_both_packages_compute_the_same():
    mx.random.seed(3)
    x = mx.random.normal((2, 4, I))
    one, other = CfC(I, MAKERS["AutoNCP"]()), CfC(I, wirings.AutoNCP(12, 3, 0.4, 77))
    other.load_weights(tree_flatten(one.parameters()))
    assert_close("output", other(x)[0], one(x)[0], 0.0)


def test_a_class_with_layers_that_is_not_known_is_refused():
    class Deep(theirs.NCP):
        pass

    wiring = Deep(4, 3, 2, 2, 2, 3, 2)
    assert wirings.our_wiring(wiring) is None
    for make in (LTCCell, lambda w: WiredCfCCell(I, w), lambda w: NCPDense(9, wiring=w)):
        with pytest.raises(ValueError, match="wiring must be a Wiring"):
            make(wiring)
