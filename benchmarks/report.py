"""From results to tables: medians, spreads, ratios, and what stands where there is no time.

A table is a list of lines, each a list of texts, the first line the head; `align` prints one on a
terminal, the results page writes it as Markdown.
"""

from __future__ import annotations

import statistics

import numpy as np

from . import targets

OURS = ("fused", "layer_step", "session")
MLX_OPS = ("eager", "compiled")


def summarise(row, results: dict[str, dict], limit: float | None) -> dict:
    """The facts and cells of a measured row, JSON as it is.

    limit: sigmoids or FMAs per second that the machine reached, None when unknown.
    """
    return summary({**facts(row), "limit": limit}, results)


def facts(row) -> dict:
    """What a file of results says of a row besides its cells."""
    kind, work = row.work
    return {"name": row.name, "mode": row.mode, "work": {kind: work}, "limit": None}


def summary(facts: dict, results: dict[str, dict]) -> dict:
    """The facts of a row, its cells with median and spread, ratios to ours, share of the limit."""
    cells = {key: _cell(result) for key, result in results.items()}
    ours = cells.get("fused", {}).get("seconds")
    times = {key: cell["seconds"] for key, cell in cells.items() if cell["seconds"]}
    ops = fastest(times, MLX_OPS)
    ratios = {key: seconds / ours for key, seconds in times.items() if ours and key != "fused"}
    if ours and ops:
        ratios["mlx_ops"] = ops / ours
    (work,) = facts["work"].values()
    known = facts["mode"] != "step" and facts["limit"] and ours
    return facts | {
        "cells": cells,
        "ratios": ratios,
        "share_of_limit": work / ours / facts["limit"] if known else None,
        "memory_ratio": _memory_ratio(cells),
    }


def fastest(times: dict[str, float], keys) -> float | None:
    """The smallest of the times that exist."""
    return min((times[key] for key in keys if key in times), default=None)


def _cell(result: dict) -> dict:
    """The result with the median and the spread of its samples; none unless it is ready."""
    samples = result.get("samples", []) if result["status"] == "ready" else []
    return result | {
        "samples": samples,
        "seconds": statistics.median(samples) if samples else None,
        "spread": spread(samples) if samples else None,
    }


def spread(samples) -> float:
    """Half the distance between the quartiles, relative to the median."""
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float((high - low) / 2 / middle)


def _memory_ratio(cells) -> float | None:
    """Peak memory of MLX operations, the smaller of eager and compiled, over ours."""
    peaks = {k: c["peak_bytes"] for k, c in cells.items() if c.get("seconds") and c["peak_bytes"]}
    ops = fastest(peaks, MLX_OPS)
    return ops / peaks["fused"] if ops and "fused" in peaks else None


# --- tables ---------------------------------------------------------------------------------------


def tables(rows, implementations) -> dict[str, list]:
    """All tables of the report by their titles; empty ones are left out."""
    present = [i for i in implementations if any(i.key in row["cells"] for row in rows)]
    compared = [i for i in present if not i.other_model]
    others = [i for i in present if i.key == "fused" or i.other_model]
    found = {
        "Targets": targets.table(rows),
        "Time of a call": time_table(rows, compared),
        "Ours is so many times as fast": ratio_table(rows, compared),
        "One streaming step, single calls: p50, p99": latency_table(rows, present),
        "An ordinary RNN of the same sizes (another model: only times compare)": time_table(
            [r for r in rows if any(i.key in r["cells"] for i in others[1:])], others, limit=False
        ),
        "Largest error against float64: states, gradients": error_table(rows, compared),
        "Peak of MLX's memory": memory_table(rows, present),
        "Growth of the process in the first call": growth_table(rows, present),
        "Operations launched by a call": launch_table(rows, present),
    }
    return {title: lines for title, lines in found.items() if len(lines) > 1}


def time_table(rows, implementations, limit=True) -> list:
    """Median, spread, number of samples of every cell; share of the vector limit."""
    lines = [["case", *(i.title for i in implementations), *(["of limit"] if limit else [])]]
    for row in rows:
        share = row["share_of_limit"]
        tail = ["n/a" if share is None else f"{share:.0%}"] if limit else []
        times = (time_text(row["cells"].get(i.key)) for i in implementations)
        lines.append([row["name"], *times, *tail])
    return lines


def ratio_table(rows, implementations) -> list:
    """Time of each column over ours; MLX ops is the faster of eager and compiled."""
    others = [i for i in implementations if i.key not in (*OURS, *MLX_OPS)]
    lines = [["case", "MLX ops", *(i.title for i in others), "memory, MLX ops"]]
    for row in rows:
        ratios = [row["ratios"].get(key) for key in ("mlx_ops", *(i.key for i in others))]
        lines.append([row["name"], *map(ratio_text, [*ratios, row["memory_ratio"]])])
    return lines


def latency_table(rows, implementations) -> list:
    """Percentiles of single calls, of the rows that have them."""

    def text(cell):
        latency = cell.get("latency")
        if latency is None:
            return "-" if cell.get("status", "ready") == "ready" else status_text(cell)
        return f"{seconds_text(latency['p50'])}, {seconds_text(latency['p99'])}"

    return _table([r for r in rows if r["mode"] == "step"], implementations, text)


def error_table(rows, implementations) -> list:
    """Largest error against float64 of every cell."""
    return _table(
        rows,
        implementations,
        lambda cell: ", ".join(f"{e:.1e}" for e in cell.get("errors", {}).values()) or "-",
    )


def memory_table(rows, implementations) -> list:
    """Peak memory of every cell that uses MLX."""
    return _table(rows, implementations, lambda cell: size_text(cell.get("peak_bytes")))


def growth_table(rows, implementations) -> list:
    """Growth of every process."""
    return _table(rows, implementations, lambda cell: size_text(cell.get("process_growth_bytes")))


def launch_table(rows, implementations) -> list:
    """Operations of every cell where they can be counted."""

    def text(cell):
        launches = cell.get("launches")
        return "-" if launches is None else f"{launches}"

    return _table(rows, implementations, text)


def _table(rows, implementations, text) -> list:
    """A table of text(cell), without columns that have nothing."""
    lines = [[text(row["cells"].get(i.key) or {}) for i in implementations] for row in rows]
    kept = [n for n in range(len(implementations)) if any(line[n] != "-" for line in lines)]
    if not kept:
        return [["case"]]
    head = ["case", *(implementations[n].title for n in kept)]
    named = zip((row["name"] for row in rows), lines, strict=True)
    return [head, *([name, *(line[n] for n in kept)] for name, line in named)]


def notes(rows, implementations) -> str:
    """A line for every column or cell without a time, and why."""
    lines = []
    for i in implementations:
        reasons: dict[tuple, list] = {}
        for row in rows:
            cell = row["cells"].get(i.key)
            if cell and cell["status"] != "ready":
                reasons.setdefault((cell["status"], cell["reason"]), []).append(row["name"])
        for (status, reason), names in reasons.items():
            lines.append(f"{status}: {', '.join(names)}, {i.title}: {reason}")
    return "\n".join(lines)


def time_text(cell: dict | None) -> str:
    """Like 4.20 ms ±1%, with the number of samples below 3; or the status of a cell without one."""
    if cell is None:
        return "-"
    if cell["status"] != "ready" or cell["seconds"] is None:
        return status_text(cell)
    samples = len(cell["samples"])
    few = f" n={samples}" if samples < 3 else ""
    return f"{seconds_text(cell['seconds'])} ±{cell['spread']:.0%}{few}"


def status_text(cell: dict) -> str:
    """What stands where there is no time."""
    return {"red": "RED", "ready": "unfinished"}.get(cell["status"], cell["status"])


def seconds_text(seconds: float) -> str:
    """Like 4.2 ms."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{seconds * factor:.3g} {unit}"


def ratio_text(ratio: float | None) -> str:
    """Like 12.3x, or - without one."""
    if ratio is None:
        return "-"
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def size_text(size: int | None) -> str:
    """Like 4.3 MiB, or - for none."""
    if not size:
        return "-"
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def align(lines) -> str:
    """Lines of cells as columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        first, *rest = (cell.ljust(n) for cell, n in zip(line, widths, strict=True))
        rest = [cell.strip().rjust(n) for cell, n in zip(rest, widths[1:], strict=True)]
        texts.append("  ".join([first, *rest]).rstrip())
    texts.insert(1, "  ".join("-" * n for n in widths))
    return "\n".join(texts)
