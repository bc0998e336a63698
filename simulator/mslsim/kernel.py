"""Compiles one kernel of a Metal text into an object that launch.py can run."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from . import compiler
from .errors import Finding, LanguageError
from .launcher import Slot, launcher, most_threads
from .lint import lint
from .preprocess import preprocess
from .rewrite import not_finite_in_fast_math, reserved_words, rewrite
from .scan import scan
from .tokens import FrontEndError, Tokens, tokenize

STAND_IN = compiler.HERE / "metal"
_LANGUAGE = (
    *(
        "-x",
        "clcpp",
        "-cl-std=clc++2021",
        "-cl-no-stdinc",
        "-fno-color-diagnostics",
        "-ferror-limit=5",
    ),
    *("-Xclang", "-cl-ext=-all,+cl_khr_fp16,+__opencl_c_generic_address_space"),
    *("-Wno-everything", "-Wconversion", "-Wno-sign-conversion", "-Wno-shorten-64-to-32"),
    *("-Wno-implicit-int-conversion", "-Wuninitialized", "-Wconditional-uninitialized"),
    *("-Wsometimes-uninitialized", "-Wvla", "-Werror=vla"),
    # half and bfloat are rounded after every operation, a * b + c may fuse: as on the GPU
    *("-ffp-contract=on", "-Xclang", "-fbfloat16-excess-precision=none"),
    *("-isystem", str(STAND_IN)),
)
_CODE = (
    *("-g1", "-fPIC", "-fno-vectorize", "-fno-slp-vectorize", "-fno-math-errno"),
    "-fno-strict-aliasing",
)
_FAST = ("-O2",)
_CHECKED = (
    *("-O1", "-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0"),
    *("-mllvm", "-tsan-instrument-atomics=0", "-ftrivial-auto-var-init=pattern"),
    "-fsanitize=array-bounds,integer-divide-by-zero,float-cast-overflow,"
    "signed-integer-overflow,alignment",
)


class Kernel:
    """One kernel, compiled. Raises CompileError or LanguageError when the text is not Metal.

    Args:
        text: Metal source.
        name: Host name of the kernel, or the function's name.
        file: Name of the text in messages.
        user_files: Names, from `#line` in the text, of what the lint judges.
        includes, defines: As for a compiler.
        constants: Values of function constants, by index or name.
        metal_versions: Levels at which the text must be valid; it runs as the first.
        checked: Compile for the memory model.
        judge: Whether to apply the lint.
        allow: Kinds of findings of the lint that do not raise.
        math_mode: As Metal compiles: with "fast" there is no NaN and no infinity.
        unsigned_overflow: Whether unsigned integers that wrap are findings.
    """

    def __init__(
        self,
        text: str,
        name: str,
        *,
        file: str = "kernel.metal",
        user_files: Iterable[str] = (),
        includes: Sequence[str] = (),
        defines: Sequence[str] = (),
        constants: Mapping[int | str, object] | None = None,
        metal_versions: Sequence[int] = (310,),
        checked: bool = True,
        judge: bool = True,
        allow: Iterable[str] = (),
        math_mode: str = "safe",
        unsigned_overflow: bool = False,
    ):
        self.name = name
        self.checked = checked
        self.warnings: list[Finding] = []
        self.user_files = users = frozenset(user_files) or frozenset((file,))
        units = [
            _Unit(name, text, file, users, includes, defines, constants or {}, version)
            for version in metal_versions
        ]
        if judge:
            self._judge(units, set(allow), math_mode)
        _, slots, most, rewritten = units[0].parts
        self.slots: list[Slot] = slots
        self.most_threads: int | None = most
        self.threadgroup_names: dict[int, str] = rewritten.threadgroup_names
        self.object_path: Path = units[0].build(checked, unsigned_overflow)

    def _judge(self, units: list[_Unit], allow: set[str], math_mode: str) -> None:
        # What is the same text at two levels is judged at the older: a level takes nothing away.
        oldest_first = sorted(units, key=lambda unit: unit.version)
        different = {unit.own_text(): unit for unit in reversed(oldest_first)}.values()
        findings = list(dict.fromkeys(f for unit in different for f in unit.findings()))
        if math_mode == "fast":
            findings += not_finite_in_fast_math(units[0].tokens(), self.user_files)
        self.warnings = [f for f in findings if f.severity == "warning" or f.kind in allow]
        errors = [f for f in findings if f not in self.warnings]
        if errors:
            raise LanguageError(self.name, errors)


@functools.lru_cache(maxsize=16)  # language levels mostly share their expanded text
def _front_end(expanded, file, kernel, constants, user_files):
    """(text for clang, the kernel's slots, its bound on threads, what the rewrite noted)."""
    tokens = tokenize(expanded, file)
    reserved = reserved_words(tokens, user_files)
    if reserved:
        raise LanguageError(kernel, reserved)
    declared = scan(tokens)
    rewritten = rewrite(tokens, declared, dict(constants))
    entry, slots = launcher(declared, kernel)
    body = f'#include "stdlib.h"\n# 1 "{file}"\n{rewritten.text}{entry}'
    # flags of line markers (entering, leaving, system header) mean nothing after the rewrite
    body = re.sub(r'^(# \d+ "[^"\n]*").*$', r"\1", body, flags=re.M)
    return body, slots, most_threads(declared, kernel), rewritten


class _Unit:
    """A kernel's text at one language level, rewritten."""

    def __init__(self, kernel, text, file, user_files, includes, defines, constants, version):
        self.kernel = kernel
        self.file = file
        self.user_files = user_files
        self.version = version
        self.constants = tuple(sorted(constants.items(), key=str))
        self.expanded = preprocess(text, file, version, includes, defines)

    @functools.cached_property
    def parts(self) -> tuple:
        """What _front_end makes of the text: of a level that is not judged, nothing."""
        users = frozenset(self.user_files)
        try:
            return _front_end(self.expanded, self.file, self.kernel, self.constants, users)
        except FrontEndError as error:
            finding = Finding("front-end", self.file, str(error))
            raise LanguageError(self.kernel, [finding]) from error

    def tokens(self) -> Tokens:
        return tokenize(self.expanded, self.file)

    def own_text(self) -> str:
        """The expanded text of the user's own files."""
        parts = re.split(r'^# \d+ "([^"\n]*)".*$', self.expanded, flags=re.M)
        return "".join(
            b for a, b in zip(parts[1::2], parts[2::2], strict=True) if a in self.user_files
        )

    def _command(self, *flags: str) -> list[str]:
        return [
            *compiler.toolchain().clang,
            *_LANGUAGE,
            f"-D__METAL_VERSION__={self.version}",
            *flags,
        ]

    def _key(self, *more: str) -> str:
        headers = [path.read_text() for path in sorted(STAND_IN.iterdir())]
        tools = compiler.toolchain()
        command = [*tools.link, *self._command(*more)]
        return compiler.digest(tools.version, *headers, self.parts[0], *command)

    def findings(self) -> list[Finding]:
        """What the lint says, from the cache when it said it before."""
        rules = [(compiler.HERE / f).read_text() for f in ("lint.py", "ast_dump.py", "words.py")]
        key = self._key("lint", *rules, *sorted(self.user_files))
        path = compiler.cached(f"{key}.lint.json", self._lint)
        return [Finding(**entry) for entry in json.loads(path.read_text())]

    def _lint(self, path: Path) -> None:
        source = self._write_source(path)
        done = compiler.run(
            [*self._command("-fsyntax-only", "-Xclang", "-ast-dump"), str(source)],
        )
        source.unlink()
        if done.returncode:
            raise compiler.fail(self.kernel, done.stderr)
        found = self.parts[3].findings + lint(
            done.stdout, done.stderr, self.version, self.user_files
        )
        path.write_text(json.dumps([asdict(f) for f in found]))

    def build(self, checked: bool, unsigned_overflow: bool) -> Path:
        """The shared object, from the cache when it is there."""
        flags = (*_CODE, *(_CHECKED if checked else _FAST), *compiler.cpu_flags())
        if checked and unsigned_overflow:
            flags += ("-fsanitize=unsigned-integer-overflow",)

        def make(path: Path) -> None:
            source, compiled = self._write_source(path), path.with_suffix(".o")
            done = compiler.run([*self._command(*flags), "-c", str(source), "-o", str(compiled)])
            source.unlink()
            if done.returncode:
                raise compiler.fail(self.kernel, done.stderr)
            link = [*compiler.toolchain().link, "-shared", "-o", str(path), str(compiled)]
            done = compiler.run(link)
            compiled.unlink()
            if done.returncode:
                raise RuntimeError(f"[mslsim] linking failed:\n{done.stderr}")

        return compiler.cached(f"{self._key(*flags)}.so", make)

    def _write_source(self, path: Path) -> Path:
        source = path.with_suffix(".clcpp")
        source.write_text(self.parts[0])
        return source
