"""Imports MLX, or says in one sentence what it lacks.

On Linux `mlx` holds no libmlx.so: mlx-cpu, mlx-cuda-12 or mlx-cuda-13 does, which has to be of the
same release. `pip install mlx==X` changes the one and not the other; `mlx[cpu]==X` changes both.
"""

from __future__ import annotations

import platform
import re
import sys
from types import TracebackType

_EXTRAS = {"mlx-cpu": "cpu", "mlx-cuda-12": "cuda12", "mlx-cuda-13": "cuda13"}


def is_command() -> bool:
    """Whether `python -m mlx_ncps` is importing the package, to report on it by itself."""
    command = " ".join(sys.orig_argv)
    return sys.argv[:1] == ["-m"] and re.search(r"-m ?mlx_ncps\b", command) is not None


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The excepthook of the command: of this package's errors the sentence alone."""
    if isinstance(error, (ImportError, ValueError)) and str(error).startswith("["):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def pip_install(version: str | None) -> str:
    """The command that installs this release of MLX, with the backend package it has now."""
    extra = ""
    if platform.system() == "Linux":
        installed = (extra for name, extra in _EXTRAS.items() if _version(name))
        extra = f"[{next(installed, 'cpu')}]"
    release = f"=={version}" if version else ""
    return f'pip install "mlx{extra}{release}"'


def _version(name: str) -> str | None:
    from importlib import metadata  # a fifth of the package's import, needed for errors alone

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _missing(error: ImportError) -> str:
    """Why MLX can't be imported, and what helps."""
    mlx = _version("mlx")
    if mlx is None:
        return f"MLX is not installed: {pip_install(None)}"
    backends = {name: _version(name) for name in _EXTRAS if _version(name)}
    other = [f"{name} {version}" for name, version in backends.items() if version != mlx]
    if platform.system() != "Linux":
        why = str(error).splitlines()[0]
    elif not backends:
        why = f"mlx {mlx} comes without a backend on Linux"
    elif other:
        why = f"mlx {mlx} and {', '.join(other)} are different releases"
    else:
        why = str(error).splitlines()[0]
    return f"MLX can't be imported, {why}: {pip_install(mlx)}"


if is_command():
    sys.excepthook = _say
try:
    import mlx.core  # noqa: F401
except ImportError as error:
    raise ImportError(f"[mlx_ncps] {_missing(error)}") from None
