"""The command `python -m benchmarks`: choose rows, measure them, print the tables."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from . import __doc__ as description
from . import machine, report, truth
from .implementations import IMPLEMENTATIONS
from .rows import MODES, ROWS, quick, select
from .runner import measure


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. 1 when a result was wrong or a process failed, 2 for bad arguments."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        rows = select(quick(ROWS) if options.quick else ROWS, options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if options.quick:
        options.repeats, options.slow_repeats = min(options.repeats, 5), 1
    head = machine.header(options)
    print("\n".join(f"{name:<14} {value}" for name, value in head.items()), flush=True)
    summaries = [run_row(row, options, IMPLEMENTATIONS) for row in rows]
    print()
    print(text(summaries, IMPLEMENTATIONS))
    if options.json:
        document = {"header": head, "rows": summaries}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    bad = ("red", "error")
    return int(any(c["status"] in bad for row in summaries for c in row["cells"].values()))


def run_row(row, options, implementations) -> dict:
    """One row of the report (`report.summarise`), with a line on stderr."""
    start = time.perf_counter()
    print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
    want = truth.want(row, options.threads)
    results = measure(row, implementations, want, options)
    limit = machine.vector_limit(row.work[0]) if row.mode == "fwd" else None
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return report.summarise(row, results, limit)


def text(summaries, implementations) -> str:
    """The tables and everything that stands below them."""
    parts = [
        report.time_table(summaries, implementations),
        report.error_table(summaries, implementations),
        report.notes(summaries, implementations),
        "\n".join(machine.remarks()),
    ]
    return "\n\n".join(filter(None, parts))


def _parser() -> argparse.ArgumentParser:
    modes = "; ".join(f"{name}: {meaning}" for name, meaning in MODES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=description, epilog=f"modes: {modes}"
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="short sequences, few repeats: about a minute")
    add(
        "--only",
        action="append",
        metavar="PATTERN",
        help="rows whose name contains PATTERN, or matches it if it has a *; may be repeated",
    )
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--json", type=Path, metavar="PATH", help="write everything, every sample too, as JSON")
    add("--threads", type=int, default=machine.cores(), metavar="N", help="default: the cores")
    add("--device", choices=("cpu", "gpu"), default=mx.default_device().type.name)
    add("--repeats", type=int, default=9, metavar="N", help="samples of a cell")
    add("--slow-repeats", type=int, default=2, metavar="N", help="of calls above 0.5 s")
    add("--limit", type=float, default=180, metavar="S", help="seconds that a cell may take")
    return parser


if __name__ == "__main__":
    sys.exit(main())
