"""What tracing does to modules: arrays of theirs become inputs, and everything is put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from .. import _loader
from ..values import is_tracer


class Places:
    """Where modules keep arrays that must be inputs of the trace: tracers, whose gradients would
    else be lost, and arrays without a value, whose history would else be traced too.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self.arrays: list[mx.array] = []
        self._places: list[tuple[Any, Any, int]] = []  # container, key, number of the array
        known: dict[int, int] = {}
        for container, key, value in _items(modules):
            if isinstance(value, mx.array) and (is_tracer(value) or not _has_value(value)):
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
    """The places of modules, which have their own arrays again at the end."""
    places = Places(modules)
    try:
        yield places
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


def _items(modules: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
    for container in _containers(modules):
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(pairs):
            yield container, key, value


def _has_value(array: mx.array) -> bool:
    return _loader.native is not None and _loader.native.lies_plain(array)
