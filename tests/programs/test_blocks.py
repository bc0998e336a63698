"""Sums, repetitions and softmax over one axis of a step program: sizes that fit a vector or not
and that leave a part of one, on every instruction set, against NumPy in float64.
"""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import _loader

from tests.support.cases import TOLERANCES, assert_close

_ext: Any = _loader.native
pytestmark = pytest.mark.usefixtures("native")
FORWARD, GRADIENT = TOLERANCES["float32"]["forward"], TOLERANCES["float32"]["gradient"]
B, T = 3, 2
SHORT = (1, 2, 3, 4, 5, 8, 9, 16, 17, 33)
OUTER = (1, 3, 16, 21)
isas = pytest.mark.parametrize("isa", _ext.isas() if _ext else [""])


@pytest.fixture
def isa_set(isa):
    before = _ext.isa()
    _ext.set_isa(isa)
    _ext.poison_outputs(True)
    yield
    _ext.poison_outputs(False)
    _ext.set_isa(before)


def program(op, size, out, ints):
    """A step that gives op(x + h) [out] and keeps h [size]; x is [size] too."""
    return _ext.Program(
        captured=[],
        steps=[size],
        states=[size],
        sizes=[size, size, size, out],
        varying=[True] * 4,
        constants=[],
        once=[],
        step=[("add", 2, [0, 1], []), (op, 3, [2], ints)],
        next=[1],
        outputs=[3],
    )


def expected(op, z, ints):
    """(result, gradient(cotangent)) of z [..., size] in float64."""
    lead = z.shape[:-1]
    if op == "softmax":
        terms = z.reshape(*lead, *ints)
        terms = np.exp(terms - terms.max(axis=-1, keepdims=True))
        y = terms / terms.sum(axis=-1, keepdims=True)

        def gradient(dy):
            dy = dy.reshape(y.shape)
            return (y * (dy - (y * dy).sum(axis=-1, keepdims=True))).reshape(z.shape)

        return y.reshape(*lead, -1), gradient
    outer, mid, inner = ints
    shape = (*lead, outer, mid, inner)
    few = (*lead, outer, 1, inner)

    def total(a):
        return a.reshape(shape).sum(axis=-2).reshape(*lead, -1)

    def repeated(a):
        return np.broadcast_to(a.reshape(few), shape).reshape(*lead, -1)

    return (total(z), repeated) if op == "sum" else (repeated(z), total)


def check(op, size, out, ints):
    rng = np.random.default_rng(size + out)
    x, h = rng.normal(size=(B, T, size)), rng.normal(size=(B, size))
    dy = rng.normal(size=(B, T, out))
    x, h, dy = (a.astype(np.float32) for a in (x, h, dy))
    made = program(op, size, out, ints)

    def run(x, h):
        return [_ext.program_sequence(made, [x], [h], [])[1]]

    (got,), (dx, dh) = mx.vjp(run, [mx.array(x), mx.array(h)], [mx.array(dy)])
    z = np.float64(x) + np.float64(h)[:, None]
    want, gradient = expected(op, z, ints)
    wanted = gradient(np.float64(dy))
    name = f"{op} {ints}"
    assert_close(name, got, want, FORWARD)
    assert_close(f"gradient of {name}", dx, wanted, GRADIENT)
    assert_close(f"gradient of the state, {name}", dh, wanted.sum(axis=1), GRADIENT)


@isas
@pytest.mark.parametrize("n", SHORT)
def test_softmax(n, isa_set):
    for outer in OUTER:
        check("softmax", outer * n, outer * n, [outer, n])


@isas
@pytest.mark.parametrize("op", ["sum", "expand"])
@pytest.mark.parametrize("mid", SHORT)
def test_sums_and_repetitions(op, mid, isa_set):
    for outer in OUTER:
        for inner in SHORT:
            sizes = (outer * mid * inner, outer * inner)
            check(op, *(sizes if op == "sum" else sizes[::-1]), [outer, mid, inner])


@isas
def test_softmax_of_what_is_no_number(isa_set):
    values = [np.nan, np.inf, -np.inf, 200.0, -200.0, 0.0]
    for n in SHORT[1:]:
        made = program("softmax", n, n, [1, n])
        for value in values:
            for at in (0, n - 1):
                z = np.zeros(n, np.float32)
                z[at] = value
                x, h = mx.array(z)[None, None], mx.zeros((1, n))
                got = np.array(_ext.program_sequence(made, [x], [h], [])[1][0, 0])
                with np.errstate(invalid="ignore"):
                    want = expected("softmax", z.astype(np.float64), [1, n])[0]
                assert (np.isnan(got) == np.isnan(want)).all(), (n, value)
                assert_close("finite", np.nan_to_num(got), np.nan_to_num(want), FORWARD)


def test_wrong_sizes_are_refused():
    for op, size, out, ints in (
        ("sum", 12, 4, [3, 4, 2]),
        ("sum", 12, 12, [3, 4, 1]),
        ("expand", 4, 12, [3, 4, 1]),
        ("expand", 12, 3, [3, 4, 1]),
        ("expand", 3, 12, [3, 4]),
        ("expand", 3, 12, [3, 4, 0]),
        ("expand", 3, 12, [2**30, 2**30, 2**30]),
        ("softmax", 12, 12, [3, 4, 1]),
    ):
        with pytest.raises(ValueError, match=rf"\[program\] {op} (wants|has) .*size"):
            program(op, size, out, ints)
