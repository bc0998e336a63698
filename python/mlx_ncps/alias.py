"""The names of earlier MLX ports: after `import mlx_ncps.alias`, `ncps.mlx` is this package.

`from ncps.mlx import CfC, CfCCell` and `from ncps.mlx.wirings import AutoNCP` then give the classes
of `mlx_ncps` themselves, before or after `import ncps`, whether or not ncps is installed. An
installed ncps stays as it is, `ncps.wirings` and `ncps.torch` included. Without one, a package
`ncps` is made that has `ncps.mlx` and `ncps.wirings`, both of `mlx_ncps`, and no more.

`CTRNN`, `CTGRU`, `ELTC` and `NODE` of `mlx_ncps.ports` are then in `ncps.mlx` too. Where no port is
installed, its other names `ncps.neurons` and `ncps_mlx` are this package as well.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import ports

_PACKAGE = __name__.rpartition(".")[0]


class _Loader(importlib.abc.Loader):
    """Gives the module `target` under another name, untouched."""

    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module = importlib.import_module(self.target)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own_spec  # the import system has just set that of the alias


class _Aliases(importlib.abc.MetaPathFinder):
    """Finds modules named `alias` or below it as those of `target`."""

    def __init__(self, alias: str, target: str) -> None:
        self.alias, self.target = alias, target

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.alias and not fullname.startswith(self.alias + "."):
            return None
        real = self.target + fullname.removeprefix(self.alias)
        found = importlib.util.find_spec(real)
        if found is None:
            return None
        package = found.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(fullname, _Loader(real), is_package=package)


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the package `ncps` where nothing else finds one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "ncps":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = f"Made by {__name__}: `ncps.mlx` and `ncps.wirings` of {_PACKAGE}."
        _install(_Aliases("ncps.wirings", f"{_PACKAGE}.wirings"), first=True)


def _install(finder: Any, *, first: bool) -> None:
    """Put a finder before or after all others, once."""
    known = [(type(other).__name__, getattr(other, "__dict__", None)) for other in sys.meta_path]
    if (type(finder).__name__, vars(finder)) not in known:
        sys.meta_path.insert(0 if first else len(sys.meta_path), finder)


if sys.modules.get("ncps.mlx", sys.modules[_PACKAGE]) is not sys.modules[_PACKAGE]:
    raise ImportError(
        "[alias] ncps.mlx must not be imported before mlx_ncps.alias, "
        f"got {sys.modules['ncps.mlx']!r}."
    )
_install(_Aliases("ncps.mlx", _PACKAGE), first=True)
_install(_Absent(), first=False)
for _name in ("ncps.neurons", "ncps_mlx"):
    _install(_Aliases(_name, _PACKAGE), first=False)
for _name in ports.__all__:
    setattr(sys.modules[_PACKAGE], _name, getattr(ports, _name))
