"""The kernels of metal/ on an Apple GPU through mx.fast.metal_kernel, behind the names of a
backend; `dispatch` calls it.
"""

from __future__ import annotations

import mlx.core as mx

from ._gpu import MIXED_MEMORY, functions, unsupported  # noqa: F401  the names of a backend
from ._kernels import Runner

NAME = "metal"
run = Runner(NAME, mx.fast.metal_kernel, mx.gpu)
ltc_sequence, cfc_sequence = functions(lambda: run)


def available() -> tuple[bool, str]:
    """Whether MLX has a Metal GPU here."""
    if not mx.metal.is_available():
        return False, "MLX has no Metal GPU here"
    return True, "mx.fast.metal_kernel"
