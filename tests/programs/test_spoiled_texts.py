"""Texts of step programs with one number or name changed: refused with the name of the operator, or
run within the arrays that they were given.
"""

import random
from typing import Any

import mlx.core as mx
import pytest
from mlx_ncps import _loader

_ext: Any = _loader.native
pytestmark = pytest.mark.usefixtures("native")
native = pytest.importorskip("tools.argument_fuzz.native", reason="tools/ is not in a wheel")
NAMES = ("neg", "div", "select", "move", "sum", "expand", "softmax", "matmul", "no_such", "")


def places(tree, path=()):
    """Paths of all numbers and names of a text."""
    if isinstance(tree, list | tuple):
        return [p for n, item in enumerate(tree) for p in places(item, (*path, n))]
    if isinstance(tree, dict):
        return [p for key, item in tree.items() for p in places(item, (*path, key))]
    return [path]


def changed(tree, path, change):
    """A copy of the tree with what lies at the path changed."""
    if not path:
        return change(tree)
    items = dict(tree) if isinstance(tree, dict) else list(tree)
    items[path[0]] = changed(tree[path[0]], path[1:], change)
    return type(tree)(items)


def spoil(rng):
    def change(value):
        if isinstance(value, str):
            return rng.choice(NAMES)
        if isinstance(value, bool):
            return not value
        if isinstance(value, float):
            return -value
        near = [value - 1, value + 1, -value, 0, 1, 2 * value, rng.randrange(30)]
        return rng.choice([*near, 2**31 - 1, -(2**31)])

    return change


def outcomes(make, count):
    """(errors, how many ran) of so many spoiled texts."""
    rng = random.Random(11)
    refused, run = [], 0
    for _ in range(count):
        call = make()
        arrays = {k: v for k, v in call.items() if k in ARRAYS}
        text = {k: v for k, v in call.items() if k not in ARRAYS}
        for _ in range(rng.choice((1, 1, 2))):
            text = changed(text, rng.choice(places(text)), spoil(rng))
        try:
            mx.eval(native.call("program_sequence")(**arrays, **text))
        except ValueError as error:
            refused.append(str(error))
        else:
            run += 1
    return refused, run


ARRAYS = ("steps", "states", "captured", "resets", "reset_states")


@pytest.mark.parametrize("make", native.CALLS["program_sequence"], ids=["whole", "short"])
def test_a_spoiled_text_is_refused_or_runs(make):
    refused, run = outcomes(make, 600)
    named = [error.startswith(("[program] ", "[program_sequence] ")) for error in refused]
    assert all(named)
    assert len(refused) > 300
    assert run > 20
