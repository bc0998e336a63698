"""PEP 517 backend: scikit-build-core, plus the MLX and the nanobind that the module must fit, and a
look at the machine before CMake runs.

Environment: `MLX_NCPS_BUILD_MLX=0.32.4` names the MLX to build against (for uv, which hides the
target environment from the build); `MLX_NCPS_NO_NATIVE=1` builds a pure-Python wheel;
`MLX_NCPS_METALLIB=1` compiles the Metal kernels ahead of time, too (macOS).
"""

from __future__ import annotations

import build_tools
from native_requirements import is_native, native_requirements

try:
    from scikit_build_core import build as _scikit_build
except ModuleNotFoundError:
    raise SystemExit(
        "[mlx-ncps build] there is no scikit-build-core: pip install it first, or leave out "
        "--no-build-isolation."
    ) from None

build_sdist = _scikit_build.build_sdist
get_requires_for_build_sdist = _scikit_build.get_requires_for_build_sdist


def _requires(theirs, config_settings: dict | None) -> list[str]:
    build_tools.check(config_settings, is_native())
    return theirs(config_settings) + native_requirements()


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """PEP 517 hook."""
    return _requires(_scikit_build.get_requires_for_build_wheel, config_settings)


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """PEP 660 hook."""
    return _requires(_scikit_build.get_requires_for_build_editable, config_settings)


def _check(config_settings: dict | None) -> None:
    """The checks once more, because `pip --no-build-isolation` does not call the hooks above."""
    build_tools.check(config_settings, is_native())
    if is_native():
        build_tools.check_packages(native_requirements())


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None) -> str:
    """PEP 517 hook."""
    _check(config_settings)
    return _scikit_build.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None) -> str:
    """PEP 660 hook."""
    _check(config_settings)
    return _scikit_build.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 517 hook."""
    _check(config_settings)
    return _scikit_build.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 660 hook."""
    _check(config_settings)
    return _scikit_build.build_editable(wheel_directory, config_settings, metadata_directory)
