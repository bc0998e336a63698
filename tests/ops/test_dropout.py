"""Dropout in the backbone of the fused CfC: given factors against NumPy in float64, and how they
are drawn.
"""

import re
from dataclasses import replace

import mlx.core as mx
import mlx_ncps
import numpy as np
import pytest
from mlx_ncps import _loader, available_backends, dispatch, ops
from mlx_ncps.backends import cpu
from mlx_ncps.ops import dropout
from mlx_ncps.ops import numpy as truth

from tests.support.cases import (
    CFC_DROPOUT_CASES,
    CfcCase,
    assert_all_close,
    make,
    relative_error,
    to_mlx,
    want_states,
)
from tests.support.running import check_gradients, check_states, gradients, states
from tests.support.transforms import check_compile, check_compiled_training_step, check_vmap

native = pytest.mark.skipif(_loader.native is None, reason="no native module")
backends = pytest.mark.parametrize("backend", available_backends())
FEW = [
    CfcCase(timespans="per_batch", layers=2, steps=2, dropout=0.4),
    CfcCase(timespans="scalar", mode="no_gate", layers=3, steps=2, variant="keras", dropout=0.4),
    CfcCase(timespans="per_step", mode="pure", layers=2, steps=2, activation="gelu", dropout=0.4),
]
ISAS = mlx_ncps.instruction_sets() if _loader.native else ["none"]
RATES = (0.0, 1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 2**-30)


@pytest.fixture(autouse=True)
def _poison():
    """Outputs start as NaN, so that an element that no kernel writes is seen."""
    if _loader.native is not None:
        _loader.native.poison_outputs(True)
    yield
    if _loader.native is not None:
        _loader.native.poison_outputs(False)


@pytest.fixture
def isa(request):
    before = mlx_ncps.get_instruction_set()
    mlx_ncps.set_instruction_set(request.param)
    yield request.param
    mlx_ncps.set_instruction_set(before)


# --- given factors ------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("case", CFC_DROPOUT_CASES, ids=str)
def test_sequence_and_gradients_equal_numpy(case, backend):
    check_states(case, backend)
    check_gradients(case, backend)


def test_the_cases_drop_something():
    for case in CFC_DROPOUT_CASES:
        assert relative_error(want_states(replace(case, dropout=0.0)), want_states(case)) > 1e-3


@native
@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("case", [*FEW, *CFC_DROPOUT_CASES[-8:]], ids=str)
def test_every_instruction_set_equals_numpy(isa, case):
    check_states(case, "cpu")
    check_gradients(case, "cpu")


@backends
@pytest.mark.parametrize("case", FEW, ids=str)
def test_factors_of_one_change_nothing(case, backend):
    factors = mx.ones(make(case).keywords["dropout"].shape)
    plain = replace(case, dropout=0.0)
    assert mx.array_equal(states(case, backend, dropout=factors), states(plain, backend))
    got, want = gradients(case, backend, dropout=factors), gradients(plain, backend)
    assert all(mx.array_equal(got[name], want[name]) for name in want)


@backends
@pytest.mark.parametrize("case", FEW, ids=str)
def test_saving_and_a_second_run_change_no_bit(case, backend):
    runs = [states(case, backend, training=training) for training in (True, True, False)]
    grads = [gradients(case, backend, training=training) for training in (True, True, False)]
    for other, grad in zip(runs[1:], grads[1:], strict=True):
        assert mx.array_equal(other, runs[0])
        assert all(mx.array_equal(grad[name], grads[0][name]) for name in grad)


@backends
@pytest.mark.parametrize("case", FEW, ids=str)
def test_transformations_of_mlx(case, backend):
    check_compile(case, backend)
    check_compiled_training_step(case, backend)
    check_vmap(case, backend)


@backends
def test_vmap_over_the_factors_equals_a_loop(backend):
    call = to_mlx(make(FEW[0]))
    factors = mx.stack([call.keywords["dropout"] * s for s in (1.0, 0.5, 0.0)], axis=2)

    def run(factors, x):
        return ops.cfc_sequence(x, call.state, call.ts, call.params, dropout=factors)

    def both(factors, x):
        (h,), (dx,) = mx.vjp(lambda x: run(factors, x), [x], [call.cotangents])
        return h, dx

    with dispatch.use_backend(backend):
        got = mx.vmap(both, in_axes=(2, None))(factors, call.inputs)
        loop = [both(factors[:, :, n], call.inputs) for n in range(3)]
    want = [mx.stack(parts) for parts in zip(*loop, strict=True)]
    names = ("h", "dx")
    assert_all_close(dict(zip(names, got, strict=True)), dict(zip(names, want, strict=True)), 1e-6)


@backends
def test_factors_have_no_gradient(backend):
    call = to_mlx(make(FEW[0]))

    def loss(factors, x):
        return mx.sum(ops.cfc_sequence(x, call.state, call.ts, call.params, dropout=factors))

    with dispatch.use_backend(backend):
        dfactors, dx = mx.grad(loss, (0, 1))(call.keywords["dropout"], call.inputs)
    assert not mx.any(dfactors)
    assert mx.any(dx)


@backends
@pytest.mark.parametrize("sizes", [{"steps": 0}, {"batch": 0}, {"inputs": 0}, {"inputs": 1}])
def test_hardly_anything(backend, sizes):
    case = replace(FEW[0], **sizes)
    if not case.inputs and backend not in ("cpu", "reference"):
        with pytest.raises(RuntimeError, match="it needs at least one input"):
            states(case, backend)
        return
    if case.inputs:
        assert states(case, backend).shape == (case.batch, case.steps, case.units)
        gradients(case, backend)
    if case.batch and case.steps:
        check_states(case, backend)
        check_gradients(case, backend)


@backends
def test_a_step_takes_the_factors_of_one_step(backend):
    call = to_mlx(make(FEW[1]))
    h, factors = call.state, call.keywords["dropout"]
    with dispatch.use_backend(backend):
        for t in range(2):
            keywords = call.keywords | {"dropout": factors[:, t]}
            h = ops.cfc_step(call.inputs[:, t], h, call.ts, call.params, **keywords)
    assert relative_error(h, want_states(FEW[1])[:, -1]) < 1e-5


@pytest.mark.parametrize("shape", [(3, 2, 7), (3, 1, 8), (8,), (3, 2, 16)])
def test_factors_of_a_wrong_shape_raise(shape):
    case = FEW[0]
    call, wanted = to_mlx(make(case)), (3, 2, case.backbone_units)
    message = f"[cfc] dropout must be [B, T, D] = {wanted}, got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.cfc_sequence(*call.arguments, dropout=mx.zeros(shape))
    numbers = make(case)
    with pytest.raises(ValueError, match="dropout"):
        truth.cfc_sequence(*numbers.arguments, dropout=np.zeros(shape))
    with pytest.raises(ValueError, match="dropout"):
        ops.cfc_step(call.inputs[:, 0], call.state, 1.0, call.params, dropout=mx.zeros(shape[1:]))


@native
def test_the_extension_checks_what_it_reads():
    x, h, w, b = mx.zeros((2, 3, 1)), mx.zeros((2, 4)), mx.zeros((5, 5)), mx.zeros(5)
    weights = [w, b, *[mx.zeros((4, 5)), mx.zeros(4)] * 3]
    options = {"layers": 1, "mode": "default", "activation": "tanh", "merged": True}

    def run(shape, first):
        keywords = options | {"dropout": mx.zeros(shape), "first_dropped": first}
        return _loader.native.cfc_sequence(x, h, None, weights, **keywords)

    assert run((2, 3, 5), 0).shape == (2, 3, 4)
    for shape, first, message in [
        ((2, 3, 4), 0, "dropout must be [B, T, dropped units] = (2,3,5), got (2,3,4)"),
        ((2, 3, 5), 2, "first_dropped must lie in [0, layers] = [0, 1], got 2"),
        ((2, 3, 5), -1, "first_dropped must lie in [0, layers] = [0, 1], got -1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            run(shape, first)


# --- drawn factors ------------------------------------------------------------------------------


@native
@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("rate", RATES)
def test_the_kernel_draws_what_mlx_draws_from_a_key(isa, rate):
    sizes = [*range(70), 127, 128, 129, 1023, 4097, 65537, 200001]
    for n, size in enumerate(sizes):
        key = mx.random.split(mx.random.key(n))[1]
        got = cpu.dropout_factors(key, (size,), rate)
        want = mx.random.bernoulli(1 - rate, (size,), key) / (1 - rate)
        assert mx.array_equal(got, want), size


@native
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit_of_the_draws(threads):
    key, shape = mx.random.key(3), (64, 33, 129)
    before = mlx_ncps.get_num_threads()
    mlx_ncps.set_num_threads(threads)
    try:
        got = cpu.dropout_factors(key, shape, 0.3)
        mx.eval(got)
    finally:
        mlx_ncps.set_num_threads(before)
    assert mx.array_equal(got, mx.random.bernoulli(1 - 0.3, shape, key) / (1 - 0.3))


@native
def test_the_kernel_under_vmap_and_compile():
    keys = mx.random.split(mx.random.key(3), 4)
    draw = lambda key: cpu.dropout_factors(key, (3, 5), 0.3)  # noqa: E731
    want = mx.stack([draw(key) for key in keys])
    assert mx.array_equal(mx.vmap(draw)(keys), want)
    assert mx.array_equal(mx.vmap(draw, in_axes=1)(keys.T), want)
    assert mx.array_equal(mx.compile(mx.vmap(draw))(keys), want)


@native
def test_the_kernel_refuses_other_keys_rates_and_sizes():
    key, draw = mx.random.key(3), _loader.native.dropout_factors
    for arguments, message in [
        ((mx.zeros(3, mx.uint32), [2], 0.5), r"key must be \[2\]"),
        ((mx.zeros(2), [2], 0.5), "key must be an mx.random.key"),
        ((key, [2], 1.0), r"rate must be in \[0, 1\)"),
        ((key, [2], float("nan")), r"rate must be in \[0, 1\)"),
        ((key, [-1], 0.5), "a size must be at most"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(*arguments)


@backends
def test_a_key_is_that_of_the_next_draw_of_mlx(backend):
    mx.random.seed(5)
    want, after = mx.random.bernoulli(0.6, (3, 4)) / 0.6, mx.random.uniform(shape=(3,))
    mx.random.seed(5)
    with dispatch.use_backend(backend):
        got = dropout.dropout_factors(dropout.next_key(), (3, 4), 0.4)
    assert mx.array_equal(got, want)
    assert mx.array_equal(mx.random.uniform(shape=(3,)), after)


def test_a_step_of_the_ground_truth_takes_the_factors_of_one_step():
    call = make(FEW[0])
    h, factors = call.state, call.keywords["dropout"]
    for t in range(2):
        keywords = call.keywords | {"dropout": factors[:, t]}
        h = truth.cfc_step(call.inputs[:, t], h, call.ts[:, t], call.params, **keywords)
    assert relative_error(h, want_states(FEW[0])[:, -1]) == 0.0
