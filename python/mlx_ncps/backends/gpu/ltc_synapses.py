"""The LTC's sums over its inputs as operators, and the gradients of any matrix of synapses, dense
or by lists (MATHS 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .ltc_lists import SYNAPSE, Lists, gather
from .pieces import SIMD, ceil_div

if TYPE_CHECKING:
    from .runner import Runner

Synapses = Mapping[str, mx.array]  # of SYNAPSE, [S, H] each


def sensory_dense(run: Runner) -> Callable[..., Any]:
    """The operator (x [B, T, I], leak_num, leak_den [H], 4 x [I, H]) -> num, den [B, T, H]."""

    def forward(x, leak_num, leak_den, *synapses):
        (B, T, I), H = x.shape, leak_num.shape[0]
        return run(
            "ltc_sensory_forward",
            run.geometry.sensory(B * T, H),
            (B * T, I, H),
            {
                "x": x,
                "leak_num": leak_num,
                "leak_den": leak_den,
                **dict(zip(SYNAPSE, synapses, strict=True)),
            },
            {"num": (B, T, H), "den": (B, T, H)},
        ).values()

    def backward(primals, cotangents, outputs):
        x, _, _, *synapses = primals
        dnum, dden = cotangents
        synapses = dict(zip(SYNAPSE, synapses, strict=True))
        dsynapses, dx = dense_gradients(run, x, dnum, dden, synapses, of_sources=True)
        return dx, dnum.sum(axis=(0, 1)), dden.sum(axis=(0, 1)), *dsynapses

    return run.operator(forward, backward)


def sensory_lists(run: Runner, lists: Lists) -> Callable[..., Any]:
    """The same operator for a sparse wiring."""

    def forward(x, leak_num, leak_den, *synapses):
        (B, T, I), H, by = x.shape, leak_num.shape[0], lists.by_target
        inputs = {"x": x, "leak_num": leak_num, "leak_den": leak_den, "sources": by.others}
        return run(
            "ltc_lists_sensory_forward",
            run.geometry.sensory(B * T, SIMD * by.slices),
            (B * T, I, H, by.slices),
            inputs | gather(by, dict(zip(SYNAPSE, synapses, strict=True))),
            {"num": (B, T, H), "den": (B, T, H)},
        ).values()

    def backward(primals, cotangents, outputs):
        x, leak_num, _, *synapses = primals
        (B, T, I), H, by = x.shape, leak_num.shape[0], lists.by_source
        dnum, dden = cotangents
        synapses = dict(zip(SYNAPSE, synapses, strict=True))
        inputs = {"x": x, "dnum": dnum, "dden": dden, "targets": by.others}
        out = run(
            "ltc_lists_sensory_backward",
            run.geometry.sensory(B * T, SIMD * by.slices),
            (B * T, I, H, by.slices),
            inputs | gather(by, synapses),
            {"dx": (B, T, I)},
        )
        dsynapses = lists_gradients(run, lists, x, dnum, dden, synapses)
        return out["dx"], dnum.sum(axis=(0, 1)), dden.sum(axis=(0, 1)), *dsynapses

    return run.operator(forward, backward)


def dense_gradients(
    run: Runner,
    sources: mx.array,
    dnum: mx.array,
    dden: mx.array,
    synapses: Synapses,
    *,
    of_sources: bool,
) -> tuple[tuple[mx.array, ...], mx.array | None]:
    """Gradients of the four [S, H] and, if asked for, of the sources [..., S], from those of the
    sums [..., H].
    """
    S, H = synapses["synapse_w"].shape
    rows = dnum.size // H
    launch = run.geometry.synapse_backward(rows, S, H)
    chunks = launch.groups[2]
    outputs: dict[str, tuple[int, ...]] = {"slabs": (chunks, 4, S, H)}
    if of_sources:
        outputs["dx"] = (*sources.shape, ceil_div(H, SIMD))
    out = run(
        "ltc_synapse_backward",
        launch,
        (rows, S, H, chunks),
        {"x": sources, "dnum": dnum, "dden": dden, **synapses},
        outputs,
        flags={"SOURCE_GRADIENT": of_sources},
    )
    return tuple(out["slabs"].sum(axis=0)), out["dx"].sum(axis=-1) if of_sources else None


def lists_gradients(
    run: Runner, lists: Lists, x: mx.array, dnum: mx.array, dden: mx.array, synapses: Synapses
) -> tuple[mx.array, ...]:
    """Gradients of the four [S, H] from x [..., S] and those of the sums [..., H]."""
    (S, H), count = synapses["synapse_w"].shape, lists.source.size
    rows = dnum.size // H
    launch = run.geometry.lists_gradient(rows, count)
    chunks = launch.groups[1]
    ends = {"sources": lists.source, "targets": lists.target}
    out = run(
        "ltc_lists_gradient",
        launch,
        (rows, count, S, H, chunks),
        {"x": x, "dnum": dnum, "dden": dden, **ends, **lists.pick(synapses)},
        {"slabs": (chunks, 4, count)},
    )
    return tuple(lists.scatter(out["slabs"].sum(axis=0), (S, H)))
