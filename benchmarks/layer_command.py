"""What the commands `features` and `streaming` share: rows of layers that are measured in this
process, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlx_ncps import _loader

from . import machine, report, worker
from .store import Store

Measure = Callable[[Any, Any, Store], None]  # (case, options, store)


def run_rows(
    options: Any,
    command: str,
    cases: Iterable[Any],
    measure: Measure,
    table: Callable[[dict], list],
    is_beyond: Callable[[dict], bool],
) -> int:
    """Measure the cases that --only names, and print `table` of the document. 1 when a result was
    wrong or a row failed, 130 when interrupted.
    """
    if options.columns:
        raise ValueError(f"[benchmarks] {command} has no --column: its rows compare all of them.")
    chosen = choose(cases, options.only)
    if options.list:
        print("\n".join(case.name for case in chosen))
        return 0
    _settle(options)
    typed = f"python -m benchmarks {options.typed}".strip()
    store = Store(options.json, typed, machine.header(options), options.resume)
    with store.measuring():
        for case in chosen:
            measure(case, options, store)
    print(report.align(table(store.document)))
    print(notes(store.document, is_beyond))
    return 130 if store.interrupted else int(failed(store.document))


def choose(cases: Iterable[Any], patterns: Any) -> list[Any]:
    """The cases whose names have one of the patterns. Raises ValueError when none has."""
    wanted = [case for case in cases if named(case.name, patterns)]
    if not wanted:
        raise ValueError("[benchmarks] --only must name a row of `--list`.")
    return wanted


def named(name: str, patterns: Any) -> bool:
    """Whether one of the patterns is a part of the name, or the whole where it begins with =."""
    return not patterns or any(p[1:] == name if p[:1] == "=" else p in name for p in patterns)


def _settle(options: Any) -> None:
    """Threads and repeats of the rows."""
    worker.pin(options.threads)
    if _loader.native is not None:
        _loader.native.set_num_threads(options.threads)
    if options.quick:
        options.repeats, options.slow_repeats = min(options.repeats, 2), 1


def refusal(error: Exception) -> dict[str, str]:
    """What a cell says of an error: that the layer refuses such a call, or that it failed."""
    if isinstance(error, ValueError) and str(error).startswith("["):
        return {"status": "refused", "reason": str(error)}
    return {"status": "error", "reason": worker.failure()}


def notes(document: dict, is_beyond: Callable[[dict], bool]) -> str:
    """How many rows are beyond their limit, and why cells have no time."""
    rows = document["rows"].values()
    lines = [f"{sum(map(is_beyond, rows))} of {len(rows)} rows beyond their limit."]
    for row in rows:
        cell = row["cells"]["ours"]
        if cell["status"] != "ready":
            reason = cell["reason"].strip().splitlines()[-1]
            lines.append(f"{cell['status']}: {row['row']['name']}: {reason}")
    return "\n".join(dict.fromkeys(lines))


def failed(document: dict) -> bool:
    """Whether a result was wrong or a row failed."""
    every = [cell for row in document["rows"].values() for cell in row["cells"].values()]
    return any(cell["status"] in ("red", "error") for cell in every)
