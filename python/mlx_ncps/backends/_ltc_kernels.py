"""LTC over whole sequences on a GPU: which kernels of metal/ltc_*.metal run, on what, and how their
gradients join (MATHS 3); metal.py and cuda.py call `ltc_sequence` with their Runner.

Plans: "dense" (all synapses in registers, H <= 64), "listed" (those of a sparse wiring, H <= 128),
"streamed" (any H, several rows share a load) and "list" (larger sparse wirings, a SIMD group per
row).
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import _launch
from ._fold import fold_ltc
from ._kernels import in_pieces
from ._ltc_lists import lists_of
from ._ltc_synapses import (
    SYNAPSE,
    dense_gradients,
    listed_gradients,
    named,
    sensory_dense,
    sensory_listed,
)
from .types import LTCFacts


def unsupported(facts: LTCFacts) -> str:
    """Why the kernels can't run this call; "" when they can."""
    if facts.inputs == 0:
        return "it needs at least one input"
    if _launch.streamed_backward(1, facts.units) is None:
        return f"the states of {facts.units} neurons exceed threadgroup memory"
    return _launch.ltc_excess(facts.inputs, facts.units, int(facts.ode_unfolds))


def plan(units: int, synapses=None) -> str:
    """The kernels of the recurrence."""
    lists = lists_of(synapses)[0]
    if lists and _launch.listed_fits(units, lists.of_targets.per, lists.of_sources.per):
        return "listed"
    if _launch.dense_fits(units):
        return "dense"
    return "list" if lists else "streamed"


def ltc_sequence(run, inputs, state, ts, params, *, unfolds, epsilon, implicit, synapses, training):
    """LTC: inputs [B, T, I], state [B, H] -> states [B, T, H]; `run` is the backend's Runner."""
    with mx.stream(run.stream):
        (B, T, I), H = inputs.shape, state.shape[1]
        folded = fold_ltc(params, implicit, epsilon)
        x = inputs.astype(mx.float32)
        ts = mx.broadcast_to(ts if isinstance(ts, mx.array) else mx.array(ts, mx.float32), (B, T))
        recurrent, sensory = lists_of(synapses)
        piece = _launch.ltc_piece(B, I, H, unfolds, H * H, I * H)
        sensory = sensory_dense(run) if sensory is None else sensory_listed(run, sensory)
        recurrence = _recurrence(run, unfolds, plan(H, synapses), recurrent, training)

        def call(rows, steps, v):
            leaks = folded.leak_num, folded.leak_den
            num, den = sensory(x[rows, steps], *leaks, *folded[7:])
            return recurrence(num, den, v, ts[rows, steps], folded.cm, *folded[3:7])[0]

        return in_pieces(piece, B, T, state, call).astype(inputs.dtype)


def _recurrence(run, unfolds, kernels, lists, save):
    """The operator (num, den [B, T, H], v0 [B, H], ts [B, T], cm [H], 4 x [H, H]) -> states
    [B, T, H] and, with `save`, n and d of every unfold [B, T, U, 2, H].
    """
    run_forward, run_backward = {
        "dense": (_dense_forward, _dense_backward),
        "listed": (_listed_forward, _listed_backward),
        "streamed": (_streamed_forward, _streamed_backward),
        "list": (_list_forward, _list_backward),
    }[kernels]
    if kernels in ("list", "listed"):
        run_forward, run_backward = partial(run_forward, lists), partial(run_backward, lists)

    def forward(*primals, save=save):
        num, den, v0, ts, cm, *synapses = primals
        B, T, H = num.shape
        inputs = {"num": num, "den": den, "v0": v0, "ts": ts, "cm": cm, **named(synapses)}
        outputs = {"states": (B, T, H)}
        if save:
            outputs["saved"] = (B, T, unfolds, 2, H)
        return run_forward(run, (B, T, unfolds, H), inputs, outputs).values()

    def backward(primals, cotangents, outputs):
        num, _, v0, ts, cm, *synapses = primals
        states, saved = outputs if save else forward(*primals, save=True)
        B, T, H = num.shape
        sizes = B, T, unfolds, H
        kept = {"saved": saved, "states": states, "ts": ts, "cm": cm}
        kept |= run(
            "ltc_replay",
            _launch.neurons_by_rows(H, B * T),
            sizes,
            {**kept, "v0": v0},
            {"before": (B, T, unfolds, H)},
        )
        grads = run_backward(run, sizes, cotangents[0], kept, synapses)
        dts = grads["dts"].sum(axis=-1)
        return grads["dnum"], grads["dden"], grads["dv0"], dts, grads["dcm"], *grads["synapses"]

    return run.operator(forward, backward)


def _dense_forward(run, sizes, inputs, outputs):
    B, T, U, H = sizes
    return run(
        "ltc_dense_forward",
        _launch.dense(H, B, 4),
        (T, U, H),
        inputs,
        outputs,
        flags={"SAVE": "saved" in outputs, "LISTED": False},
        PER=_launch.ceil_div(H, 4),
        PARTS=4,
        UNITS=_launch.round_up(H, 4),
    )


def _dense_backward(run, sizes, dstates, kept, synapses):
    B, T, _, H = sizes
    groups = _launch.dense_groups(B)
    steps = dict.fromkeys(("dnum", "dden", "dts"), (B, T, H))
    out = run(
        "ltc_dense_backward",
        _launch.dense(H, groups, 8),
        (*sizes, groups),
        {"dstates": dstates, **kept, **named(synapses)},
        {"dv0": (B, H), **steps, "dcm": (groups, H), "slabs": (groups, 4, H, H)},
        flags={"LISTED": False},
        PER=_launch.ceil_div(H, 8),
        PARTS=8,
        UNITS=_launch.round_up(H, 8),
    )
    return out | {"dcm": out["dcm"].sum(axis=0), "synapses": tuple(out["slabs"].sum(axis=0))}


def _listed_forward(lists, run, sizes, inputs, outputs):
    B, T, U, H = sizes
    if _launch.streams_lists(B, run.name):
        return _list_forward(lists, run, sizes, inputs, outputs)
    of = lists.of_targets
    entries = of.gather([inputs[name] for name in SYNAPSE])
    return run(
        "ltc_dense_forward",
        _launch.dense(H, B, of.parts),
        (T, U, H),
        {**inputs, **named(entries), "sources": of.others},
        outputs,
        flags={"SAVE": "saved" in outputs, "LISTED": True},
        PER=of.per,
        PARTS=of.parts,
        UNITS=H,
    )


def _listed_backward(lists, run, sizes, dstates, kept, synapses):
    B, T, _, H = sizes
    of, groups = lists.of_sources, _launch.dense_groups(B)
    steps = dict.fromkeys(("dnum", "dden", "dts"), (B, T, H))
    slabs = (groups, 4, *of.others.shape)
    out = run(
        "ltc_dense_backward",
        _launch.dense(H, groups, of.parts),
        (*sizes, groups),
        {"dstates": dstates, **kept, **named(of.gather(synapses)), "targets": of.others},
        {"dv0": (B, H), **steps, "dcm": (groups, H), "slabs": slabs},
        flags={"LISTED": True},
        PER=of.per,
        PARTS=of.parts,
        UNITS=H,
    )
    dsynapses = tuple(of.scatter(g, (H, H)) for g in out["slabs"].sum(axis=0))
    return out | {"dcm": out["dcm"].sum(axis=0), "synapses": dsynapses}


def _streamed_forward(run, sizes, inputs, outputs):
    B, _, _, H = sizes
    blocks = _launch.streamed_forward(B, H, run.name)
    return run(
        "ltc_streamed_forward",
        blocks.launch,
        sizes,
        inputs,
        outputs,
        flags={"SAVE": "saved" in outputs},
        ROWS=blocks.rows,
        PARTS=blocks.parts,
        UNITS=_launch.round_up(H),
    )


def _streamed_backward(run, sizes, dstates, kept, synapses):
    B, T, U, H = sizes
    blocks = _launch.streamed_backward(B, H, run.name)
    out = run(
        "ltc_streamed_backward",
        blocks.launch,
        sizes,
        {"dstates": dstates, **kept, **named([p.T for p in synapses])},
        {"dv0": (B, H), "grad": (B, T, U, H)},
        ROWS=blocks.rows,
        PARTS=blocks.parts,
        UNITS=_launch.round_up(H),
    )
    grads = _neuron_gradients(run, sizes, out.pop("grad"), kept)
    dsynapses, _ = dense_gradients(
        run,
        kept["before"],
        grads.pop("unfold_dn"),
        grads.pop("unfold_dd"),
        synapses,
        of_sources=False,
    )
    return out | grads | {"synapses": dsynapses}


def _list_forward(lists, run, sizes, inputs, outputs):
    B, _, _, H = sizes
    by, blocks = lists.by_target, _launch.listed(B, H, run.name)
    entries = by.gather([inputs[name] for name in SYNAPSE])
    return run(
        "ltc_list_forward",
        blocks.launch,
        (*sizes, by.begins.size - 1),
        {
            **inputs,
            **named(entries),
            "neurons": by.neurons,
            "begins": by.begins,
            "sources": by.others,
        },
        outputs,
        flags={"SAVE": "saved" in outputs},
        SIMDS=blocks.simds,
        ROWS=blocks.rows,
        UNITS=_launch.round_up(H),
    )


def _list_backward(lists, run, sizes, dstates, kept, synapses):
    B, T, U, H = sizes
    by, blocks = lists.by_source, _launch.listed(B, H, run.name)
    out = run(
        "ltc_list_backward",
        blocks.launch,
        (*sizes, by.begins.size - 1),
        {
            "dstates": dstates,
            **kept,
            **named(by.gather(synapses)),
            "neurons": by.neurons,
            "begins": by.begins,
            "targets": by.others,
        },
        {"dv0": (B, H), "grad": (B, T, U, H)},
        SIMDS=blocks.simds,
        ROWS=blocks.rows,
        UNITS=_launch.round_up(H),
    )
    grads = _neuron_gradients(run, sizes, out.pop("grad"), kept)
    unfolds = grads.pop("unfold_dn"), grads.pop("unfold_dd")
    dsynapses = listed_gradients(run, lists, kept["before"], *unfolds, synapses)
    return out | grads | {"synapses": dsynapses}


def _neuron_gradients(run, sizes, grad, kept):
    """From each unfold's dL/dv' over its denominator: the gradients of its sums, of the steps'
    sums, of cm, and of ts per neuron.
    """
    B, T, U, H = sizes
    steps = dict.fromkeys(("dnum", "dden", "dcm", "dts"), (B, T, H))
    out = run(
        "ltc_neuron_backward",
        _launch.neurons_by_rows(H, B * T),
        sizes,
        {"grad": grad, **{name: kept[name] for name in ("before", "saved", "states", "ts")}},
        {"unfold_dn": (B, T, U, H), "unfold_dd": (B, T, U, H), **steps},
    )
    return out | {"dcm": out["dcm"].sum(axis=(0, 1))}
