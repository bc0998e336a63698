"""The command `python -m benchmarks scaling`: time over one size at a time, as JSON and plots."""

from __future__ import annotations

import copy

from . import machine, report
from .implementations import BY_KEY
from .series import SERIES, NamedRow, Series, series_of
from .store import Store
from .table import choose_columns, failed, run_row


def run(options) -> int:
    """Measure the series and draw them. 1 when a result was wrong or a process failed, 130 when
    interrupted, after drawing what was measured.
    """
    chosen = choose_columns(options.columns)
    wanted = [s for s in SERIES if not options.only or any(p in s.name for p in options.only)]
    if not wanted:
        names = ", ".join(series.name for series in SERIES)
        raise ValueError(f"[benchmarks] --only must name a series of {names}.")
    if options.list:
        print("\n".join(series.name for series in wanted))
        return 0
    options.repeats, options.slow_repeats = min(options.repeats, 5), 1
    options.budget = min(options.budget, 8)
    head = machine.header(options)
    command = f"python -m benchmarks {options.typed}".strip()
    store = Store(options.json, command, head, options.resume)
    with store.measuring():
        for series in wanted:
            run_series(series, options, chosen, store)
    print(text(store.document))
    if options.out:
        from .plots import draw_scaling

        for path in draw_scaling(store.document, options.out):
            print(path)
    return 130 if store.interrupted else int(failed(store.rows))


def run_series(series: Series, options, chosen, store) -> None:
    """Measure the rows of a series, each column as far as the budget goes."""
    columns = [i for i in chosen if i.key in series.columns]
    rows = series.rows()
    if options.quick:
        rows = rows[:2]
    last: dict[str, tuple] = {}
    for value, row in rows:
        settings = copy.copy(options)
        if series.symbol == "threads":
            if value > machine.cores():
                continue
            settings.threads = value
        name = f"{series.name} {value}"
        named = NamedRow(row.case, row.mode, True, name)
        cells = store.row(name, {**report.facts(named), "series": series.name, "value": value})
        ready = []
        for column in columns:
            expected = _expected(last.get(column.key), value, series.growth)
            if expected > options.budget:
                reason = f"would take about {report.seconds_text(expected)}"
                store.add(name, column.key, {"status": "skipped", "reason": reason})
            else:
                ready.append(column)
        run_row(named, settings, ready, store)
        for key, cell in cells.items():
            if cell.get("samples"):
                last[key] = (value, min(cell["samples"]))


def _expected(last, value, growth: float) -> float:
    """Seconds of a call at `value`, from the last one measured."""
    return last[1] * (value / last[0]) ** growth if last else 0.0


def text(document) -> str:
    """A table of times for each series."""
    parts = []
    for name, points in series_of(document).items():
        keys = [key for key in BY_KEY if any(key in cells for _, cells in points)]
        lines = [[name, *(BY_KEY[key].title for key in keys)]]
        for value, cells in points:
            lines.append([f"{value:g}", *(report.time_text(cells.get(key)) for key in keys)])
        parts.append(report.align(lines))
    return "\n\n".join(parts)
