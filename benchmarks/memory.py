"""The command `python -m benchmarks memory`: the peak of training memory as T grows, and a training
step over 100 000 time steps.

Each cell is a fresh process; what a cell computes is compared with float64 by the table and by the
tests, not here.
"""

from __future__ import annotations

import os

from tests.support.cases import CfcCase, LtcCase

from . import machine, report
from .implementations import BY_KEY, Implementation
from .rows import Row
from .series import NamedRow, series_of
from .store import Store
from .table import choose_columns, failed, run_row

GROWING = (64, 256, 1024, 4096, 16384)
LONG = 100_000
BATCHES = (1, 4)  # of the long sequence
SHARE = 0.4  # of the machine's memory that a cell may take
WAYS = (
    *(BY_KEY[key]._replace(other_model=True) for key in ("fused", "eager", "by_hand")),
    Implementation("checkpoint", "ours, nn.utils.checkpoint", "chunked:checkpointed", (), True),
    Implementation("chunked", "ours, chunked_value_and_grad", "chunked:chunked", (), True),
)
LONG_WAYS = (
    Implementation("fused", "mlx-ncps", "chunked:whole", (), True),
    *WAYS[3:],
)


def sequence(op: str, batch: int, steps: int):
    """The case of a sequence."""
    kind = LtcCase if op == "ltc" else CfcCase
    sizes = {} if op == "ltc" else {"backbone_units": 64}
    return kind(batch=batch, steps=steps, inputs=16, units=64, **sizes)


def saved_bytes(case) -> int:
    """What the fused kernels keep for the backward pass, by their layout: for an LTC n and d of
    every unfold, for a CfC the outputs of its layers and of its merged heads.
    """
    if isinstance(case, LtcCase):
        each = 2 * case.unfolds * case.units
    else:
        each = case.layers * case.backbone_units + 3 * case.units
    return 4 * each * case.batch * case.steps


def rows(options) -> list[tuple[Row, dict, tuple]]:
    """(row, facts, ways) of all rows that have a way among the asked columns."""
    keys = {way.key for way in choose_columns(options.columns, WAYS)}
    growing, long, batch = GROWING, LONG, 16
    if options.quick:
        growing, long, batch = (8, 16), 64, 2
    cases = [("fwd+bwd", sequence(op, batch, t), WAYS, t) for op in ("ltc", "cfc") for t in growing]
    for op in ("ltc", "cfc"):
        cases += [("train", sequence(op, b, long), LONG_WAYS, b) for b in BATCHES]
    found = []
    for mode, case, ways, value in cases:
        op = "ltc" if isinstance(case, LtcCase) else "cfc"
        series = f"{op} {'long' if mode == 'train' else 'T'}"
        row = NamedRow(case, mode, True, f"{case} {mode}")
        facts = report.facts(row) | {"series": series, "value": value}
        if ready := tuple(way for way in ways if way.key in keys):
            found.append((row, facts | {"saved_bytes": saved_bytes(case)}, ready))
    return found


def run(options) -> int:
    """Measure and print. 1 when a process failed, 130 when interrupted."""
    chosen = [
        entry
        for entry in rows(options)
        if not options.only or any(part in entry[0].name for part in options.only)
    ]
    if options.list:
        print("\n".join(row.name for row, _, _ in chosen))
        return 0
    options.repeats, options.slow_repeats = min(options.repeats, 3), 1
    head = machine.header(options)
    command = f"python -m benchmarks {options.typed}".strip()
    store = Store(options.json, command, head, options.resume)
    with store.measuring():
        for row, facts, ways in chosen:
            run_ways(row, facts, ways, options, store)
    for title, lines in tables(store.document).items():
        print(f"\n{title}\n{report.align(lines)}")
    if options.out:
        from .plots import draw_memory

        print(draw_memory(store.document, options.out))
    return 130 if store.interrupted else int(failed(store.rows))


def run_ways(row, facts, ways, options, store) -> None:
    """Measure a row; a way that would take too long or too much memory is left out, and named."""
    store.row(row.name, facts)
    before = series_of(store.document)[facts["series"]][:-1]
    ready = []
    for way in ways:
        if reason := _too_much(before, facts["value"], way.key, options):
            if way.key not in store.rows[row.name]["cells"]:
                store.add(row.name, way.key, {"status": "skipped", "reason": reason})
        else:
            ready.append(way)
    run_row(row, options, ready, store, check=False)


def _too_much(before, value, key, options) -> str:
    """Why the way is left out, expecting time and memory in proportion to the value; or ""."""
    if not before:
        return ""
    last, cells = before[-1]
    cell = cells.get(key, {})
    if not cell.get("seconds"):
        return cell.get("reason", "")
    seconds = cell["seconds"] * value / last
    size = (cell.get("peak_bytes") or 0) * value / last
    if seconds > options.budget:
        return f"would take about {report.seconds_text(seconds)}"
    if size > SHARE * _memory():
        return f"would take about {report.size_text(round(size))}"
    return ""


def _memory() -> int:
    """Bytes of the machine."""
    if "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 * 2**30


def tables(document) -> dict[str, list]:
    """Peak memory and time of every row, by title."""
    found = {}
    for title, ways, part in (
        ("Peak of MLX's memory, time: gradients of B16 I16 H64 as T grows", WAYS, " T"),
        ("A training step over a long sequence, I16 H64", LONG_WAYS, " long"),
    ):
        lines = [["case", "kept by the kernels", *(way.title for way in ways)]]
        for row in document["rows"].values():
            if row["row"]["series"].endswith(part):
                cells = report.summary(row["row"], row["cells"])["cells"]
                texts = (_text(cells.get(way.key)) for way in ways)
                kept = report.size_text(row["row"]["saved_bytes"])
                lines.append([row["row"]["name"], kept, *texts])
        if len(lines) > 1:
            found[title] = lines
    return found


def _text(cell) -> str:
    if not cell:
        return "-"
    if not cell["seconds"]:
        return cell["reason"] if cell["status"] == "skipped" else report.status_text(cell)
    return f"{report.size_text(cell['peak_bytes'])}, {report.seconds_text(cell['seconds'])}"
