"""The kernels of metal/ on an NVIDIA GPU through mx.fast.cuda_kernel, behind the names of a
backend; `dispatch` calls it.
"""

from __future__ import annotations

import mlx.core as mx

from ._gpu import MIXED_MEMORY, functions, unsupported  # noqa: F401  the names of a backend
from ._kernels import Runner

NAME = "cuda"
run = Runner(NAME, mx.fast.cuda_kernel, mx.gpu, cuda=True)
ltc_sequence, cfc_sequence = functions(lambda: run)


def available() -> tuple[bool, str]:
    """Whether MLX has a CUDA GPU here."""
    if not mx.cuda.is_available():
        return False, "MLX has no CUDA GPU here"
    return True, "mx.fast.cuda_kernel"
