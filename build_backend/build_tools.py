"""What a build of the native module needs from the machine. It is checked before CMake runs, whose
message about a missing compiler fills a page.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

OLDEST_PYTHON = (3, 10)  # as in pyproject.toml; pip looks there only after the build hooks ran
COMPILERS = ("c++", "g++", "clang++")
WITHOUT = "or set MLX_NCPS_NO_NATIVE=1 for a pure-Python install."
_PROGRAM = "#include <span>\n#include <thread>\nint main() { return std::span<int>().size(); }\n"


def check(config_settings: dict | None, native: bool) -> None:
    """Raises SystemExit with one sentence for the first thing that is missing; `native`: whether
    the native module is built.
    """
    missing = python_fault()
    if native and not missing:
        missing = headers_fault()
    if native and not missing and not names_compiler(config_settings):
        missing = compiler_fault()
    if missing:
        raise SystemExit(f"[mlx-ncps build] {missing}")


def check_packages(requirements: list[str]) -> None:
    """Raises SystemExit when packages are missing, as after pip's --no-build-isolation."""
    missing = [name for name in ("cmake", "nanobind", "mlx") if not _has(name)]
    if missing:
        wanted = " ".join(f'"{r}"' for r in ("scikit-build-core", "cmake", "ninja", *requirements))
        raise SystemExit(
            f"[mlx-ncps build] there is no {', no '.join(missing)}; without build isolation, first "
            f"pip install {wanted}"
        )


def _has(name: str) -> bool:
    return bool(shutil.which(name) or importlib.util.find_spec(name))


def python_fault() -> str:
    """A sentence when Python is too old, else nothing."""
    if sys.version_info >= OLDEST_PYTHON:
        return ""
    wanted, found = (".".join(map(str, v[:2])) for v in (OLDEST_PYTHON, sys.version_info))
    return f"mlx-ncps needs Python {wanted} or newer, got {found} ({sys.executable})."


def headers_fault() -> str:
    """A sentence when Python's C headers are missing, else nothing."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if header.is_file():
        return ""
    return (
        f"the native module needs Python's headers, and there is no {header}: install them "
        f"(python3-dev on Debian and Ubuntu, python3-devel on Fedora), {WITHOUT}"
    )


def names_compiler(config_settings: dict | None) -> bool:
    """Whether the user named a compiler in an option of CMake, which only CMake can judge."""
    variables = ("CMAKE_ARGS", "CMAKE_TOOLCHAIN_FILE", "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE")
    settings = " ".join(f"{key}={value}" for key, value in (config_settings or {}).items())
    return any(os.environ.get(name) for name in variables) or "cmake." in settings


def compiler_fault() -> str:
    """A sentence when there is no compiler that makes a C++20 program, else nothing."""
    named = shlex.split(os.environ.get("CXX", ""))
    found = [named] if named else [[name] for name in COMPILERS if shutil.which(name)]
    install = "install one (g++ on Debian and Ubuntu, gcc-c++ on Fedora, Xcode's tools on macOS)"
    if not found:
        return f"the native module needs a C++20 compiler, and none is found: {install}, {WITHOUT}"
    if not shutil.which(named[0] if named else found[0][0]):
        return f"CXX={shlex.join(named)} is not a program: set CXX to a C++20 compiler, {WITHOUT}"
    reason = refusal(found[0])
    if not reason:
        return ""
    name, verdict = shlex.join(found[0]), f"makes no C++20 program ({reason})"
    if named:
        return f"{name}, from the variable CXX, {verdict}: unset CXX or name another, {WITHOUT}"
    return f"{name} {verdict}: {install}, {WITHOUT}"


def refusal(compiler: list[str]) -> str:
    """The first error of this compiler over a C++20 program; nothing when it compiles and links."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.cpp")
        source.write_text(_PROGRAM)
        command = [*compiler, "-std=c++20", str(source), "-o", str(source.with_suffix(""))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
    lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
    errors = [line for line in lines if "error" in line] or lines
    return errors[0].replace(f"{folder}/", "") if done.returncode else ""
