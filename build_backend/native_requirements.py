"""Which MLX and which nanobind the native module is compiled against.

MLX has no stable C++ interface, not even between patch releases, so it has to be exactly the MLX
that will run the module: the one in the target environment or, if there is none yet, the newest
that pyproject.toml allows, as pip will install the same. The nanobind must have the same internals
version as the one inside MLX's own module.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import sysconfig
from pathlib import Path

# First MLX release -> nanobind release with the internals version of that MLX's wheel.
NANOBIND_FOR_MLX = (
    ((0, 32, 3), "3.1.0"),
    ((0, 32, 2), "2.15.0"),
    ((0, 32, 1), "2.14.0"),  # 0.32.0 ends the process where a task of the CPU raises
)
_PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def installed_mlx(folders: list[str] | None = None) -> str | None:
    """The version of the MLX in the target environment, or None.

    pip runs the build hooks with the target's interpreter: its site-packages can be read even from
    inside build isolation.
    """
    if folders is None:
        folders = sorted({sysconfig.get_path(key) for key in ("purelib", "platlib")})
    for distribution in importlib.metadata.distributions(name="mlx", path=folders):
        return distribution.version
    return None


def allowed_mlx() -> str:
    """The range of MLX releases in pyproject.toml, e.g. ">=0.32.1,<0.33"."""
    match = re.search(r'^mlx = "([<>=][^"]*)"', _PYPROJECT.read_text(), re.M)
    if match is None:
        raise SystemExit("[mlx-ncps build] pyproject.toml has no range of mlx.")
    return match[1]


def nanobind_for(mlx_version: str) -> str:
    """The nanobind release that shares its types with this MLX."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", mlx_version)
    if match is None:
        raise SystemExit(f"[mlx-ncps build] {mlx_version!r} is not a version of mlx (0.32.4 is).")
    release = tuple(int(part) for part in match.groups())
    for first, nanobind in NANOBIND_FOR_MLX:
        if release >= first:
            return nanobind
    oldest = ".".join(str(part) for part in NANOBIND_FOR_MLX[-1][0])
    raise SystemExit(
        f"[mlx-ncps build] the native module needs mlx >= {oldest}, got {mlx_version}. "
        "Upgrade mlx, or set MLX_NCPS_NO_NATIVE=1 for a pure-Python install."
    )


def is_native() -> bool:
    """Whether the native module is wanted at all."""
    return not _is_set("MLX_NCPS_NO_NATIVE")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def native_requirements() -> list[str]:
    """What compiling the native module needs; nothing for a pure-Python wheel."""
    if not is_native():
        return []
    version = os.environ.get("MLX_NCPS_BUILD_MLX") or installed_mlx()
    wanted = f"=={version}" if version else allowed_mlx()
    nanobind = nanobind_for(version) if version else NANOBIND_FOR_MLX[0][1]
    requirements = [
        f"mlx{wanted}; platform_system != 'Linux'",
        # Also for CUDA users: the CUDA wheel's CMake files want a CUDA toolkit, and a module
        # built against the CPU wheel loads with both.
        f"mlx[cpu]{wanted}; platform_system == 'Linux'",
        f"nanobind=={nanobind}",
    ]
    if _is_set("MLX_NCPS_METALLIB"):  # the build asks the package itself for its kernels
        requirements.append("numpy")
    return requirements


if __name__ == "__main__":  # the requirements of that name: for a build by hand
    print(*(r for r in native_requirements() if r.startswith(sys.argv[1])))
