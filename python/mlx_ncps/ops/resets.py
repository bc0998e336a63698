"""Sequences that start anew at some steps: what a call may say of it, and how a backend runs them
whose kernels don't.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import backends, dispatch
from ..backends import Facts
from ..checks import refused
from . import shapeless
from .checks import check_array


def checked_resets(op: str, resets: Any, reset_state: Any, state: Any, B: int, T: int) -> dict:
    """The keyword `resets` of a backend, [where [B, T], from which state], or none. `state`: the
    one before the first step, or (h, c), from which it starts anew where no other is given.
    """
    if resets is None:
        if reset_state is not None:
            raise refused(op, "reset_state", "None without resets", reset_state)
        return {}
    check_array(op, "resets", resets, "[B, T]", (B, T), ())
    first: Any = state if reset_state is None else reset_state
    mixed = isinstance(state, tuple | list)
    if mixed and (not isinstance(first, tuple | list) or len(first) != 2):
        raise refused(op, "reset_state", "(h, c)", first)
    shape = (B, (state[0] if mixed else state).shape[1])
    parts: dict[str, Any] = {"reset_state": first}
    if mixed:
        parts = {"reset_state h": first[0], "reset_state c": first[1]}
    states: list = []
    for name, array in parts.items():
        check_array(op, name, array, "[B, H]", shape)
        states.append(array.astype(mx.float32))
    return {"resets": [resets != 0, *states]}


def where_and_from(resets: list | None) -> tuple[Any, Any]:
    """(where [B, T], from which states) of a backend's keyword, or (None, None)."""
    return (None, None) if resets is None else (resets[0], resets[1:])


def resets_are_fused(op: str, facts: Facts) -> bool:
    """Whether the backend that runs a call of `op` with these facts starts anew by itself."""
    backend = getattr(backends, dispatch.explain(op, facts).backend)
    return op.replace("_mixed_", "_") in backend.RESETS


def started_anew(resets: list | None, t: int, *states: mx.array) -> tuple[mx.array, ...]:
    """The states that step t reads, [B, H] each."""
    if resets is None:
        return states
    at = resets[0][:, t, None]
    return tuple([mx.where(at, first, s) for first, s in zip(resets[1:], states, strict=True)])


def run_by_steps(call: Any) -> mx.array:
    """The states of a call with resets or held steps, one call of its backend for each step."""
    shapeless.refuse(call.op, "running step by step")
    keywords = dict(call.keywords)
    resets, held = keywords.pop("resets", None), keywords.pop("held", None)
    state, states = call.state, []
    call = call._replace(keywords=keywords)
    for t in range(call.shape[1]):
        (state,) = started_anew(resets, t, state)
        after = call.step(t, state).run()[:, 0]
        state = after if held is None else mx.where(held[:, t, None], state, after)
        states.append(state)
    return mx.stack(states, axis=1).astype(call.inputs.dtype)
