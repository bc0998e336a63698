"""pairs.py: every two values of different lists meet, in few combinations."""

import itertools

import pytest

from tests.support.pairs import pairs

LISTS = [(), ("ab",), ("abc", "xy"), ("abcdef", "uvwx", "xyz"), ("abcd", "uvw", "xy", "pq", "rst")]


@pytest.mark.parametrize("lists", LISTS)
def test_every_pair_meets_and_nothing_twice(lists):
    chosen = pairs(*lists)
    assert len(set(chosen)) == len(chosen)
    for a, b in itertools.combinations(range(len(lists)), 2):
        assert {(one[a], one[b]) for one in chosen} == set(itertools.product(lists[a], lists[b]))
    assert chosen == pairs(*lists)
    assert all(len(one) == len(lists) for one in chosen)


def test_few_combinations_are_enough():
    assert len(pairs(range(6), range(6), range(3), range(2))) <= 40  # of 216; 36 at least
    assert pairs(range(3), []) == []
    assert pairs("ab") == [("a",), ("b",)]
