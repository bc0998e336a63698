"""What is built for macOS elsewhere: the stand-ins of Apple's tools in tools/cross_macos (the build
that uses them is its script `run`), and the source of all kernels for Apple's Metal compiler.
"""

import os
import re
import subprocess
import sys

import pytest

from tests.support import ROOT

CROSS = ROOT / "tools" / "cross_macos"


def call(tool, *arguments, **variables):
    return subprocess.run(
        [CROSS / "bin" / tool, *arguments],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def zig(tmp_path):
    """A compiler that prints the arguments it gets."""
    path = tmp_path / "zig"
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


def test_compiler_drops_only_what_zig_lacks(zig):
    linked = call(
        "c++", "-bundle", "-flto=thin", "-Wl,-dead_strip", "-O3", "a.o", "-o", "_ext.so", ZIG=zig
    )
    assert " ".join(linked.stdout.split()) == (
        "c++ -target aarch64-macos.14.0 -shared -O3 a.o -o _ext.so -nostdlib++"
    )
    compiled = call("c++", "-flto=thin", "-DX=a b", "-c", "a.cpp", ZIG=zig)
    assert compiled.stdout.splitlines()[3:] == ["-DX=a b", "-c", "a.cpp"]


def test_xcrun_records_calls_of_metal_and_writes_their_outputs(tmp_path):
    source, output, log = tmp_path / "a.metal", tmp_path / "a.air", tmp_path / "log"
    source.touch()
    command = ["-sdk", "macosx", "metal", "-c", str(source), "-o", str(output)]
    assert call("xcrun", *command, XCRUN_LOG=log).returncode == 0
    assert output.exists()
    assert log.read_text() == " ".join(command) + "\n"
    source.unlink()
    assert call("xcrun", *command, XCRUN_LOG=log).returncode != 0


def test_xcrun_has_metal_and_nothing_else(tmp_path):
    log = tmp_path / "log"
    assert call("xcrun", "-sdk", "macosx", "metal", "--version", XCRUN_LOG=log).returncode == 0
    assert call("xcrun", "--find", "tapi", XCRUN_LOG=log).returncode != 0
    assert not log.exists()


def test_metal_source_has_every_kernel_as_a_function(tmp_path):
    output = tmp_path / "kernels.metal"
    command = [sys.executable, "-m", "tools.metal_source", output]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    functions = re.findall(
        r"\[\[kernel, max_total_threads_per_threadgroup\(\d+\)\]\] void ncps_(\w+)\(",
        output.read_text(),
    )
    assert len(functions) == len(set(functions))
    for path in (ROOT / "metal").glob("*.metal"):
        assert any(name.startswith(path.stem) for name in functions), path.name


def test_metal_source_names_a_kernel_that_no_case_launches(tmp_path, monkeypatch, capsys):
    from tools import metal_source

    (tmp_path / "metal").mkdir()
    (tmp_path / "metal" / "ltc_new.metal").touch()
    monkeypatch.setattr(metal_source, "ROOT", tmp_path)
    monkeypatch.setattr(metal_source, "record", lambda: metal_source.Source("", "", None))
    assert metal_source.main(str(tmp_path / "kernels.metal")) == 1
    assert "ltc_new.metal" in capsys.readouterr().err
