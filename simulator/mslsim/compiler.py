"""Finds the compiler, runs it, and keeps what it made in a cache of the user's."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import CompileError, Finding

HERE = Path(__file__).resolve().parent
OLDEST_CLANG = 17
NAMES = ("clang-19", "clang-20", "clang-21", "clang-22", "clang-18", "clang-17", "clang")
CACHE_DAYS = 30


@dataclass(frozen=True)
class Toolchain:
    """Commands: `clang` compiles kernels, `link` links them, `cxx` builds the runtime."""

    clang: tuple[str, ...]
    link: tuple[str, ...]
    cxx: tuple[str, ...]
    version: str


def run(command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess:
    """Run a command to its end, with its output as text."""
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, errors="replace", check=False
    )


def _candidates():
    """(clang, link, cxx) commands, in the order of preference."""
    named = tuple(shlex.split(os.environ.get("MSLSIM_CLANG", "")))
    if named:
        is_zig = "ziglang" in named or Path(named[0]).name == "zig"
        if is_zig and named[-1] in ("c++", "cc", "clang"):
            named = named[:-1]
        yield _zig(named) if is_zig else _clang(named)
        return
    for name in NAMES:
        path = shutil.which(name)
        if path:
            yield _clang((path,))
    ziglang = importlib.util.find_spec("ziglang")
    if ziglang:
        yield _zig((str(Path(ziglang.origin).parent / "zig"),))


def _clang(command):
    return command, command, (*command, "--driver-mode=g++")


def _zig(command):
    # `zig c++` does not know C++ for OpenCL, the plain clang inside it does. The system's compiler
    # builds the runtime, where there is one: zig would build its C++ library first, for minutes,
    # and link handlers of undefined behaviour that end the process.
    system = next(filter(shutil.which, (os.environ.get("CXX", ""), "c++", "g++")), None)
    cxx = (system,) if system else (*command, "c++", "-fno-sanitize=undefined")
    return (*command, "clang"), (*command, "ld.lld"), cxx


@functools.cache
def find() -> tuple[Toolchain | None, str]:
    """The toolchain, or None and the reason why there is none."""
    if platform.system() != "Linux":
        return None, f"the simulator runs on Linux, not on {platform.system()}"
    if platform.machine() not in ("x86_64", "aarch64"):
        return None, f"the simulator has no context switch for {platform.machine()}"
    refused = []
    for clang, link, cxx in _candidates():
        try:
            banner = run([*clang, "--version"]).stdout
        except OSError as error:
            refused.append(f"{shlex.join(clang)}: {error.strerror}")
            continue
        version = re.search(r"clang version (\d+)[\d.]*", banner)
        if version and int(version.group(1)) >= OLDEST_CLANG:
            return Toolchain(clang, link, cxx, version.group()), ""
        refused.append(f"{shlex.join(clang)} is {version.group() if version else 'not clang'}")
    detail = f" ({'; '.join(refused)})" if refused else ""
    return None, (
        f"no clang >= {OLDEST_CLANG} found{detail}: install clang-19, "
        "or ziglang with pip, or set MSLSIM_CLANG"
    )


def toolchain() -> Toolchain:
    """The toolchain; RuntimeError when there is none."""
    found, reason = find()
    if found is None:
        raise RuntimeError(f"[mslsim] {reason}.")
    return found


def available() -> tuple[bool, str]:
    """(whether the simulator can run here, why not)."""
    found, reason = find()
    return found is not None, reason


def require() -> None:
    """Skip the running pytest test where there is no compiler; fail it under MSLSIM_REQUIRE=1."""
    ok, reason = available()
    if ok:
        return
    if os.environ.get("MSLSIM_REQUIRE", "0") not in ("", "0"):
        raise RuntimeError(f"[mslsim] MSLSIM_REQUIRE is set, but {reason}.")
    import pytest

    pytest.skip(f"mslsim: {reason}")


@functools.cache
def cpu_flags() -> tuple[str, ...]:
    """Compiler flags for the instructions that make half and fma fast, where the CPU has them."""
    if platform.machine() != "x86_64":
        return ()
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    return tuple(f"-m{name}" for name in ("fma", "f16c") if f" {name}" in info)


@functools.cache
def cache_dir() -> Path:
    """MSLSIM_CACHE, else a folder of the user's cache, else one of the temporary folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [Path(home) / "mslsim", Path(tempfile.gettempdir()) / f"mslsim-{os.getuid()}"]
    if os.environ.get("MSLSIM_CACHE"):
        places = [Path(os.environ["MSLSIM_CACHE"])]
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        # Objects from here are loaded into the process: nobody else may have put them there.
        if place.stat().st_uid == os.getuid() and os.access(place, os.W_OK):
            _drop_old(place)
            return place
    raise RuntimeError(f"[mslsim] no writable cache among {', '.join(map(str, places))}.")


def _drop_old(place: Path) -> None:
    limit = time.time() - CACHE_DAYS * 86400
    for entry in place.iterdir():
        try:
            if entry.is_file() and entry.stat().st_mtime < limit:
                entry.unlink()
        except FileNotFoundError:  # another process was quicker
            continue


def digest(*parts: str) -> str:
    """A name for what these parts determine."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The file `name` of the cache; `make(path)` writes it first when it is missing."""
    path = cache_dir() / name
    if path.exists():
        os.utime(path)
    else:
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
        try:
            make(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return path


def fail(kernel: str, message: str) -> CompileError:
    """The error for what a compiler printed: its errors, each with the kernel's line."""
    errors = re.findall(r"^([^\s:][^:\n]*:\d+):\d+: (?:fatal )?error: (.*)$", message, re.M)
    findings = [Finding("compile", os.path.basename(where), text) for where, text in errors]
    return CompileError(kernel, findings or [Finding("compile", "", message.strip())])
