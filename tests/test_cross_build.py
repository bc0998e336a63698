"""tools/cross_macos: the stand-ins of Apple's tools; the build that uses them is its `run`."""

import os
import subprocess
from pathlib import Path

import pytest

CROSS = Path(__file__).resolve().parent.parent / "tools" / "cross_macos"


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
