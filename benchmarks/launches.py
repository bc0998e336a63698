"""Counts what a call launches: MLX's primitives, PyTorch's operators."""

from __future__ import annotations

import io
import re

import mlx.core as mx
from mlx.utils import tree_flatten

# Primitives that only change how an array is read: they run no kernel.
VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "ExpandDims", "Flatten", "Reshape", "Slice",
    "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten",
}  # fmt: skip


def primitives(outputs) -> list[str]:
    """Names of the primitives of arrays that are not evaluated yet, views left out."""
    text = io.StringIO()
    mx.export_to_dot(text, *(array for _, array in tree_flatten(outputs)))
    names = re.findall(r'label ="(\w+)"', text.getvalue())
    return [name for name in names if name not in VIEWS]


def torch_operators(run) -> int:
    """How many operators PyTorch dispatches in run(), views left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Counter.count += not getattr(function, "is_view", False)
            return function(*args, **(kwargs or {}))

    with Counter():
        run()
    return Counter.count
