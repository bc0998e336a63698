"""Small operations on many arrays as one primitive, and guards of masks that are traced: equal to
the operations that they stand for, under every transformation, and few.
"""

from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, _loader, use_backend
from mlx_ncps.backends import primitives as native
from mlx_ncps.backends.fold import fold_cfc
from mlx_ncps.ops import CfCParams
from mlx_ncps.ops.masks import Rule, guarded
from mlx_ncps.wirings import AutoNCP

from benchmarks.launches import primitives
from tests.support.cases import assert_all_close, tolerance

pytestmark = [pytest.mark.usefixtures("cpu_device"), pytest.mark.usefixtures("native")]
GRADIENT = tolerance("float32", "gradient")
SHAPES = [(3, 5), (7,), (1, 1), (0, 4)]


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    return [mx.array(rng.normal(size=SHAPES[i % 4]).astype("f")) for i in range(count)]


OPERATIONS = {
    "products": (native.products, lambda x, y: [a * b for a, b in zip(x, y, strict=True)]),
    **{
        f"sums {f}": (
            lambda x, y, f=f: _loader.native.scaled_sums(x, y, f, stream=mx.cpu),
            lambda x, y, f=f: [f * a + b for a, b in zip(x, y, strict=True)],
        )
        for f in (1.0, -1.0, 0.3, 0.0, np.inf)
    },
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("count", [1, 4, 7])
def test_pairs_and_their_gradients_are_the_operations_to_the_bit(name, count):
    x, y = drawn(count), drawn(count, seed=1)
    weights = drawn(count, seed=2)

    def both(operation):
        def loss(x, y):
            out = operation(x, y)
            return sum((a * w).sum() for a, w in zip(out, weights, strict=True)), out

        (_, out), gradients = mx.value_and_grad(loss, argnums=(0, 1))(x, y)
        only_y = mx.grad(lambda y: loss(x, y)[0])(y)
        return [a for _, a in tree_flatten((out, gradients, only_y))]

    for got, want in zip(*(both(f) for f in OPERATIONS[name]), strict=True):
        np.testing.assert_array_equal(np.array(got), np.array(want))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("axes", [(0, 0), (1, None), (None, 1), (0, 1)], ids=str)
def test_pairs_map(name, axes):
    ours, operations = OPERATIONS[name]
    rng = np.random.default_rng(3)
    shapes = [(4,) if axis is None else (4, 4) for axis in axes]
    x, y = (mx.array(rng.normal(size=shape).astype("f")) for shape in shapes)

    def gradient(f):
        def loss(x, y):
            return f([x], [y])[0].sum()

        return lambda x, y: [f([x], [y])[0], *mx.grad(loss, argnums=(0, 1))(x, y)]

    got, want = (mx.vmap(gradient(f), in_axes=axes)(x, y) for f in (ours, operations))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def test_pairs_of_any_layout():
    wide = mx.arange(24, dtype=mx.float32).reshape(4, 6)
    x, y = wide[:, ::2], wide.T[1::2].T
    np.testing.assert_array_equal(np.array(native.products([x], [y])[0]), np.array(x * y))


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([(2,)], [], "as many arrays"),
        ([], [], "one at least"),
        ([(2,)], [(3,)], "y must be the shape of x"),
    ],
)
def test_wrong_pairs_are_refused(x, y, why):
    with pytest.raises(ValueError, match=why):
        native.products([mx.zeros(s) for s in x], [mx.zeros(s) for s in y])
    with pytest.raises(ValueError, match="must be float32"):
        native.products([mx.zeros(2, mx.int32)], [mx.zeros(2)])


@pytest.mark.parametrize("variant", ["torch", "keras", "paper"])
@pytest.mark.parametrize("ts", [1.0, 1, 0.0, 0.37, 1e30, 2e30])
@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
def test_a_cfc_folds_to_the_bit_as_with_the_operations(mode, ts, variant):
    rng = np.random.default_rng(4)
    head = [tuple(mx.array(rng.normal(size=s).astype("f")) for s in ((3, 5), (3,)))] * 4
    params = CfCParams((), *head, w_tau=mx.ones(3), A=mx.ones(3))
    want = fold_cfc(params, ts, mode, variant)
    got = fold_cfc(params, ts, mode, variant, native.merge_heads)
    assert got.merged == want.merged
    for a, b in zip(got.arrays, want.arrays, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


# --- guards ---

RULES = {
    "pairs": [Rule(np.array([0, 1, 2], np.int32), np.array([[6], [7], [8]], np.int32))],
    "own": [Rule(np.array([3, 4], np.int32), np.array([[9], [10]], np.int32), True)],
    "sources": [Rule(np.array([0, 3], np.int32), np.array([[6, 7], [9, 10]], np.int32))],
    "absent": [Rule(np.array([2, 5], np.int32), np.zeros((2, 0), np.int32))],
}
RULES["all"] = [rule for rules in list(RULES.values()) for rule in rules]
DTYPES = [mx.float32, mx.float16, mx.bfloat16, mx.int32, mx.int64, mx.uint8, mx.bool_]


def holds(rules, flat):
    """The rules in plain Python."""
    for rule in rules:
        for at, of in zip(rule.at, rule.of, strict=True):
            here, there = flat[at] != 0, any(flat[e] != 0 for e in of)
            if here != there and not (rule.own and here):
                return False
    return True


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_guards_find_what_breaks_a_rule(name, dtype, backend):
    rng, found = np.random.default_rng(5), Counter()
    value = mx.array([[1.0, 2.0], [-3.0, 4.0]])
    for _ in range(40 if name != "all" else 300):
        numbers = rng.choice([0.0, 0.0, 0.0, 1.0, 2.0], 12)
        if dtype in (mx.float32, mx.float16, mx.bfloat16):
            numbers[numbers == 0] *= rng.choice([1, -1], (numbers == 0).sum())  # -0 is 0
        mask = mx.array(numbers[:6].reshape(3, 2).T.copy()).astype(dtype).T  # strided
        matrix = mx.array(numbers[6:].reshape(2, 3)).astype(dtype)
        with use_backend(backend):
            got = np.array(guarded(value, [mask, matrix], RULES[name]))
        true = holds(RULES[name], numbers)
        found[true] += 1
        np.testing.assert_array_equal(got, np.array(value) if true else np.full((2, 2), np.nan))
    assert len(found) == 2


def test_a_guard_passes_gradients_and_maps():
    masks = mx.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    rules = [Rule(np.array([1], np.int32), np.zeros((1, 0), np.int32))]

    def loss(value, mask):
        return (guarded(value, [mask], rules) ** 2).sum()

    value = mx.array([1.0, 2.0])
    of_value, of_mask = mx.grad(loss, argnums=(0, 1))(value, masks[0])
    np.testing.assert_array_equal(np.array(of_value), [2.0, 4.0])
    np.testing.assert_array_equal(np.array(of_mask), np.zeros(3))
    mapped = mx.vmap(loss, in_axes=(None, 0))(value, masks)
    np.testing.assert_array_equal(np.array(mapped), [5.0, np.nan])


def test_a_guard_of_halves_or_without_rules_keeps_the_dtype():
    value = mx.array([1.0], mx.float16)
    broken = [Rule(np.array([0], np.int32), np.zeros((1, 0), np.int32))]
    assert guarded(value, [], []) is value
    got = guarded(value, [mx.ones(1)], broken)
    assert got.dtype == mx.float16
    assert mx.isnan(got).all()


@pytest.mark.parametrize(
    ("at", "of", "width"), [([3], [], 0), ([-1], [], 0), ([0], [], 1), ([0], [0], -1)], ids=str
)
def test_rules_outside_the_arrays_are_refused(at, of, width):
    rule = _loader.native.Rule(np.array(at, np.int32), np.array(of, np.int32), width, False)
    with pytest.raises(ValueError, match=r"\[guard\]"):
        _loader.native.guarded(mx.zeros(1), [mx.zeros(3)], [rule])


# --- layers ---

X = mx.random.normal((2, 5, 6), key=mx.random.key(0))
LAYERS = {
    "cfc": lambda: CfC(6, AutoNCP(12, 2)),
    "cfc backbone": lambda: CfC(6, AutoNCP(12, 2), backbone_units=5),
    "cfc along synapses": lambda: CfC(6, AutoNCP(12, 2), fully_recurrent=False),
    "cfc pure": lambda: CfC(6, AutoNCP(12, 2), mode="pure"),
    "cfc keras": lambda: CfC(6, AutoNCP(12, 2), variant="keras"),
    "ltc": lambda: LTC(6, AutoNCP(12, 2)),
    "ltc implicit": lambda: LTC(6, AutoNCP(12, 2), implicit_param_constraints=True),
}


def loss_of(layer):
    return nn.value_and_grad(layer, lambda x: layer(x)[0].square().sum())


@pytest.mark.parametrize("ts", [None, 0.4])
@pytest.mark.parametrize("name", LAYERS)
def test_training_steps_equal_the_reference_eager_and_compiled(name, ts):
    layer = LAYERS[name]()

    def loss(x):
        return layer(x, timespans=ts)[0].square().sum()

    eager = nn.value_and_grad(layer, loss)
    compiled = mx.compile(eager, inputs=[layer.state], outputs=[layer.state])
    with use_backend("reference"):
        value, gradients = eager(X)
    want = {"loss": value, **dict(tree_flatten(gradients))}
    for f in (eager, compiled):
        value, gradients = f(X)
        assert_all_close({"loss": value, **dict(tree_flatten(gradients))}, want, GRADIENT)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_call_is_nan_where_a_traced_mask_gets_other_synapses(name, backend):
    layer = LAYERS[name]().eval()
    layer(X)
    with use_backend(backend):
        call = mx.compile(lambda x: layer(x)[0], inputs=[layer.state])
        assert not mx.isnan(call(X)).any()
        masks = [(m, k) for m in layer.modules() for k in dict(m) if "_mask" in k]
        holder, key = masks[0]
        turned = 1 - mx.sign(mx.abs(dict.get(holder, key)))
        dict.__setitem__(holder, key, turned)  # past every hook
        assert mx.isnan(call(X)).all()


@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("cfc", {"Products": 2, "ScaledSums": 3, "Guard": 1}),
        ("cfc backbone", {"Products": 0, "ScaledSums": 3, "Guard": 1}),
        ("cfc pure", {"Products": 2, "ScaledSums": 0, "Guard": 1}),
        ("ltc", {"FoldLtc": 1, "FoldLtcBackward": 1, "Guard": 2}),
    ],
)
def test_a_compiled_training_call_has_few_operations_beside_the_kernels(name, few):
    layer = LAYERS[name]()
    call = mx.compile(loss_of(layer), inputs=[layer.state])
    mx.eval(call(X))
    counts = Counter(primitives(call(X)))
    assert {key: counts[key] for key in few} == few
    assert not [key for key in counts if "NotEqual" in key or key in ("Gather", "Or", "Select")]
