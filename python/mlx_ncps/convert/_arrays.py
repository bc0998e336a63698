"""State dicts of any kind as `Stored` arrays, whose shapes are known before anything is read;
PyTorch is imported for a `.pt` file alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import is_array, refused
from ..weight_files import Stored, check_is_file, open_arrays
from ._torch_files import check_torch_file


def read_state_dict(op: str, source: Any, prefix: str = "") -> dict[str, Stored]:
    """The arrays of a module, a state dict or the path of one, whose names start with `prefix`,
    which is cut off.
    """
    if hasattr(source, "state_dict"):
        source = source.state_dict()
    elif isinstance(source, (str, os.PathLike)):
        source = _read_file(op, Path(source))
    if not isinstance(source, Mapping):
        raise ValueError(
            f"[{op}] source must be a module, a state dict or a path, got {type(source).__name__}."
        )
    if not isinstance(prefix, str):
        raise refused(op, "prefix", "a string", prefix)
    if wrong := [name for name in source if not isinstance(name, str)]:
        raise refused(op, "each name in source", "a string", wrong[0])
    chosen = {n[len(prefix) :]: a for n, a in source.items() if n.startswith(prefix)}
    if not chosen:
        raise ValueError(f"[{op}] prefix must start some name, got {prefix!r}.")
    return {name: stored(op, name, array) for name, array in chosen.items()}


def stored(op: str, name: str, array: Any) -> Stored:
    """`array`, a tensor of any framework or an array, as one that is read later."""
    if isinstance(array, Stored):
        return array
    if hasattr(array, "detach"):
        return _stored_tensor(op, name, array)
    if isinstance(array, mx.array) and not is_array(array):
        raise refused(op, name, "an array with values", array)
    is_numpy = isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
    if not is_numpy and not isinstance(array, mx.array):
        raise ValueError(
            f"[{op}] {name} must be a tensor or an array of numbers, got {type(array).__name__}."
        )
    return Stored(tuple(array.shape), partial(_as_mlx, array))


def _stored_tensor(op: str, name: str, tensor: Any) -> Stored:
    """A torch tensor; one that claims more numbers than its storage holds is refused."""
    layout, device = str(tensor.layout), tensor.device.type
    if layout != "torch.strided" or device == "meta":
        raise ValueError(f"[{op}] {name} must be a dense tensor, got {layout} on {device}.")
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > held:
        raise ValueError(
            f"[{op}] {name} must have {tensor.numel()} numbers for its shape "
            f"{tuple(tensor.shape)}, got {held}."
        )
    return Stored(tuple(tensor.shape), lambda: mx.array(tensor.detach().cpu().float().numpy()))


def _as_mlx(array: Any) -> mx.array:
    if isinstance(array, mx.array):
        return array.astype(mx.float32)
    with np.errstate(over="ignore"):
        return mx.array(np.asarray(array, np.float32))


def _read_file(op: str, path: Path) -> Mapping:
    if path.suffix in (".safetensors", ".npz"):
        return open_arrays(op, path)
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(
            f"[{op}] source must end in .pt, .pth, .safetensors or .npz, got {path.name!r}."
        )
    check_is_file(op, path)
    check_torch_file(lambda what: ValueError(f"[{op}] {path.name}: {what}"), path)
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"[{op}] {path.name} needs PyTorch to be read; .safetensors and .npz files don't."
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of unpickling, of the zip archive, of rebuilding tensors
        raise ValueError(
            f"[{op}] {path.name}: must be a state dict that torch.load(weights_only=True) reads, "
            f"got {type(error).__name__}."
        ) from error


def check_holds(op: str, numbers: int, arrays: Iterable[Stored]) -> None:
    """Raise ValueError when a layer of so many weights is larger than the arrays that tell its
    sizes, so that a small file can't ask for a huge layer.
    """
    held = sum(_size(entry.shape) for entry in arrays)
    if numbers > held:
        raise ValueError(
            f"[{op}] source must have shapes that fit together: its sizes make a layer of "
            f"{numbers} numbers, got {held}."
        )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
