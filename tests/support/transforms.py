"""Checks of one backend under MLX's transformations: compile, vmap, jvp, second order."""

import mlx.core as mx
import numpy as np
from mlx_ncps import dispatch
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.numpy.arrays import as_float64

from tests.support.case_arrays import named_leaves
from tests.support.cases import CfcCase, LtcCase, assert_all_close, assert_close, make, tolerance
from tests.support.running import problem

GRADIENT = tolerance("float32", "gradient")

FEW = [  # small: MLX's CPU backend calls a C++ compiler for every fused group of operations
    LtcCase(timespans="per_batch", implicit=True, density=0.6, steps=2, unfolds=2),
    LtcCase(timespans="scalar", mapped=False, steps=2, unfolds=2),
    CfcCase(timespans="per_batch", layers=2, steps=2),
    CfcCase(timespans="scalar", mode="no_gate", steps=2),
    CfcCase(timespans="per_step", mode="pure", steps=2),
]


def check_compile(case, backend, **keywords):
    """mx.compile of the op and of its gradients gives what they give without."""
    f, leaves, cotangents = problem(case, **keywords)
    arrays = list(leaves.values())

    def both(*arrays):
        outputs, grads = mx.vjp(f, list(arrays), [cotangents])
        return [*outputs, *grads]

    with dispatch.use_backend(backend):
        plain, compiled = both(*arrays), mx.compile(both)(*arrays)
    names = ["states", *leaves]
    plain, compiled = (dict(zip(names, a, strict=True)) for a in (plain, compiled))
    assert_all_close(compiled, plain, GRADIENT)


def check_compiled_training_step(case, backend, **keywords):
    """Three compiled steps of gradient descent on all leaves equal three plain ones."""
    f, leaves, cotangents = problem(case, **keywords)
    names = [name for name in leaves if name.startswith("params")]
    fixed = [leaves[name] for name in leaves if name not in names]

    def loss(*params):
        return mx.mean(mx.square(f(*fixed, *params) - cotangents))

    def step(*params):
        value, grads = mx.value_and_grad(loss, list(range(len(params))))(*params)
        return [value, *(p - 0.01 * g for p, g in zip(params, grads, strict=True))]

    def train(step):
        params, losses = [leaves[name] for name in names], []
        for _ in range(3):
            value, *params = step(*params)
            losses.append(value.item())
        return dict(zip(names, params, strict=True)), losses

    with dispatch.use_backend(backend):
        (plain, plain_losses), (compiled, losses) = train(step), train(mx.compile(step))
    assert plain_losses[2] < plain_losses[0]
    assert_close("losses", np.array(losses), np.array(plain_losses), GRADIENT)
    assert_all_close(compiled, plain, GRADIENT)


def check_vmap(case, backend, **keywords):
    """mx.vmap over states and gradients equals a loop: all leaves mapped, then the inputs alone."""
    f, leaves, cotangents = problem(case, **keywords)
    names = list(leaves)

    def both(*arrays):
        outputs, grads = mx.vjp(f, list(arrays), [cotangents])
        return [*outputs, *grads]

    for mapped in (names, ["inputs"], ["state"], ["params." + names[-1].split(".", 1)[1]]):
        axes = [(i % (leaves[n].ndim + 1)) if n in mapped else None for i, n in enumerate(names)]
        stacks = [[a * s if n in mapped else a for s in (1.0, 0.8, 1.1)] for n, a in leaves.items()]
        arrays = [
            s[0] if axis is None else mx.stack(s, axis=axis)
            for s, axis in zip(stacks, axes, strict=True)
        ]
        with dispatch.use_backend(backend):
            for function, labels in ((lambda *a: [f(*a)], ["states"]), (both, ["states", *names])):
                got = mx.vmap(function, in_axes=tuple(axes))(*arrays)
                loop = [function(*one) for one in zip(*stacks, strict=True)]
                want = [mx.stack(parts) for parts in zip(*loop, strict=True)]
                got, want = (dict(zip(labels, a, strict=True)) for a in (got, want))
                assert_all_close(got, want, GRADIENT)


def check_jvp(case, backend, **keywords):
    """cotangents . jvp(tangents) = sum over leaves of gradient . tangent."""
    f, leaves, cotangents = problem(case, **keywords)
    tangents = _directions(leaves)
    with dispatch.use_backend(backend):
        _, (pushed,) = mx.jvp(f, list(leaves.values()), [mx.array(t) for t in tangents.values()])
        _, grads = mx.vjp(f, list(leaves.values()), [cotangents])
    want = sum(np.sum(as_float64(g) * t) for g, t in zip(grads, tangents.values(), strict=True))
    got = np.sum(as_float64(pushed) * as_float64(cotangents))
    scale = np.abs(as_float64(pushed) * as_float64(cotangents)).sum()
    assert abs(got - want) <= GRADIENT * scale, (got, want)


def check_second_order(case, backend, **keywords):
    """The gradient of gradient . direction equals the central difference of float64 gradients."""
    f, leaves, cotangents = problem(case, **keywords)
    directions = _directions(leaves)

    def slope(*arrays):
        _, grads = mx.vjp(f, list(arrays), [cotangents])
        return sum((g * mx.array(d)).sum() for g, d in zip(grads, directions.values(), strict=True))

    with dispatch.use_backend(backend):
        got = mx.grad(slope, list(range(len(leaves))))(*leaves.values())
    assert_all_close(
        dict(zip(leaves, got, strict=True)),
        _differences(case, directions),
        GRADIENT,
    )


def _directions(leaves):
    """A float32 direction for every leaf, so long that it doesn't leave the parameters' ranges."""
    rng = np.random.default_rng(7)
    return {n: rng.normal(size=a.shape).astype(np.float32) * 0.1 for n, a in leaves.items()}


def _differences(case, directions, step=1e-5):
    """(gradient(leaves + step directions) - gradient(leaves - step directions)) / (2 step)."""
    call = make(case)
    op = truth.ltc_sequence_backward if isinstance(case, LtcCase) else truth.cfc_sequence_backward

    def gradient(scale):
        def moved(name, array):
            shifted = name in directions
            return as_float64(array) + scale * directions[name] if shifted else array

        def tree(node, name):
            if node is None or isinstance(node, np.ndarray):
                return None if node is None else moved(name, node)
            keys = getattr(node, "_fields", range(len(node)))
            parts = [tree(part, f"{name}.{key}") for key, part in zip(keys, node, strict=True)]
            return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)

        ts = None if call.ts is None else moved("ts", call.ts)
        inputs, state = moved("inputs", call.inputs), moved("state", call.state)
        params = tree(call.params, "params")
        dinputs, dstate, dts, dparams = op(
            call.cotangents, inputs, state, ts, params, **call.keywords
        )
        return {
            "inputs": dinputs,
            "state": dstate,
            **named_leaves(dts, "ts"),
            **named_leaves(dparams),
        }

    above, below = gradient(step), gradient(-step)
    return {name: (above[name] - below[name]) / (2 * step) for name in above}
