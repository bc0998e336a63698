"""tools/mac_report.py: what the report says of each step, with the steps' commands faked; and the
Makefile's choice of a Python, which comes first on a Mac.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PYTEST = "FAILED tests/test_a.py::test_b - AssertionError\n2 failed, 30 passed, 1 skipped in 4.2s\n"


@pytest.fixture
def tool():
    from tools import mac_report

    return mac_report


@pytest.fixture
def fake(tool, monkeypatch, tmp_path):
    """A function that runs the tool with these results of its commands, by a word of theirs."""

    def run_tool(*arguments, values=None, **results):
        asked = []

        def run(command, *_, **__):
            words = [str(word) for word in command]
            asked.append(words)
            if any("check_gpu" in word for word in words) and values:
                (tmp_path / f"values-{words[3]}.json").write_text(json.dumps(values))
            word = next((w for w in results if any(w in part for part in words)), None)
            return tool.Done(*results.get(word, (0, "")), 1.0)

        monkeypatch.setattr(tool, "run", run)
        out = tmp_path / "report.md"
        status = tool.main([*arguments, "--out", str(out)])
        return status, out.read_text(), asked

    return run_tool


PASSED = {"passed": 9, "failures": [], "kernel": None}


def test_report_of_what_passed(fake):
    status, text, asked = fake("--short", values=PASSED, pytest=(0, "7 passed in 1.0s\n"))
    assert status == 0
    for line in (
        "| Build | passed | exit status 0 after 1 s |",
        "| Tests | passed | 7 passed in 1.0s |",
        "| Values and gradients on the GPU, metal | passed | 9 cases passed, 0 failed |",
        "| Benchmarks on the gpu | passed | exit status 0 after 1 s |",
        "`tools/mac_report.py --short",
    ):
        assert line in text
    assert [words[2:4] for words in asked[-3:-1]] == [
        ["tools.check_gpu", "metal"],
        ["tools.check_gpu", "metallib"],
    ]


def test_report_of_what_failed(fake):
    kernel = {"name": "ncps_x<A=1>", "error": "program_source:3: no", "text": "int x;\n```"}
    values = {"passed": 1, "error": 1, "failures": ["FAILED case\nwhy"], "kernel": kernel}
    status, text, _ = fake(values=values, pytest=(1, PYTEST), check_gpu=(1, ""), benchmarks=(1, ""))
    assert status == 1
    for line in (
        "| Tests | **failed** | 2 failed, 30 passed, 1 skipped in 4.2s |",
        "| Values and gradients on the GPU, metal | **failed** | 1 cases passed, 1 failed |",
        "FAILED tests/test_a.py::test_b - AssertionError",
        "The first kernel that fails: `ncps_x<A=1>`",
        "program_source:3: no",
        "````\nint x;\n```\n````",
    ):
        assert line in text


def test_report_of_a_mac_without_gpu_passes_and_measures_the_cpu(fake):
    status, text, asked = fake(check_gpu=(2, "the backend metal can't run here: no GPU\n"))
    assert status == 0
    assert "| metal | - | not run: the backend metal can't run here: no GPU |" in text.replace(
        "Values and gradients on the GPU, ", ""
    )
    assert any("benchmarks" in words and "cpu" in words for words in asked)


def test_report_of_a_crash_names_the_last_case(fake):
    status, text, _ = fake(check_gpu=(-11, "passed one\npassed two\n"))
    assert status == 1
    assert "**failed** | exit status -11 after 1 s" in text
    assert "passed two" in text


def test_report_of_a_failed_build_ends_there(fake):
    status, text, asked = fake(make=(2, "error: no compiler\n"))
    assert (status, len(asked)) == (1, 1)
    assert "error: no compiler" in text


def test_report_fits_an_issue_and_names_no_folder(fake, tool):
    long = "\n".join(f"{ROOT}/tests/{i} {Path.home()}/x" for i in range(9000))
    values = {"passed": 0, "error": 1, "failures": [long], "kernel": None}
    _, text, _ = fake(values=values, check_gpu=(1, ""), pytest=(1, long), benchmarks=(1, long))
    assert 40_000 < len(text) <= tool.LIMIT
    assert text.count("characters left out") >= 2
    assert str(ROOT) not in text
    assert f"{Path.home()}/" not in text
    assert text.count("\n## ") >= 3
    assert len([line for line in text.splitlines() if line.startswith("```")]) % 2 == 0


def test_derived_times_are_the_plans(tool, tmp_path):
    from tools.plans import chips, table

    monkey = {"fused": {"samples": [0.002, 0.003, 0.001]}}
    rows = ("ltc-B64T128I64H64U6 fwd", "ltc-B1T1I64H64U6 step", "of another version")
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": {name: {"cells": monkey} for name in rows}}))
    lines = tool.derived(path).splitlines()
    seconds = [table.seconds(table.ltc(64, units=64), chip) for chip in chips.CHIPS]
    times = " / ".join(f"{1e3 * s:.2g}" for s in seconds)
    assert lines[2] == f"| {rows[0]} | 2 | {times} |"
    assert lines[3:5] == [f"| {rows[1]} | 2 | - |", f"| {rows[2]} | 2 | - |"]


def test_run_stops_a_command_that_hangs(tool):
    done = tool.run(
        [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"], 2
    )
    assert done.status is None
    assert done.output == "begun\n"
    assert "ran out of time" in done.says


def make_with_pythons(tmp_path, new_enough):
    """`make` with interpreters that only say whether they are new enough."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python3", *(f"python3.{minor}" for minor in range(10, 15))):
        path = folder / name
        path.write_text(f"#!/bin/sh\n[ {name} = {new_enough} ]\n")
        path.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    command = [
        "make",
        "-f",
        str(ROOT / "Makefile"),
        f"VENV={tmp_path}/venv",
        f"{tmp_path}/venv/created",
    ]
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS")}
    return subprocess.run(
        command, env=environ | {"PATH": path}, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_make_takes_the_first_python_that_is_new_enough(tmp_path):
    done = make_with_pythons(tmp_path, "python3.12")
    assert f"python3.12 -m venv {tmp_path}/venv" in done.stdout


def test_make_says_that_no_python_is_new_enough(tmp_path):
    done = make_with_pythons(tmp_path, "none")
    assert done.returncode != 0
    assert "python3 is not Python 3.10 or newer" in done.stderr
    assert "venv" not in done.stdout
