"""Runs a case of cases.py through the public ops on one backend, with every gradient."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx_ncps import dispatch, ops
from mlx_ncps.ops import numpy as truth

from tests.support.case_arrays import named_leaves, to_mlx
from tests.support.cases import (
    CfcCase,
    LtcCase,
    assert_all_close,
    assert_close,
    make,
    relative_error,
    tolerance,
    want_gradients,
)
from tests.support.cases import want_states as want


def problem(case, *, synapses=False, call=None, **keywords):
    """(f, leaves, cotangents): f(*leaves.values()) gives the states; {"inputs": array, ...}.

    A timespan that is a number becomes a 0-d array, so that it has a gradient; masks are no leaves.
    call: other arrays than the case's own.
    """
    call = to_mlx(call or make(case), case.dtype)
    op = ops.ltc_sequence if isinstance(case, LtcCase) else ops.cfc_sequence
    leaves, keywords = leaves_of(call), call.keywords | keywords
    if synapses:
        keywords["synapses"] = synapses_of(case)

    def f(*arrays):
        values = dict(zip(leaves, arrays, strict=True))
        params = _rebuild(call.params, values)
        return op(values["inputs"], values["state"], values.get("ts"), params, **keywords)

    return f, leaves, call.cotangents


def leaves_of(call):
    """The arrays of a call by name, those that have a gradient."""
    leaves = {"inputs": call.inputs, "state": call.state}
    if call.ts is not None:
        leaves["ts"] = call.ts if isinstance(call.ts, mx.array) else mx.array(call.ts)
    return leaves | {k: v for k, v in named_leaves(call.params).items() if "mask" not in k}


def synapses_of(case):
    """The lists of the synapses that a case's masks leave."""
    masks = make(case).params
    return ops.SynapseLists(masks.mask, masks.sensory_mask)


def _rebuild(tree, values, name="params"):
    """`tree` with its arrays replaced by those of `values`, named as `named_leaves` does."""
    if tree is None or isinstance(tree, mx.array):
        return values.get(name, tree)
    fields = getattr(tree, "_fields", range(len(tree)))
    leaves = [
        _rebuild(leaf, values, f"{name}.{key}") for key, leaf in zip(fields, tree, strict=True)
    ]
    return type(tree)(*leaves) if hasattr(tree, "_fields") else tuple(leaves)


def states(case, backend, **keywords):
    """The states [B, T, H] on one backend."""
    f, leaves, _ = problem(case, **keywords)
    with dispatch.use_backend(backend):
        result = f(*leaves.values())
    assert dispatch.last_backend() == backend
    return result


def gradients(case, backend, **keywords):
    """The gradients of sum(cotangents * states) on one backend, named as `leaves` of `problem`."""
    f, leaves, cotangents = problem(case, **keywords)
    with dispatch.use_backend(backend):
        _, grads = mx.vjp(f, list(leaves.values()), [cotangents])
    assert dispatch.last_backend() == backend
    return dict(zip(leaves, grads, strict=True))


def check_states(case, backend, **keywords):
    """The states on one backend are the ground truth's, in the dtype of the case."""
    got = states(case, backend, **keywords)
    assert got.dtype == getattr(mx, case.dtype)
    assert_close("states", got, want(case), tolerance(case.dtype, "forward"))


def check_gradients(case, backend, **keywords):
    """All gradients on one backend are the ground truth's."""
    got = gradients(case, backend, **keywords)
    assert_all_close(got, want_gradients(case), tolerance(case.dtype, "gradient"))


def check_epsilon(backend):
    """An epsilon that is not lost in rounding gives what it gives in the ground truth."""
    case = LtcCase(implicit=True, timespans="per_batch")
    call = make(case)
    expected = truth.ltc_sequence(*call.arguments, **call.keywords, epsilon=0.25)
    assert relative_error(expected, want(case)) > 0.01
    got = states(case, backend, epsilon=0.25)
    assert_close("states", got, expected, tolerance(case.dtype, "forward"))


INFINITE_CASES = (LtcCase(batch=5, units=33), CfcCase(timespans="per_batch"))


def check_infinite(case, backend):
    """Gates whose denominator 1 + 2^z is infinite are 0, and states and gradients finite."""
    call = make(case)
    if isinstance(case, LtcCase):
        call = replace(call, inputs=call.inputs * np.float32(1e4))
    else:
        call = replace(call, ts=call.ts * np.float32(1e6))
    op = truth.ltc_sequence if isinstance(case, LtcCase) else truth.cfc_sequence
    expected = op(*call.arguments, **call.keywords)
    f, leaves, cotangents = problem(case, call=call)
    with dispatch.use_backend(backend):
        (got,), grads = mx.vjp(f, list(leaves.values()), [cotangents])
    assert dispatch.last_backend() == backend
    assert_close("states", got, expected, tolerance(case.dtype, "forward"))
    for name, gradient in zip(leaves, grads, strict=True):
        assert mx.isfinite(gradient).all().item(), f"the gradient of {name} is not finite"
