"""The command `python -m benchmarks`: choose rows, measure them, print the tables.

Results are in the file of --json after every cell; an interrupted run prints what it has, and
--resume goes on from there.
"""

from __future__ import annotations

import sys
import time

from . import machine, report, truth
from .implementations import IMPLEMENTATIONS
from .rows import ROWS, quick, select
from .runner import measure
from .store import Store


def run(options) -> int:
    """Measure and print. 1 when a result was wrong or a process failed, 130 when interrupted.

    Raises ValueError for options that name nothing.
    """
    chosen = choose_columns(options.columns)
    rows = choose_rows(options)
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if options.quick:
        options.repeats, options.slow_repeats = min(options.repeats, 5), 1
    head = machine.header(options)
    store = Store(
        options.json, f"python -m benchmarks {options.typed}".strip(), head, options.resume
    )
    print("\n".join(f"{name:<14} {value}" for name, value in head.items()), flush=True)
    with store.measuring():
        for row in rows:
            run_row(row, options, chosen, store)
    print()
    print(text(store.document, IMPLEMENTATIONS))
    return 130 if store.interrupted else int(failed(store.rows))


def choose_rows(options) -> tuple:
    """The rows that the options name. Raises ValueError when a pattern names none."""
    rows = ROWS if options.full or options.only else [row for row in ROWS if row.core]
    return select(quick(rows) if options.quick else rows, options.only)


def choose_columns(keys, implementations=None) -> tuple:
    """The implementations of these keys; all without any. Raises ValueError for another key."""
    implementations = IMPLEMENTATIONS if implementations is None else implementations
    known = [i.key for i in implementations]
    unknown = [key for key in keys or () if key not in known]
    if unknown:
        wanted = ", ".join(known)
        raise ValueError(f"[benchmarks] --column must be one of {wanted}; got {unknown[0]!r}.")
    return tuple(i for i in implementations if not keys or i.key in keys)


def run_row(row, options, implementations, store, check: bool = True) -> None:
    """Measure the cells of a row that the store has not, after comparing them with float64 if
    `check`; with a line on stderr.
    """
    cells = store.row(row.name, report.facts(row))
    todo = [i for i in implementations if i.runs(row) and i.key not in cells]
    if not todo:
        return
    start = time.perf_counter()
    print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
    limits = [limit(row, options)]
    want = truth.want(row, options.threads) if check else None
    measure(row, todo, want, options, lambda key, result: store.add(row.name, key, result))
    limits.append(limit(row, options))
    store.rows[row.name]["row"]["limit"] = max(filter(None, limits), default=None)
    store.write()
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def limit(row, options) -> float | None:
    """What the machine reaches of the row's work per second; only a CPU's is measured."""
    return machine.vector_limit(row.work[0], options.threads) if options.device == "cpu" else None


def summaries(document) -> list[dict]:
    """The rows of a document of results, summarised; a limit is the best that was measured."""
    rows = document["rows"].values()
    best: dict[str, float] = {}
    for row in rows:
        (kind,) = row["row"]["work"]
        best[kind] = max(best.get(kind, 0), row["row"]["limit"] or 0)
    return [
        report.summary(row["row"] | {"limit": best[next(iter(row["row"]["work"]))]}, row["cells"])
        for row in rows
    ]


def text(document, implementations) -> str:
    """The tables and everything that stands below them."""
    rows = summaries(document)
    tables = report.tables(rows, implementations)
    parts = [f"{title}\n{report.align(lines)}" for title, lines in tables.items()]
    parts += [report.notes(rows, implementations), "\n".join(machine.remarks())]
    return "\n\n".join(filter(None, parts))


def failed(rows) -> bool:
    """Whether a cell was wrong or its process ended early."""
    cells = [cell for row in rows.values() for cell in row["cells"].values()]
    return any(cell["status"] in ("red", "error") for cell in cells)
