"""Check while CMake configures: MLX's module and ours must share one nanobind type registry.

With another internals version (or nanobind's stable-ABI mode) the import would succeed and then
every call would raise `TypeError: incompatible function arguments`.

Usage: python check_nanobind_abi.py <folder of the mlx package> <folder of the nanobind package>
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# The key under which nanobind publishes its internals: the form of 3.x, then that of 2.x.
_KEY = re.compile(
    rb"(?:nanobind_system\w*?_a\d+_v(\d+)(_stable)?|\bv(\d+)_system\w+?(_stable)?)\x00"
)
_DEFINE = re.compile(r"define NB_INTERNALS_VERSION (\d+)")


def mlx_internals(mlx: Path) -> tuple[int, bool]:
    """Internals version in MLX's compiled module, and whether it is the stable-ABI flavour."""
    for module in sorted(mlx.glob("core*.so")):
        match = _KEY.search(module.read_bytes())
        if match:
            return int(match[1] or match[3]), bool(match[2] or match[4])
    raise SystemExit(f"no nanobind internals key in {mlx}/core*.so")


def nanobind_internals(nanobind: Path) -> int:
    """Internals version of the nanobind sources that are about to be compiled."""
    for header in ("nb_internals.h", "nb_abi.h"):
        path = nanobind / "src" / header
        match = path.exists() and _DEFINE.search(path.read_text())
        if match:
            return int(match[1])
    raise SystemExit(f"no NB_INTERNALS_VERSION in {nanobind}/src")


def main(mlx: str, nanobind: str) -> int:
    """Print both versions; 0 when they agree."""
    (wanted, stable), found = mlx_internals(Path(mlx)), nanobind_internals(Path(nanobind))
    print(f"mlx has nanobind internals v{wanted}{' (stable)' * stable}, this nanobind v{found}")
    return 0 if wanted == found and not stable else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
