"""The command `python -m benchmarks training`: a training step with Adam, layers of every size,
eager and compiled, against ncps.torch and JAX.

Each cell is a row of the table in a process of its own, compared with float64 before it is timed.
"""

from __future__ import annotations

from dataclasses import replace

from tests.support.cases import CfcCase, LtcCase

from . import machine, report
from .implementations import BY_KEY, Implementation
from .rows import Row, quick, select
from .store import Store
from .table import choose_columns, failed, run_row

UNITS, BATCHES = (16, 32, 64, 128), (1, 8, 64)
OURS = (
    Implementation("layer", "mlx-ncps", "layer_training:eager"),
    Implementation("layer_compiled", "mlx-ncps, mx.compile", "layer_training:compiled"),
)
OTHERS = ("torch", "torch_compiled", "jax", "jax_by_hand")
ADAM = Implementation("adam", "MLX's Adam alone", "layer_training:adam")
COLUMNS = (*OURS, ADAM, *(BY_KEY[key] for key in OTHERS))


def rows() -> tuple[Row, ...]:
    """CfC, LTC and LTC of an NCP wiring."""
    sizes = [(units, batch) for units in UNITS for batch in BATCHES]
    one = {"steps": 32, "inputs": 16}
    cases: list = []
    for units, batch in sizes:
        ltc = LtcCase(batch=batch, units=units, **one)
        cases += [
            CfcCase(batch=batch, units=units, backbone_units=units, **one),
            ltc,
            replace(ltc, wiring=("AutoNCP", units, 4)),
        ]
    cases.sort(key=lambda case: (type(case).__name__, bool(getattr(case, "wiring", ()))))
    return tuple(Row(case, "train") for case in cases)


def run(options) -> int:
    """Measure and print. 1 when a result was wrong or a process failed, 130 when interrupted."""
    columns = choose_columns(options.columns, COLUMNS)
    chosen = select(quick(rows()) if options.quick else rows(), options.only)
    if options.list:
        print("\n".join(row.name for row in chosen))
        return 0
    if options.quick:
        options.repeats, options.slow_repeats = min(options.repeats, 2), 1
    command = f"python -m benchmarks {options.typed}".strip()
    store = Store(options.json, command, machine.header(options), options.resume)
    with store.measuring():
        for row in chosen:
            run_row(row, options, columns, store)
    for title, lines in tables(store.document).items():
        print(f"\n{title}\n{report.align(lines)}")
    print(report.notes(summaries(store.document), COLUMNS))
    return 130 if store.interrupted else int(failed(store.rows))


def summaries(document) -> list[dict]:
    """The rows with median and spread of their cells."""
    return [report.summary(row["row"], row["cells"]) for row in document["rows"].values()]


def tables(document) -> dict[str, list]:
    """Times, how many times as fast ours are, errors."""
    found = summaries(document)
    return {
        "Time of a training step": report.time_table(found, COLUMNS, limit=False),
        "Ours is so many times as fast: eager, compiled": ratio_table(found),
        "Largest error against float64: states, gradients": report.error_table(found, COLUMNS),
    }


def ratio_table(found) -> list:
    """Time of each column over ours, eager and compiled; where ours is not ahead."""
    others = [BY_KEY[key] for key in OTHERS]
    lines = [["case", *(other.title for other in others), "behind"]]
    for row in found:
        cells, texts, behind = row["cells"], [], []
        for other in others:
            ratios = [_ratio(cells, other.key, ours.key) for ours in OURS]
            texts.append(", ".join(map(report.ratio_text, ratios)))
            behind += [
                f"{ours.title} to {other.title}"
                for ours, ratio in zip(OURS, ratios, strict=True)
                if ratio and ratio < 1
            ]
        lines.append([row["name"], *texts, f"**{'; '.join(behind)}**" if behind else ""])
    return lines


def _ratio(cells, other: str, ours: str) -> float | None:
    times = [cells.get(key, {}).get("seconds") for key in (other, ours)]
    return times[0] / times[1] if all(times) else None
