"""The command `python -m benchmarks scaling`: time over one size at a time, as JSON and plots."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from tests.support.cases import CfcCase, LtcCase

from . import machine, report
from .rows import Row
from .store import Store
from .table import choose_columns, failed, run_row

LTC = LtcCase(batch=16, steps=32, inputs=16, units=32)
CFC = CfcCase(batch=16, steps=32, inputs=16, units=32, backbone_units=32)
WIDE = CfcCase(batch=256, steps=8, inputs=64, units=64, backbone_units=64)
COLUMNS = ("fused", "eager", "by_hand", "torch", "jax_by_hand", "torch_lstm")


@dataclass(frozen=True)
class Series:
    """Rows that differ in one size: `fields` of the case take the value at once.

    growth: how fast the time of a call may grow with the value, as a power; a column whose next
    call would take longer than the budget is left out, and named.
    """

    name: str
    case: LtcCase | CfcCase
    fields: tuple[str, ...]
    values: tuple
    mode: str = "fwd"
    columns: tuple[str, ...] = COLUMNS
    growth: float = 1.0

    @property
    def symbol(self) -> str:
        """The size on the horizontal axis."""
        return self.name.split()[1]

    def rows(self) -> list[tuple]:
        """(value, row) in the order of the values."""
        if self.symbol == "threads":
            return [(value, Row(self.case, self.mode)) for value in self.values]
        return [
            (value, Row(replace(self.case, **dict.fromkeys(self.fields, value)), self.mode))
            for value in self.values
        ]


T, H, B = (32, 128, 512, 1024, 4096), (16, 32, 64, 128, 256), (1, 4, 16, 64, 256, 512)
DENSITIES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_NO_LSTM = COLUMNS[:-1]
SERIES = (
    Series("ltc T", LTC, ("steps",), T),
    Series("cfc T", CFC, ("steps",), T),
    Series("ltc H", LTC, ("units",), H, growth=2),
    Series("cfc H", CFC, ("units", "backbone_units"), H, growth=2),
    Series("ltc B", LTC, ("batch",), B),
    Series("cfc B", CFC, ("batch",), B),
    Series("ltc U", LTC, ("unfolds",), (1, 2, 4, 6, 8, 12), columns=_NO_LSTM),
    Series("ltc density", replace(LTC, units=64), ("density",), DENSITIES, columns=_NO_LSTM),
    Series(
        "ltc threads",
        LtcCase(batch=64, steps=64, inputs=64, units=64),
        (),
        (1, 2),
        columns=("fused", "torch", "jax_by_hand"),
    ),
    Series(
        "cfc threads",
        CfcCase(batch=64, steps=128, inputs=64, units=128, backbone_units=128),
        (),
        (1, 2),
        columns=("fused", "torch", "jax_by_hand"),
    ),
    Series(
        "cfc cross-over",
        WIDE,
        ("inputs", "units", "backbone_units"),
        (32, 64, 128, 256, 512, 1024),
        growth=2,
    ),
    Series(
        "cfc cross-over, fwd+bwd",
        WIDE,
        ("inputs", "units", "backbone_units"),
        (32, 64, 128, 256, 512),
        mode="fwd+bwd",
        growth=2,
    ),
)


def run(options) -> int:
    """Measure the series and draw them. 1 when a result was wrong or a process failed, 130 when
    interrupted, then of what there is.
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
        named = _Named(row.case, row.mode, True, name)
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


@dataclass(frozen=True)
class _Named(Row):
    """A row under the name of its place in a series."""

    title: str = ""

    @property
    def name(self) -> str:
        return self.title


def _expected(last, value, growth: float) -> float:
    """Seconds of a call at `value`, from the last one measured."""
    return last[1] * (value / last[0]) ** growth if last else 0.0


def text(document) -> str:
    """A table of times for each series."""
    from .implementations import BY_KEY

    parts = []
    for name, points in series_of(document).items():
        keys = [key for key in BY_KEY if any(key in cells for _, cells in points)]
        lines = [[name, *(BY_KEY[key].title for key in keys)]]
        for value, cells in points:
            lines.append([f"{value:g}", *(report.time_text(cells.get(key)) for key in keys)])
        parts.append(report.align(lines))
    return "\n\n".join(parts)


def unfinished(document, name: str) -> str:
    """What the series of this name lacks in a document of results; "" when it is measured to its
    end: all values, and for each of them the columns that any of them has.
    """
    rows = [row for row in document["rows"].values() if row["row"]["series"] == name]
    cells = {row["row"]["value"]: set(row["cells"]) for row in rows}
    columns = set().union(*cells.values())
    values = next(series.values for series in SERIES if series.name == name)
    lacking = [f"{value:g}" for value in values if columns - cells.get(value, set()) or not columns]
    return f"{name} lacks {', '.join(lacking)}" if lacking else ""


def series_of(document) -> dict[str, list]:
    """{name of the series: [(value, summarised cells), ...]} of a document of results."""
    found: dict[str, list] = {}
    for row in document["rows"].values():
        facts = row["row"]
        cells = report.summary(facts, row["cells"])["cells"]
        found.setdefault(facts["series"], []).append((facts["value"], cells))
    return found
