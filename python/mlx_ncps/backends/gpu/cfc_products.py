"""CfC over a sequence step by step on a GPU, for large states: MLX's matrix products, and one
kernel of metal/cfc_update_*.metal for the pointwise end of each step (MATHS 1).

Its backward has a product per stage and step; the gradients of the weights are products over all
steps, in `cfc`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from .. import activations

if TYPE_CHECKING:
    from .runner import Runner

BLOCK = 16  # steps of one compiled function: whatever its length, a sequence has two at most


class Shape(NamedTuple):
    """What is static in one call of a CfC."""

    layers: int
    heads: int
    mode: str
    activation: str
    head_activation: str
    timespans: bool  # ts is an array [B, T] that the kernels read


class Call(NamedTuple):
    """The primals of the operator by name."""

    xz: mx.array  # [B, T, N0] first stage, the part of the inputs
    h0: mx.array  # [B, H]
    ts: mx.array | None  # [B, T]
    weights: list  # of each stage [columns, depth]; the first reads h alone
    biases: list  # of the stages but the first
    tail: list  # w_tau, A [H] in the mode pure


class Gradients(NamedTuple):
    """What a backward over the steps gives; two axes, of the batch and of time, come first, in the
    order of `Call` in the first of dz and in dts, elsewhere in one that both of a pair have.
    """

    dz: list[mx.array]  # of each stage's pre-activations
    dh0: mx.array  # [B, H]
    dts: mx.array | None  # [B, T]
    read: list[mx.array]  # what the stages but the first read
    tail: list[mx.array]  # of w_tau, A


def forward(run: Runner, shape: Shape, call: Call, save: bool) -> tuple[mx.array, ...]:
    """States [B, T, H] and, with `save`, the layers' pre-activations and what the update keeps, all
    [T, B, ...].
    """
    key = "cfc_steps", shape, save
    if key not in run.operators:
        run.operators[key] = run.compiled(lambda *arrays: _steps(run, shape, save, *arrays))
    steps, h, found = run.operators[key], call.h0, []
    rest = [*(w.T for w in call.weights), *call.biases, *call.tail]
    for t in range(0, call.xz.shape[1], BLOCK):
        span = slice(t, t + BLOCK)
        spans = [call.ts[:, span]] if call.ts is not None else []
        found += steps(h, call.xz[:, span], *spans, *rest)
        h = found[-1][0]
    states, *kept = zip(*found, strict=True)
    return mx.stack(list(states), axis=1), *(mx.stack(list(k)) for k in kept)


def _steps(
    run: Runner, shape: Shape, save: bool, h: mx.array, xz: mx.array, *rest: mx.array
) -> tuple[tuple[mx.array, ...], ...]:
    """A tuple (h, *what is saved) of each step of xz [B, S, N0]."""
    (B, H), count = h.shape, shape.layers
    spans, arrays = (rest[:1], rest[1:]) if shape.timespans else ((), rest)
    (first, *weights), arrays = arrays[: count + 1], arrays[count + 1 :]
    biases, tail = arrays[:count], arrays[count:]
    update = _update(run, shape, (B, H), save)
    activate, found = activations.TABLE[shape.activation].function, []
    for t in range(xz.shape[1]):
        z, kept = mx.addmm(xz[:, t], h, first), []
        for weight, bias in zip(weights, biases, strict=True):
            kept.append(z)
            z = mx.addmm(bias, activate(z), weight)
        h, *last = update(z, *(ts[:, t] for ts in spans), *tail)
        found.append((h, *kept, *last) if save else (h,))
    return tuple(found)


def backward(
    run: Runner, shape: Shape, call: Call, dstates: mx.array, saved: Sequence[mx.array]
) -> Gradients:
    """From the gradients of the states [B, T, H] and what `forward` saved."""
    (B, T, H), found = dstates.shape, []
    *kept, last = saved
    activate = activations.TABLE[shape.activation].function
    slopes = [mx.vjp(activate, [z], [mx.ones_like(z)])[1][0] for z in kept]
    spans = [] if call.ts is None else [mx.contiguous(call.ts.T)]
    update = _update_backward(run, shape, (B, H))
    dh, carried = dstates[:, T - 1], None
    for t in reversed(range(T)):
        d, *shares = update(dh, last[t, ...], *(ts[t, ...] for ts in spans), *call.tail)
        dz = [d]
        for weight, slope in zip(call.weights[:0:-1], slopes[::-1], strict=True):
            dz.append(dz[-1] @ weight * slope[t, ...])
        found.append((*dz[::-1], *shares))
        if t > 0:
            dh = mx.addmm(dstates[:, t - 1], dz[-1], call.weights[0])
        else:
            carried = dz[-1] @ call.weights[0]
    assert carried is not None, "T is at least 1"
    first, *rest = (list(d)[::-1] for d in zip(*found, strict=True))
    dz = [mx.stack(first, axis=1), *map(mx.stack, rest[: shape.layers])]
    read, tail, dts = [activate(z) for z in kept], [], None
    if shape.mode == "pure":
        shares = mx.stack(rest[-1])  # [T, 3, B, H]
        tail = list(shares.sum(axis=(0, 2)))[:2]
        dts = shares[:, 2].sum(axis=-1).T if shape.timespans else None
    else:
        swap = partial(mx.swapaxes, axis1=0, axis2=1)
        dts = of_timespans(shape, H, swap(dz[-1]) if shape.layers else dz[-1], swap(last))
    return Gradients(dz, carried, dts, read, tail)


def of_timespans(shape: Shape, units: int, dz: mx.array, kept: mx.array) -> mx.array | None:
    """dL/dts of the modes that blend two heads: u = a ts + b, and the head b's gradient is du.
    dz, kept: of the heads.
    """
    if not shape.timespans:
        return None
    return (dz[..., 3 * units :] * kept[..., 3 * units :]).sum(axis=-1)


def _update(
    run: Runner, shape: Shape, sizes: tuple[int, int], save: bool
) -> Callable[..., Sequence[mx.array]]:
    """The launch (z [B, heads H], [ts [B]], [w_tau, A]) -> h [B, H] and, with `save`, what the
    backward reads [B, heads H].
    """
    (B, H), names, more, options = sizes, *_options(shape)
    options["flags"] = {"SAVE": save, **options["flags"]}
    outputs = {"h": sizes, **({"saved": (B, shape.heads * H)} if save else {})}
    launch = run.geometry.neurons(H, B)
    ready = run.ready("cfc_update_forward", launch, sizes, ["z", *names], outputs, **options)
    return lambda z, *rest: ready(z, *more, *rest)


def _update_backward(
    run: Runner, shape: Shape, sizes: tuple[int, int]
) -> Callable[..., Sequence[mx.array]]:
    """The launch (dh [B, H], saved [B, heads H], [ts [B]], [w_tau, A]) -> dz [B, heads H] and, in
    the mode pure, shares of the gradients of w_tau, A and ts [3, B, H].
    """
    (B, H), names, more, options = sizes, *_options(shape)
    outputs = {"dz": (B, shape.heads * H), **({"shares": (3, B, H)} if _pure(shape) else {})}
    launch = run.geometry.neurons(H, B)
    names = ["dh", "saved", *names]
    ready = run.ready("cfc_update_backward", launch, sizes, names, outputs, **options)
    return lambda dh, saved, *rest: ready(dh, saved, *more, *rest)


def _options(shape: Shape) -> tuple[list[str], list[mx.array], dict[str, Any]]:
    """(names of the inputs that forward and backward share, those of them that are no primals,
    flags and template).
    """
    inputs, flags, template = options(shape, None, [mx.array([0.0])] * 2 if _pure(shape) else [])
    more = [] if shape.timespans else [inputs["ts"]]
    return list(inputs), more, {"flags": flags, "template": template}


def _pure(shape: Shape) -> bool:
    return shape.mode == "pure"


def options(
    shape: Shape, ts: mx.array | None, tail: Sequence[mx.array]
) -> tuple[dict[str, mx.array], dict[str, bool], dict[str, int]]:
    """(inputs, flags, template) that all kernels of a CfC have."""
    spans = mx.array([0.0]) if ts is None else ts  # the zero is not read
    inputs = {"ts": spans, **dict(zip(("w_tau", "A"), tail, strict=False))}
    template = {
        "HEADS": shape.heads,
        "MODE": activations.mode_number(shape.mode),
        "HEAD_ACTIVATION": activations.number(shape.head_activation),
    }
    return inputs, {"PURE": _pure(shape)}, template
