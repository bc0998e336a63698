"""The dependencies in the metadata of what is built: a wheel with the native module needs the very
MLX that this was compiled against, so that no installer puts it beside another one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from native_requirements import is_native


class Dependencies:
    """Provider of scikit-build-core's `[[tool.dynamic-metadata]]`; settings: `mlx`, the allowed
    range, and `others`, the other dependencies.
    """

    def __init__(self) -> None:
        self._of_source = False

    def build_state(self, state: str) -> None:
        """Told before the rest what is built."""
        self._of_source = state == "sdist"

    def dynamic_metadata(self, settings: Mapping[str, Any], project: Mapping) -> dict[str, list]:
        """The dependencies: `mlx==` its release in the build's environment, or the range of what
        has no native module.
        """
        native = is_native() and not self._of_source
        mlx = f"=={built_against()}" if native else settings["mlx"]
        return {"dependencies": [f"mlx{mlx}", *settings["others"]]}

    def dynamic_wheel(self, settings: Mapping[str, Any]) -> dict[str, bool]:
        """A wheel's dependencies are other ones than its source's."""
        return {"dependencies": True}


def built_against() -> str:
    """The public version of the MLX in the environment of the build, which CMake finds there."""
    return importlib.metadata.version("mlx").partition("+")[0]
