"""Whether a user's step stays what it is as long as its modules do: what its code reads beside
them.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_PACKAGES = ("mlx", "mlx_ncps", "math")  # what is in them does not change
_BUILTINS = {
    *("abs", "all", "any", "dict", "divmod", "enumerate", "float", "int", "isinstance", "len"),
    *("list", "map", "max", "min", "pow", "range", "reversed", "round", "slice", "sum", "super"),
    *("tuple", "zip", "ValueError", "TypeError"),
}
_PLAIN = (int, float, str, bool, type(None))
_KEEPS = ("STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME", "LOAD_NAME", "YIELD_VALUE")
_HIDES = ("__getattr__", "__getattribute__", "__setattr__")
_OF_MODULES = ("_no_grad", "_training")  # attributes of every nn.Module


class Impure(ValueError):
    """Why a step may become another one unseen."""


class Watch:
    """The names that a step's code reads beside its modules' parts, and what they stood for.

    Raises Impure where the code may read something else than arrays, numbers and functions of the
    like: files, random numbers, the time, what another object keeps.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._held: list[tuple[Any, Any, Any]] = []  # (mapping, key, value)
        self._functions: list[types.FunctionType] = []
        self._names: set[str] = set()
        self._classes: list[type] = []
        self._seen: set[int] = set()
        for module in modules:
            self._part(module)
        self._walk()

    def unchanged(self) -> bool:
        """Whether all names stand for what they did."""
        return all(mapping.get(key) is value for mapping, key, value in self._held)

    def _hold(self, mapping: Mapping, key: str) -> Any:
        self._held.append((mapping, key, mapping[key]))
        return mapping[key]

    def _part(self, value: Any) -> None:
        """What lies in a module; that it stays there others watch."""
        if isinstance(value, (*_PLAIN, mx.array)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, nn.Module):
            self._class(type(value))
            attributes = vars(value).items()
            self._parts(part for name, part in attributes if name not in _OF_MODULES)
        if isinstance(value, dict):
            self._parts(value.values())
        elif isinstance(value, list | tuple):
            self._parts(value)
        elif not _is_known(value):
            self._value("an attribute", value)

    def _parts(self, values: Iterable[Any]) -> None:
        for value in values:
            self._part(value)

    def _class(self, kind: type) -> None:
        for each in kind.__mro__:
            if _package(each.__module__) in (*_PACKAGES, "builtins") or each in self._classes:
                continue
            self._classes.append(each)
            for name in _HIDES:
                if name in vars(each):
                    raise Impure(f"{each.__name__} has a {name}")
        self._names.add("__call__")

    def _walk(self) -> None:
        """Follow names and functions until there are no new ones."""
        looked: set[tuple[type, str]] = set()
        while True:
            while self._functions:
                self._function(self._functions.pop())
            new = [(c, n) for c in self._classes for n in self._names if n in vars(c)]
            new = [pair for pair in new if pair not in looked]
            if not new:
                return
            looked.update(new)
            for kind, name in new:
                self._of_class(name, self._hold(vars(kind), name))

    def _of_class(self, name: str, value: Any) -> None:
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        self._value(name, value)

    def _value(self, name: str, value: Any) -> None:
        """What a name stands for; an array or a module beside the cell may change in place."""
        if isinstance(value, mx.array | nn.Module):
            raise Impure(f"{name} is no part of the cell")
        if isinstance(value, types.FunctionType) and not _is_known(value):
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self._functions.append(value)
        elif isinstance(value, tuple):
            for part in value:
                self._value(name, part)
        elif not (isinstance(value, _PLAIN) or _is_known(value)):
            raise Impure(f"{name} is {type(value).__name__}")

    def _function(self, function: types.FunctionType) -> None:
        self._parts_of_code(function.__code__, function)
        for value in (function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
            self._value("a default", tuple(value))
        free = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in free:
            if name != "__class__":
                held: Any = _Cell(cell)
                self._value(name, self._hold(held, name))

    def _parts_of_code(self, code: types.CodeType, function: types.FunctionType) -> None:
        for instruction in dis.get_instructions(code):
            operation, name = instruction.opname, instruction.argval
            if operation in _KEEPS or (operation == "STORE_DEREF" and name in code.co_freevars):
                raise Impure(f"{function.__qualname__} has {operation} {name or ''}".strip())
            if operation == "LOAD_GLOBAL":
                self._global(name, function)
        self._names.update(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._parts_of_code(constant, function)

    def _global(self, name: str, function: types.FunctionType) -> None:
        if name in function.__globals__:
            self._value(name, self._hold(function.__globals__, name))
        elif name not in _BUILTINS:
            raise Impure(f"{function.__qualname__} calls {name}")


class _Cell:
    """A variable of an enclosing function, read as a mapping of one name."""

    def __init__(self, cell: types.CellType) -> None:
        self._cell = cell

    def get(self, name: str) -> Any:
        return self._cell.cell_contents

    __getitem__ = get


def _package(name: Any) -> str:
    return str(name).split(".")[0]


def _is_known(value: Any) -> bool:
    """Whether a module, class, function or object is of a package that does not change."""
    if isinstance(value, types.ModuleType):
        return _package(value.__name__) in _PACKAGES
    name = getattr(value, "__module__", None) or getattr(type(value), "__module__", "")
    return _package(name) in _PACKAGES
