"""The header of a report: machine, versions, threads, commit; and the machine's vector limit."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import mlx.core as mx
import numpy as np
from mlx_ncps import _loader, dispatch

from . import ROOT

PACKAGES = ("mlx", "numpy", "mlx-ncps", "ncps", "torch", "jax")
COPIED = 64 * 2**20  # bytes: more than any cache holds


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def header(options) -> dict[str, str]:
    """What a reader needs to know to judge the figures, by its name."""
    native = _loader.native
    return {
        "machine": f"{processor(options.device)}, {platform.system()} {platform.machine()}",
        "versions": ", ".join(["Python " + platform.python_version(), *map(_version, PACKAGES)]),
        "native module": f"{native.isa()}" if native else f"none: {_loader.reason}",
        "backend": f"{dispatch.explain(None).backend} on {options.device}",
        "threads": f"{options.threads} (each process has as many CPUs; MLX runs a CPU operation on "
        "one thread)",
        "limits": _limits(options.threads),
        "repeats": f"{options.repeats} samples, {options.slow_repeats} of calls above 0.5 s; "
        f"{options.budget:g} s for a cell",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "load before": _load(),
    }


@functools.cache
def commit() -> str:
    """The commit of the checkout when this was called first, and whether files other than pages and
    results differ from it.
    """
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    written = (f":(exclude){path}" for path in ("docs", "benchmarks/papers/results"))
    status = ("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    changed = _output("git", "-C", str(ROOT), *status)
    return f"{commit or 'unknown'}{' with changes' if changed else ''}"


def remarks() -> list[str]:
    """Warnings about the machine that a reader of the figures must know."""
    lines = []
    if platform.system() == "Linux" and not mx.metal.is_available():
        lines.append(
            "MLX's CPU build for Linux has an unoptimised BLAS and unvectorised mathematics: "
            "ratios to MLX operations are larger here than on a Mac."
        )
    if vector_limit("sigmoid") is None:
        lines.append("limit n/a: the native module measures no vector limit.")
    return lines


def vector_limit(kind: str, threads: int | None = None) -> float | None:
    """Sigmoids or FMAs ("fma") per second in registers on all threads; None where the native module
    can't measure it.
    """
    measure = getattr(_loader.native, "vector_limit", None)
    if measure is None:
        return None
    if threads:
        _loader.native.set_num_threads(threads)
    return measure(kind)


def copy_bandwidth(threads: int) -> float:
    """Bytes per second, read and written together, of copies between arrays beyond the caches."""
    source = np.ones((threads, COPIED // 8))
    target = np.zeros_like(source)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):
            start = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best


def _limits(threads: int) -> str:
    """What the machine reaches now, on all threads together."""
    gates, products = (vector_limit(kind, threads) for kind in ("sigmoid", "fma"))
    found = [f"copy {copy_bandwidth(threads) / 1e9:.3g} GB/s"]
    if gates and products:
        found = [f"{gates / 1e9:.3g} G sigmoids/s", f"{products / 1e9:.3g} G FMA/s", *found]
    return ", ".join(found)


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        if package == "mlx-ncps":
            from mlx_ncps import __version__

            return f"{package} {__version__} (from the sources)"
        return f"{package} not installed"


def processor(device: str) -> str:
    """The names of the processor and, for a GPU, of that."""
    name = f"{_processor()}, {cores()} cores"
    if device == "cpu":
        return name
    facts = mx.device_info() if hasattr(mx, "device_info") else mx.metal.device_info()
    return f"{facts.get('device_name', 'GPU')}; {name}"


def _processor() -> str:
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.machine()


def _load() -> str:
    """The load of the last minute, with a warning where other programs slow the machine down."""
    load = os.getloadavg()[0]
    return f"{load:.1f}" + (" (the machine is busy: figures are noisy)" if load > 1 else "")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
