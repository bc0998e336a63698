"""The fold of an LTC's parameters as one primitive, and mapped calls as one primitive: both equal
what they stand for, and neither grows a graph.
"""

import itertools
from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import LTC, CfC, _loader, use_backend
from mlx_ncps.backends import cpu
from mlx_ncps.backends.fold import fold_ltc
from mlx_ncps.ops import LTCParams
from mlx_ncps.wirings import AutoNCP

from benchmarks.launches import primitives
from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.folding import OPTIONAL, drawn, fold_and_gradients

pytestmark = [
    pytest.mark.usefixtures("cpu_device"),
    pytest.mark.skipif(_loader.native is None, reason=f"no native module: {_loader.reason}"),
]
GRADIENT = tolerance("float32", "gradient")
SIZES = [(1, 1), (1, 9), (5, 1), (3, 5), (7, 33)]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_fold_and_gradients_equal_those_of_the_operations(sizes, implicit):
    for count in range(len(OPTIONAL) + 1):
        for present in itertools.combinations(OPTIONAL, count):
            params = drawn(*sizes, present)
            want = fold_and_gradients(fold_ltc, params, implicit)
            assert_all_close(fold_and_gradients(cpu._fold_ltc, params, implicit), want, GRADIENT)


@pytest.mark.parametrize("value", [0.0, -0.0, 120.0, -120.0, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("implicit", [False, True])
def test_extreme_parameters_fold_as_with_the_operations(value, implicit):
    params = LTCParams(*(mx.full(a.shape, value) for a in drawn(2, 3)))
    want = fold_and_gradients(fold_ltc, params, implicit)
    got = fold_and_gradients(cpu._fold_ltc, params, implicit)
    for name in want:
        np.testing.assert_array_equal(np.array(got[name]), np.array(want[name]), name)


def test_arrays_of_any_layout_fold():
    params = drawn(4, 6)
    strided = LTCParams(*(mx.swapaxes(mx.contiguous(mx.swapaxes(a, 0, -1)), 0, -1) for a in params))
    sliced = LTCParams(*(mx.repeat(a, 2, axis=-1)[..., ::2] for a in params))
    want = fold_and_gradients(fold_ltc, params, True)
    for laid in (strided, sliced):
        assert_all_close(fold_and_gradients(cpu._fold_ltc, laid, True), want, GRADIENT)


@pytest.mark.parametrize("name", LTCParams._fields)
def test_a_wrong_shape_is_refused_by_its_name(name):
    params = drawn(2, 3)
    wrong = mx.zeros((4,) if getattr(params, name).ndim == 2 else (4, 4))
    with pytest.raises(ValueError, match=r"\[fold_ltc\]"):
        cpu._fold_ltc(params._replace(**{name: wrong}), False, 1e-8)
    with pytest.raises(ValueError, match=r"\[fold_ltc\] a parameter must be float32"):
        cpu._fold_ltc(
            params._replace(**{name: getattr(params, name).astype(mx.int32)}), False, 1e-8
        )


@pytest.mark.parametrize("name", LTCParams._fields)
def test_a_fold_maps_over_every_parameter(name):
    params = drawn(2, 3)
    stack = mx.stack([getattr(params, name) * s for s in (1.0, 0.5)], axis=-1)

    def folded(array):
        return fold_and_gradients(cpu._fold_ltc, params._replace(**{name: array}), True)

    mapped = mx.vmap(folded, in_axes=-1)(stack)
    for n in range(2):
        assert_all_close({k: a[n] for k, a in mapped.items()}, folded(stack[..., n]), GRADIENT)


# --- mapped calls ---

X, Y = mx.random.normal((3, 5, 2), key=mx.random.key(0)), 0.3
MAKE = {"ltc": lambda: LTC(2, AutoNCP(9, 2)), "cfc": lambda: CfC(2, AutoNCP(9, 2)),
        "dense": lambda: CfC(2, 7), "memory": lambda: LTC(2, 5, mixed_memory=True)}  # fmt: skip


def models(make, count):
    """A layer, its loss of trainable parameters, and those of some models, apart and stacked."""
    layer = make()
    apart = [layer.trainable_parameters()]
    apart += [tree_map(lambda a, s=s: a * s, apart[0]) for s in (0.9, 1.1)[: count - 1]]

    def loss(weights, x=X):
        layer.update(weights)
        return mx.mean(mx.square(layer(x)[0] - Y))

    stacked = tree_map(lambda *a: mx.stack(a), *apart)
    mx.eval(apart, stacked)
    return loss, apart, stacked


def close(got, want):
    assert_all_close(dict(tree_flatten(got)), dict(tree_flatten(want)), GRADIENT)


@pytest.mark.parametrize("name", MAKE)
def test_gradients_of_many_models_equal_a_loop(name):
    loss, apart, stacked = models(MAKE[name], 3)
    both = mx.value_and_grad(loss)
    for f in (mx.vmap(both), mx.compile(mx.vmap(both))):
        losses, gradients = f(stacked)
        for n, weights in enumerate(apart):
            want, wanted = both(weights)
            assert_close("loss", losses[n], want, GRADIENT)
            close(tree_map(lambda a, n=n: a[n], gradients), wanted)


@pytest.mark.parametrize("name", MAKE)
def test_the_gradient_of_a_mapped_loss_is_the_loops(name):
    """Of mapped weights, and of inputs that all models share, which get the sum."""
    loss, apart, stacked = models(MAKE[name], 3)

    def mapped(weights, x):
        return mx.sum(mx.vmap(loss, in_axes=(0, None))(weights, x))

    def looped(weights, x):
        return sum(loss(tree_map(lambda a, n=n: a[n], weights), x) for n in range(len(apart)))

    close(*(mx.grad(f, argnums=(0, 1))(stacked, X) for f in (mapped, looped)))


@pytest.mark.parametrize("name", MAKE)
def test_maps_nest(name):
    loss, apart, stacked = models(MAKE[name], 3)
    inputs = mx.stack([X, 2 * X])
    both = mx.value_and_grad(loss, argnums=(0, 1))
    over = mx.vmap(mx.vmap(both, in_axes=(0, None)), in_axes=(None, 0))
    within = mx.vmap(mx.vmap(both, in_axes=(None, 0)), in_axes=(0, None))
    got, turned = over(stacked, inputs), within(stacked, inputs)
    for n, weights in enumerate(apart):
        for m in range(2):
            want = both(weights, inputs[m])
            close(tree_map(lambda a, n=n, m=m: a[m, n], got), want)
            close(tree_map(lambda a, n=n, m=m: a[n, m], turned), want)


@pytest.mark.parametrize("name", MAKE)
def test_no_models_give_no_gradients(name):
    loss, _, stacked = models(MAKE[name], 1)
    none = tree_map(lambda a: a[:0], stacked)
    losses, gradients = mx.vmap(mx.value_and_grad(loss))(none)
    assert losses.shape == (0,)
    assert [a.shape for _, a in tree_flatten(gradients)] == [a.shape for _, a in tree_flatten(none)]


@pytest.mark.parametrize("name", MAKE)
def test_the_graph_of_many_models_is_that_of_one(name):
    sizes = set()
    for count in (2, 3):
        loss, _, stacked = models(MAKE[name], count)
        sizes.add(len(primitives(mx.vmap(mx.value_and_grad(loss))(stacked))))
    assert len(sizes) == 1


# --- graphs ---


@pytest.mark.parametrize("name", ["ltc", "cfc"])
def test_a_training_call_folds_in_one_primitive_and_copies_nothing(name):
    layer = MAKE[name]()
    loss = nn.value_and_grad(layer, lambda m, x: mx.mean(m(x)[0]))
    counts = Counter(primitives(loss(layer, X)))
    assert counts["Contiguous"] == 0
    if name == "ltc":
        assert counts["FoldLtc"] == counts["FoldLtcBackward"] == counts["LtcSequence"] == 1
        assert not counts.keys() & {"LogAddExp", "Abs", "Negative", "Sigmoid"}


def test_inputs_of_any_layout_give_the_same_states():
    layer = CfC(4, 6)
    x, ts = mx.random.normal((3, 5, 4)), mx.random.uniform(0.1, 1.0, (3, 5))
    turned = [mx.swapaxes(mx.contiguous(mx.swapaxes(a, 0, 1)), 0, 1) for a in (x, ts)]
    wide = [mx.repeat(x, 2, axis=-1)[..., ::2], mx.repeat(ts, 3, axis=0)[::3]]

    def both(x, ts):
        return mx.value_and_grad(lambda x, ts: mx.sum(layer(x, timespans=ts)[0]), (0, 1))(x, ts)

    with use_backend("cpu"):
        want = both(x, ts)
        mx.eval(want)
        for laid in (turned, wide):
            mx.eval(laid)
            for got, wanted in zip(tree_flatten(both(*laid)), tree_flatten(want), strict=True):
                assert mx.array_equal(got[1], wanted[1]), got[0]
