"""A short run of tools/fuzz_files.py, and that it finds what it looks for."""

import subprocess
import sys

import pytest

from tests.support import ROOT


def test_hostile_files_load_or_are_refused():
    command = [sys.executable, "-W", "ignore", "-m", "tools.fuzz_files", "--cases", "180"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "180 cases of seed 0" in result.stdout
    loaded = int(result.stdout.split("seed 0: ")[1].split()[0])
    assert 10 < loaded < 90  # it neither spoils all files nor none


@pytest.fixture
def fuzz():
    from tools import fuzz_files

    return fuzz_files


@pytest.mark.parametrize("wrong", ["error", "unclear", "changed"])
def test_faults_are_found(wrong, fuzz, monkeypatch, tmp_path):
    import mlx.core as mx
    from mlx_ncps import CfC

    layer = CfC(3, 5)

    def read(path):
        if wrong == "changed":
            layer.rnn_cell.ff1.bias = mx.ones((5,))
            raise ValueError("[op] refused")
        raise KeyError("x") if wrong == "error" else ValueError("no op")

    reader = fuzz.hostile.Reader(read, layer)
    monkeypatch.setattr(fuzz.hostile, "make", lambda *_: ("kind", tmp_path, reader))
    message = {"error": "KeyError", "unclear": "unclear ValueError", "changed": "layer changed"}
    outcome = fuzz.run_case(0, 0, tmp_path)
    assert outcome.startswith("fault: kind")
    assert message[wrong] in outcome
