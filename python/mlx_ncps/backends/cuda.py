"""The kernels of metal/ on an NVIDIA GPU through mx.fast.cuda_kernel, behind the names of a
backend.
"""

from __future__ import annotations

import mlx.core as mx

from .gpu import MASKS, MIXED_MEMORY, RESETS, functions  # noqa: F401  the names of a backend
from .gpu.geometry import CUDA
from .gpu.runner import Runner

NAME = "cuda"
run = Runner(NAME, mx.fast.cuda_kernel, mx.gpu, CUDA, cuda=True, compiles=True)
unsupported, ltc_sequence, cfc_sequence = functions(__name__)


def available() -> tuple[bool, str]:
    """Whether MLX has a CUDA GPU here."""
    if not mx.cuda.is_available():
        return False, "MLX has no CUDA GPU here"
    return True, "mx.fast.cuda_kernel"
