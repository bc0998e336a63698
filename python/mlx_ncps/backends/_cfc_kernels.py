"""CfC over whole sequences on a GPU: what metal/cfc_*.metal run on, and how their gradients join
(MATHS 1); metal.py and cuda.py call `cfc_sequence` with their Runner.

The first stage's product with the inputs is one matrix product for all T, outside of the kernels;
so are the gradients of all weights.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from . import _cfc_gemm, _launch
from ._fold import fold_cfc
from ._kernels import in_pieces
from .reference import ACTIVATIONS
from .types import CfCFacts

MODES = ("default", "no_gate", "pure")  # NcpsCfcMode
KINDS = ("lecun_tanh", "tanh", "relu", "gelu", "silu", "sigmoid", "identity")  # NcpsActivation
KEEPS_INPUT = ("gelu", "silu")  # the slope does not follow from the value


class _Shape(NamedTuple):
    """What is static in one call."""

    layers: int
    heads: int
    mode: str
    activation: str
    head_activation: str
    timespans: bool  # ts is an array [B, T] that the kernels read


def unsupported(facts: CfCFacts) -> str:
    """Why the kernels can't run this call; "" when they can."""
    if facts.inputs == 0:
        return "it needs at least one input"
    return _launch.cfc_excess(facts.inputs, facts.units, facts.backbone)


def cfc_sequence(run, inputs, state, ts, params, *, mode, activation, variant="torch", training):
    """CfC: inputs [B, T, I], state [B, H] -> states [B, T, H]; `run` is the backend's Runner."""
    with mx.stream(run.stream):
        B, T, I = inputs.shape
        folded = fold_cfc(params, ts, mode, variant)
        heads, layers = len(folded.heads), len(folded.backbone)
        kinds = activation, folded.head_activation
        shape = _Shape(layers, heads, mode, *kinds, not folded.merged)
        head = tuple(mx.concatenate(parts) for parts in zip(*folded.heads, strict=True))
        stages = [*folded.backbone, head]
        weight, bias = stages[0]
        arrays = [weight[:, I:], *(a for stage in stages[1:] for a in stage), *folded.tail]
        if shape.timespans:
            ts = ts if isinstance(ts, mx.array) else mx.array(ts, mx.float32)
            ts = mx.broadcast_to(ts, (B, T))
        widths = tuple(w.shape[0] for w, _ in folded.backbone)
        products = _launch.cfc_takes_products(state.shape[1], widths, heads)
        by_products = [(weight[:, I:], bias), *stages[1:]]
        op = _recurrence(run, shape, training)
        x, activate = inputs.astype(mx.float32), ACTIVATIONS[activation]

        def call(rows, steps, h):
            xz = mx.addmm(bias, x[rows, steps], weight[:, :I].T)  # [B, T, N0]
            spans = ts[rows, steps] if shape.timespans else None
            if products:
                stages, tail = by_products, folded.tail
                return _cfc_gemm.states(run, shape, xz, h, spans, stages, tail, activate, training)
            return op(xz, h, *([spans] if shape.timespans else []), *arrays)[0]

        piece = _launch.cfc_piece(B, I, state.shape[1], widths, heads)
        return in_pieces(piece, B, T, state, call).astype(inputs.dtype)


class _Call(NamedTuple):
    """The primals of the operator by name."""

    xz: mx.array  # [B, T, N0] first stage, the part of the inputs
    h0: mx.array  # [B, H]
    ts: mx.array | None  # [B, T]
    weights: list  # of each stage [columns, depth]; the first reads h alone
    biases: list  # of the stages but the first
    tail: list  # w_tau, A [H] in the mode pure


def _unpack(shape: _Shape, primals) -> _Call:
    xz, h0, *rest = primals
    ts = rest.pop(0) if shape.timespans else None
    stages, tail = rest[: 2 * shape.layers + 1], rest[2 * shape.layers + 1 :]
    return _Call(xz, h0, ts, stages[:1] + stages[1::2], stages[2::2], tail)


def _recurrence(run, shape, save):
    """The operator (xz, h0, [ts], Wh, (W, b) of the other stages, [w_tau, A]) -> states [B, T, H]
    and, with `save`, what the backward reads [B, T, layers' widths + heads H].
    """

    def forward(*primals, save=save):
        return _forward(run, shape, _unpack(shape, primals), save).values()

    def backward(primals, cotangents, outputs):
        call = _unpack(shape, primals)
        states, saved = outputs if save else forward(*primals, save=True)
        out = _backward(run, shape, call, cotangents[0], saved)
        return _gradients(shape, call, states, saved, out)

    return run.operator(forward, backward)


def _facts(shape, call):
    """(B, T, H, widths of the layers, width of what is saved, number of weights)."""
    (B, T, _), H = call.xz.shape, call.h0.shape[1]
    widths = tuple(w.shape[0] for w in call.weights[:-1])
    return B, T, H, widths, sum(widths) + shape.heads * H, sum(w.size for w in call.weights)


def _common(shape, call, launch):
    """(inputs, flags, template) that forward and backward share."""
    ts = call.ts if shape.timespans else mx.zeros(1)  # not read
    inputs = {"ts": ts, **dict(zip(("w_tau", "A"), call.tail, strict=False))}
    flags = {"PURE": shape.mode == "pure", "ON_CHIP": launch.chip > 0}
    template = {
        "LAYERS": shape.layers,
        "HEADS": shape.heads,
        "MODE": MODES.index(shape.mode),
        "ACTIVATION": KINDS.index(shape.activation),
        "HEAD_ACTIVATION": KINDS.index(shape.head_activation),
        "ROWS": launch.blocks.rows,
        "PARTS": launch.blocks.parts,
        "UNITS": launch.units,
        "WIDTH": launch.width,
        "CHIP": launch.chip,
    }
    return inputs, flags, template


def _packed(weights, launch):
    """The weights of all stages in one buffer, under the name that the kernel reads them by."""
    name = "streamed_weights" if launch.chip else "weights"
    return {name: mx.concatenate([w.reshape(-1) for w in weights])}


def _forward(run, shape, call, save):
    B, T, H, widths, kept, weights = _facts(shape, call)
    launch = _launch.cfc_forward(B, H, widths, shape.heads, weights, run.name)
    inputs, flags, template = _common(shape, call, launch)
    biases = mx.concatenate(call.biases) if call.biases else mx.zeros(1)  # not read
    packed = _packed([w.T for w in call.weights], launch)
    return run(
        "cfc_forward",
        launch.blocks.launch,
        (B, T, H, kept, weights, *widths),
        {"xz": call.xz, "h0": call.h0, "biases": biases, **packed, **inputs},
        {"states": (B, T, H), **({"saved": (B, T, kept)} if save else {})},
        flags={"SAVE": save, **flags},
        **template,
    )


def _backward(run, shape, call, dstates, saved):
    B, T, H, widths, kept, weights = _facts(shape, call)
    launch = _launch.cfc_backward(B, H, widths, shape.heads, weights, run.name)
    inputs, flags, template = _common(shape, call, launch)
    outputs = {"dh0": (B, H), "dz": (B, T, kept)}
    if shape.mode == "pure":
        outputs["shares"] = (B, T, 3, H)
    return run(
        "cfc_backward",
        launch.blocks.launch,
        (B, T, H, kept, weights, *widths),
        {"dstates": dstates, "saved": saved, **_packed(call.weights, launch), **inputs},
        outputs,
        flags=flags,
        **template,
    )


def _gradients(shape, call, states, saved, out):
    """The gradients of all primals, as matrix products and sums over the whole sequence."""
    _, _, H, widths, _, _ = _facts(shape, call)
    edges = [sum(widths[: n + 1]) for n in range(shape.layers)]
    dz = mx.split(out["dz"], edges, axis=-1) if edges else [out["dz"]]
    kept = mx.split(saved, edges, axis=-1) if edges else [saved]
    before = mx.concatenate([call.h0[:, None], states[:, :-1]], axis=1)  # h that each step read
    activate = ACTIVATIONS[shape.activation] if shape.activation in KEEPS_INPUT else lambda z: z
    read = [before, *(activate(z) for z in kept[:-1])]
    gradients = [dz[0], out["dh0"]]
    if shape.timespans and shape.mode == "pure":
        gradients.append(out["shares"][:, :, 2].sum(axis=-1))
    elif shape.timespans:  # u = a ts + b: the head b's gradient is du
        gradients.append((dz[-1][..., 3 * H :] * kept[-1][..., 3 * H :]).sum(axis=-1))
    for stage, (d, z) in enumerate(zip(dz, read, strict=True)):
        gradients.append(mx.flatten(d, 0, 1).T @ mx.flatten(z, 0, 1))
        if stage > 0:
            gradients.append(d.sum(axis=(0, 1)))
    if shape.mode == "pure":
        dw_tau, dA, _ = out["shares"].sum(axis=(0, 1))
        gradients += [dw_tau, dA]
    return gradients
