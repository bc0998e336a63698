"""Tests and measures the GPU kernels on a real GPU:

    pip install ".[cuda12]" && python -m tools.check_gpu cuda      # an NVIDIA GPU
    pip install . && python -m tools.check_gpu metal               # an Apple GPU; also metallib

1. values: states and all gradients of the tests' table of cases against NumPy float64, case by
   case, failures again at the end; variants that the metallib lacks are skipped and counted. The
   verdicts and the text of the first kernel that fails are kept in --out;
2. sanitize: a part of them under compute-sanitizer's memcheck, racecheck, initcheck and synccheck
   (NVIDIA only);
3. published: the shape whose times ltc-cuda publishes, beside these;
4. measure: `python -m benchmarks --device gpu`, against plain, compiled and hand-written MLX,
   PyTorch eager and torch.compile where they are installed. It keeps its results in --out and
   prints the part of docs/results.md that they make. What follows `--` goes to the benchmarks:
   `... cuda -- --quick --only ltc`.

Ends with 0 only if all of it passed, 2 where the GPU is missing; --steps chooses. The backend cpu
tries out the script itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

# MLX reads it once. An M5 on macOS 26.2 would round the operands of matrix products to 10 bits.
os.environ["MLX_ENABLE_TF32"] = "0"

import mlx.core as mx
from mlx_ncps import dispatch, use_backend
from mlx_ncps.backends.metallib import MissingVariant

from benchmarks import page
from tests.support.cases import (
    CFC_CASES,
    CFC_DROPOUT_CASES,
    CFC_EMPTY_CASES,
    LTC_CASES,
    LTC_EMPTY_CASES,
    LTC_WIRED_CASES,
    CfcCase,
    LtcCase,
    make,
    random_cfc_cases,
    random_ltc_cases,
)
from tests.support.running import (
    INFINITE_CASES,
    check_gradients,
    check_infinite,
    check_states,
    problem,
)
from tools.failing_kernel import failing_kernel

ROOT = Path(__file__).resolve().parent.parent

CASES = [*LTC_CASES, *LTC_WIRED_CASES, *LTC_EMPTY_CASES, *CFC_CASES, *CFC_EMPTY_CASES]
CASES += CFC_DROPOUT_CASES[::7]
FEW = [
    LtcCase(batch=3, steps=3, units=33, timespans="per_batch"),
    LtcCase(batch=17, steps=2, units=100, unfolds=2),
    LtcCase(batch=5, steps=2, units=33, unfolds=2, density=0.2),
    LtcCase(batch=5, steps=2, units=130, unfolds=2, density=0.1),
    CfcCase(batch=5, units=33, backbone_units=17, timespans="per_batch"),
    CfcCase(batch=3, units=200, backbone_units=128, layers=2, mode="no_gate"),
    CfcCase(batch=3, units=17, layers=0, mode="pure"),
    CfcCase(batch=3, units=33, layers=2, variant="keras", dropout=0.4),
]
# What https://github.com/clubsnake/ltc-cuda publishes in its README, measured on a GTX 1080.
PUBLISHED = LtcCase(batch=24, steps=8, inputs=128, units=64, density=0.5)
PUBLISHED_MS = {"forward": 1.7, "backward": 11.0}
RESULTS = {"cuda": "nvidia", "metal": "apple", "metallib": "apple", "cpu": "cpu"}  # files of --out
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")


def judge(checks) -> tuple[str, str]:
    """("passed", "skipped", "failed" or "error", why) of one case."""
    try:
        for one in checks:
            one()
    except MissingVariant as missing:
        return "skipped", str(missing)
    except AssertionError as error:
        return "failed", str(error)
    except Exception:  # a kernel that does not compile or launch: the other cases still count
        return "error", traceback.format_exc().strip()
    return "passed", ""


def checks(cases, backend: str):
    """(name, functions) of every case, and again with lists where synapses are missing."""
    for case in cases:
        masked = isinstance(case, LtcCase) and make(case).params.mask is not None
        for keywords in ({}, {"synapses": True}) if masked else ({},):
            name = f"{case}, lists" if keywords else str(case)
            yield (
                name,
                [
                    functools.partial(check_states, case, backend, **keywords),
                    functools.partial(check_gradients, case, backend, **keywords),
                ],
            )
    for case in INFINITE_CASES:
        yield f"{case}, infinite denominators", [functools.partial(check_infinite, case, backend)]


def check(cases, backend: str, out: Path | None = None) -> bool:
    """Values and gradients of every case. Each is printed when it is done, so that the last line
    before a crash names the one before; failures are listed again at the end.
    """
    count, failures, kernel = Counter(), [], None
    for name, parts in checks(cases, backend):
        verdict, why = judge(parts)
        count[verdict] += 1
        print(f"{verdict} {name}" + (f": {why}" if verdict == "skipped" else ""), flush=True)
        if verdict in ("failed", "error"):
            failures.append(f"FAILED {name}\n{why}")
        if verdict == "error" and kernel is None:
            kernel = failing_kernel(backend, lambda parts=parts: [part() for part in parts])
    for failure in failures:
        print(failure)
    if kernel:
        print(f"the first kernel that fails: {kernel.name}\n{kernel.error}")
    failed = count["failed"] + count["error"]
    if out:
        out.mkdir(parents=True, exist_ok=True)
        kept = dict(count) | {"failures": failures, "kernel": kernel and kernel._asdict()}
        (out / f"values-{backend}.json").write_text(json.dumps(kept, indent=1) + "\n")
    skipped = f", {count['skipped']} skipped: not in the metallib" if count["skipped"] else ""
    print(f"values: {sum(count.values())} cases, {failed} failed{skipped}")
    return failed == 0 and count["passed"] > 0


def sanitize(backend: str) -> bool:
    """This script's step `few` under each tool of compute-sanitizer."""
    if not shutil.which("compute-sanitizer"):
        print("sanitizers: compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
        return False
    passed = True
    for tool in SANITIZERS:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        done = subprocess.run(
            [*command, "-m", "tools.check_gpu", backend, "--steps", "few"], cwd=ROOT, check=False
        )
        print(f"{tool}: {'clean' if done.returncode == 0 else f'exit status {done.returncode}'}")
        passed = passed and done.returncode == 0
    return passed


def _median_ms(call, repeats: int = 20) -> float:
    mx.eval(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(call())
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def published(backend: str) -> bool:
    """Median times of forward and backward at the published shape, beside the published ones."""
    f, leaves, cotangents = problem(PUBLISHED, synapses=True)
    arrays = list(leaves.values())
    with use_backend(backend):
        forward = _median_ms(lambda: f(*arrays))
        both = _median_ms(lambda: mx.vjp(f, arrays, [cotangents]))
    times = {"forward": forward, "backward": max(0.0, both - forward)}
    print(f"{PUBLISHED}: times of a call, as ltc-cuda published them and here")
    for part, ms in times.items():
        print(f"  {part:<10} {PUBLISHED_MS[part]:>7.1f} ms on a GTX 1080, {ms:>8.3f} ms here")
    return True


def measure(backend: str, out: Path, more=()) -> bool:
    """The benchmarks on this backend, and the part of the results page that they fill."""
    path = out / f"{RESULTS[backend]}.json"
    device = "cpu" if backend == "cpu" else "gpu"
    command = [sys.executable, "-m", "benchmarks", "--device", device, "--json", str(path), *more]
    environ = os.environ | {"MLX_NCPS_BACKEND": backend} if backend == "metallib" else os.environ
    done = subprocess.run(command, cwd=ROOT, env=environ, check=False)
    if path.exists():
        print(results_part(path))
    return done.returncode == 0


def results_part(path: Path) -> str:
    """What docs/results.md says of a file of results, ready to paste; the file belongs into
    docs/results/, from which `python -m benchmarks page` writes the same.
    """
    title, _ = page.TABLES[path.stem]
    text = page.page(path.parent, page.FIGURES, page.PAGE.parent)
    part = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return f"## {title}\n{part}"


STEPS = {
    "values": lambda o: check(
        [*CASES, *random_ltc_cases(20), *random_cfc_cases(20)], o.backend, o.out
    ),
    "few": lambda o: check(FEW, o.backend, o.out),
    "sanitize": lambda o: sanitize(o.backend),
    "published": lambda o: published(o.backend),
    "measure": lambda o: measure(o.backend, o.out, o.benchmarks),
}


def parse(argv) -> argparse.Namespace:
    """The options; `benchmarks` are the words behind `--`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backend", choices=RESULTS)
    parser.add_argument("--steps", nargs="+", choices=STEPS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "results", metavar="FOLDER")
    parser.add_argument(
        "--as-mac", action="store_true", help="simulate it: tests/support/as_mac.py"
    )
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:split])
    options.benchmarks = argv[split + 1 :]
    options.out = options.out.resolve()
    sanitized = ["sanitize"] if options.backend == "cuda" else []
    options.steps = options.steps or ["values", *sanitized, "published", "measure"]
    return options


def main(argv=None) -> int:
    """Run the steps that were asked for."""
    options = parse(sys.argv[1:] if argv is None else argv)
    backend = options.backend
    if options.as_mac:
        from tests.support import as_mac

        as_mac.install()
    status = {row.name: row for row in dispatch.describe()}[backend]
    if not status.available:
        print(f"the backend {backend} can't run here: {status.reason}")
        return 2
    mx.set_default_device(mx.cpu if backend == "cpu" else mx.gpu)
    print(
        f"{mx.device_info().get('device_name', 'unnamed device')}, mlx {mx.__version__}, {backend}",
        flush=True,
    )
    results = [STEPS[step](options) for step in options.steps]  # all, also after a failure
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
