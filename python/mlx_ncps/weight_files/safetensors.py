"""`.safetensors` files: a header of JSON, which is checked whole, then the bytes of the arrays."""

from __future__ import annotations

import json
import math
import zlib
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import mlx.core as mx
import numpy as np

from .stored import MAX_AXES, Broken, Stored, as_mlx, repeated

MAX_HEADER = 2**24  # bytes: some 100 000 arrays

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
_NAMES = {mlx: name for name, (_, mlx) in _DTYPES.items() if name != "F64"}
_CRC = "crc32."  # + name of an array: the metadata of files that save_safetensors wrote


def save_safetensors(path: Path, arrays: dict[str, mx.array]) -> None:
    """Write a file with a checksum of each array in its metadata."""
    arrays = {name: mx.contiguous(array) for name, array in arrays.items()}
    checksums = {_CRC + name: _checksum(array) for name, array in arrays.items()}
    mx.save_safetensors(str(path), arrays, {"format": "mlx", **checksums})


def open_safetensors(broken: Broken, path: Path) -> dict[str, Stored]:
    """The arrays of a file by name; raises what `broken` makes of a fault."""
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


def _json(broken: Broken, text: bytes) -> dict:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (twice := repeated(name for name, _ in pairs)) is not None:
            raise ValueError(f"{twice!r} is there twice")
        return dict(pairs)

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    try:
        header = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise broken(f"the header must be JSON ({error}).") from error
    if not isinstance(header, dict):
        raise broken(f"the header must be an object, got {type(header).__name__}.")
    return header


def _facts(broken: Broken, name: str, entry: Any) -> tuple[str, tuple, int, int]:
    """(dtype, shape, start, end) of one array, which fit together."""
    if not isinstance(entry, dict):
        raise broken(f"{name} must have dtype, shape and data_offsets, got {entry!r:.40}.")
    told: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
    dtype, shape, offsets = told
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


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**48 for v in values)


def _check_layout(broken: Broken, facts: dict, size: int) -> None:
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


def _read_safetensors(
    broken: Broken,
    path: Path,
    name: str,
    place: tuple[str, tuple[int, ...], int, int],
    crc: str | None,
) -> mx.array:
    dtype, shape, start, size = place
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    if len(data) != size:
        raise broken(f"{name} must have {size} bytes, got {len(data)}.")
    raw, mlx = _DTYPES[dtype]
    array = as_mlx(np.frombuffer(data, raw).reshape(shape), mlx)
    if crc is not None and crc != _checksum(array):
        raise broken(f"the bytes of {name} must have the checksum {crc!r:.20}, got another.")
    return array


def _checksum(array: mx.array) -> str:
    """CRC-32 of an array's dtype, shape and values."""
    raw = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    start = zlib.crc32(f"{_NAMES.get(array.dtype)} {array.shape} ".encode())
    return f"{zlib.crc32(np.ascontiguousarray(np.array(raw)).tobytes(), start):08x}"
