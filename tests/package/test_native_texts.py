"""Every kernel file of csrc/cpu compiles alone, as an editor opens it: it includes all it needs."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("c++") or shutil.which("clang++")
TEXTS = sorted((ROOT / "csrc/cpu").glob("*.inl"))


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.skipif(not TEXTS, reason="csrc/ is not in a wheel")
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_kernel_file_compiles_alone(path):
    command = [COMPILER, "-std=c++20", "-fsyntax-only", "-x", "c++", f"-I{ROOT}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
