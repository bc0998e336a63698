"""PEP 517 backend: scikit-build-core, plus the requirement to build against the installed MLX.

MLX has no stable C++ interface, not even between patch releases, so the native module has to be
compiled against exactly the MLX that will run it. pip calls these hooks with the interpreter of
the target environment: its site-packages can be read even from inside build isolation. The
nanobind that is added must have the same internals version as the one inside MLX's own module.

Environment: `MLX_NCPS_BUILD_MLX=0.32.4` names the MLX instead (for uv, which hides the target
environment); `MLX_NCPS_NO_NATIVE=1` builds a pure-Python wheel and needs neither.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sysconfig

from scikit_build_core import build as _scikit_build
from scikit_build_core.build import (  # noqa: F401  (re-exported hooks)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

DEFAULT_MLX = "0.32.4"

# First MLX release -> nanobind release with the internals version of that MLX's wheel.
NANOBIND_FOR_MLX = (
    ((0, 32, 3), "3.1.0"),
    ((0, 32, 2), "2.15.0"),
    ((0, 32, 0), "2.14.0"),
    ((0, 31, 2), "2.12.0"),
)


def target_mlx() -> str:
    """The MLX version to build against: from the environment, as installed, or the default."""
    override = os.environ.get("MLX_NCPS_BUILD_MLX", "")
    if override:
        return override
    folders = sorted({sysconfig.get_path(key) for key in ("purelib", "platlib")})
    for distribution in importlib.metadata.distributions(name="mlx", path=folders):
        return distribution.version
    return DEFAULT_MLX


def nanobind_for(mlx_version: str) -> str:
    """The nanobind release that shares its types with this MLX."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", mlx_version)
    if match is None:
        raise SystemExit(f"[mlx-ncps build] MLX_NCPS_BUILD_MLX={mlx_version!r} is not a version.")
    release = tuple(int(part) for part in match.groups())
    for first, nanobind in NANOBIND_FOR_MLX:
        if release >= first:
            return nanobind
    oldest = ".".join(str(part) for part in NANOBIND_FOR_MLX[-1][0])
    raise SystemExit(
        f"[mlx-ncps build] the native module needs mlx >= {oldest}, got {mlx_version}. "
        "Upgrade mlx, or set MLX_NCPS_NO_NATIVE=1 for a pure-Python install."
    )


def native_requirements() -> list[str]:
    """What the compilation of the native module needs; nothing for a pure-Python wheel."""
    if os.environ.get("MLX_NCPS_NO_NATIVE", "") not in ("", "0"):
        return []
    mlx = target_mlx()
    return [
        f"mlx=={mlx}; platform_system != 'Linux'",
        # Also for CUDA users: the CUDA wheel's CMake files want a CUDA toolkit, and a module
        # built against the CPU wheel loads with both.
        f"mlx[cpu]=={mlx}; platform_system == 'Linux'",
        f"nanobind=={nanobind_for(mlx)}",
    ]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """PEP 517 hook."""
    return _scikit_build.get_requires_for_build_wheel(config_settings) + native_requirements()


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """PEP 660 hook."""
    return _scikit_build.get_requires_for_build_editable(config_settings) + native_requirements()
