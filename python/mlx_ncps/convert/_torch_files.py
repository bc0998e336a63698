"""What a `.pt` file may ask of PyTorch, checked before PyTorch opens it: that unpickles nothing but
tensors and dicts of them (`weights_only=True`), but allocates what the file claims.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO

from ..weight_files import ZIP_ERRORS, Broken, check_members

_LEGACY_PICKLES = 4  # magic number, protocol, system, state dict: before PyTorch 1.6


def check_torch_file(broken: Broken, path: Path) -> None:
    """Raise what `broken` makes of a file that inflates too much, names anything but tensors, or
    tells sizes that are larger than the file.
    """
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                check_members(broken, members, size)
                inside = sum(member.file_size for member in members)
                for member in members:
                    if member.filename.endswith(".pkl"):
                        _check_pickle(broken, io.BytesIO(archive.read(member)), inside)
            return
        with path.open("rb") as file:
            for n in range(_LEGACY_PICKLES):
                _check_pickle(broken, file, size if n == _LEGACY_PICKLES - 1 else None)
    except FileNotFoundError:
        raise
    except (*ZIP_ERRORS, KeyError, IndexError) as error:
        if isinstance(error, ValueError) and str(error).startswith("["):
            raise
        raise broken(f"must be a file that torch.save wrote ({type(error).__name__}).") from error


def _check_pickle(broken: Broken, file: IO[bytes], most: int | None) -> None:
    import pickletools  # slow to import

    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST") and not _is_tensor_part(str(argument)):
            raise broken(f"must hold tensors alone, got {argument!r:.60}.")
        if isinstance(argument, int) and most is not None and abs(argument) > most:
            raise broken(f"must tell sizes within its {most} bytes, got {argument!s:.20}.")


def _is_tensor_part(name: str) -> bool:
    return name.startswith(("torch ", "torch.")) or name == "collections OrderedDict"
