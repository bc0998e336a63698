"""SynapseLists: the non-zero elements of two masks, once, in order, hashable."""

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.ops import SynapseLists

MASK = np.array([[0, 1, -1], [1, 0, 0], [0, 0, 1]])
SENSORY = np.array([[1, 0, 0], [0, -1, 1]])


def test_lists_name_the_non_zero_elements_by_target():
    lists = SynapseLists(MASK, SENSORY)
    assert (lists.units, lists.inputs) == (3, 2)
    assert list(zip(lists.source, lists.target, strict=True)) == [(1, 0), (0, 1), (0, 2), (2, 2)]
    assert list(zip(lists.sensory_source, lists.sensory_target, strict=True)) == [
        (0, 0),
        (1, 1),
        (1, 2),
    ]
    for array in (lists.source, lists.target, lists.sensory_source, lists.sensory_target):
        assert array.dtype == np.int32
        assert not array.flags.writeable


def test_lists_of_equal_masks_are_equal_and_hash_alike():
    lists = SynapseLists(MASK, SENSORY)
    same = SynapseLists(mx.array(np.abs(MASK)), mx.array(SENSORY * 0.5))
    assert lists == same
    assert hash(lists) == hash(same)
    assert lists == copy.deepcopy(lists) == pickle.loads(pickle.dumps(lists))
    for other in (SynapseLists(MASK.T, SENSORY), SynapseLists(MASK, 0 * SENSORY), "lists"):
        assert lists != other
    assert SynapseLists(MASK, np.zeros((1, 3))) != SynapseLists(MASK, np.zeros((2, 3)))


@pytest.mark.parametrize(
    "masks", [(MASK[:2], SENSORY), (MASK[0], SENSORY), (MASK, SENSORY.T), (MASK, MASK[0])]
)
def test_lists_refuse_masks_that_do_not_fit(masks):
    with pytest.raises(ValueError, match=r"\[SynapseLists\] \w+ must be \["):
        SynapseLists(*masks)
