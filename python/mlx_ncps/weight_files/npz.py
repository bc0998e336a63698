"""`.npz` files: a zip archive whose members are arrays with a header each."""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO

import mlx.core as mx
import numpy as np

from .stored import MAX_AXES, Broken, Stored, as_mlx, repeated

MAX_INFLATED = (2**26, 100)  # an archive may be larger inside than both: bytes, times its size

_NPY_BFLOAT16 = np.dtype("V2")  # how MLX writes it
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,  # a compression method that doesn't exist
    RuntimeError,  # a member that says it is encrypted
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    OverflowError,
)


def open_npz(broken: Broken, path: Path) -> dict[str, Stored]:
    """The arrays of a file by name; raises what `broken` makes of a fault."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_members(broken, members, path.stat().st_size)
            shapes = {member.filename: _npy_shape(broken, archive, member) for member in members}
    except FileNotFoundError:
        raise
    except ZIP_ERRORS as error:
        raise _npz_error(broken, error) from error
    return {
        name.removesuffix(".npy"): Stored(shape, partial(_read_npz, broken, path, name))
        for name, shape in shapes.items()
    }


def _npz_error(broken: Broken, error: Exception) -> Exception:
    ours = isinstance(error, ValueError) and str(error).startswith("[")
    return error if ours else broken(f"must be an .npz file that can be read ({error}).")


def check_members(broken: Broken, members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise what `broken` makes of a zip archive of `size` bytes with odd or too large members."""
    if (twice := repeated(m.filename.removesuffix(".npy") for m in members)) is not None:
        raise broken(f"{twice!r} is there twice.")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise broken(f"{member.filename} must be stored or deflated, got another compression.")
    total = sum(member.file_size for member in members)
    bytes_, times = MAX_INFLATED
    if total > max(bytes_, times * size):
        raise broken(f"{size} bytes must hold at most {times} times as many, got {total}.")


def _npy_shape(broken: Broken, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple:
    """The shape of a member, whose header must claim exactly the member's size."""
    with archive.open(member) as file:
        shape, _, dtype = _npy_header(file)
        place = file.tell()
    if dtype != _NPY_BFLOAT16 and (dtype.kind not in "fiub" or dtype.char == "g"):
        raise broken(f"{member.filename} must hold numbers, got dtype {dtype}.")
    if any(size < 0 for size in shape) or len(shape) > MAX_AXES:
        raise broken(f"{member.filename} must have a shape, got {shape}.")
    if place + math.prod(shape) * dtype.itemsize != member.file_size:
        raise broken(
            f"{member.filename} must have {math.prod(shape) * dtype.itemsize} bytes "
            f"for its shape {shape}, got {member.file_size - place}."
        )
    return tuple(int(size) for size in shape)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of an open `.npy` file."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the version of an .npy file must be 1.0 or 2.0, got {version}")
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(file)
    except (MemoryError, tokenize.TokenError) as error:  # of Python's own parser
        raise ValueError(f"an .npy header can't be read: {error}") from error


def _read_npz(broken: Broken, path: Path, name: str) -> mx.array:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            shape, fortran, dtype = _npy_header(file)
            data = file.read()  # to the end, where zipfile checks the CRC
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except ZIP_ERRORS as error:
        raise _npz_error(broken, error) from error
    if dtype == _NPY_BFLOAT16:
        return as_mlx(array.view("<u2"), mx.bfloat16)
    return as_mlx(array.astype(dtype.newbyteorder("=")))
