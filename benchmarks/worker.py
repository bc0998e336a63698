"""One cell of the table, a row in one implementation, in a process of its own; the runner starts
it.

It checks the results against float64 before anything is timed; a wrong one is never timed.
"""

from __future__ import annotations

import resource
import sys
import time
import traceback

import mlx.core as mx
from cases import assert_close, relative_error, tolerance

from .implementations import Missing

SLOW = 0.5  # seconds; the check is then warm-up enough, and the process doesn't wait for others
SAMPLE = 0.05  # seconds that a sample takes at least


def serve(connection, row, implementation, want, threads: int, device: str) -> None:
    """Send the result of `prepare`; if it is "ready", one sample for each message but None."""
    mx.set_default_device(getattr(mx, device))
    try:
        result, sample = prepare(row, lambda: implementation.load(row, threads), want)
    except Exception:
        reason = traceback.format_exc(limit=-3).strip()
        result, sample = {"status": "error", "reason": reason}, None
    connection.send(result)
    while sample and connection.recv():
        connection.send(sample())


def prepare(row, load, want):
    """(result, sample): load, check against `want`, warm up.

    result: {"status": "ready" | "red" | "missing", "reason", "errors", "samples", ...}; sample()
    gives the seconds per call of one sample, and is None unless ready.
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
    result |= _compare(got, want)
    if result["status"] == "red":
        return result, None
    del got
    first = result["first_seconds"]
    if row.mode == "train":  # the check computed gradients, without the optimiser
        first = _sample(program.run, 1)
    result |= _warm_up(program, first)
    return result, lambda: _sample(program.run, result["calls_per_sample"])


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


def _warm_up(program, first: float) -> dict:
    """How many calls make a sample, whether one is slow, and then the first sample."""
    once = _sample(program.run, 1)
    if min(first, once) > SLOW:  # the first has warmed up; when it alone is slow, it compiled
        return {"calls_per_sample": 1, "slow": True, "samples": [once]}
    once = min(_sample(program.run, 1) for _ in range(3))
    if once < SAMPLE:
        once = min(_sample(program.run, 5) for _ in range(2))
    return {"calls_per_sample": max(1, round(SAMPLE / once)), "slow": False, "samples": []}


def _sample(run, calls: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def _resident() -> int:
    """The largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
