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
    resets: bool = False  # rows start anew before some steps
    dropped_from: int | None = None  # the first layer of whose values dropout has factors
    holds: bool = False  # some steps leave a row's state as it is


class Beside(NamedTuple):
    """What a call may have beside inputs and state, as its Shape says; None: it has not."""

    ts: mx.array | None  # [B, T]
    resets: mx.array | None  # [B, T] not 0 where a row starts anew
    dropout: mx.array | None  # [B, T, widths of the layers from `dropped_from` on]
    held: mx.array | None  # [B, T] not 0 where a row's state stays as it is
    reset_state: mx.array | None  # [B, H] from which it does

    @classmethod
    def of(cls, shape: Shape, arrays: Sequence[mx.array]) -> tuple[Beside, list[mx.array]]:
        """(those that come first among the arrays, the others)."""
        drops = shape.dropped_from is not None
        there = shape.timespans, shape.resets, drops, shape.holds, shape.resets
        rest = iter(arrays)
        return cls(*(next(rest) if one else None for one in there)), list(rest)

    def within(self, span: slice) -> list[mx.array]:
        """Its arrays in the order of `of`, of these steps."""
        timed = [a[:, span] for a in self[:4] if a is not None]
        return timed + ([] if self.reset_state is None else [self.reset_state])

    def factors(self, shape: Shape, widths: Sequence[int]) -> list[mx.array | None]:
        """Of dropout [B, T, K], for each layer of these widths."""
        if self.dropout is None or shape.dropped_from is None:
            return [None] * len(widths)
        found: list[mx.array | None] = [None] * shape.dropped_from
        first = 0
        for width in widths[shape.dropped_from :]:
            found.append(self.dropout[..., first : first + width])
            first += width
        return found


class Call(NamedTuple):
    """The primals of the operator by name."""

    xz: mx.array  # [B, T, N0] first stage, the part of the inputs
    h0: mx.array  # [B, H]
    beside: Beside
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
    dreset: mx.array | None = None  # of reset_state [B, H]


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
        found += steps(h, call.xz[:, span], *call.beside.within(span), *rest)
        h = found[-1][0]
    states, *kept = zip(*found, strict=True)
    return mx.stack(list(states), axis=1), *(mx.stack(list(k)) for k in kept)


def _steps(
    run: Runner, shape: Shape, save: bool, h: mx.array, xz: mx.array, *rest: mx.array
) -> tuple[tuple[mx.array, ...], ...]:
    """A tuple (h, *what is saved) of each step of xz [B, S, N0]."""
    (B, H), count = h.shape, shape.layers
    beside, arrays = Beside.of(shape, rest)
    spans = [] if beside.ts is None else [beside.ts]
    (first, *weights), arrays = arrays[: count + 1], arrays[count + 1 :]
    biases, tail = arrays[:count], arrays[count:]
    update = _update(run, shape, (B, H), save)
    activate, found = activations.TABLE[shape.activation].function, []
    factors = beside.factors(shape, [w.shape[0] for w in weights])
    for t in range(xz.shape[1]):
        if beside.resets is not None and beside.reset_state is not None:
            h = mx.where(beside.resets[:, t, None] != 0, beside.reset_state, h)
        z, kept, before = mx.addmm(xz[:, t], h, first), [], h
        for weight, bias, factor in zip(weights, biases, factors, strict=True):
            kept.append(z)
            value = activate(z) if factor is None else activate(z) * factor[:, t]
            z = mx.addmm(bias, value, weight)
        h, *last = update(z, *(ts[:, t] for ts in spans), *tail)
        if beside.held is not None:
            h = mx.where(beside.held[:, t, None] != 0, before, h)
        found.append((h, *kept, *last) if save else (h,))
    return tuple(found)


def backward(
    run: Runner, shape: Shape, call: Call, dstates: mx.array, saved: Sequence[mx.array]
) -> Gradients:
    """From the gradients of the states [B, T, H] and what `forward` saved."""
    (B, T, H), found = dstates.shape, []
    *kept, last = saved
    activate = activations.TABLE[shape.activation].function
    factors = call.beside.factors(shape, [z.shape[2] for z in kept])
    swapped = [None if f is None else mx.swapaxes(f, 0, 1) for f in factors]
    slopes = [
        _times(mx.vjp(activate, [z], [mx.ones_like(z)])[1][0], f)
        for z, f in zip(kept, swapped, strict=True)
    ]
    ts, resets, _, held, _ = call.beside
    spans = [] if ts is None else [mx.contiguous(ts.T)]
    dreset = mx.zeros((B, H)) if shape.resets else None
    update = _update_backward(run, shape, (B, H))
    dh, carried = dstates[:, T - 1], None
    for t in reversed(range(T)):
        whole = dh
        if held is not None:
            dh = mx.where(held[:, t, None] != 0, 0.0, dh)
        d, *shares = update(dh, last[t, ...], *(ts[t, ...] for ts in spans), *call.tail)
        dz = [d]
        for weight, slope in zip(call.weights[:0:-1], slopes[::-1], strict=True):
            dz.append(dz[-1] @ weight * slope[t, ...])
        found.append((*dz[::-1], *shares))
        if t > 0 and resets is None and held is None:
            dh = mx.addmm(dstates[:, t - 1], dz[-1], call.weights[0])
            continue
        carried = dz[-1] @ call.weights[0]
        if held is not None:
            carried = mx.where(held[:, t, None] != 0, whole, carried)
        if resets is not None and dreset is not None:
            anew = resets[:, t, None] != 0
            dreset = dreset + mx.where(anew, carried, 0.0)
            carried = mx.where(anew, 0.0, carried)
        dh = dstates[:, t - 1] + carried if t > 0 else dh
    assert carried is not None, "T is at least 1"
    first, *rest = (list(d)[::-1] for d in zip(*found, strict=True))
    dz = [mx.stack(first, axis=1), *map(mx.stack, rest[: shape.layers])]
    read, tail, dts = [_times(activate(z), f) for z, f in zip(kept, swapped, strict=True)], [], None
    if shape.mode == "pure":
        shares = mx.stack(rest[-1])  # [T, 3, B, H]
        tail = list(shares.sum(axis=(0, 2)))[:2]
        dts = shares[:, 2].sum(axis=-1).T if shape.timespans else None
    else:
        swap = partial(mx.swapaxes, axis1=0, axis2=1)
        dts = of_timespans(shape, H, swap(dz[-1]) if shape.layers else dz[-1], swap(last))
    return Gradients(dz, carried, dts, read, tail, dreset)


def _times(x: mx.array, factor: mx.array | None) -> mx.array:
    return x if factor is None else x * factor


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
