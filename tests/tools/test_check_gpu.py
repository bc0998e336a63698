"""tools/check_gpu.py, whose GPU is elsewhere: its own logic on the CPU backend, and what it says
without a GPU.
"""

import json
import subprocess
import sys
from types import SimpleNamespace

import mlx.core as mx
import mslsim
import numpy as np
import pytest
from mlx_ncps.backends import cuda

from benchmarks.rows import ROWS, quick
from tests.support import ROOT
from tests.support.as_cuda import recorded
from tests.support.cases import CfcCase
from tests.support.running import gradients
from tests.support.simulated_metal import replaced, simulated

BODIES = {path.stem for path in (ROOT / "metal").glob("*.metal")}


def run(*arguments):
    command = [sys.executable, "-m", "tools.check_gpu", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.usefixtures("native")
def test_check_gpu_passes_what_is_right():
    done = run("cpu", "--steps", "few")
    assert (done.returncode, done.stderr) == (0, "")
    assert "values: 13 cases, 0 failed\n" in done.stdout


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
    assert options.steps == ["values", "sanitize", "published", "profile", "measure"]
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
def test_check_gpu_times_the_published_shape(tool, monkeypatch, tmp_path, capsys):
    times = iter((0.25, 1.0))
    monkeypatch.setattr(tool, "_median_ms", lambda call: next(times))
    assert tool.published("cpu", tmp_path)
    printed = capsys.readouterr().out
    assert "1.7 ms on a GTX 1080,    0.250 ms here" in printed
    assert "11.0 ms on a GTX 1080,    0.750 ms here" in printed


def test_check_gpu_runs_every_sanitizer(tool, monkeypatch, tmp_path, capsys):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 9 if "racecheck" in command else 0)

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool.shutil, "which", lambda _: None)
    assert not tool.sanitize("cuda", tmp_path)
    monkeypatch.setattr(tool.shutil, "which", lambda name: f"/bin/{name}")
    assert not tool.sanitize("cuda", tmp_path)
    assert [command[2] for command in asked] == list(tool.SANITIZERS)
    assert "racecheck: exit status 9" in capsys.readouterr().out


def test_the_few_cases_launch_every_kernel(tool):
    """Those that the sanitizers see."""
    seen = set()
    for case in tool.FEW:
        for name in recorded(case):
            seen.add(max((s for s in BODIES if f"_ncps_{s}" in name), key=len))
    assert seen == BODIES


PROFILE = """==PROF== Connected
"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread",\
"sm__warps_active.avg.pct_of_peak_sustained_active","smsp__issue_active.avg.pct",\
"l1tex__throughput.avg.pct_of_peak_sustained_elapsed","lts__throughput.avg.pct_of_peak_sustained_elapsed"
"","","ns","register/thread","%","%","%","%"
"0","void mlx::core::cu::custom_kernel_ncps_a_8(const int *)","1,500","32","50","40","10","20"
"1","void mlx::core::cu::custom_kernel_ncps_b(const int *)","7000","64","25","30","10","20"
"2","void mlx::core::cu::custom_kernel_ncps_a_8(const int *)","500","32","30","20","30","20"
"""


def test_check_gpu_profiles_the_sequences_slowest_kernel_first(tool, monkeypatch, tmp_path, capsys):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, PROFILE, "")

    monkeypatch.setattr(tool.gpu_profile.subprocess, "run", run)
    monkeypatch.setattr(tool.gpu_profile.shutil, "which", lambda _: None)
    assert not tool.gpu_profile.profile("cuda", tmp_path)
    monkeypatch.setattr(tool.gpu_profile.shutil, "which", lambda name: f"/bin/{name}")
    assert tool.gpu_profile.profile("cuda", tmp_path)
    (command,) = asked
    assert command[0] == "ncu"
    assert command[-4:] == ["tools.check_gpu", "cuda", "--steps", "sequences"]
    _, _, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert rows == [
        ["7.0", "1", "64", "25", "30", "10", "20", "custom_kernel_ncps_b"],
        ["2.0", "2", "32", "40", "30", "20", "20", "custom_kernel_ncps_a_8"],
    ]
    assert (tmp_path / "profile-cuda.csv").read_text() == PROFILE


@pytest.mark.usefixtures("native")
def test_check_gpu_runs_a_training_call_of_each_shape_of_the_benchmarks(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool.gpu_profile, "ROWS", quick(ROWS))
    assert tool.gpu_profile.sequences("cpu")
    assert len(capsys.readouterr().out.splitlines()) == 4


# ---- Through CuPy -------------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy whose kernels are the simulator's."""
    mslsim.require()

    class Module:
        def __init__(self, *, code, options, name_expressions):
            (name,) = name_expressions
            assert options == ("--std=c++17",)
            assert f"__global__ void {name.split('::')[-1]}(" in code

        def get_function(self, name):
            return lambda groups, threads, arrays: launched.append((name, groups, threads, arrays))

    launched = []
    module = SimpleNamespace(
        RawModule=Module,
        asarray=np.asarray,
        asnumpy=np.asarray,
        empty=lambda shape, dtype: np.zeros(shape, dtype),
        cuda=SimpleNamespace(
            is_available=lambda: True,
            runtime=SimpleNamespace(getDeviceProperties=lambda n: {"name": b"a GPU"}),
        ),
        launched=launched,
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_check_gpu_launches_through_cupy_what_mlx_would(tool, cupy):
    from tools import cupy_kernels

    case = CfcCase(batch=3, units=5, timespans="per_batch")
    with cupy_kernels.installed():
        gradients(case, "cuda")
    names = {name.split("custom_kernel_")[1] for name, *_ in cupy.launched}
    assert names == {name.split("custom_kernel_")[1] for name in recorded(case)}
    for _, groups, threads, arrays in cupy.launched:
        assert all(array.flags.c_contiguous for array in arrays)
        assert str(arrays[0].dtype) == "int32"  # the sizes
        assert len(groups) == len(threads) == 3
    assert not cuda.available()[0]


def test_check_gpu_through_cupy_checks_values_and_nothing_that_wants_mlx(
    tool, cupy, tmp_path, capsys
):
    options = tool.parse(["cuda", "--through", "cupy"])
    assert options.steps == ["values", "sanitize"]
    words = ["cuda", "--through", "cupy", "--steps", "few", "--out", str(tmp_path)]
    assert tool.main(words) == 1  # kernels that compute nothing are found wrong
    printed = capsys.readouterr().out
    assert printed.startswith(f"a GPU, mlx {mx.__version__}, cuda: CuPy")
    assert "values: 13 cases, 13 failed" in printed
    sys.modules["cupy"].cuda.is_available = lambda: False
    assert tool.main(words) == 2
    for wrong in (["metal", "--through", "cupy"], ["cpu", "--store"]):
        with pytest.raises(SystemExit):
            tool.parse(wrong)


# ---- What is kept -------------------------------------------------------------------------------


def test_check_gpu_stores_what_it_found_with_the_name_of_the_gpu(
    tool, monkeypatch, tmp_path, capsys
):
    """docs/results.md gets the checks; nothing of it says more than was run."""
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    tool.keep(out, "cuda", values={"passed": 7, "failed": 1}, published={"forward": 0.25})
    tool.keep(out, "cuda", device="a GPU", how="mx.fast.cuda_kernel", mlx="1.2")
    tool.keep(out, "cuda", steps={"values": False, "sanitize": True})
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: done)
    assert tool.store("cuda", out, results)
    assert [path.name for path in results.iterdir()] == ["nvidia_checks.json"]
    text = tool.page.page(results, tmp_path, tmp_path)
    for words in (
        "### Checks on a GPU",
        "values **failed**, sanitize passed",
        "7 passed, 1 failed",
        "forward 0.25 ms",
    ):
        assert words in text
    assert not tool.store("metal", out, results)
