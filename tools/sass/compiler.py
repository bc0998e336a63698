"""Compiles a kernel's CUDA text for sm_90a and counts its machine code."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mlx_ncps.backends.gpu.geometry import CUDA
from mlx_ncps.backends.gpu.trace import runner, trace_cfc, trace_ltc

from tests.support.as_cuda import cubin, cuda_text, outside_registers, registers
from tools.agx import variants as grid

from . import machine_code

ARCHITECTURE = "sm_90a"


LTC = (
    *({"units": units} for units in (16, 32, 64)),
    {"units": 64, "synapses": grid.star(64, 16, 16)},
    *({"units": 128, "batch": batch} for batch in (8, 1024)),
    {"units": 160, "batch": 1024, "synapses": grid.star(160, 100, 100)},
)
USUAL = {"mode": "default", "activation": "lecun_tanh", "scalar_ts": True}
CFC = (
    {"units": 32, "backbone": (32,), "batch": 8},
    *({"units": 128, "backbone": (128,), "batch": batch} for batch in (8, 1024)),
    {"units": 128, "backbone": (128,), "batch": 1024, "scalar_ts": False},
    {"units": 64, "backbone": (), "batch": 1024, "mode": "pure"},
    {"units": 400, "backbone": (400,), "batch": 8},  # by products
)


class Figures(NamedTuple):
    """What the compiler says of a variant, and what its code is."""

    registers: int
    stack: int  # bytes of a thread
    stores: int  # bytes that a thread spills
    loads: int  # and loads again
    code: int  # bytes
    instructions: int  # of the innermost loop with most work; 0 without one
    work: int  # its gates, or its products
    mix: dict[str, int]  # its instructions by kind


class Recorder(grid.Recorder):
    """Hears of launches; each variant once, as CUDA."""

    def text(self, kernel: dict, call: dict) -> str:
        """The text that is compiled."""
        inputs = zip(kernel["input_names"], call["inputs"], strict=True)
        return cuda_text(
            "judged",
            kernel["header"],
            kernel["source"],
            [(name, array.dtype) for name, array in inputs],
            kernel["output_names"],
            call["template"],
        )


def variants() -> list[grid.Variant]:
    """Those to count, by name: of training calls of usual sizes, as the backend cuda launches them.
    nvdisasm takes half a second for each, so not all that tools/agx judges.
    """
    recorder = Recorder()
    run = runner(recorder, CUDA, cuda=True)
    for facts in LTC:
        trace_ltc(run, **grid.LTC | facts, training=True)
    for facts in CFC:
        trace_cfc(run, **grid.CFC | USUAL | facts, training=True)
    return [recorder.found[name] for name in sorted(recorder.found)]


def work_of(name: str) -> str:
    """What the work of a variant is: the name that its instructions begin with."""
    return "FFMA" if name.startswith("cfc_") else "MUFU.EX2"


def disassembler() -> str | None:
    """The path of nvdisasm, of a CUDA toolkit or of NVIDIA's wheel; None where it is missing."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    wheels = (path for folder in folders or [] for path in Path(folder).glob("*/bin/nvdisasm"))
    return shutil.which("nvdisasm") or next((str(path) for path in wheels), None)


def listing(binary: bytes, tool: str) -> str:
    """The disassembly of a cubin. Raises RuntimeError with what the tool says."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"[sass] nvdisasm: {done.stderr.strip()}")
    return done.stdout


def count(variant: grid.Variant, tool: str) -> Figures:
    """The figures of a variant. Raises RuntimeError where it doesn't compile."""
    status, log, binary = cubin(variant.text, ARCHITECTURE)
    if status:
        raise RuntimeError(f"[sass] {variant.name}:\n{log}")
    found = machine_code.read(listing(binary, tool))
    loop = machine_code.hottest(found, work_of(variant.name)) or machine_code.Loop(0, {}, 0)
    size = machine_code.SIZE * len(found)
    return Figures(registers(log), *outside_registers(log)[:3], size, *loop_figures(loop))


def loop_figures(loop: machine_code.Loop) -> tuple[int, int, dict[str, int]]:
    """(instructions, work, mix) of a loop."""
    return loop.instructions, loop.work, loop.mix
