"""Compiles kernels in the root folder that tools/agx/run made, reads what the compiler counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .quads import swapped

CHIPS = ("m1", "m2")
FOLDER = "agx/work"  # in the root folder
MESA = {
    "OCL_ICD_VENDORS": "/etc/OpenCL/vendors/rusticl.icd",
    "RUSTICL_ENABLE": "asahi",
    "LD_PRELOAD": "/agx/driver.so",
    "MESA_SHADER_CACHE_DISABLE": "true",  # what comes from the cache is not counted
    "AGX_MESA_DEBUG": "shaderdb",
}
POCL = {"OCL_ICD_VENDORS": "/etc/OpenCL/vendors/pocl.icd"}
STATISTICS = re.compile(
    r"CS shader: (?P<instructions>\d+) instrs, (?P<alu>\d+) alu, \d+ fscib, (?P<ic>\d+) ic, "
    r"(?P<code>\d+) code size, (?P<halves>\d+) gprs, \d+ uniforms, (?P<scratch>\d+) scratch, "
    r"(?P<allowed>\d+) threads, \d+ loops, (?P<spills>\d+):(?P<fills>\d+) spills:fills"
)


class Figures(NamedTuple):
    """What the compiler counts of one kernel. Each instruction counts once, in a loop or not."""

    registers: int  # of 32 bits, for a thread
    allowed: int  # threads of a threadgroup, with so many registers
    spills: int
    fills: int
    scratch: int  # bytes of a thread
    instructions: int
    code: int  # bytes
    alu: int  # cycles of float, select, compare and integer arithmetic
    ic: int  # cycles of integer products and of exp2, reciprocal and their like


class Root:
    """The root folder of Debian packages."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.work = folder / FOLDER
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def run(self, command: list[str], **environment) -> subprocess.CompletedProcess:
        """A command inside, in the folder `work`."""
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/root"} | environment
        pairs = [f"{name}={value}" for name, value in environment.items()]
        inside = ["/usr/bin/env", "-i", "-C", f"/{FOLDER}", *pairs, *command]
        root = ["chroot", str(self.folder)]
        if "pocl" in environment.get("OCL_ICD_VENDORS", ""):  # it asks for the machine's memory
            mounts = (
                'for f in proc sys dev; do mount --rbind /$f "$0/$f"; done; exec chroot "$0" "$@"'
            )
            root = ["unshare", "--mount", "sh", "-c", mounts, str(self.folder)]
        return subprocess.run(
            [*root, *inside], capture_output=True, text=True, errors="replace", check=False
        )

    def spirv(self, texts: dict[str, str]) -> None:
        """Compile {file's stem: text} to SPIR-V. Raises RuntimeError with the compiler's words."""

        def compile_one(item):
            stem, text = item
            (self.work / f"{stem}.clcpp").write_text(text, encoding="utf-8")
            done = self.run(["/agx/compile.sh", f"{stem}.clcpp"])
            if done.returncode or "warning" in done.stderr:
                raise RuntimeError(f"{stem}.clcpp is no SPIR-V:\n{done.stderr[-2000:]}")
            file = self.work / f"{stem}.spv"
            file.write_bytes(swapped(file.read_bytes()))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, texts.items()))

    def arrays_in_memory(self, stem: str) -> int:
        """Arrays of a thread that clang did not put into registers."""
        return (self.work / f"{stem}.ll").read_text(encoding="utf-8").count("= alloca ")

    def machine_code(self, stems: list[str], chip: str) -> dict[str, Figures | str]:
        """What the compiler counts of each, or why it refuses."""
        files, found = [f"{stem}.spv" for stem in stems], {}
        while len(found) < len(files):
            rest = files[len(found) :]
            done = self.run(["/agx/judge", "compile", *rest], AGX_CHIP=chip, **MESA)
            new = read(done.stderr)
            if f"device Apple {chip.upper()} " not in done.stderr:
                raise RuntimeError(f"the compiler is for no {chip}:\n{done.stderr[-2000:]}")
            if not new or (len(new) < len(rest) and not done.returncode):
                raise RuntimeError(f"the compiler did not start:\n{done.stderr[-2000:]}")
            if done.returncode:  # the compiler crashed on the last file; go on with the next
                new[list(new)[-1]] = f"the compiler ended with {done.returncode}"
            found |= new
        return {stem: found[f"{stem}.spv"] for stem in stems}

    def versions(self) -> str:
        """Of the packages that decide what is counted."""
        names = ["mesa-opencl-icd", "clang-21", "llvm-spirv-21"]
        done = self.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *names])
        return done.stdout.removesuffix(", ")


def read(log: str) -> dict[str, Figures | str]:
    """{file: figures or why it was refused} of the output of `judge compile`."""
    found = {}
    for part in re.split(r"^@ ", log, flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("\n")
        # The last is the one without an offset of the grid, which is how kernels are launched.
        counted = [m.groupdict() for m in STATISTICS.finditer(text)]
        allows = re.search(r"^allows (\d+) threads", text, re.MULTILINE)
        if not counted or not allows:
            found[name] = " ".join(text.split())[-300:] or "nothing was counted"
            continue
        last = {key: int(value) for key, value in counted[-1].items()}
        registers = -(-last.pop("halves") // 2)
        last["allowed"] = min(last["allowed"], int(allows[1]))
        found[name] = Figures(registers=registers, **last)
    return found


def judge(root: Root, variants) -> dict[str, dict]:
    """{variant's name: {"launched": threads, "arrays": of a thread in memory, chip: Figures or why
    it was refused}}.
    """
    stems = {f"{n:04}": variant for n, variant in enumerate(variants)}
    root.spirv({stem: variant.text for stem, variant in stems.items()})
    with ThreadPoolExecutor(len(CHIPS)) as pool:
        chips = list(pool.map(lambda chip: root.machine_code(list(stems), chip), CHIPS))
    return {
        variant.name: {
            "launched": variant.threads,
            "arrays": root.arrays_in_memory(stem),
            **{chip: found[stem] for chip, found in zip(CHIPS, chips, strict=True)},
        }
        for stem, variant in stems.items()
    }
