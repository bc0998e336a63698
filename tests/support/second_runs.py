"""`pytest --second-run`: what a second run of the suite leaves out, because it would be the first
once more. The first is `make test`. The second is one of

- `--as-mac`: no test that forces a backend which is no GPU's, but where backends are chosen; nor
  what runs in a process of its own, which is Linux;
- MLX_NCPS_ISA: other CPU kernels; so no test that forces what has none, or an instruction set;
- MLX_NCPS_DISABLE_NATIVE: no kernels; so no test of the GPU's, simulated;
- MLX_NCPS_TEST_WITHOUT: packages are missing; so one backend, and only files that name a package.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support import ROOT

GPU = {"metal", "cuda"}
ISAS = {"baseline", "avx2", "avx512", "neon"}  # forced within a test
NO_GPU = {"cpu", "reference"} | ISAS
NO_KERNELS_OF_THE_RUN = {"reference"} | GPU | ISAS
# In processes of their own, which these tests start without the fixture run_python.
PROCESSES = (
    "tests/backends/test_shapeless.py::test_layers_give_right_rows",
    "tests/package/test_arguments.py::test_hostile",
    "tests/package/test_arguments.py::test_the_fuzz_sees",
)
# Where a backend is chosen, or the values of all of them are stored: run whole as a Mac.
WHOLE = ("tests/backends/", "tests/ops/test_golden.py", "tests/rnn/test_golden.py")


def mode(config) -> str:
    """Which second run this is; "" in a first one."""
    if not config.getoption("--second-run"):
        return ""
    if config.getoption("--as-mac"):
        return "mac"
    found = [name for name in ("ISA", "DISABLE_NATIVE", "TEST_WITHOUT") if _variable(name)]
    if len(found) != 1:
        raise pytest.UsageError(f"--second-run wants one of MLX_NCPS_*, got {found}.")
    return found[0]


def _variable(name: str) -> str:
    return os.environ.get(f"MLX_NCPS_{name}", "")


def left_out(mode: str, name: str, parameters: dict, fixtures: Iterable[str] = ()) -> bool:
    """Whether this run leaves out the test `name` (file::function) with these parameters."""
    if mode == "mac" and ("run_python" in fixtures or name.startswith(PROCESSES)):
        return True
    backend = parameters.get("backend", parameters.get("isa"))
    if not isinstance(backend, str):
        return False
    if mode == "mac":
        return backend in NO_GPU and not name.startswith(WHOLE)
    if mode == "ISA":
        return backend in NO_KERNELS_OF_THE_RUN
    return backend in GPU if mode == "DISABLE_NATIVE" else backend != "reference"


def names_a_package(path: Path, packages: str) -> bool:
    """Whether a test file, or a module of tests.support that it imports, names one of them."""
    text = path.read_text(encoding="utf-8")
    for module in re.findall(r"from tests\.support\.(\w+) import", text):
        text += (ROOT / "tests" / "support" / f"{module}.py").read_text(encoding="utf-8")
    return bool(re.search(rf"\b({packages.replace(',', '|')})\b", text))


def ignores(mode: str, path: Path) -> bool:
    """Whether this run leaves out the whole file."""
    is_test = path.name.startswith("test_") and path.suffix == ".py"
    if mode != "TEST_WITHOUT" or not is_test:
        return False
    return not names_a_package(path, _variable("TEST_WITHOUT"))
