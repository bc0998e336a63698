"""tools/check_gpu.py, whose GPU is elsewhere: its own logic on the CPU backend, and what it says
without a GPU.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from mlx_ncps.backends import cuda

SCRIPT = Path(__file__).parent.parent / "tools" / "check_gpu.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.usefixtures("native")
def test_check_gpu_passes_what_is_right():
    done = run("cpu", "--steps", "few")
    assert (done.returncode, done.stderr) == (0, "")
    assert "values: 6 cases, 0 failed" in done.stdout


@pytest.mark.usefixtures("native")
def test_check_gpu_fails_what_is_wrong(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import check_gpu

    def wrong(case, backend, **keywords):
        raise AssertionError("states: error 1")

    monkeypatch.setattr(check_gpu, "check_states", wrong)
    assert not check_gpu.check(check_gpu.FEW[:1], "cpu")


@pytest.mark.skipif(cuda.available()[0], reason="there is a CUDA GPU here")
def test_check_gpu_says_that_there_is_no_gpu():
    done = run("cuda")
    assert done.returncode == 2
    assert "the backend cuda can't run here" in done.stdout
