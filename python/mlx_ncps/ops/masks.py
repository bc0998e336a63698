"""Masks multiplied into weights; what must hold among masks and wirings that are tracers, without a
value before the trace runs: results are NaN where it does not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .. import backends, dispatch
from ..backends import primitives
from ..dispatch import FusedCall, beside_gpu, runs_steps_on_cpu


class Rule(NamedTuple):
    """Of arrays laid out one after the other: element at[i] is not 0 exactly where one of the
    elements of[i] is not 0.
    """

    at: np.ndarray  # [n] int32
    of: np.ndarray  # [n, width] int32; without width the elements must be 0
    own: bool = False  # element at[i] may also be not 0 alone


def guarded(array: mx.array, arrays: list[mx.array], rules: list[Rule]) -> mx.array:
    """`array`, or NaN throughout where the arrays break one of the rules."""
    rules = [rule for rule in rules if rule.at.size]
    if not rules:
        return array
    if prepares_on_cpu() and array.dtype == mx.float32:
        return primitives.guarded(array, arrays, rules)
    flat = mx.concatenate([mx.flatten(a != 0) for a in arrays])
    broken = mx.array(False)
    for rule in rules:
        here = _elements(flat, rule.at)
        there = mx.array(False)
        if rule.of.size:
            there = mx.any(_elements(flat, rule.of.ravel()).reshape(rule.of.shape), axis=1)
        differ = here != there
        broken = broken | mx.any(differ & ~here if rule.own else differ)
    return mx.where(broken, mx.array(math.nan, array.dtype), array)


def _elements(flat: mx.array, index: np.ndarray) -> mx.array:
    """flat[index], without a gather where it is a range."""
    first = int(index[0]) if index.size else 0
    if np.array_equal(index, np.arange(first, first + index.size)):
        return flat[first : first + index.size]
    return flat[mx.array(index)]


def kernels_hold() -> bool:
    """Whether kernels that leave out masked steps may run now; quick."""
    return bool(getattr(backends, dispatch.explain(None).backend).MASKS)


def masks_are_fused(calls: list[FusedCall]) -> bool:
    """Whether the backends that run these calls leave out masked steps by themselves."""
    chosen = [(op, dispatch.explain(op, facts).backend) for op, facts in calls]
    return bool(chosen) and all(op in getattr(backends, name).MASKS for op, name in chosen)


def prepares_on_cpu() -> bool:
    """Whether the CPU's primitives prepare what a call reads: where no GPU computes the rest, and
    the reference, all of whose derivatives exist, is not asked for.
    """
    return runs_steps_on_cpu() and not beside_gpu()


def masked(weights: list[mx.array], masks: list[mx.array]) -> list[mx.array]:
    """weights[i] * masks[i], of equal shapes."""
    if weights and prepares_on_cpu() and all(a.dtype == mx.float32 for a in (*weights, *masks)):
        return primitives.products(weights, masks)
    return [weight * mask for weight, mask in zip(weights, masks, strict=True)]
