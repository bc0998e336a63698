"""tools/check_gpu.py, whose GPU is elsewhere: its own logic on the CPU backend, and what it says
without a GPU.
"""

import json
import subprocess
import sys

import pytest
from mlx_ncps.backends import cuda

from tests.support import ROOT
from tests.support.simulated_metal import replaced, simulated


def run(*arguments):
    command = [sys.executable, "-m", "tools.check_gpu", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.usefixtures("native")
def test_check_gpu_passes_what_is_right():
    done = run("cpu", "--steps", "few")
    assert (done.returncode, done.stderr) == (0, "")
    assert "values: 12 cases, 0 failed\n" in done.stdout


@pytest.mark.skipif(cuda.available()[0], reason="there is a CUDA GPU here")
def test_check_gpu_says_that_there_is_no_gpu():
    done = run("cuda")
    assert done.returncode == 2
    assert "the backend cuda can't run here" in done.stdout


@pytest.fixture
def tool():
    from tools import check_gpu

    return check_gpu


@pytest.mark.usefixtures("native")
def test_check_gpu_judges_every_case_and_lists_failures_last(tool, monkeypatch, capsys):
    def check_states(case, backend, **keywords):
        if case == tool.FEW[0]:
            raise AssertionError("states: error 1")
        if case == tool.FEW[1]:
            raise RuntimeError("Unable to build metal library from source")
        if case == tool.FEW[4]:
            raise tool.MissingVariant("[metallib] ncps_x: the metallib lacks this variant")

    monkeypatch.setattr(tool, "check_states", check_states)
    assert not tool.check([tool.FEW[i] for i in (0, 1, 4, 5)], "cpu")
    lines = capsys.readouterr().out.splitlines()
    verdicts = [line.split(" ")[0] for line in lines[:6]]
    assert verdicts == ["failed", "error", "skipped", "passed", "passed", "passed"]
    assert lines[6:8] == [f"FAILED {tool.FEW[0]}", "states: error 1"]
    assert lines[8] == f"FAILED {tool.FEW[1]}"
    assert lines[-2] == "RuntimeError: Unable to build metal library from source"
    assert lines[-1] == "values: 6 cases, 2 failed, 1 skipped: not in the metallib"


def test_check_gpu_fails_where_every_case_is_skipped(tool, monkeypatch, capsys):
    def missing():
        raise tool.MissingVariant("none")

    monkeypatch.setattr(tool, "checks", lambda *_: [("one", [missing])])
    assert not tool.check([], "metallib")
    assert "1 cases, 0 failed, 1 skipped" in capsys.readouterr().out


def test_check_gpu_names_the_kernel_that_does_not_compile(tool, tmp_path, capsys):
    change = replaced("return ncps_exp2(z * 1.44269504088896341f);", "return undeclared_name;")
    with simulated(change=("activations.h", change)):
        assert not tool.check(tool.FEW[4:5], "metal", tmp_path)
    printed = capsys.readouterr().out
    assert "the first kernel that fails: ncps_cfc_forward_save_on_chip<" in printed
    kept = json.loads((tmp_path / "values-metal.json").read_text())
    assert "undeclared_name" in kept["kernel"]["error"]
    assert "return undeclared_name;" in kept["kernel"]["text"]
    assert "[[kernel]] void custom_kernel_ncps_cfc_forward" in kept["kernel"]["text"]
    assert len(kept["failures"]) == kept["error"] >= 1


def test_check_gpu_blames_no_kernel_for_another_fault(tool):
    def fault():
        raise RuntimeError("of no kernel")

    with simulated():
        assert tool.failing_kernel("metal", fault) is None


def test_check_gpu_multiplies_in_float32(tool):
    assert tool.os.environ["MLX_ENABLE_TF32"] == "0"


def test_check_gpu_arguments(tool, capsys):
    options = tool.parse(["cuda", "--", "--quick", "--only", "ltc"])
    assert options.steps == ["values", "sanitize", "published", "measure"]
    assert options.benchmarks == ["--quick", "--only", "ltc"]
    assert tool.parse(["metal"]).steps == ["values", "published", "measure"]
    assert tool.parse(["metal", "--steps", "few"]).steps == ["few"]
    for wrong in ([], ["rocm"], ["cuda", "--steps", "nothing"]):
        with pytest.raises(SystemExit):
            tool.parse(wrong)
    assert "usage" in capsys.readouterr().err


CELL = {"status": "ready", "errors": {"states": 1e-7}, "peak_bytes": 2**20, "launches": 3}
DOCUMENT = {
    "command": "python -m benchmarks --device gpu",
    "header": {"machine": "a GPU", "backend": "cuda on gpu"},
    "rows": {
        "ltc-B64 fwd": {
            "row": {"name": "ltc-B64 fwd", "mode": "fwd", "work": {"sigmoid": 1}, "limit": None},
            "cells": {
                "fused": CELL | {"samples": [0.002, 0.002, 0.002]},
                "eager": CELL | {"samples": [0.2, 0.2, 0.2]},
                "torch": {"status": "missing", "reason": "not installed: torch", "errors": {}},
            },
        }
    },
}


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize(("backend", "name"), [("cuda", "nvidia"), ("metallib", "apple")])
def test_check_gpu_measures_by_the_benchmarks(
    tool, monkeypatch, tmp_path, capsys, status, backend, name
):
    """A run of the benchmarks that a GPU would make, its results faked."""
    asked = []

    def run(command, env, **_):
        asked.append((command[1:], env.get("MLX_NCPS_BACKEND")))
        (tmp_path / f"{name}.json").write_text(json.dumps(DOCUMENT))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.delenv("MLX_NCPS_BACKEND", raising=False)
    monkeypatch.setattr(tool.subprocess, "run", run)
    assert tool.measure(backend, tmp_path, ["--quick"]) == (status == 0)
    words = ["-m", "benchmarks", "--device", "gpu", "--json", str(tmp_path / f"{name}.json")]
    assert asked == [([*words, "--quick"], "metallib" if backend == "metallib" else None)]
    printed = capsys.readouterr().out
    assert printed.startswith("## NVIDIA GPUs" if name == "nvidia" else "## Apple chips")
    assert printed.count("\n## ") == 0  # that part of the page alone
    for words in ("- machine: a GPU", "| ltc-B64 fwd | 2 ms ±0% | 200 ms ±0% |", "100x"):
        assert words in printed
    assert "not installed: torch" in printed


def test_check_gpu_without_results_prints_none(tool, monkeypatch, tmp_path, capsys):
    failed = subprocess.CompletedProcess([], 2)
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: failed)
    assert not tool.measure("cuda", tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("native")
def test_check_gpu_times_the_published_shape(tool, monkeypatch, capsys):
    times = iter((0.25, 1.0))
    monkeypatch.setattr(tool, "_median_ms", lambda call: next(times))
    assert tool.published("cpu")
    printed = capsys.readouterr().out
    assert "1.7 ms on a GTX 1080,    0.250 ms here" in printed
    assert "11.0 ms on a GTX 1080,    0.750 ms here" in printed


def test_check_gpu_runs_every_sanitizer(tool, monkeypatch, capsys):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 9 if "racecheck" in command else 0)

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool.shutil, "which", lambda _: None)
    assert not tool.sanitize("cuda")
    monkeypatch.setattr(tool.shutil, "which", lambda name: f"/bin/{name}")
    assert not tool.sanitize("cuda")
    assert [command[2] for command in asked] == list(tool.SANITIZERS)
    assert "racecheck: exit status 9" in capsys.readouterr().out
