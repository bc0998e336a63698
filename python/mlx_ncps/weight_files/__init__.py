"""Reading and writing `.safetensors` and `.npz` files that may be corrupt or hostile: an array is
read only after its claimed size was found in the file.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import mlx.core as mx

from .. import checks
from .npz import ZIP_ERRORS, check_members, open_npz
from .safetensors import open_safetensors, save_safetensors
from .stored import Broken, Stored

__all__ = [
    "ZIP_ERRORS",
    "Broken",
    "Stored",
    "check_is_file",
    "check_members",
    "open_arrays",
    "save_arrays",
]


def open_arrays(op: str, path: str | os.PathLike) -> dict[str, Stored]:
    """The arrays of a `.safetensors` or `.npz` file by name, all headers checked.

    Raises ValueError, here or in `read`, for whatever is wrong with the file; FileNotFoundError.
    """
    path = checks.path(op, "file", path)
    readers = {".safetensors": open_safetensors, ".npz": open_npz}
    if path.suffix not in readers:
        raise ValueError(f"[{op}] file must end in {' or '.join(readers)}, got {path.name!r}.")
    check_is_file(op, path)
    return readers[path.suffix](partial(_broken, op, path), path)


def check_is_file(op: str, path: Path) -> None:
    """Raise unless there is a regular file: a pipe would block, a device never end."""
    if not path.exists():
        raise FileNotFoundError(f"[{op}] {path} must exist, got no such file.")
    if not path.is_file():
        kinds = (path.is_dir, "a folder"), (path.is_fifo, "a pipe"), (path.is_socket, "a socket")
        kind = next((kind for test, kind in kinds if test()), "a device")
        raise ValueError(f"[{op}] {path.name} must be a file, got {kind}.")


def save_arrays(op: str, path: str | os.PathLike, arrays: dict[str, mx.array]) -> None:
    """Write a `.safetensors` file, with a checksum of each array that `open_arrays` checks, or an
    `.npz` file, whose format has one.
    """
    path = checks.path(op, "file", path)
    if path.suffix == ".npz":
        mx.savez(str(path), **arrays)
    elif path.suffix == ".safetensors":
        save_safetensors(path, arrays)
    else:
        raise ValueError(f"[{op}] file must end in .safetensors or .npz, got {path.name!r}.")


def _broken(op: str, path: Path, what: str) -> ValueError:
    return ValueError(f"[{op}] {path.name}: {what}")
