"""The kernels of metal/ on an Apple GPU through mx.fast.metal_kernel, behind the names of a
backend.
"""

from __future__ import annotations

import mlx.core as mx

from .gpu import MASKS, MIXED_MEMORY, RESETS, functions  # noqa: F401  the names of a backend
from .gpu.geometry import apple_here
from .gpu.runner import Runner

NAME = "metal"
run = Runner(NAME, mx.fast.metal_kernel, mx.gpu, apple_here, compiles=True)
unsupported, ltc_sequence, cfc_sequence = functions(__name__)


def available() -> tuple[bool, str]:
    """Whether MLX has a Metal GPU here."""
    if not mx.metal.is_available():
        return False, "MLX has no Metal GPU here"
    return True, "mx.fast.metal_kernel"
