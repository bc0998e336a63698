"""Modules whose arrays are others for a while: those that tracing makes inputs of, and half
weights that many steps read. Everything is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import _loader
from ..values import is_tracer

HALVES = (mx.float16, mx.bfloat16)
# Of MLX: modules that a step leaves as they are, and that are what their arrays say. Others may
# keep something, as nn.BatchNorm its means, and are traced as a user's.
_PLAIN_MODULES = (nn.Linear, nn.QuantizedLinear)

Item = tuple[Any, Any, Any]  # container, key, value


def is_ours(value: Any) -> bool:
    """Whether something is of this package, or a linear map of MLX."""
    return type(value).__module__.split(".")[0] == "mlx_ncps" or type(value) in _PLAIN_MODULES


class Places:
    """Where modules keep the arrays that `wanted` is true of."""

    def __init__(self, items: Iterator[Item], wanted: Callable[[mx.array], bool]) -> None:
        self.arrays: list[mx.array] = []
        self._places: list[tuple[Any, Any, int]] = []  # container, key, number of the array
        known: dict[int, int] = {}
        for container, key, value in items:
            if isinstance(value, mx.array) and wanted(value):
                number = known.setdefault(id(value), len(self.arrays))
                if number == len(self.arrays):
                    self.arrays.append(value)
                self._places.append((container, key, number))

    def put(self, arrays: Sequence[mx.array]) -> None:
        """Set the arrays, past any hook of a module."""
        for container, key, number in self._places:
            kind: Any = dict if isinstance(container, dict) else list
            kind.__setitem__(container, key, arrays[number])


@contextmanager
def replaceable(modules: Sequence[Any]) -> Iterator[Places]:
    """The places of arrays that must be inputs of a trace: tracers, whose gradients would else be
    lost, and arrays without a value, whose history would else be traced too. The modules have
    their own arrays again at the end.
    """
    places = Places(_items(modules), lambda a: is_tracer(a) or not _has_value(a))
    try:
        yield places
    finally:
        places.put(places.arrays)


@contextmanager
def float32_weights(modules: Sequence[Any]) -> Iterator[None]:
    """While steps run one by one: half weights that a gradient is taken of, in float32. Each step
    converts them else, and MLX rounds each step's gradient and sums them in half precision. Only of
    modules all of whose parts are this package's, which compute in float32 anyway.
    """
    blind = _loader.native is None  # nothing else tells whether a gradient is taken
    places = Places(_weights(modules), lambda a: a.dtype in HALVES and (blind or is_tracer(a)))
    places.put([array.astype(mx.float32) for array in places.arrays])
    try:
        yield
    finally:
        places.put(places.arrays)


class Kept:
    """What modules were made of."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = list(modules)
        self._held = self._now()

    def _now(self) -> list[tuple[Any, Any]]:
        """Each container, and a shallow copy of it."""
        found: dict[int, tuple[Any, Any]] = {}
        for container in _containers(self._modules):
            copy = dict(container) if isinstance(container, dict) else list(container)
            found[id(container)] = container, copy
        return list(found.values())

    def changed(self) -> bool:
        """Whether a container has other things in it."""
        return any(not _same(container, copy) for container, copy in self._held)

    def put_back(self) -> None:
        """Fill the containers as they were."""
        for container, copy in self._held:
            if isinstance(container, dict):
                dict.clear(container)
                dict.update(container, copy)
            else:
                container[:] = copy


def _same(container: Any, copy: Any) -> bool:
    if len(container) != len(copy):
        return False
    if isinstance(copy, dict):
        missing = object()
        pairs = ((dict.get(container, key, missing), value) for key, value in copy.items())
    else:
        pairs = zip(container, copy, strict=True)
    return all(a is b or (_is_plain(a) and type(a) is type(b) and a == b) for a, b in pairs)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bytes)


def _containers(modules: Sequence[Any]) -> Iterator[Any]:
    """The dicts and lists that modules are made of, attributes of modules too."""
    seen: set[int] = set()
    waiting = list(modules)
    while waiting:
        container = waiting.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        if isinstance(container, dict | list):
            yield container
            values = container.values() if isinstance(container, dict) else container
            waiting += [value for value in values if isinstance(value, dict | list | tuple)]
        elif isinstance(container, tuple):
            waiting += [value for value in container if isinstance(value, dict | list | tuple)]
        attributes = getattr(container, "__dict__", None)
        if isinstance(attributes, dict):
            waiting.append(attributes)


def _weights(modules: Sequence[Any]) -> Iterator[Item]:
    """All but the masks of the modules that are ours throughout."""
    for module in modules:
        parts = module.modules() if isinstance(module, nn.Module) else []
        for part in parts if all(map(is_ours, parts)) else ():
            fixed = getattr(part, "fixed_keys", ())
            yield from ((part, key, value) for key, value in list(part.items()) if key not in fixed)


def _items(modules: Sequence[Any]) -> Iterator[Item]:
    for container in _containers(modules):
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(pairs):
            yield container, key, value


def _has_value(array: mx.array) -> bool:
    return _loader.native is not None and _loader.native.lies_plain(array)
