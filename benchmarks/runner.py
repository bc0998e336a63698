"""Measures a row: every implementation in a fresh process, samples of the fast ones interleaved."""

from __future__ import annotations

import multiprocessing
import signal
import time

import numpy as np

from .worker import serve

PAUSE = 0.02  # seconds between samples, until threads of the process before no longer spin


class Cell:
    """The process of a row in one implementation; `result` is its outcome."""

    def __init__(self, row, implementation, want, options):
        self._limit, self._budget = options.limit, options.budget
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, row, implementation, want, options.threads, options.device)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.result = {"samples": [], "status": "ready"}
        self._calls = []

    def wait(self) -> None:
        """Until it has imported its packages."""
        self._receive()

    def prepare(self) -> None:
        """Check and warm up; a slow cell also takes its samples."""
        if self.ready:
            self.result |= self._ask() or {}

    @property
    def ready(self) -> bool:
        """Whether another sample can be taken."""
        return self.result["status"] == "ready"

    @property
    def slow(self) -> bool:
        """Whether it is measured alone."""
        return self.result.get("slow", False)

    def allowed(self, repeats: int) -> int:
        """How many more samples are wanted and fit into the budget."""
        spent = sum(self.result["samples"])
        once = max(self.result["samples"][-1:] or [0]) or 1e-9
        left = int(max(self._budget - spent, 0) / once) if spent else repeats
        return max(0, min(repeats - len(self.result["samples"]), left))

    def sample(self) -> None:
        """Take one."""
        time.sleep(PAUSE)
        sample = self._ask()
        if sample is not None:
            self.result["samples"].append(sample["seconds"])
            self._calls += sample.get("calls", ())

    def finish(self) -> dict:
        """End the process -> the result, with percentiles of single calls where those were kept."""
        self.close()
        if self._calls:
            percentiles = {f"p{q}": float(np.percentile(self._calls, q)) for q in (50, 99)}
            self.result |= {"latency": percentiles | {"calls": len(self._calls)}}
        return self.result

    def close(self) -> None:
        """Let the process end."""
        if self._process.is_alive() and self.ready and self._send(None):
            self._process.join(5)
        self.kill()

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _send(self, message) -> bool:
        """Whether the process could be told; it can end at any time."""
        try:
            self._connection.send(message)
        except OSError:
            return False
        return True

    def _ask(self):
        """Tell the process to go on; what it answers."""
        self._send(True)  # the process has ended; `_receive` reports that
        return self._receive()

    def _receive(self):
        """What the process sends next; None and another status when it fails to.

        Raises KeyboardInterrupt when it was ended as the command should be: by a signal to both,
        which the process got first.
        """
        try:
            if self._connection.poll(self._limit):
                return self._connection.recv()
            failure = ("timeout", f"no answer within {self._limit:g} s")
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            if code in (-signal.SIGINT, -signal.SIGTERM):
                raise KeyboardInterrupt from None
            failure = ("error", f"the process ended with code {code}")
        self.result |= dict(zip(("status", "reason"), failure, strict=True))
        self.result["samples"] = []
        return None


def measure(row, implementations, want, options, done=lambda key, result: None) -> dict[str, dict]:
    """The results by implementation: those of worker.prepare, with "samples", seconds per call.

    All processes start together and import; then each checks and warms up alone. A slow cell takes
    at most `options.slow_repeats` samples at once and ends; the others wait, then take
    `options.repeats` samples each in turn. No cell takes a sample that would not fit
    `options.budget` seconds. done(key, result) is called as soon as a cell has its result.
    """
    cells: dict[str, Cell] = {}
    try:
        for i in implementations:
            cells[i.key] = Cell(row, i, want, options)
        for cell in cells.values():
            cell.wait()
        for key, cell in cells.items():
            cell.prepare()
            if not cell.ready or cell.slow:
                _repeat([cell], options.slow_repeats)
                done(key, cell.finish())
        fast = {key: cell for key, cell in cells.items() if cell.ready and not cell.slow}
        _repeat(fast.values(), options.repeats)
        for key, cell in fast.items():
            done(key, cell.finish())
    finally:
        for cell in cells.values():  # those that are left after an interruption
            cell.kill()
    return {key: cell.result for key, cell in cells.items()}


def _repeat(cells, times: int) -> None:
    for _ in range(times):
        for cell in cells:
            if cell.ready and cell.allowed(times):
                cell.sample()
