"""The training calls of the benchmarks under Nsight Compute: which of our kernels take the time,
and what keeps them.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
from mlx_ncps import use_backend

from benchmarks.rows import ROWS
from tests.support.cases import LtcCase, make
from tests.support.running import problem

ROOT = Path(__file__).resolve().parent.parent
METRICS = {  # of Nsight Compute
    "gpu__time_duration.sum": "ns",
    "launch__registers_per_thread": "registers",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps %",
    "smsp__issue_active.avg.pct": "issue %",
    "l1tex__throughput.avg.pct_of_peak_sustained_elapsed": "L1 %",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2 %",
}


def sequences(backend: str) -> bool:
    """One training call of each shape of the benchmarks."""
    cases = dict.fromkeys(row.case for row in ROWS if row.mode != "step")
    for case in cases:
        lists = isinstance(case, LtcCase) and make(case).params.mask is not None
        f, leaves, cotangents = problem(case, synapses=lists)
        with use_backend(backend):
            mx.eval(mx.vjp(f, list(leaves.values()), [cotangents]))
        print(case, flush=True)
    return True


def profile(backend: str, out: Path) -> bool:
    """The step `sequences` of tools/check_gpu.py under Nsight Compute: a line for each kernel of
    ours, by the time of all its launches.
    """
    if not shutil.which("ncu"):
        print("profile: ncu is not on the PATH; it comes with the CUDA toolkit")
        return False
    command = ["ncu", "--csv", "--page", "raw", "--kernel-name", "regex:custom_kernel_ncps"]
    command += ["--metrics", ",".join(METRICS), sys.executable, "-m", "tools.check_gpu", backend]
    done = subprocess.run(
        [*command, "--steps", "sequences"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / f"profile-{backend}.csv").write_text(done.stdout)
    print("\n".join(profiled(done.stdout)) or done.stdout + done.stderr)
    return done.returncode == 0


def profiled(printed: str) -> list[str]:
    """Lines of a table from what Nsight Compute printed."""
    lines = [line for line in printed.splitlines() if line.startswith('"')]
    kernels: dict[str, list] = {}
    for row in [*csv.DictReader(lines)][1:]:  # the first has the units
        values = [float(row[metric].replace(",", "")) for metric in METRICS]
        kernels.setdefault(row["Kernel Name"].split("(")[0].split("::")[-1], []).append(values)
    found = []
    for name, launches in kernels.items():
        times, *rest = zip(*launches, strict=True)
        found.append((sum(times), len(launches), name, *map(statistics.fmean, rest)))
    head = ["us in all", "launches", *[*METRICS.values()][1:], "kernel"]
    table = ["  ".join(f"{cell:>9}" for cell in head)] if found else []
    for ns, launches, name, *rest in sorted(found, reverse=True):
        cells = [f"{ns / 1e3:.1f}", str(launches), *(f"{value:.3g}" for value in rest), name]
        table.append("  ".join(f"{cell:>9}" for cell in cells))
    return table
