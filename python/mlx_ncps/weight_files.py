"""Headers and arrays of `.safetensors` and `.npz` files that may be corrupt or hostile: an array is
read only after its claimed size was found in the file; `weights` and `convert` call it.
"""

from __future__ import annotations

import json
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from . import checks

MAX_HEADER = 2**24  # bytes: some 100 000 arrays
MAX_AXES = 16
MAX_INFLATED = (2**26, 100)  # an .npz may be larger inside than both: bytes, times the file's size

_DTYPES = {  # safetensors' name -> (what its bytes are in NumPy, MLX)
    "F64": ("<f8", mx.float32),
    "F32": ("<f4", mx.float32),
    "F16": ("<f2", mx.float16),
    "BF16": ("<u2", mx.bfloat16),
    "I64": ("<i8", mx.int64),
    "I32": ("<i4", mx.int32),
    "I16": ("<i2", mx.int16),
    "I8": ("<i1", mx.int8),
    "U64": ("<u8", mx.uint64),
    "U32": ("<u4", mx.uint32),
    "U16": ("<u2", mx.uint16),
    "U8": ("<u1", mx.uint8),
    "BOOL": ("|b1", mx.bool_),
}
_NPY_BFLOAT16 = np.dtype("V2")  # how MLX writes it
_NAMES = {mlx: name for name, (_, mlx) in _DTYPES.items() if name != "F64"}
_CRC = "crc32."  # + name of an array: the metadata of files that save_arrays wrote
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


class Stored(NamedTuple):
    """An array that is not read yet: its shape, and `read()`, which gives the `mx.array`."""

    shape: tuple[int, ...]
    read: Callable[[], mx.array]


def open_arrays(op: str, path) -> dict[str, Stored]:
    """The arrays of a `.safetensors` or `.npz` file by name, all headers checked.

    Raises ValueError, here or in `read`, for whatever is wrong with the file; FileNotFoundError.
    """
    path = checks.path(op, "file", path)
    readers = {".safetensors": _open_safetensors, ".npz": _open_npz}
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


def save_arrays(op: str, path, arrays: dict[str, mx.array]) -> None:
    """Write a `.safetensors` file, with a checksum of each array that `open_arrays` checks, or an
    `.npz` file, whose format has one.
    """
    path = checks.path(op, "file", path)
    if path.suffix == ".npz":
        mx.savez(str(path), **arrays)
    elif path.suffix == ".safetensors":
        arrays = {name: mx.contiguous(array) for name, array in arrays.items()}
        checksums = {_CRC + name: _checksum(array) for name, array in arrays.items()}
        mx.save_safetensors(str(path), arrays, checksums)
    else:
        raise ValueError(f"[{op}] file must end in .safetensors or .npz, got {path.name!r}.")


def _broken(op: str, path: Path, what: str) -> ValueError:
    return ValueError(f"[{op}] {path.name}: {what}")


# --- safetensors -------------------------------------------------------------------------------


def _open_safetensors(broken, path: Path) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            raise broken(f"the header must be at most {max(size - 8, 0)} bytes, got {length}.")
        if length > MAX_HEADER:
            raise broken(f"the header must be at most {MAX_HEADER} bytes, got {length}.")
        header = _json(broken, file.read(length))
    metadata = header.pop("__metadata__", None) or {}  # MLX writes null
    if not isinstance(metadata, dict):
        raise broken(f"__metadata__ must be an object, got {type(metadata).__name__}.")
    checked = {key.removeprefix(_CRC) for key in metadata if key.startswith(_CRC)}
    if checked and checked != set(header):
        raise broken("the metadata must have a checksum of each array, or none, got others.")
    facts = {name: _facts(broken, name, entry) for name, entry in header.items()}
    _check_layout(broken, facts, size - 8 - length)
    return {
        name: Stored(
            shape,
            partial(
                _read_safetensors,
                broken,
                path,
                name,
                (dtype, shape, 8 + length + start, end - start),
                metadata.get(_CRC + name),
            ),
        )
        for name, (dtype, shape, start, end) in facts.items()
    }


def _json(broken, text: bytes) -> dict:
    def unique(pairs):
        if (twice := _twice(name for name, _ in pairs)) is not None:
            raise ValueError(f"{twice!r} is there twice")
        return dict(pairs)

    def constant(name):
        raise ValueError(f"{name} is no number")

    try:
        header = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise broken(f"the header must be JSON ({error}).") from error
    if not isinstance(header, dict):
        raise broken(f"the header must be an object, got {type(header).__name__}.")
    return header


def _twice(names) -> str | None:
    """The first name that comes again, or None."""
    seen = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _facts(broken, name: str, entry) -> tuple[str, tuple, int, int]:
    """(dtype, shape, start, end) of one array, which fit together."""
    if not isinstance(entry, dict):
        raise broken(f"{name} must have dtype, shape and data_offsets, got {entry!r:.40}.")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise broken(f"{name} must have a dtype of {', '.join(_DTYPES)}, got {dtype!r:.40}.")
    if not _sizes(shape) or len(shape) > MAX_AXES:
        raise broken(f"{name} must have a shape of at most {MAX_AXES} sizes, got {shape!r:.40}.")
    if not _sizes(offsets) or len(offsets) != 2:
        raise broken(f"{name} must have two data_offsets, got {offsets!r:.40}.")
    wanted = math.prod(shape) * np.dtype(_DTYPES[dtype][0]).itemsize
    if offsets[1] - offsets[0] != wanted:
        raise broken(
            f"{name} must have {wanted} bytes for its shape {tuple(shape)}, "
            f"got data_offsets {tuple(offsets)}."
        )
    return dtype, tuple(shape), *offsets


def _sizes(values) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**48 for v in values)


def _check_layout(broken, facts: dict, size: int) -> None:
    """The arrays must fill the data without gaps and without sharing bytes, as the format says."""
    place = 0
    for name, (_, _, start, end) in sorted(facts.items(), key=lambda item: item[1][2:]):
        if start != place or end > size:
            raise broken(
                f"{name} must lie at {place} within {size} bytes of data, got {start} to {end}."
            )
        place = end
    if place != size:
        raise broken(f"the arrays must fill the {size} bytes of data, got {place}.")


def _read_safetensors(broken, path: Path, name: str, place, crc) -> mx.array:
    dtype, shape, start, size = place
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    if len(data) != size:
        raise broken(f"{name} must have {size} bytes, got {len(data)}.")
    raw, mlx = _DTYPES[dtype]
    array = _mlx(np.frombuffer(data, raw).reshape(shape), mlx)
    if crc is not None and crc != _checksum(array):
        raise broken(f"the bytes of {name} must have the checksum {crc!r:.20}, got another.")
    return array


def _mlx(array: np.ndarray, dtype=None) -> mx.array:
    if dtype is mx.bfloat16:
        return mx.array(array).view(mx.bfloat16)
    if array.dtype.char == "d":
        with np.errstate(over="ignore", invalid="ignore"):  # too large is infinity, as in MLX
            array = array.astype(np.float32)
    return mx.array(array)


def _checksum(array: mx.array) -> str:
    """CRC-32 of an array's dtype, shape and values."""
    raw = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    start = zlib.crc32(f"{_NAMES.get(array.dtype)} {array.shape} ".encode())
    return f"{zlib.crc32(np.ascontiguousarray(np.array(raw)).tobytes(), start):08x}"


# --- npz ---------------------------------------------------------------------------------------


def _open_npz(broken, path: Path) -> dict[str, Stored]:
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


def _npz_error(broken, error: Exception) -> Exception:
    ours = isinstance(error, ValueError) and str(error).startswith("[")
    return error if ours else broken(f"must be an .npz file that can be read ({error}).")


def check_members(broken, members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise what `broken` makes of a zip archive of `size` bytes with odd or too large members."""
    if (twice := _twice(m.filename.removesuffix(".npy") for m in members)) is not None:
        raise broken(f"{twice!r} is there twice.")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise broken(f"{member.filename} must be stored or deflated, got another compression.")
    total = sum(member.file_size for member in members)
    bytes_, times = MAX_INFLATED
    if total > max(bytes_, times * size):
        raise broken(f"{size} bytes must hold at most {times} times as many, got {total}.")


def _npy_shape(broken, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple:
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


def _npy_header(file):
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


def _read_npz(broken, path: Path, name: str) -> mx.array:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            shape, fortran, dtype = _npy_header(file)
            data = file.read()  # to the end, where zipfile checks the CRC
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except ZIP_ERRORS as error:
        raise _npz_error(broken, error) from error
    if dtype == _NPY_BFLOAT16:
        return _mlx(array.view("<u2"), mx.bfloat16)
    return _mlx(array.astype(dtype.newbyteorder("=")))
