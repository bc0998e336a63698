"""Runs the C++ preprocessor over Metal text, as Metal's own would, with Apple's headers empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import compiler, words


def empty_headers() -> Path:
    """A folder with one empty file for each <metal_*> header: the stand-in comes in later."""
    folder = compiler.cache_dir() / f"headers-{compiler.digest(*words.HEADERS)}"
    if not folder.exists():
        folder.mkdir(exist_ok=True)
        for name in words.HEADERS:
            (folder / f"metal_{name}").touch()
    return folder


def preprocess(
    text: str,
    file: str,
    metal_version: int,
    includes: Sequence[str] = (),
    defines: Sequence[str] = (),
) -> str:
    """The text with its includes and macros expanded and line markers left in.

    The stand-in's macros (thread, device, ...) are not defined here, so that the token rewrite
    still sees Metal.
    """
    command = [
        *compiler.toolchain().clang,
        *("-E", "-x", "c++", "-std=c++17", "-nostdinc", "-nostdinc++", "-undef"),
        *("-D__METAL__=1", f"-D__METAL_VERSION__={metal_version}", "-D__METAL_MACOS__=1"),
        *("-DMETAL_FUNC=inline __attribute__((__always_inline__))", "-Wno-everything"),
        *("-I", str(empty_headers())),
        *(part for folder in includes for part in ("-I", str(folder))),
        *(part for macro in defines for part in ("-D", macro)),
        "-",
    ]
    done = compiler.run(command, stdin=f'#line 1 "{file}"\n{text}')
    if done.returncode:
        raise compiler.fail(file, done.stderr)
    return done.stdout
