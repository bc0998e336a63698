"""Rows that grow in one size: which there are, and what a document of results has of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.support.cases import CfcCase, LtcCase

from . import report
from .rows import Row

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


@dataclass(frozen=True)
class NamedRow(Row):
    """A row under the name of its place in a series."""

    title: str = ""

    @property
    def name(self) -> str:
        """The title in place of what the case and the mode tell."""
        return self.title


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
