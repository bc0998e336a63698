"""Writes python/mlx_ncps/_ext.pyi, the types of the native module, from the module built in place.

To be run after a change of src/; needs nanobind.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path

import mlx_ncps._ext  # noqa: F401  nanobind looks at it
from nanobind import stubgen

STUB = Path(__file__).parent.parent / "python" / "mlx_ncps" / "_ext.pyi"
HEAD = '"""The native module; written by tools/extension_stub.py."""\n\n'


def written() -> str:
    """The text of the stub."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "_ext.pyi"
        stubgen.main(["-m", "mlx_ncps._ext", "-o", str(path)])
        text = path.read_text(encoding="utf-8")
    text = re.sub(r'^""".*?"""\n\n', "", text, flags=re.S)
    return HEAD + text


if __name__ == "__main__":
    STUB.write_text(written(), encoding="utf-8")
