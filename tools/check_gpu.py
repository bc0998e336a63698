"""Proves the GPU kernels on a real GPU, where one is at hand:

    pip install ".[cuda12]" && python tools/check_gpu.py cuda      # an NVIDIA GPU
    pip install . && python tools/check_gpu.py metal               # an Apple GPU; also metallib

1. values: states and all gradients of the tests' table of cases against NumPy float64;
2. sanitize: a part of them under compute-sanitizer's memcheck, racecheck, initcheck and synccheck
   (NVIDIA only);
3. measure: the fused kernels beside the same call through plain MLX operations, eager and compiled,
   in one run on that GPU.

Ends with 0 only if all of it passed; --steps chooses. Prints the GPU's name with the figures. The
backend cpu tries out the script itself.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from cases import (  # noqa: E402  the table of cases lies beside the tests
    CFC_CASES,
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
from mlx_ncps import dispatch, use_backend  # noqa: E402
from running import check_gradients, check_states, problem  # noqa: E402

CASES = [*LTC_CASES, *LTC_WIRED_CASES, *LTC_EMPTY_CASES, *CFC_CASES, *CFC_EMPTY_CASES]
FEW = [
    LtcCase(batch=3, steps=3, units=33, timespans="per_batch"),
    LtcCase(batch=17, steps=2, units=100, unfolds=2),
    LtcCase(batch=5, steps=2, units=33, unfolds=2, density=0.2),
    CfcCase(batch=5, units=33, backbone_units=17, timespans="per_batch"),
    CfcCase(batch=3, units=200, backbone_units=128, layers=2, mode="no_gate"),
    CfcCase(batch=3, units=17, layers=0, mode="pure"),
]
TIMED = [
    LtcCase(batch=64, steps=128, inputs=64, units=64),
    LtcCase(batch=64, steps=128, inputs=64, units=64, density=0.1),
    CfcCase(batch=64, steps=128, inputs=64, units=128, backbone_units=128),
]
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")


def check(cases, backend: str) -> bool:
    """Values and gradients of every case, and with lists where synapses are missing."""
    failed = 0
    for case in cases:
        masked = isinstance(case, LtcCase) and make(case).params.mask is not None
        for keywords in ({}, {"synapses": True}) if masked else ({},):
            try:
                check_states(case, backend, **keywords)
                check_gradients(case, backend, **keywords)
            except AssertionError as error:
                failed += 1
                print(f"FAILED {case} {keywords}: {error}")
    print(f"values: {len(cases)} cases, {failed} failed")
    return failed == 0


def sanitize(backend: str) -> bool:
    """This script's step `few` under each tool of compute-sanitizer."""
    if not shutil.which("compute-sanitizer"):
        print("sanitizers: compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
        return False
    passed = True
    for tool in SANITIZERS:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        done = subprocess.run([*command, __file__, backend, "--steps", "few"], check=False)
        print(f"{tool}: {'clean' if done.returncode == 0 else f'exit status {done.returncode}'}")
        passed = passed and done.returncode == 0
    return passed


def _median_ms(call, repeats: int) -> float:
    mx.eval(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(call())
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(backend: str) -> bool:
    """Median times of a forward for inference: fused, plain operations, and these compiled."""
    for case in TIMED:
        fused, leaves, _ = problem(case, training=False, synapses=case.density < 1)
        arrays = list(leaves.values())
        with use_backend(backend):
            ours = _median_ms(lambda f=fused, a=arrays: f(*a), 20)
        with use_backend("reference"):
            eager = _median_ms(lambda f=fused, a=arrays: f(*a), 3)
            compiled = mx.compile(fused)
            fast = _median_ms(lambda f=compiled, a=arrays: f(*a), 3)
        print(
            f"{case}: fused {ours:.3f} ms, eager {eager:.1f} ms ({eager / ours:.0f}x), "
            f"compiled {fast:.1f} ms ({fast / ours:.0f}x)"
        )
    return True


STEPS = {
    "values": lambda name: check([*CASES, *random_ltc_cases(20), *random_cfc_cases(20)], name),
    "few": lambda name: check(FEW, name),
    "sanitize": sanitize,
    "measure": measure,
}


def main() -> int:
    """Run the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", choices=("cuda", "metal", "metallib", "cpu"))
    parser.add_argument("--steps", nargs="+", choices=STEPS)
    arguments = parser.parse_args()
    backend = arguments.backend
    status = {row.name: row for row in dispatch.describe()}[backend]
    if not status.available:
        print(f"the backend {backend} can't run here: {status.reason}")
        return 2
    mx.set_default_device(mx.cpu if backend == "cpu" else mx.gpu)
    print(
        f"{mx.device_info().get('device_name', 'unnamed device')}, mlx {mx.__version__}, {backend}"
    )
    sanitized = ["sanitize"] if backend == "cuda" else []
    steps = arguments.steps or ["values", *sanitized, "measure"]
    results = [STEPS[step](backend) for step in steps]  # all of them, also after a failure
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
