"""LTC over whole sequences on a GPU: which kernels of metal/ltc_*.metal run, on what, and the
operator with its gradient (MATHS 3), its state starting anew before some steps (MATHS 5) and an
LSTM in front (MATHS 4) included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from ..types import LTCFacts, Timespans
from .geometry import Geometry
from .ltc_fold import fold
from .ltc_lists import SYNAPSE, Lists, lists_of
from .ltc_recurrences import RECURRENCES, Recurrence, Shapes, beside_flags
from .ltc_synapses import sensory_dense, sensory_lists
from .pieces import spread, states_in_pieces

if TYPE_CHECKING:
    from ...ops.params import LTCParams
    from ...ops.synapses import SynapseLists
    from .runner import Runner


class Beside(NamedTuple):
    """What a call has beside the LTC."""

    resets: bool = False
    memory: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of its arrays: where the state starts anew, and from what; what the LSTM reads of the
        inputs, its first c, its weights of h.
        """
        names = ("resets", "v_anew") if self.resets else ()
        if self.resets and self.memory:
            names += ("c_anew",)
        return names + (("drive", "c0", "recurrent") if self.memory else ())


class Plan(NamedTuple):
    """How an LTC is launched, whatever its batch and length."""

    kind: str  # of RECURRENCES
    sensory: Callable[..., Any]
    recurrence: Callable[..., Any]


def unsupported(geometry: Geometry, facts: LTCFacts, memory: bool = False) -> str:
    """Why the kernels can't run this call, with an LSTM in front or without; "" when they can."""
    if facts.ode_solver != "semi_implicit":
        return f"the kernels run semi_implicit only, got {facts.ode_solver}"
    if facts.inputs == 0:
        return "it needs at least one input"
    return geometry.ltc_excess(facts.inputs, facts.units, int(facts.ode_unfolds), memory)


def kind_of(
    geometry: Geometry,
    units: int,
    synapses: SynapseLists | None = None,
) -> str:
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
    memory: list[mx.array] | None = None,
    resets: list[mx.array] | None = None,
) -> Any:
    """LTC: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for the gradient.
    `memory` and `resets`: as `backends` says.
    """
    with mx.stream(run.stream):
        (B, T, I), H = inputs.shape, state.shape[1]
        folded = fold(run, params, implicit_param_constraints, epsilon)
        ts = spread(ts, B, T)
        x = inputs.astype(mx.float32)
        beside = Beside(resets is not None, memory is not None)
        plan = plan_of(run, H, int(ode_unfolds), synapses, training, beside)
        states, timed, anew, weights = [state], [x, ts], [], []
        if resets is not None:
            timed.append(resets[0].astype(mx.float32))
            anew = [a.astype(mx.float32) for a in resets[1:]]
        if memory is not None:
            c0, input_weight, bias, recurrent, *own = memory
            states.append(c0)
            weights = [recurrent]
            read = own[0].astype(mx.float32) if own else x
            timed.append(mx.addmm(bias, read, input_weight.T))  # [B, T, 4H]

        def call(states, timed, anew):
            v, *c0 = states
            x, ts, *more = timed
            sums = plan.sensory(x, folded.leak_num, folded.leak_den, *folded[7:])
            at, drive = more[: beside.resets], more[beside.resets :]
            rest = [*at, *anew, *drive, *c0, *weights]
            made = plan.recurrence(*sums, v, ts, folded.cm, *folded[3:7], *rest)
            return made[: len(states)]

        piece = run.geometry.ltc_piece(B, I, H, int(ode_unfolds), beside.memory)
        done = [s.astype(inputs.dtype) for s in states_in_pieces(piece, call, states, timed, anew)]
        return done if beside.memory else done[0]


def plan_of(
    run: Runner,
    units: int,
    unfolds: int,
    synapses: SynapseLists | None,
    save: bool,
    beside: Beside,
) -> Plan:
    """The plan, made once; `save` keeps what the gradient needs."""
    plans = run.operators if synapses is None else run.wired.setdefault(synapses, {})
    key = "ltc", units, unfolds, bool(save), beside
    if key not in plans:
        kind = kind_of(run.geometry, units, synapses)
        recurrent, sensory = lists_of(run.geometry, synapses)
        sums = sensory_dense(run) if sensory is None else sensory_lists(run, sensory)
        lists = recurrent if RECURRENCES[kind].by_lists else None
        op = _operator(run, RECURRENCES[kind], lists, unfolds, bool(save), beside)
        plans[key] = Plan(kind, sums, op)
    return plans[key]


def _operator(
    run: Runner,
    recurrence: Recurrence,
    lists: Lists | None,
    unfolds: int,
    save: bool,
    beside: Beside,
) -> Callable[..., Any]:
    """The operator (num, den [B, T, H], v0 [B, H], ts [B, T], cm [H], 4 x [H, H], what is beside)
    -> states [B, T, H] (, c_states [B, T, H]) and, with `save`, n and d of every unfold
    [B, T, U, 2, H] (, the LSTM's gates [B, T, 4H]).
    """
    names = ("num", "den", "v0", "ts", "cm", *SYNAPSE, *beside.names)
    results = ("states", "c_states", "saved", "gates") if beside.memory else ("states", "saved")

    def forward(*primals, save=save):
        inputs = dict(zip(names, primals, strict=True))
        B, T, H = inputs["num"].shape
        shapes: Shapes = {"states": (B, T, H), "c_states": (B, T, H)}
        if save:
            shapes |= {"saved": (B, T, unfolds, 2, H), "gates": (B, T, 4 * H)}
        if beside.memory:
            inputs["recurrent"] = inputs["recurrent"].T
        outputs = {name: shapes[name] for name in results if name in shapes}
        return recurrence.forward(run, lists, (B, T, unfolds, H), inputs, outputs).values()

    def backward(primals, cotangents, outputs):
        given = dict(zip(names, primals, strict=True))
        made = dict(zip(results, outputs if save else forward(*primals, save=True), strict=True))
        B, T, H = given["num"].shape
        sizes = B, T, unfolds, H
        synapses = {name: given[name] for name in SYNAPSE}
        kept = {"saved": made["saved"], "states": made["states"]}
        kept |= {"ts": given["ts"], "cm": given["cm"]}
        kept |= _replayed(run, sizes, kept, given, made)
        inputs = {"dstates": cotangents[0], **kept, **synapses}
        shapes: Shapes = {}
        if beside.resets:
            inputs["resets"], shapes["dv_anew"] = given["resets"], (B, H)
        if beside.memory:
            if beside.resets:
                inputs["c_anew"], shapes["dc_anew"] = given["c_anew"], (B, H)
            inputs |= {"dc_states": cotangents[1], "c_states": made["c_states"]}
            inputs |= {"gates": made["gates"], "c0": given["c0"], "recurrent": given["recurrent"]}
            shapes |= {"dz": (B, T, 4 * H), "dc0": (B, H)}
        grads = recurrence.backward(run, lists, sizes, inputs, synapses, shapes)
        dts = grads["dts"].sum(axis=-1)
        whole = grads["dnum"], grads["dden"], grads["dv0"], dts, grads["dcm"], *grads["synapses"]
        return *whole, *_beside_gradients(beside, given, made["states"], grads)

    return run.operator(forward, backward)


def _replayed(run, sizes, kept, given, made):
    """{"before": the potentials before each unfold [B, T, U, H]}."""
    B, T, U, H = sizes
    flags = beside_flags(given)
    if flags["MEMORY"]:
        flags["RESETS"] = False  # which the LSTM's output has seen
        starts = {"c_states": made["c_states"], "gates": made["gates"]}
    else:
        names = ("v0", "resets", "v_anew") if flags["RESETS"] else ("v0",)
        starts = {name: given[name] for name in names}
    launch, outputs = run.geometry.neurons(H, B * T), {"before": (B, T, U, H)}
    return run("ltc_replay", launch, sizes, {**kept, **starts}, outputs, flags=flags)


def _beside_gradients(beside, given, states, grads):
    """The gradients of the arrays of `beside.names`."""
    found = {}
    if beside.resets:
        found |= {"resets": mx.zeros_like(given["resets"]), "v_anew": grads["dv_anew"]}
    if beside.memory:
        read = mx.concatenate([given["v0"][:, None], states[:, :-1]], axis=1)  # h of each step
        if beside.resets:
            found["c_anew"] = grads["dc_anew"]
            read = mx.where(given["resets"][..., None] != 0, given["v_anew"][:, None], read)
        dz = grads["dz"]
        found |= {"drive": dz, "c0": grads["dc0"]}
        found["recurrent"] = mx.flatten(dz, 0, 1).T @ mx.flatten(read, 0, 1)
    return [found[name] for name in beside.names]
