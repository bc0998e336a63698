"""PEP 517 backend: scikit-build-core, plus the MLX and the nanobind that the module must fit, and a
look at the machine before CMake runs.

Environment: `MLX_NCPS_BUILD_MLX=0.32.4` names the MLX to build against (for uv, which hides the
target environment from the build); `MLX_NCPS_NO_NATIVE=1` builds a pure-Python wheel.
"""

from __future__ import annotations

import build_tools
from native_requirements import is_native, native_requirements
from scikit_build_core import build as _scikit_build
from scikit_build_core.build import (  # noqa: F401  (hooks taken over as they are)
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _requires(theirs, config_settings: dict | None) -> list[str]:
    build_tools.check(config_settings, is_native())
    return theirs(config_settings) + native_requirements()


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """PEP 517 hook."""
    return _requires(_scikit_build.get_requires_for_build_wheel, config_settings)


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """PEP 660 hook."""
    return _requires(_scikit_build.get_requires_for_build_editable, config_settings)


def _build(theirs, wheel_directory, config_settings, metadata_directory) -> str:
    build_tools.check(config_settings, is_native())  # `--no-build-isolation` asks nothing before
    return theirs(wheel_directory, config_settings, metadata_directory)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 517 hook."""
    theirs = _scikit_build.build_wheel
    return _build(theirs, wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """PEP 660 hook."""
    theirs = _scikit_build.build_editable
    return _build(theirs, wheel_directory, config_settings, metadata_directory)
