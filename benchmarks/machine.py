"""The header of a report: machine, versions, threads, commit; and the machine's vector limit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata

import mlx.core as mx
from mlx_ncps import _loader, dispatch

from . import ROOT

PACKAGES = ("mlx", "numpy", "mlx-ncps", "ncps", "torch")


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def header(options) -> dict[str, str]:
    """What a reader needs to know to judge the figures, by its name."""
    native = _loader.native
    return {
        "machine": f"{_processor()}, {cores()} cores, {platform.platform(terse=True)}",
        "versions": ", ".join(["Python " + platform.python_version(), *map(_version, PACKAGES)]),
        "native module": f"{native.isa()}" if native else f"none: {_loader.reason}",
        "backend": f"{dispatch.explain(None).backend} on {options.device}",
        "threads": f"{options.threads} (mlx-ncps and torch; MLX runs a CPU operation on one)",
        "repeats": f"{options.repeats} samples, {options.slow_repeats} of calls above 0.5 s",
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "load before": _load(),
    }


def remarks() -> list[str]:
    """What the figures would not tell by themselves."""
    lines = []
    if platform.system() == "Linux" and not mx.metal.is_available():
        lines.append(
            "MLX's CPU build for Linux has an unoptimised BLAS and unvectorised mathematics: "
            "ratios to MLX operations are larger here than on a Mac."
        )
    if vector_limit("sigmoid") is None:
        lines.append("limit n/a: the native module measures no vector limit.")
    return lines


def vector_limit(kind: str) -> float | None:
    """Sigmoids or FMAs ("fma") per second in registers on all threads; None where the native module
    can't measure it.
    """
    measure = getattr(_loader.native, "vector_limit", None)
    return None if measure is None else measure(kind)


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        if package == "mlx-ncps":
            from mlx_ncps import __version__

            return f"{package} {__version__} (from the sources)"
        return f"{package} not installed"


def _processor() -> str:
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.machine()


def _commit() -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{commit or 'unknown'}{' with changes' if changed else ''}"


def _load() -> str:
    """Other programs that run now make every figure worse, and not all alike."""
    load = os.getloadavg()[0]
    return f"{load:.1f}" + (" (the machine is busy: figures are noisy)" if load > 1 else "")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
