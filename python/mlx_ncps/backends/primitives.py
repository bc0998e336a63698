"""Small operations on the CPU that are one primitive each: a training step of a small model takes
as long as its primitives are many.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .. import _loader


def merge_heads(
    time_a: Sequence[mx.array], time_b: Sequence[mx.array], ts: float, minus: bool
) -> tuple[mx.array, ...]:
    """A CfC's time heads (weight, bias) as one, to the bit as `fold_cfc` does it, in one
    primitive.
    """
    factor = float(-ts if minus else ts)
    return tuple(_loader.native.scaled_sums(time_a, time_b, factor, stream=mx.cpu))


def products(x: list[mx.array], y: list[mx.array]) -> list[mx.array]:
    """x[i] * y[i] of float32 arrays of equal shapes, in one primitive."""
    return _loader.native.products(x, y, stream=mx.cpu)


def guarded(array: mx.array, arrays: list[mx.array], rules: list) -> mx.array:
    """`array`, float32, or NaN throughout where one of the rules (at, of [n, width], own) doesn't
    hold among `arrays`, in one primitive; csrc/guard.h says what they mean.
    """
    made = [_loader.native.Rule(at, of.ravel(), of.shape[1], own) for at, of, own in rules]
    return _loader.native.guarded(array, arrays, made, stream=mx.cpu)
