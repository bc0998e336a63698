"""CfC over a sequence step by step on a GPU, for large batches and states: MLX's matrix products,
and one kernel of metal/cfc_update_*.metal for the pointwise end of each step (MATHS 1). MLX
differentiates the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from .. import activations

if TYPE_CHECKING:
    from .runner import Runner


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
    def of(cls, shape: Shape, arrays: list[mx.array]) -> tuple[Beside, list[mx.array]]:
        """(those that come first among the arrays, the others)."""
        drops = shape.dropped_from is not None
        there = shape.timespans, shape.resets, drops, shape.holds, shape.resets
        rest = iter(arrays)
        return cls(*(next(rest) if one else None for one in there)), list(rest)


def states(
    run: Runner,
    shape: Shape,
    stages: Sequence[tuple[mx.array, mx.array]],
    tail: Sequence[mx.array],
    save: bool,
) -> Callable[..., tuple[mx.array]]:
    """The function (xz [B, T, N0], h [B, H], what `Beside` has) -> (states [B, T, H],).

    xz: the first stage's product with the inputs, bias included.  stages: (weight [columns, depth],
    bias) of each stage, the first reading h alone.  tail: w_tau, A [H] in the mode pure.
    """
    update, activate = _update(run, shape, save), activations.TABLE[shape.activation].function
    first, *rest = [(weight.T, bias) for weight, bias in stages]

    def call(xz, h, *arrays):
        beside, _ = Beside.of(shape, list(arrays))
        spans = [] if beside.ts is None else [beside.ts]
        found = []
        for t in range(xz.shape[1]):
            if beside.resets is not None:
                h = mx.where(beside.resets[:, t, None] != 0, beside.reset_state, h)
            z = xz[:, t] + h @ first[0]
            dropped = 0
            for n, (weight, bias) in enumerate(rest):
                z = activate(z)
                if beside.dropout is not None and n >= shape.dropped_from:
                    z = z * beside.dropout[:, t, dropped : dropped + z.shape[1]]
                    dropped += z.shape[1]
                z = mx.addmm(bias, z, weight)
            before, h = h, update(z, *(ts[:, t] for ts in spans), *tail)[0]
            if beside.held is not None:
                h = mx.where(beside.held[:, t, None] != 0, before, h)
            found.append(h)
        return (mx.stack(found, axis=1),)

    return call


def _update(run: Runner, shape: Shape, save: bool) -> Callable[..., Any]:
    """The operator (z [B, heads H], [ts [B]], [w_tau, A]) -> h [B, H] and, with `save`, what the
    backward reads [B, heads H]; made once.
    """
    key = "cfc_update", shape, save
    if key in run.operators:
        return run.operators[key]

    def forward(*primals, save=save):
        (B, H), inputs, flags, template = _facts(shape, primals)
        z = primals[0]
        return run(
            "cfc_update_forward",
            run.geometry.neurons(H, B),
            (B, H),
            {"z": z, **inputs},
            {"h": (B, H), **({"saved": z.shape} if save else {})},
            flags={"SAVE": save, **flags},
            template=template,
        ).values()

    def backward(primals, cotangents, outputs):
        (B, H), inputs, flags, template = _facts(shape, primals)
        _, saved = outputs if save else forward(*primals, save=True)
        out = run(
            "cfc_update_backward",
            run.geometry.neurons(H, B),
            (B, H),
            {"dh": cotangents[0], "saved": saved, **inputs},
            {"dz": primals[0].shape, **({"shares": (3, B, H)} if shape.mode == "pure" else {})},
            flags=flags,
            template=template,
        )
        return _gradients(shape, H, saved, out)

    return run.operators.setdefault(key, run.operator(forward, backward))


def _facts(shape: Shape, primals: Sequence[mx.array]) -> tuple[Any, ...]:
    """((B, H), inputs, flags, template) that forward and backward share."""
    z, *rest = primals
    ts = rest.pop(0) if shape.timespans else None
    return (z.shape[0], z.shape[1] // shape.heads), *options(shape, ts, rest)


def options(
    shape: Shape, ts: mx.array | None, tail: Sequence[mx.array]
) -> tuple[dict[str, mx.array], dict[str, bool], dict[str, int]]:
    """(inputs, flags, template) that all kernels of a CfC have."""
    spans = mx.zeros(1) if ts is None else ts  # zeros are not read
    inputs = {"ts": spans, **dict(zip(("w_tau", "A"), tail, strict=False))}
    template = {
        "HEADS": shape.heads,
        "MODE": activations.mode_number(shape.mode),
        "HEAD_ACTIVATION": activations.number(shape.head_activation),
    }
    return inputs, {"PURE": shape.mode == "pure"}, template


def _gradients(
    shape: Shape, units: int, saved: mx.array, out: dict[str, mx.array]
) -> list[mx.array]:
    """The gradients of the primals: z, then ts, w_tau and A where they are."""
    gradients = [out["dz"]]
    if shape.mode == "pure":
        dw_tau, dA, dts = out["shares"]
        gradients += [dts.sum(axis=1)] if shape.timespans else []
        gradients += [dw_tau.sum(axis=0), dA.sum(axis=0)]
    elif shape.timespans:  # u = a ts + b: the head b's gradient is du
        du, a = out["dz"][:, 3 * units :], saved[:, 3 * units :]
        gradients.append((du * a).sum(axis=1))
    return gradients
