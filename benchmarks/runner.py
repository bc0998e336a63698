"""Measures a row: every implementation in a fresh process, samples of the fast ones interleaved.

`python -m benchmarks` calls `measure`.
"""

from __future__ import annotations

import multiprocessing

from .worker import serve


class Cell:
    """The process of a row in one implementation. `result` holds what came of it."""

    def __init__(self, row, implementation, want, options):
        self._limit = options.limit
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, row, implementation, want, options.threads, options.device)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.result = {"samples": [], "status": "ready"}
        self.result |= self._receive() or {}

    @property
    def ready(self) -> bool:
        """Whether another sample can be taken."""
        return self.result["status"] == "ready"

    def sample(self) -> None:
        """Take one."""
        self._connection.send(True)
        seconds = self._receive()
        if seconds is not None:
            self.result["samples"].append(seconds)

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive() and self.ready:
            self._connection.send(None)
            self._process.join(5)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _receive(self):
        """What the process sends next; None and another status when it fails to."""
        try:
            if self._connection.poll(self._limit):
                return self._connection.recv()
            failure = ("timeout", f"no answer within {self._limit:g} s")
        except EOFError:
            self._process.join()
            failure = ("error", f"the process ended with code {self._process.exitcode}")
        self.result |= dict(zip(("status", "reason"), failure, strict=True))
        self.result["samples"] = []
        return None


def measure(row, implementations, want, options) -> dict[str, dict]:
    """The results by implementation: those of worker.prepare, with "samples", seconds per call.

    A slow cell takes `options.slow_repeats` samples at once and ends; the others wait, then take
    `options.repeats` samples each in turn.
    """
    cells = {}
    try:
        for implementation in implementations:
            cell = cells[implementation.key] = Cell(row, implementation, want, options)
            if not cell.ready or cell.result["slow"]:
                _repeat([cell], options.slow_repeats - len(cell.result["samples"]))
                cell.close()
        _repeat([c for c in cells.values() if c.ready and not c.result["slow"]], options.repeats)
    finally:
        for cell in cells.values():
            cell.close()
    return {key: cell.result for key, cell in cells.items()}


def _repeat(cells, times: int) -> None:
    for _ in range(times):
        for cell in cells:
            if cell.ready:
                cell.sample()
