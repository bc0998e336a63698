"""One cell of the table: a row in one implementation, in a process of its own.

It checks the results against float64 before anything is timed; a wrong one is never timed.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback

import mlx.core as mx
import numpy as np

from tests.support.cases import assert_close, relative_error, tolerance

from . import ROOT
from .implementations import Missing

SLOW = 0.5  # seconds; the check is then warm-up enough, and the process doesn't wait for others
SAMPLE = 0.05  # seconds that a sample takes at least
COUNTED = 5.0  # seconds; slower calls are not run or built again to count what they launch


def serve(connection, row, implementation, want, threads: int, device: str) -> None:
    """Import the packages and send anything; when told to go on, send the result of `prepare`; if
    that is "ready", one sample for each message but None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command handles Ctrl-C and ends this process
    pin(threads)
    mx.set_default_device(getattr(mx, device))
    missing = implementation.missing()
    connection.send(None)
    if not connection.recv():
        return
    if missing:
        connection.send({"status": "missing", "reason": missing})
        return
    try:
        expected = None if implementation.other_model else want
        result, sample = prepare(row, lambda: implementation.load(row, threads), expected)
    except Exception:
        result, sample = {"status": "error", "reason": failure()}, None
    connection.send(result)
    while sample and connection.recv():
        connection.send(sample())


def pin(threads: int) -> None:
    """Keep this process on as many CPUs, where the system can: not every library takes a number of
    threads.
    """
    if hasattr(os, "sched_setaffinity"):
        able = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, able[:threads])


def failure() -> str:
    """The end of the traceback of the exception that is being handled, without paths."""
    text = traceback.format_exc(limit=-3).strip()
    return text.replace(str(ROOT), ".").replace(sys.prefix, "")


def prepare(row, load, want):
    """(result, sample): load, check against `want` (None: another model), warm up.

    result: {"status": "ready" | "red" | "missing", "reason", "errors", "samples", ...}; sample()
    measures one sample (`measure`), and is None unless ready.
    """
    try:
        program = load()
        before = _resident()
        mx.reset_peak_memory()
        start = time.perf_counter()
        got = program.check()
    except Missing as missing:
        return {"status": "missing", "reason": str(missing)}, None
    result = {
        "status": "ready",
        "first_seconds": time.perf_counter() - start,
        "peak_bytes": mx.get_peak_memory() or None,  # 0: not MLX's memory
        "process_growth_bytes": _resident() - before,
    }
    result |= _compare(got, want) if want is not None else _finite(got)
    if result["status"] == "red":
        return result, None
    del got
    first = result["first_seconds"]
    if row.mode == "train":  # the check computed gradients, without the optimiser
        first = measure(program.run, 1)["seconds"]
    result |= _warm_up(program, first)
    result["launches"] = None
    if program.launches and first < COUNTED:
        result["launches"] = program.launches()
    keep = row.mode == "step"
    return result, lambda: measure(program.run, result["calls_per_sample"], keep)


def _compare(got, want) -> dict:
    """The largest forward and gradient errors; status red with a reason where one is too large."""
    result = {"errors": {}}
    if set(got) != set(want):
        return {"status": "red", "reason": f"tensors {sorted(got)}, want {sorted(want)}"} | result
    for name in want:
        kind = "forward" if name == "output" else "gradient"
        try:
            assert_close(name, got[name], want[name], tolerance("float32", kind))
        except AssertionError as wrong:
            result |= {"status": "red", "reason": str(wrong)}
            if got[name].shape != want[name].shape:
                continue
        error = relative_error(got[name], want[name])
        result["errors"][kind] = max(error, result["errors"].get(kind, 0.0))
    return result


def _finite(got) -> dict:
    """Status red when an array holds something else than finite numbers."""
    for name, array in got.items():
        if not np.all(np.isfinite(array)):
            return {"status": "red", "reason": f"{name} is not finite", "errors": {}}
    return {"errors": {}}


def _warm_up(program, first: float) -> dict:
    """How many calls make a sample, whether one is slow, and then the first sample."""
    once = measure(program.run, 1)["seconds"]
    if min(first, once) > SLOW:  # the first has warmed up; when it alone is slow, it compiled
        return {"calls_per_sample": 1, "slow": True, "samples": [once]}
    once = min(measure(program.run, 1)["seconds"] for _ in range(3))
    if once < SAMPLE:
        once = min(measure(program.run, 5)["seconds"] for _ in range(2))
    return {"calls_per_sample": max(1, round(SAMPLE / once)), "slow": False, "samples": []}


def measure(run, calls: int, keep: bool = False) -> dict:
    """{"seconds": of a call, the mean of `calls`}; with `keep` also "calls", those of each."""
    clock = time.perf_counter
    times = [clock()]
    for _ in range(calls):
        run()
        if keep:
            times.append(clock())
    result = {"seconds": (clock() - times[0]) / calls}
    if keep:
        result["calls"] = np.diff(times).tolist()
    return result


def _resident() -> int:
    """The largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
