"""PEP 517 backend: scikit-build-core, plus the MLX and the nanobind that the module must fit.

Environment: `MLX_NCPS_BUILD_MLX=0.32.4` names the MLX to build against (for uv, which hides the
target environment from the build); `MLX_NCPS_NO_NATIVE=1` builds a pure-Python wheel.
"""

from __future__ import annotations

from native_requirements import native_requirements
from scikit_build_core import build as _scikit_build
from scikit_build_core.build import (  # noqa: F401  (hooks taken over as they are)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """PEP 517 hook."""
    return _scikit_build.get_requires_for_build_wheel(config_settings) + native_requirements()


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """PEP 660 hook."""
    return _scikit_build.get_requires_for_build_editable(config_settings) + native_requirements()
