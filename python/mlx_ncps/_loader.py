"""Loads the native module `_ext`, and only when it is certain to fit the running MLX. The result:
`native` (the module or None) and `reason` (why None).

MLX has no stable C++ interface. A module that was built against another release must not even be
opened, hence the check of the version that the build wrote down. Environment:

MLX_NCPS_DISABLE_NATIVE=1   leave the native module alone
MLX_NCPS_REQUIRE_NATIVE=1   raise ImportError, whatever the reason, instead of going on without it
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx  # loads libmlx and registers mx.array, both of which _ext needs

from . import _mlx

_BUILD_AGAIN = (
    "Build it again (pip install --force-reinstall --no-deps . in a checkout of mlx-ncps)"
)


class _Result(NamedTuple):
    native: ModuleType | None
    reason: str  # "" when loaded
    surprising: bool  # someone built a native module and does not get it


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "") not in ("", "0")


def _release(version: str) -> str:
    return version.split("+")[0]


def _find(environ: Mapping[str, str]) -> _Result:
    """The native module, or why it can't be used and what helps."""
    if _is_set(environ, "MLX_NCPS_DISABLE_NATIVE"):
        return _Result(None, "switched off by MLX_NCPS_DISABLE_NATIVE", False)
    try:
        built = import_module("mlx_ncps._build_info")
    except ModuleNotFoundError:
        return _Result(None, "this is a pure-Python install: no native module was built", False)

    running = mx.__version__  # pyright: ignore[reportAttributeAccessIssue]  its stub lacks it
    if _release(running) != _release(built.MLX_VERSION):
        return _Result(
            None,
            f"it was built for mlx {built.MLX_VERSION}, but mlx {running} is installed. "
            f"{_BUILD_AGAIN} or install that MLX ({_mlx.pip_install(_release(built.MLX_VERSION))})",
            True,
        )
    try:
        native = import_module("mlx_ncps._ext")
    except ImportError as error:  # an undefined symbol, another Python, a missing library
        return _Result(None, f"it does not load: {error}. {_BUILD_AGAIN}", True)
    if native.array_type() is not mx.array:  # an array to try would open the GPU
        return _Result(
            None,
            "it does not know MLX's arrays: nanobind "
            f"{built.NANOBIND_VERSION}, with which it was built, does not fit mlx "
            f"{running}. {_BUILD_AGAIN}",
            True,
        )
    return _Result(native, "", False)


def load(environ: Mapping[str, str] = os.environ) -> tuple[ModuleType | None, str]:
    """(native module, "") or (None, reason), with one RuntimeWarning if a module that was built
    can't be used.

    Raises ImportError if MLX_NCPS_REQUIRE_NATIVE is set and there is no module, ValueError if
    MLX_NCPS_NUM_THREADS or MLX_NCPS_ISA has a value that the module refuses.
    """
    native, reason, surprising = _find(environ)
    if native is None:
        message = f"[mlx_ncps] the native module is not available: {reason}."
        if _is_set(environ, "MLX_NCPS_REQUIRE_NATIVE"):
            raise ImportError(f"{message} (MLX_NCPS_REQUIRE_NATIVE is set.)")
        if surprising and not _mlx.is_command():  # the command's report has the reason
            warnings.warn(f"{message} Slower backends are used.", RuntimeWarning, stacklevel=3)
    else:
        # Both read their variable once. Here a bad value is an error that names it; inside a
        # kernel it would be too late.
        native.num_threads()
        native.isa()
    return native, reason


native, reason = load()
if TYPE_CHECKING:
    from . import _ext as native  # noqa: F401  None is asked for wherever it may be
