"""Where PyTorch runs: on the CPU, or on the GPU when MLX does."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import torch

from . import Missing


def choose_device(threads: int):
    """(put, wait): put(NumPy array) -> tensor on the device; wait() until it has computed all.

    Raises Missing when MLX's default device is a GPU and PyTorch has none.
    """
    torch.set_num_threads(threads)
    if mx.default_device().type == mx.cpu:
        return torch.tensor, lambda: None
    for name, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        if module.is_available():
            wait = torch.cuda.synchronize if name == "cuda" else torch.mps.synchronize
            return partial(torch.tensor, device=name), wait
    raise Missing("PyTorch has no GPU here")
