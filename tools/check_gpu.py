"""Tests and measures the GPU kernels on a real GPU:

    pip install ".[cuda12]" && python -m tools.check_gpu cuda      # an NVIDIA GPU
    pip install . && python -m tools.check_gpu metal               # an Apple GPU; also metallib

1. values: states and all gradients of the tests' table of cases against NumPy float64, case by
   case, failures again at the end; variants that the metallib lacks are skipped and counted. The
   verdicts and the text of the first kernel that fails are kept in --out;
2. sanitize: a part of them under compute-sanitizer's memcheck, racecheck, initcheck and synccheck
   (NVIDIA only);
3. published: the shape whose times ltc-cuda publishes, beside these;
4. profile: the benchmarks' sequences under Nsight Compute, the slowest kernels first (NVIDIA only);
5. measure: `python -m benchmarks --device gpu`, against plain, compiled and hand-written MLX,
   PyTorch eager and torch.compile, JAX plain and by hand, where they are installed. It keeps its
   results in --out and prints the part of docs/results.md that they make. What follows `--` goes to
   the benchmarks: `... cuda -- --quick --only ltc`.

Ends with 0 only if all of it passed, 2 where the GPU is missing; --steps chooses. --store brings
what --out has then, with the GPU's name, into docs/results and docs/results.md. --through cupy runs
the kernels through CuPy, where MLX itself does not start: values and sanitizers alone. The backend
cpu tries out the script itself.
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
from tools import gpu_profile
from tools.failing_kernel import failing_kernel

ROOT = Path(__file__).resolve().parent.parent

CASES = [*LTC_CASES, *LTC_WIRED_CASES, *LTC_EMPTY_CASES, *CFC_CASES, *CFC_EMPTY_CASES]
CASES += CFC_DROPOUT_CASES[::7]
FEW = [  # every kernel
    LtcCase(batch=3, steps=3, units=33, timespans="per_batch"),
    LtcCase(batch=17, steps=2, units=100, unfolds=2),
    LtcCase(batch=5, steps=2, units=33, unfolds=2, density=0.2),
    LtcCase(batch=5, steps=2, units=130, unfolds=2, density=0.1),
    CfcCase(batch=5, units=33, backbone_units=17, timespans="per_batch"),
    CfcCase(batch=3, units=200, backbone_units=128, layers=2, mode="no_gate"),
    CfcCase(batch=3, units=17, layers=0, mode="pure"),
    CfcCase(batch=3, units=33, layers=2, variant="keras", dropout=0.4),
    CfcCase(batch=2, units=300, backbone_units=256, timespans="per_batch"),  # by products
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
        keep(out, backend, values=dict(count))
        kept = dict(count) | {"failures": failures, "kernel": kernel and kernel._asdict()}
        (out / f"values-{backend}.json").write_text(json.dumps(kept, indent=1) + "\n")
    skipped = f", {count['skipped']} skipped: not in the metallib" if count["skipped"] else ""
    print(f"values: {sum(count.values())} cases, {failed} failed{skipped}")
    return failed == 0 and count["passed"] > 0


def sanitize(backend: str, out: Path, through: str | None = None) -> bool:
    """This script's step `few` under each tool of compute-sanitizer."""
    if not shutil.which("compute-sanitizer"):
        print("sanitizers: compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
        return False
    passed = True
    for tool in SANITIZERS:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        command += ["-m", "tools.check_gpu", backend, "--steps", "few", "--out", str(out / tool)]
        command += ["--through", through] if through else []
        done = subprocess.run(command, cwd=ROOT, check=False)
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


def published(backend: str, out: Path) -> bool:
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
    keep(out, backend, published=times)
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


def keep(out: Path, backend: str, **facts) -> None:
    """Add facts to what is kept of the checks, beside the results of the benchmarks."""
    path = out / page.CHECKS.format(RESULTS[backend])
    kept = json.loads(path.read_text()) if path.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept | facts, indent=1) + "\n")


def store(backend: str, out: Path, results: Path = page.PAGE.parent / "results") -> bool:
    """What --out has, into docs/results, and docs/results.md anew."""
    name = RESULTS[backend]
    files = [out / f"{name}.json", out / page.CHECKS.format(name)]
    there = [path for path in files if path.exists()]
    for path in there:
        shutil.copy(path, results)
    command = [sys.executable, "-m", "benchmarks", "page", "--device", "cpu"]
    return bool(there) and subprocess.run(command, cwd=ROOT, check=False).returncode == 0


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
    "sanitize": lambda o: sanitize(o.backend, o.out, o.through),
    "published": lambda o: published(o.backend, o.out),
    "sequences": lambda o: gpu_profile.sequences(o.backend),
    "profile": lambda o: gpu_profile.profile(o.backend, o.out),
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
    parser.add_argument("--store", action="store_true", help="into docs/results and its page")
    parser.add_argument("--through", choices=("cupy",), help="values where MLX does not start")
    parser.add_argument(
        "--as-mac", action="store_true", help="simulate it: tests/support/as_mac.py"
    )
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:split])
    options.benchmarks = argv[split + 1 :]
    options.out = options.out.resolve()
    if options.store and options.backend == "cpu":
        parser.error("--store is for a GPU's results")
    if options.through and options.backend != "cuda":
        parser.error("--through is for the backend cuda")
    nvidia = options.backend == "cuda"
    usual = ["values", *["sanitize"] * nvidia]
    usual += [] if options.through else ["published", *["profile"] * nvidia, "measure"]
    options.steps = options.steps or usual
    return options


def main(argv=None) -> int:
    """Run the steps that were asked for."""
    options = parse(sys.argv[1:] if argv is None else argv)
    if options.as_mac:
        from tests.support import as_mac

        as_mac.install()
    if options.through:
        from tools import cupy_kernels

        try:
            with cupy_kernels.installed():
                return steps(options, cupy_kernels.device_name())
        except (ImportError, RuntimeError) as error:
            print(f"the backend cuda can't run here through CuPy: {error}")
            return 2
    return steps(options)


def steps(options, name: str | None = None) -> int:
    """Run the steps, on a GPU of this name or MLX's."""
    backend = options.backend
    status = {row.name: row for row in dispatch.describe()}[backend]
    if not status.available:
        print(f"the backend {backend} can't run here: {status.reason}")
        return 2
    mx.set_default_device(mx.cpu if backend == "cpu" or name else mx.gpu)
    name = name or mx.device_info().get("device_name", "unnamed device")
    print(f"{name}, mlx {mx.__version__}, {backend}: {status.reason}", flush=True)
    results = {step: STEPS[step](options) for step in options.steps}  # all, also after a failure
    if options.steps != ["few"] and options.steps != ["sequences"]:
        keep(options.out, backend, device=name, how=status.reason, mlx=mx.__version__)
        keep(options.out, backend, steps=results)
    if options.store:
        results["store"] = store(backend, options.out)
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
