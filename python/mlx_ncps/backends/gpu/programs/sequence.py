"""Runs a step program over sequences on a GPU: a launch for each direction and piece of a call."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from .backward import backward_text
from .forward import forward_text
from .outside import Values, evaluate, matrix
from .plan import Plan, plan_of

if TYPE_CHECKING:
    from ....programs.program import Program
    from ..geometry import Geometry, Launch
    from ..pieces import Piece
    from ..runner import Runner


MOST_ROWS = 4  # of a threadgroup: more rows, more code


class Steps(NamedTuple):
    """What a call reads at each step and at its beginning."""

    inputs: list[mx.array]  # [B, T, n]
    states: list[mx.array]  # [B, n]
    resets: mx.array | None  # [B, T]
    anew: list[mx.array]  # [B, n], with resets


def unsupported(run: Runner, program: Program) -> str:
    """Why a program has no kernel; "" where it has."""
    if not run.any_text:
        return f"the backend {run.name} has no kernels but those that it was built with"
    plan = plan_of(program)
    return plan if isinstance(plan, str) else _excess(plan, run.geometry)


def _excess(plan: Plan, geometry: Geometry) -> str:
    if plan.weights() >= geometry.product_weights:
        return (
            f"a step reads {plan.weights()} weights, which a threadgroup would read for longer "
            "than MLX's products take"
        )
    if _launch(geometry, plan, 1, _backward_floats(plan)) is None:
        return f"the {plan.backward.size} numbers of a step exceed threadgroup memory"
    return ""


def _launch(geometry: Geometry, plan: Plan, batch: int, floats: int) -> Launch | None:
    """Rows that keep so many floats in threadgroup memory; None where not one row fits."""
    return geometry._blocked(batch, plan.widest(), 4 * floats, MOST_ROWS)


def _backward_floats(plan: Plan) -> int:
    """Of a row: values, their gradients, those that are carried on, those of fresh states."""
    return 2 * plan.backward.size + 2 * plan.total(plan.states)


def _piece(plan: Plan, geometry: Geometry, batch: int) -> Piece:
    total = plan.total(plan.results)
    elements = max(plan.timed_width, plan.trail_width, total)
    return geometry.program_piece(batch, elements, plan.work())


def launch_count(run: Runner, program: Program, batch: int, steps: int, training: bool) -> int:
    """How many kernels a call launches, in training for its gradient too."""
    plan: Any = plan_of(program)
    rows, span = _piece(plan, run.geometry, batch)
    return -(-batch // rows) * -(-steps // span) * (2 if training else 1)


def program_sequence(
    run: Runner, program: Program, captured: Sequence[mx.array], steps: Steps
) -> list[mx.array]:
    """All new states and outputs [B, T, n] of a program that is not `unsupported`, in float32;
    `captured` are the arrays of its `shapes`.
    """
    plan: Any = plan_of(program)
    with mx.stream(run.stream):
        values = {ref: a.astype(mx.float32).reshape(-1) for ref, a in enumerate(captured)}
        values |= {ref: mx.array([number]) for ref, number in program.constants}
        evaluate(plan.split.once, values, plan.sizes)
        fixed, weights = _fixed(plan, values)
        operator = _operator(run, plan, steps.resets is not None)

        def call(states, inputs, resets, anew):
            timed = _timed(plan, values, len(captured), inputs)
            start = _joined(states)
            of_resets = [] if resets is None else [resets, _joined(anew)]
            return operator(timed, start, *of_resets, fixed, *weights)[0]

        batch, length = steps.inputs[0].shape[:2]
        results = _in_pieces(plan, _piece(plan, run.geometry, batch), call, steps, length)
        sizes = [plan.sizes[ref] for ref in plan.results]
        ends = list(itertools.accumulate(sizes))
        pairs = zip(sizes, ends, strict=True)
        return [results[..., end - size : end] for size, end in pairs]


def _in_pieces(
    plan: Plan, piece: Piece, call: Callable[..., mx.array], steps: Steps, length: int
) -> mx.array:
    """The results [B, T, R] of `call` with what one launch takes."""
    batch = steps.states[0].shape[0]
    edges, at = [], 0
    for ref in plan.next:
        edges.append(slice(at, at + plan.sizes[ref]))
        at += plan.sizes[ref]
    blocks = []
    for b in range(0, batch, piece.rows):
        rows = slice(b, b + piece.rows)
        states, anew, chunks = [s[rows] for s in steps.states], [s[rows] for s in steps.anew], []
        for t in range(0, length, piece.steps):
            span = slice(t, t + piece.steps)
            resets = None if steps.resets is None else steps.resets[rows, span]
            chunks.append(call(states, [a[rows, span] for a in steps.inputs], resets, anew))
            states = [chunks[-1][:, -1, edge] for edge in edges]
        blocks.append(chunks[0] if len(chunks) == 1 else mx.concatenate(chunks, axis=1))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=0)


def _joined(arrays: Sequence[mx.array]) -> mx.array:
    """Arrays side by side, in float32."""
    arrays = [a.astype(mx.float32) for a in arrays]
    return arrays[0] if len(arrays) == 1 else mx.concatenate(arrays, axis=-1)


def _fixed(plan: Plan, values: Values) -> tuple[mx.array, list[mx.array]]:
    """What is the same for all rows: side by side as `plan.fixed` has it, and the matrices of each
    product side by side, [k, n].
    """
    parts, weights = [], []
    for ref in plan.fixed:
        if ref >= 0:
            parts.append(values[ref])
            continue
        for op in plan.matrices[-1 - ref].ops:
            bias = values[op.ins[2]] if len(op.ins) == 3 else mx.zeros(op.ints[1])
            parts.append(bias)
    for stage in plan.matrices:
        weights.append(_joined([matrix(values[op.ins[1]], op.ints) for op in stage.ops]))
    return _joined(parts or [mx.zeros(1)]), weights


def _timed(plan: Plan, fixed: Values, first: int, inputs: Sequence[mx.array]) -> mx.array:
    """What the kernel reads of each step, [B, T, W]; inputs are the values from `first` on."""
    values = fixed | {first + n: a.astype(mx.float32) for n, a in enumerate(inputs)}
    evaluate(plan.split.before, values, plan.sizes)
    shape = inputs[0].shape[:2]
    ids: list[int] = []
    for ref in plan.timed:
        ids += [op.ins[2] for op in plan.products[-1 - ref].ops] if ref < 0 else [ref]
    parts = [mx.broadcast_to(values[ref], (*shape, plan.sizes[ref])) for ref in ids]
    return _joined(parts or [mx.zeros((*shape, 1))])


@lru_cache(maxsize=256)
def _operator(run: Runner, plan: Plan, resets: bool) -> Callable[..., Any]:
    """The operator (timed, start, [resets, anew], fixed, weights ...) -> (results,); made once."""

    def forward(*primals):
        return (_launched(run, plan, primals, resets, {})["results"],)

    def backward(primals, cotangents, outputs):
        out = _launched(
            run, plan, primals, resets, {"dresults": cotangents[0], "results": outputs[0]}
        )
        return _gradients(plan, primals, out, resets)

    return run.operator(forward, backward)


@lru_cache(maxsize=512)
def kernel_of(plan: Plan, backward: bool) -> tuple[str, str]:
    """(name, body) of a kernel; a name for each text, as MLX keeps what it compiled by name."""
    body = backward_text(plan) if backward else forward_text(plan)
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    return f"program_{'backward' if backward else 'forward'}_{digest}", body


def _launched(
    run: Runner,
    plan: Plan,
    primals: Sequence[mx.array],
    resets: bool,
    of_backward: dict[str, mx.array],
) -> dict[str, mx.array]:
    """What the forward gives, or the backward, which reads `of_backward` too."""
    (timed, start, *rest), back = primals, bool(of_backward)
    batch, length, _ = timed.shape
    inputs = {"start": start} | ({"timed": timed} if plan.timed else {})
    if resets:
        inputs |= {"resets": rest.pop(0), "anew": rest.pop(0)}
    fixed, *weights = rest
    inputs |= {"fixed": fixed} if plan.fixed else {}
    if weights:
        inputs["weights"] = mx.concatenate([w.reshape(-1) for w in weights])
    if weights and back:
        inputs["back_weights"] = mx.concatenate([w.T.reshape(-1) for w in weights])
    outputs: dict[str, tuple[int, ...]] = {"results": (batch, length, plan.total(plan.results))}
    if back:
        outputs = {"dstart": start.shape, **({"danew": start.shape} if resets else {})}
        outputs |= {"trail": (batch, length, plan.trail_width)} if plan.trail_width else {}
    floats = _backward_floats(plan) if back else plan.forward.size
    launch = _launch(run.geometry, plan, batch, floats)
    assert launch is not None, "`unsupported` says so first"
    name, body = kernel_of(plan, back)
    inputs |= of_backward
    sizes = batch, length
    return run(name, launch, sizes, inputs, outputs, flags={"RESETS": resets}, body=body)


def _gradients(
    plan: Plan, primals: Sequence[mx.array], out: dict[str, mx.array], resets: bool
) -> list[mx.array]:
    """The gradients of all primals, as sums and matrix products over the whole sequence."""
    trail = out.get("trail", primals[0])  # not read where there is none
    shares: dict[int, list[mx.array]] = {}
    for (_, ref), slot in plan.slots.items():
        share = trail[..., slot.at : slot.at + slot.size]
        if plan.sizes[ref] == 1 < slot.size:
            share = share.sum(axis=-1, keepdims=True)
        shares.setdefault(ref, []).append(share)
    found: list[tuple[list, list]] = [([], []) for _ in plan.matrices]
    for stage, slots in zip(plan.products, plan.product_slots, strict=True):
        for parts, slot in zip(found[stage.matrix], slots, strict=True):
            parts.append(mx.flatten(trail[..., slot.at : slot.at + slot.size], 0, 1))
    products = [tuple(map(_stacked, parts)) for parts in found]  # rows read, rows of gradients

    def of(ref: int) -> mx.array:
        """[B, T, n] of a value outside of the kernel, or of what is added to a product."""
        if ref < 0:
            alike = [s for s in plan.products if s.bias == "timed" and plan.bias(s) == ref]
            slots = [plan.product_slots[stage.number][1] for stage in alike]
            parts = [trail[..., slot.at : slot.at + slot.size] for slot in slots]
            return sum(parts[1:], parts[0])
        if ref not in shares:
            return mx.zeros((*trail.shape[:2], plan.sizes[ref]))
        return sum(shares[ref][1:], shares[ref][0])

    timed = [of(ref) for ref in plan.timed]
    gradients = [_joined(timed) if timed else mx.zeros_like(primals[0]), out["dstart"]]
    if resets:
        gradients += [mx.zeros_like(primals[2]), out["danew"]]
    fixed = []
    for ref in plan.fixed:
        fixed.append(products[-1 - ref][1].sum(axis=0) if ref < 0 else of(ref).sum(axis=(0, 1)))
    gradients.append(_joined(fixed) if fixed else mx.zeros_like(primals[4 if resets else 2]))
    return gradients + [read.T @ dz for read, dz in products]


def _stacked(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)
