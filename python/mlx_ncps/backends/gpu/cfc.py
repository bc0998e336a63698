"""CfC over whole sequences on a GPU: what metal/cfc_*.metal run on, and how their gradients join
(MATHS 1).

The first stage's product with the inputs is one matrix product for all T, outside of the kernels;
so are the gradients of all weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import activations
from ..fold import fold_cfc
from ..types import CfCFacts, Timespans
from . import cfc_products
from .cfc_products import Beside, Call, Gradients, Shape
from .geometry import Geometry, Launch
from .pieces import in_pieces, spread

if TYPE_CHECKING:
    from ...ops.params import CfCParams
    from .runner import Runner


def unsupported(geometry: Geometry, facts: CfCFacts) -> str:
    """Why the kernels can't run this call; "" when they can."""
    if facts.inputs == 0:
        return "it needs at least one input"
    return geometry.cfc_excess(facts.inputs, facts.units, tuple(facts.backbone))


def sequence(
    run: Runner,
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    params: CfCParams,
    *,
    mode: str,
    activation: str,
    variant: str = "torch",
    training: bool,
    dropout: mx.array | None = None,
    resets: list[mx.array] | None = None,
    held: mx.array | None = None,
) -> mx.array:
    """CfC: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for the
    gradient. `dropout`, `resets` and `held`: as `backends` says.
    """
    with mx.stream(run.stream):
        (B, T, I), H = inputs.shape, state.shape[1]
        folded = fold_cfc(params, ts, mode, variant)
        heads, widths = len(folded.heads), tuple(w.shape[0] for w, _ in folded.backbone)
        kinds = activation, folded.head_activation
        dropped = None if dropout is None else activations.first_dropped(variant)
        kinds += not folded.merged, resets is not None, dropped, held is not None
        shape = Shape(len(widths), heads, mode, *kinds)
        head = tuple(mx.concatenate(list(parts)) for parts in zip(*folded.heads, strict=True))
        (weight, bias), *rest = [*folded.backbone, head]
        timed = [inputs.astype(mx.float32)]
        if shape.timespans:
            timed.append(spread(ts, B, T))
        at, *timeless = resets or (None,)
        timed += [a.astype(mx.float32) for a in (at, dropout, held) if a is not None]
        products = run.geometry.cfc_takes_products(H, widths, heads)
        recurrence = _operator(run, shape, bool(training), products)
        arrays = [weight[:, I:], *(a for stage in rest for a in stage), *folded.tail]

        def call(h, x, *beside):
            xz = mx.addmm(bias, x, weight[:, :I].T)  # [B, T, N0]
            return recurrence(xz, h, *beside, *arrays)[0]

        piece = run.geometry.cfc_piece(B, I, H, widths, heads)
        states = in_pieces(piece, call, state, *timed, timeless=timeless)
        return states.astype(inputs.dtype)


def _unpack(shape: Shape, primals: Sequence[mx.array]) -> Call:
    xz, h0, *rest = primals
    beside, rest = Beside.of(shape, rest)
    stages, tail = rest[: 2 * shape.layers + 1], rest[2 * shape.layers + 1 :]
    return Call(xz, h0, beside, stages[:1] + stages[1::2], stages[2::2], tail)


def _operator(run: Runner, shape: Shape, save: bool, products: bool) -> Callable[..., Any]:
    """The operator (xz, h0, what `Beside` has, Wh, (W, b) of the other stages, [w_tau, A]) ->
    states [B, T, H] and, with `save`, what the backward reads; made once.  products: step by step.
    """
    key = "cfc", shape, save, products
    if key in run.operators:
        return run.operators[key]
    whole, back = _forward, _backward
    if products:
        whole, back = cfc_products.forward, cfc_products.backward

    def forward(*primals, save=save):
        return whole(run, shape, _unpack(shape, primals), save)

    def backward(primals, cotangents, outputs):
        call = _unpack(shape, primals)
        states, *saved = outputs if save else forward(*primals, save=True)
        found = back(run, shape, call, cotangents[0], saved)
        return _gradients(shape, call, states, found)

    return run.operators.setdefault(key, run.operator(forward, backward))


def _facts(shape: Shape, call: Call) -> tuple[int, int, int, tuple[int, ...], int, int]:
    """(B, T, H, widths of the layers, width of what is saved, number of weights)."""
    (B, T, _), H = call.xz.shape, call.h0.shape[1]
    widths = tuple(w.shape[0] for w in call.weights[:-1])
    return B, T, H, widths, sum(widths) + shape.heads * H, sum(w.size for w in call.weights)


def _common(
    shape: Shape, call: Call, launch: Launch
) -> tuple[dict[str, mx.array], dict[str, bool], dict[str, int]]:
    """(inputs, flags, template) that forward and backward share."""
    inputs, flags, template = cfc_products.options(shape, call.beside.ts, call.tail)
    flags["ON_CHIP"] = launch.argument("CHIP") > 0
    flags["DROPOUT"] = shape.dropped_from is not None
    flags["DROPS_FIRST"] = shape.dropped_from == 0
    flags["RESETS"] = shape.resets
    flags["HOLDS"] = shape.holds
    for name in ("dropout", "resets", "held"):
        array = getattr(call.beside, name)
        if array is not None:
            inputs[name] = array
    flags["MATRIX"] = launch.matrix
    template = {
        "LAYERS": shape.layers,
        "HEADS": shape.heads,
        "MODE": template["MODE"],
        "ACTIVATION": activations.number(shape.activation),
        "HEAD_ACTIVATION": template["HEAD_ACTIVATION"],
    }
    return inputs, flags, template


def _packed(weights: Sequence[mx.array], on_chip: bool) -> dict[str, mx.array]:
    """The weights of all stages in one buffer, under the name that the kernel reads them by."""
    name = "streamed_weights" if on_chip else "weights"
    return {name: mx.concatenate([w.reshape(-1) for w in weights])}


def _forward(run: Runner, shape: Shape, call: Call, save: bool) -> tuple[mx.array, ...]:
    """States [B, T, H] and, with `save`, what the layers and heads gave [B, T, kept]."""
    B, T, H, widths, kept, weights = _facts(shape, call)
    # Resets and masks take registers of 16 rows where there are no layers: rows as of four heads.
    most = 4 if (shape.resets or shape.holds) and not widths else shape.heads
    launch = run.geometry.cfc_forward(B, H, widths, most, weights)
    inputs, flags, template = _common(shape, call, launch)
    biases = mx.concatenate(call.biases) if call.biases else mx.array([0.0])  # not read
    packed = _packed([w.T for w in call.weights], flags["ON_CHIP"])
    if call.beside.reset_state is not None:
        inputs["reset_state"] = call.beside.reset_state
    out = run(
        "cfc_forward",
        launch,
        (B, T, H, kept, weights, *widths),
        {"xz": call.xz, "h0": call.h0, "biases": biases, **packed, **inputs},
        {"states": (B, T, H), **({"saved": (B, T, kept)} if save else {})},
        flags={"SAVE": save, **flags},
        template=template,
    )
    return tuple(out.values())


def _backward(
    run: Runner, shape: Shape, call: Call, dstates: mx.array, kept_arrays: Sequence[mx.array]
) -> Gradients:
    B, T, H, widths, kept, weights = _facts(shape, call)
    launch = run.geometry.cfc_backward(B, H, widths, shape.heads, weights)
    inputs, flags, template = _common(shape, call, launch)
    packed, (saved,) = _packed(call.weights, flags["ON_CHIP"]), kept_arrays
    outputs = {"dh0": (B, H), "dz": (B, T, kept)}
    if shape.mode == "pure":
        outputs["shares"] = (B, T, 3, H)
    if shape.resets:
        outputs["dreset_state"] = (B, H)
    out = run(
        "cfc_backward",
        launch,
        (B, T, H, kept, weights, *widths),
        {"dstates": dstates, "saved": saved, **packed, **inputs},
        outputs,
        flags=flags,
        template=template,
    )
    edges = [sum(widths[: n + 1]) for n in range(shape.layers)]
    dz = list(mx.split(out["dz"], edges, axis=-1)) if edges else [out["dz"]]
    *read, last = mx.split(saved, edges, axis=-1) if edges else [saved]
    one = activations.TABLE[shape.activation]
    read = read if one.from_value else [one.function(z) for z in read]
    factors = call.beside.factors(shape, widths)
    read = [z if f is None else z * f for z, f in zip(read, factors, strict=True)]
    if shape.mode == "pure":
        tail = list(out["shares"].sum(axis=(0, 1)))[:2]
        dts = out["shares"][:, :, 2].sum(axis=-1) if shape.timespans else None
    else:
        tail, dts = [], cfc_products.of_timespans(shape, H, dz[-1], last)
    return Gradients(dz, out["dh0"], dts, read, tail, out.get("dreset_state"))


def _gradients(
    shape: Shape, call: Call, states: mx.array, found: Gradients
) -> list[mx.array | None]:
    """The gradients of all primals; those of the weights as products over the whole sequence."""
    before = mx.concatenate([call.h0[:, None], states[:, :-1]], axis=1)  # h that each step read
    _, resets, dropout, held, reset_state = call.beside
    if resets is not None and reset_state is not None:
        before = mx.where(resets[:, :, None] != 0, reset_state[:, None], before)
    gradients: list[mx.array | None] = [found.dz[0], found.dh0]
    if shape.timespans:
        gradients.append(found.dts)
    gradients += [mx.zeros_like(a) for a in (resets, dropout, held) if a is not None]  # have none
    gradients += [found.dreset] if shape.resets else []
    for stage, (d, z) in enumerate(zip(found.dz, [before, *found.read], strict=True)):
        gradients.append(mx.flatten(d, 0, 1).T @ mx.flatten(z, 0, 1))
        if stage > 0:
            gradients.append(d.sum(axis=(0, 1)))
    return [*gradients, *found.tail]
