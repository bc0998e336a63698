"""Dropout in the backbone of a CfC (MATHS 1): its factors, from MLX's random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from math import prod
from typing import Any

import mlx.core as mx

from ..backends import cpu
from ..backends.activations import first_dropped as first_dropped
from . import shapeless
from .masks import prepares_on_cpu

_own: ContextVar[list[mx.array] | None] = ContextVar("mlx_ncps_dropout_key", default=None)
_given: ContextVar[list[mx.array] | None] = ContextVar("mlx_ncps_dropout_given", default=None)


def drawn_factors(shape: tuple[int, ...], rate: float) -> mx.array:
    """`dropout_factors` from the next key of MLX's global random state; within `given_factors` the
    next of those.
    """
    given = _given.get()
    if given and given[0].size == prod(shape):
        return given.pop(0).reshape(shape)
    shapeless.refuse("cfc", "dropout", length=False)
    return dropout_factors(next_key(), shape, rate)


@contextlib.contextmanager
def given_factors(factors: list[mx.array]) -> Iterator[None]:
    """Within it, in this thread, `drawn_factors` gives these, one after the other: those of a step,
    drawn for the whole sequence before.
    """
    token = _given.set(list(factors))
    try:
        yield
    finally:
        _given.reset(token)


def of_steps_not_held(factors: mx.array | None, held: mx.array | None) -> mx.array | None:
    """The factors [B, T, D] in their order for the steps where held [B, T] is False: as they fall
    to these where a mask moves them to the front. A held step has any.
    """
    return factors if factors is None or held is None else _fallen(factors, held)


def _fallen(factors: mx.array, held: mx.array) -> mx.array:
    place = mx.maximum(mx.cumsum((~held).astype(mx.int32), axis=1) - 1, 0)
    index = mx.broadcast_to(place[:, :, None], factors.shape)
    return mx.take_along_axis(factors, index, axis=1)


def all_drawn(
    drops: Iterable[tuple[int, float]], batch: int, steps: int, held: mx.array | None = None
) -> list[mx.array]:
    """The factors [B, T, D] of each (D, rate), one key for all steps, of which no gradient is
    taken; for the steps that are not held.
    """
    drawn = [drawn_factors((batch, steps, width), rate) for width, rate in drops]
    return [mx.stop_gradient(f if held is None else _fallen(f, held)) for f in drawn]


def without_gradient(factors: mx.array) -> mx.array:
    """The factors, of which no gradient is taken. Given ones are so already: a step that stops a
    gradient can't be traced.
    """
    return mx.stop_gradient(factors) if _given.get() is None else factors


@contextlib.contextmanager
def keys_from(key: mx.array) -> Iterator[None]:
    """Within it, in this thread, `next_key` gives keys that follow from `key` alone."""
    token = _own.set([key])
    try:
        yield
    finally:
        _own.reset(token)


def next_key() -> mx.array:
    """The key that MLX's next function without one would draw from, which it no longer will; within
    `keys_from` the next of that key.
    """
    own = _own.get()
    if own is not None:
        own[0], key = mx.random.split(own[0])
        return key
    state: Any = mx.random.state
    key = mx.random.split(state[0])[1]
    mx.random.bernoulli(0.5, ())  # moves the state on; never computed
    return key


def dropout_factors(key: mx.array, shape: tuple[int, ...], rate: float) -> mx.array:
    """float32 `shape`: 0 with probability `rate`, else 1 / (1 - rate), a function of `key` alone.

    The CPU's kernel draws the same bits as MLX, ten times as fast; on a GPU MLX draws them.
    """
    if prepares_on_cpu():
        return cpu.dropout_factors(key, shape, rate)
    return mx.random.bernoulli(1 - rate, shape, key) / (1 - rate)
