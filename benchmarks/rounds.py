"""Samples of several programs of one process, in turn, so that a disturbance hits all of them."""

from __future__ import annotations

from collections.abc import Callable

from . import worker

SAMPLE = 0.02  # seconds that a sample takes at least


def interleave(runs: dict[str, Callable[[], object]], options) -> dict[str, list[float]]:
    """Seconds per call: `options.repeats` samples of each, `options.slow_repeats` of those above
    half a second.
    """
    samples: dict[str, list[float]] = {key: [] for key in runs}
    calls = {}
    for key, run in runs.items():
        first = worker.measure(run, 1)["seconds"]
        if first > worker.SLOW:
            samples[key].append(first)
        else:
            once = min(worker.measure(run, 1)["seconds"] for _ in range(2))
            calls[key] = 1 if options.quick else max(1, round(SAMPLE / once))
    for number in range(options.repeats):
        for key, run in runs.items():
            if key in calls:
                samples[key].append(worker.measure(run, calls[key])["seconds"])
            elif number < options.slow_repeats - 1:
                samples[key].append(worker.measure(run, 1)["seconds"])
    return samples
