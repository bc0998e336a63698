"""From results to tables: medians, spreads, ratios, and what stands where there is no time."""

from __future__ import annotations

import statistics

import numpy as np

MLX_OPS = ("eager", "compiled")


def summarise(row, results: dict[str, dict], limit: float | None) -> dict:
    """A row of the report, JSON as it is.

    limit: sigmoids or FMAs per second that the machine reached, None when unknown.
    """
    cells = {key: _cell(result) for key, result in results.items()}
    ours = cells.get("fused", {}).get("seconds")
    times = {key: cell["seconds"] for key, cell in cells.items() if cell["seconds"]}
    ops = fastest(times, MLX_OPS)
    ratios = {key: seconds / ours for key, seconds in times.items() if ours and key != "fused"}
    if ours and ops:
        ratios["mlx_ops"] = ops / ours
    kind, work = row.work
    known = row.mode == "fwd" and limit and ours
    return {
        "name": row.name,
        "mode": row.mode,
        "work": {kind: work},
        "cells": cells,
        "ratios": ratios,
        "share_of_limit": work / ours / limit if known else None,
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


# --- text -----------------------------------------------------------------------------------------


def time_table(rows, implementations) -> str:
    """Median and spread of every cell, ratios to ours, share of the vector limit."""
    others = [i for i in implementations if i.key not in ("fused", *MLX_OPS)]
    head = ["case", *(i.title for i in implementations)]
    head += ["/ MLX ops", *(f"/ {i.title}" for i in others), "limit"]
    lines = [head]
    for row in rows:
        times = [time_text(row["cells"].get(i.key)) for i in implementations]
        ratios = [
            ratio_text(row["ratios"].get(key)) for key in ("mlx_ops", *(i.key for i in others))
        ]
        share = row["share_of_limit"]
        lines.append([row["name"], *times, *ratios, "n/a" if share is None else f"{share:.0%}"])
    return align(lines)


def error_table(rows, implementations) -> str:
    """Largest error against float64 (forward, gradient) and peak memory of every cell."""
    lines = [["max error, peak memory", *(i.title for i in implementations), "ops / ours"]]
    for row in rows:
        cells = [row["cells"].get(i.key) or {} for i in implementations]
        lines.append([row["name"], *map(_error_text, cells), ""])
        ratio = ratio_text(row["memory_ratio"])
        lines.append(["", *(_size_text(c.get("peak_bytes")) for c in cells), ratio])
    return align(lines)


def notes(rows, implementations) -> str:
    """A line for every cell without a time, and why."""
    lines = []
    for row in rows:
        for i in implementations:
            cell = row["cells"].get(i.key)
            if cell and cell["status"] != "ready":
                lines.append(f"{cell['status']}: {row['name']}, {i.title}: {cell['reason']}")
    return "\n".join(lines)


def time_text(cell: dict | None) -> str:
    """Like 4.20 ms ±1%, or the status of a cell without a time."""
    if cell is None:
        return "-"
    if cell["status"] != "ready":
        return "RED" if cell["status"] == "red" else cell["status"]
    seconds = cell["seconds"]
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{seconds * factor:.3g} {unit} ±{cell['spread']:.0%}"


def ratio_text(ratio: float | None) -> str:
    """Like 12.3x, or - without one."""
    if ratio is None:
        return "-"
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _error_text(cell: dict) -> str:
    return " ".join(f"{error:.1e}" for error in cell.get("errors", {}).values()) or "-"


def _size_text(size: int | None) -> str:
    return f"{size / 2**20:.3g} MiB" if size else "-"


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
