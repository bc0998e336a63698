"""CMake's own refusals: what the Python that it is given lacks, said in one sentence each."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

HERE = "from pathlib import Path; print(Path(__file__).parent{})"
NANOBIND = {
    "__main__.py": HERE.format(" / 'cmake'"),
    "cmake/nanobind-config.cmake": "set(nanobind_VERSION 9.8.7)",
    "src/nb_internals.h": "#define NB_INTERNALS_VERSION 21",
}
MLX = {
    "__main__.py": HERE.format(""),
    "MLXConfig.cmake": "set(MLX_VERSION 0.32.4)",
    "core.so": "nanobind_system_libstdcpp_abi_1_a1_v22\0",
}


notmac = pytest.mark.skipif(platform.system() == "Darwin", reason="of other systems")


@pytest.fixture
def python(tmp_path):
    """A virtual environment without packages."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
    subprocess.run(command, check=True)
    return tmp_path / "venv" / "bin" / "python"


def install(python, name, files):
    """A package whose __main__ prints the folder of its CMake files, as nanobind's and MLX's do."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    where = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    for path, text in files.items():
        file = Path(where.strip(), name, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def refusal(tmp_path, python, *options):
    """CMake's message on one line."""
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if cmake is None:
        pytest.skip("no CMake: pip install cmake")
    command = [cmake, "-S", ROOT, "-B", tmp_path / "build", f"-DPython_EXECUTABLE={python}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return re.sub(r"\s+", " ", done.stderr)


def test_cmake_says_that_nanobind_is_missing(tmp_path, python):
    text = refusal(tmp_path, python)
    assert f'{python} has no nanobind: pip install "nanobind==VERSION"' in text


def test_cmake_says_that_mlx_is_missing(tmp_path, python):
    install(python, "nanobind", NANOBIND)
    text = refusal(tmp_path, python)
    assert f'{python} has no MLX to build against: pip install "mlx[cpu]" (on macOS mlx)' in text


def test_a_nanobind_that_does_not_fit(tmp_path, python):
    install(python, "nanobind", NANOBIND)
    install(python, "mlx", MLX)
    text = refusal(tmp_path, python)
    assert "nanobind 9.8.7 does not fit mlx 0.32.4: mlx has nanobind internals v22" in text


@notmac
def test_a_metallib_is_for_macos(tmp_path, python):
    text = refusal(tmp_path, python, "-DMLX_NCPS_METALLIB=ON")
    assert f"MLX_NCPS_METALLIB is for macOS, this is {platform.system()}." in text


def test_a_python_that_is_too_old_or_has_no_headers(tmp_path, python):
    text = refusal(tmp_path, python, "-DPython_INCLUDE_DIR=/nonexistent")
    assert "needs Python 3.10 or newer with its headers" in text
