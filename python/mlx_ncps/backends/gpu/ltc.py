"""LTC over whole sequences on a GPU: which kernels of metal/ltc_*.metal run, on what, and how their
gradients join (MATHS 3).

The recurrence has four kinds of kernels, the rows of `RECURRENCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from ..types import LTCFacts, Timespans
from .geometry import Geometry
from .ltc_fold import fold
from .ltc_lists import SYNAPSE, Lists, gather, lists_of
from .ltc_synapses import dense_gradients, lists_gradients, sensory_dense, sensory_lists
from .pieces import in_pieces, spread

if TYPE_CHECKING:
    from ...ops.params import LTCParams
    from ...ops.synapses import SynapseLists
    from .runner import Runner

Arrays = dict[str, mx.array]
Shapes = dict[str, tuple[int, ...]]
Sizes = tuple[int, int, int, int]  # B, T, U, H


class Recurrence(NamedTuple):
    """A kind of kernels. `forward(run, lists, sizes, inputs, outputs)` and
    `backward(run, lists, sizes, dstates, kept, synapses)` launch them.
    """

    forward: Callable[..., Arrays]
    backward: Callable[..., dict[str, Any]]
    by_lists: bool
    what: str


class Plan(NamedTuple):
    """How an LTC is launched, whatever its batch and length."""

    kind: str  # of RECURRENCES
    sensory: Callable[..., Any]
    recurrence: Callable[..., Any]


def unsupported(geometry: Geometry, facts: LTCFacts) -> str:
    """Why the kernels can't run this call; "" when they can."""
    if facts.ode_solver != "semi_implicit":
        return f"the kernels run semi_implicit only, got {facts.ode_solver}"
    if facts.inputs == 0:
        return "it needs at least one input"
    return geometry.ltc_excess(facts.inputs, facts.units, int(facts.ode_unfolds))


def kind_of(geometry: Geometry, units: int, synapses: SynapseLists | None = None) -> str:
    """The kernels of the recurrence, one of RECURRENCES."""
    lists = lists_of(geometry, synapses)[0]
    if lists and geometry.dense_lists_fit(units, lists.of_targets.per, lists.of_sources.per):
        return "dense_lists"
    if geometry.dense_fits(units):
        return "dense"
    return "lists" if lists else "streamed"


def sequence(
    run: Runner,
    inputs: mx.array,
    state: mx.array,
    ts: Timespans,
    params: LTCParams,
    *,
    ode_unfolds: int,
    epsilon: float,
    implicit_param_constraints: bool,
    synapses: SynapseLists | None,
    training: bool,
) -> mx.array:
    """LTC: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for the
    gradient.
    """
    with mx.stream(run.stream):
        (B, T, I), H = inputs.shape, state.shape[1]
        folded = fold(run, params, implicit_param_constraints, epsilon)
        ts = spread(ts, B, T)
        plan = plan_of(run, H, int(ode_unfolds), synapses, training)

        def call(v, x, ts):
            sums = plan.sensory(x, folded.leak_num, folded.leak_den, *folded[7:])
            return plan.recurrence(*sums, v, ts, folded.cm, *folded[3:7])[0]

        piece = run.geometry.ltc_piece(B, I, H, int(ode_unfolds))
        return in_pieces(piece, call, state, inputs.astype(mx.float32), ts).astype(inputs.dtype)


def plan_of(
    run: Runner, units: int, unfolds: int, synapses: SynapseLists | None, save: bool
) -> Plan:
    """The plan, made once; `save` keeps what the gradient needs."""
    plans = run.operators if synapses is None else run.wired.setdefault(synapses, {})
    key = "ltc", units, unfolds, bool(save)
    if key not in plans:
        kind = kind_of(run.geometry, units, synapses)
        recurrent, sensory = lists_of(run.geometry, synapses)
        sums = sensory_dense(run) if sensory is None else sensory_lists(run, sensory)
        lists = recurrent if RECURRENCES[kind].by_lists else None
        plans[key] = Plan(kind, sums, _operator(run, RECURRENCES[kind], lists, unfolds, bool(save)))
    return plans[key]


def _operator(
    run: Runner, recurrence: Recurrence, lists: Lists | None, unfolds: int, save: bool
) -> Callable[..., Any]:
    """The operator (num, den [B, T, H], v0 [B, H], ts [B, T], cm [H], 4 x [H, H]) -> states
    [B, T, H] and, with `save`, n and d of every unfold [B, T, U, 2, H].
    """

    def forward(*primals, save=save):
        num, den, v0, ts, cm, *synapses = primals
        B, T, H = num.shape
        inputs = {"num": num, "den": den, "v0": v0, "ts": ts, "cm": cm}
        inputs |= zip(SYNAPSE, synapses, strict=True)
        outputs: Shapes = {"states": (B, T, H)}
        if save:
            outputs["saved"] = (B, T, unfolds, 2, H)
        return recurrence.forward(run, lists, (B, T, unfolds, H), inputs, outputs).values()

    def backward(primals, cotangents, outputs):
        num, _, v0, ts, cm, *synapses = primals
        states, saved = outputs if save else forward(*primals, save=True)
        B, T, H = num.shape
        sizes = B, T, unfolds, H
        kept = {"saved": saved, "states": states, "ts": ts, "cm": cm}
        launch, before = run.geometry.neurons(H, B * T), {"before": (B, T, unfolds, H)}
        kept |= run("ltc_replay", launch, sizes, {**kept, "v0": v0}, before)
        synapses = dict(zip(SYNAPSE, synapses, strict=True))
        grads = recurrence.backward(run, lists, sizes, cotangents[0], kept, synapses)
        dts = grads["dts"].sum(axis=-1)
        return grads["dnum"], grads["dden"], grads["dv0"], dts, grads["dcm"], *grads["synapses"]

    return run.operator(forward, backward)


def _dense_forward(
    run: Runner, lists: Lists | None, sizes: Sizes, inputs: Arrays, outputs: Shapes
) -> Arrays:
    B, T, U, H = sizes
    if lists is None:
        launch = run.geometry.dense_forward(B, H)
    elif run.geometry.lists_batch <= B:
        return _lists_forward(run, lists, sizes, inputs, outputs)
    else:
        of = lists.of_targets
        launch = run.geometry.dense_lists_forward(B, H, of.per, of.parts)
        inputs = {**inputs, **gather(of, inputs), "sources": of.others}
    flags = {"SAVE": "saved" in outputs, "LISTS": lists is not None}
    return run("ltc_dense_forward", launch, (T, U, H), inputs, outputs, flags=flags)


def _dense_backward(
    run: Runner,
    lists: Lists | None,
    sizes: Sizes,
    dstates: mx.array,
    kept: Arrays,
    synapses: Arrays,
) -> dict[str, Any]:
    B, T, _, H = sizes
    if lists is None:
        launch = run.geometry.dense_backward(B, H)
        inputs = {"dstates": dstates, **kept, **synapses}
    else:
        of = lists.of_sources
        launch = run.geometry.dense_lists_backward(B, H, of.per, of.parts)
        inputs = {"dstates": dstates, **kept, **gather(of, synapses), "targets": of.others}
    groups, columns = launch.groups[0], launch.argument("PER") * launch.argument("PARTS")
    steps = dict.fromkeys(("dnum", "dden", "dts"), (B, T, H))
    outputs = {"dv0": (B, H), **steps, "dcm": (groups, H), "slabs": (groups, 4, H, columns)}
    flags = {"LISTS": lists is not None}
    out = run("ltc_dense_backward", launch, (*sizes, groups), inputs, outputs, flags=flags)
    dsynapses = out["slabs"].sum(axis=0)
    if lists is None:
        dsynapses = dsynapses if columns == H else dsynapses[..., :H]
    else:
        dsynapses = (lists.of_sources.scatter(g, (H, H)) for g in dsynapses)
    return out | {"dcm": out["dcm"].sum(axis=0), "synapses": tuple(dsynapses)}


def _streamed_forward(
    run: Runner, lists: None, sizes: Sizes, inputs: Arrays, outputs: Shapes
) -> Arrays:
    launch = run.geometry.streamed_forward(sizes[0], sizes[3])
    flags = {"SAVE": "saved" in outputs}
    return run("ltc_streamed_forward", launch, sizes, inputs, outputs, flags=flags)


def _streamed_backward(
    run: Runner, lists: None, sizes: Sizes, dstates: mx.array, kept: Arrays, synapses: Arrays
) -> dict[str, Any]:
    B, T, U, H = sizes
    transposed = {name: p.T for name, p in synapses.items()}
    out = run(
        "ltc_streamed_backward",
        run.geometry.streamed_backward(B, H),
        sizes,
        {"dstates": dstates, **kept, **transposed},
        {"dv0": (B, H), "grad": (B, T, U, H)},
    )
    grads = _neuron_gradients(run, sizes, out.pop("grad"), kept)
    unfolds = grads.pop("unfold_dn"), grads.pop("unfold_dd")
    dsynapses, _ = dense_gradients(run, kept["before"], *unfolds, synapses, of_sources=False)
    return out | grads | {"synapses": dsynapses}


def _lists_forward(
    run: Runner, lists: Lists, sizes: Sizes, inputs: Arrays, outputs: Shapes
) -> Arrays:
    by = lists.by_target
    return run(
        "ltc_lists_forward",
        run.geometry.lists(sizes[0], sizes[3]),
        (*sizes, by.slices),
        {**inputs, **gather(by, inputs), "sources": by.others},
        outputs,
        flags={"SAVE": "saved" in outputs},
    )


def _lists_backward(
    run: Runner, lists: Lists, sizes: Sizes, dstates: mx.array, kept: Arrays, synapses: Arrays
) -> dict[str, Any]:
    B, T, U, H = sizes
    by = lists.by_source
    out = run(
        "ltc_lists_backward",
        run.geometry.lists(B, H),
        (*sizes, by.slices),
        {"dstates": dstates, **kept, **gather(by, synapses), "targets": by.others},
        {"dv0": (B, H), "grad": (B, T, U, H)},
    )
    grads = _neuron_gradients(run, sizes, out.pop("grad"), kept)
    unfolds = grads.pop("unfold_dn"), grads.pop("unfold_dd")
    dsynapses = lists_gradients(run, lists, kept["before"], *unfolds, synapses)
    return out | grads | {"synapses": dsynapses}


def _neuron_gradients(run: Runner, sizes: Sizes, grad: mx.array, kept: Arrays) -> Arrays:
    """From each unfold's dL/dv' over its denominator: the gradients of its sums, of the steps'
    sums, of cm, and of ts per neuron.
    """
    B, T, U, H = sizes
    steps = dict.fromkeys(("dnum", "dden", "dcm", "dts"), (B, T, H))
    out = run(
        "ltc_neuron_backward",
        run.geometry.neurons(H, B * T),
        sizes,
        {"grad": grad, **{name: kept[name] for name in ("before", "saved", "states", "ts")}},
        {"unfold_dn": (B, T, U, H), "unfold_dd": (B, T, U, H), **steps},
    )
    return out | {"dcm": out["dcm"].sum(axis=(0, 1))}


RECURRENCES = {
    "dense": Recurrence(_dense_forward, _dense_backward, False, "all synapses in registers"),
    "dense_lists": Recurrence(
        _dense_forward, _dense_backward, True, "the synapses of a wiring's lists in registers"
    ),
    "streamed": Recurrence(
        _streamed_forward, _streamed_backward, False, "all synapses streamed, shared by batch rows"
    ),
    "lists": Recurrence(_lists_forward, _lists_backward, True, "a wiring's lists streamed"),
}
