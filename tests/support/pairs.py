"""Every pair of values of several lists, in fewer combinations than all."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def pairs(*lists: Iterable) -> list[tuple]:
    """Tuples with a value of each list, so that any two values of different lists meet in one.

    Greedy: the combination that has most new pairs is next, the first of equals. The same lists
    give the same tuples.
    """
    values = [list(one) for one in lists]
    if len(values) < 2:
        return list(itertools.product(*values))
    sizes = [range(len(one)) for one in values]
    columns = list(itertools.combinations(range(len(values)), 2))

    def met(combination) -> set:
        return {(a, b, combination[a], combination[b]) for a, b in columns}

    left = set().union(*map(met, itertools.product(*sizes)))
    rest, chosen = [(one, met(one)) for one in itertools.product(*sizes)], []
    while left:
        best = max(rest, key=lambda entry: len(entry[1] & left))
        left -= best[1]
        rest.remove(best)
        chosen.append(tuple(one[k] for one, k in zip(values, best[0], strict=True)))
    return chosen
