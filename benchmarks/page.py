"""The command `python -m benchmarks page`: docs/results.md and docs/features.md from the files of
docs/results/.

Each file is a document of results (`store`), and says by itself which machine and command it is
from; a part whose file is absent says that it is not measured yet, and which command would fill it.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

from . import ROOT, feature_page, memory, report, table
from .implementations import IMPLEMENTATIONS
from .store import read

PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"
FEATURES = "features.md"  # beside the page

INTRODUCTION = """\
# Results

Written by `python -m benchmarks page` from the files in [results/](results); don't edit it.
[benchmarks.md](benchmarks.md) explains rows, columns and how each cell is measured. Times are
medians of samples in fresh, interleaved processes; behind ± stands half the distance between the
quartiles, then `n` where a cell has fewer than 3 samples. A result that is wrong by more than the
tests allow has no time. [features.md](features.md) has every feature of the layers, steps of
streams and training steps.
"""

# file: (title, the command that fills it)
TABLES = {
    "cpu": ("CPU", "make bench-full"),
    "apple": ("Apple chips: the GPU, backend metal", "make bench-apple"),
    "nvidia": ("NVIDIA GPUs: backend cuda", "make bench-nvidia"),
}
CHECKS = "{}_checks.json"  # beside the results of a GPU: what tools/check_gpu.py found there
CAPTIONS = {
    "scaling_T": "Time over the number of time steps.",
    "scaling_H": "Time over the number of neurons.",
    "scaling_B": "Time over the number of sequences.",
    "scaling_U_density": "Time over solver unfolds, and over the share of synapses that exist.",
    "threads": "Speed with more threads.",
    "cross_over": "Where unfused code wins: a curve in the grey region is faster than ours.",
}


def run(options) -> int:
    """Write the pages; 0. Raises ValueError for a file that holds no results."""
    target = options.out or PAGE
    figures = FIGURES if target == PAGE else target.parent / "figures"
    texts = {
        target: page(options.results, figures, target.parent),
        target.with_name(FEATURES): features(options.results),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def features(results: Path) -> str:
    """The text of the page of features."""
    return feature_page.page(results, Namespace(header=_header, absent=_absent, markdown=markdown))


def page(results: Path, figures: Path, folder: Path) -> str:
    """The text of a page in `folder`, from the files in `results` and the plots in `figures`."""
    parts = [INTRODUCTION]
    for name, (title, command) in TABLES.items():
        path = results / f"{name}.json"
        parts.append(f"## {title}\n")
        parts.append(_table_part(read(path)) if path.exists() else _absent(command))
        checks = results / CHECKS.format(name)
        parts += [_checks_part(json.loads(checks.read_text("utf-8")))] if checks.exists() else []
        if name == "cpu":
            parts += _scaling_part(results / "scaling.json", figures, folder)
            parts += _memory_part(results / "memory.json", figures, folder)
    return "\n".join(parts).rstrip() + "\n"


def _absent(command: str) -> str:
    return f"**Not measured yet.** `{command}` on such a machine fills this part.\n"


def _table_part(document) -> str:
    """Header, tables and notes of a document of the command `table`."""
    rows = table.summaries(document)
    parts = [_header(document)]
    for title, lines in report.tables(rows, IMPLEMENTATIONS).items():
        parts += [f"### {title}\n", markdown(lines)]
    notes = report.notes(rows, IMPLEMENTATIONS)
    parts += ["\n".join(f"    {line}" for line in notes.splitlines()) + "\n"] if notes else []
    if "Linux" in document["header"]["machine"] and " on cpu" in document["header"]["backend"]:
        parts.append(
            "MLX's CPU build for Linux has an unoptimised BLAS and unvectorised mathematics, and "
            "runs an operation on one thread: ratios to MLX operations are larger here than on a "
            "Mac.\n"
        )
    return "\n".join(parts)


def _checks_part(found: dict) -> str:
    """What tools/check_gpu.py kept."""
    verdicts = (f"{step} {'passed' if ok else '**failed**'}" for step, ok in found["steps"].items())
    lines = [f"### Checks on {found['device']}\n", f"mlx {found['mlx']}, {found['how']}: "]
    lines[-1] += ", ".join(verdicts) + "."
    if "values" in found:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in found["values"].items())
        lines.append(f"Values and gradients of the tests' cases: {counts}.")
    if "published" in found:
        times = ", ".join(f"{part} {ms:.3g} ms" for part, ms in found["published"].items())
        text = "The shape that ltc-cuda publishes (LTC B24 T8 I128 H64 U6, half of the synapses, "
        text += "forward 1.7 ms and backward 11 ms on a GTX 1080): "
        lines.append(f"{text}{times}.")
    return "\n".join(lines) + "\n"


def _scaling_part(path: Path, figures: Path, folder: Path) -> list[str]:
    parts = ["## Scaling, and where unfused code wins\n"]
    if not path.exists():
        return [*parts, _absent("make bench-full")]
    parts.append(_header(read(path)))
    for name, caption in CAPTIONS.items():
        parts.append(_figure(figures / f"{name}.png", caption, folder))
    return parts


def _memory_part(path: Path, figures: Path, folder: Path) -> list[str]:
    parts = ["## Training memory\n"]
    if not path.exists():
        return [*parts, _absent("make bench-full")]
    document = read(path)
    parts.append(_header(document))
    for title, lines in memory.tables(document).items():
        parts += [f"### {title}\n", markdown(lines)]
    parts.append(_figure(figures / "memory.png", "Peak of training memory over T.", folder))
    return parts


def _figure(path: Path, caption: str, folder: Path) -> str:
    if not path.exists():
        return ""
    return f"![{caption}]({Path(os.path.relpath(path, folder)).as_posix()})\n\n{caption}\n"


def _header(document) -> str:
    """Command, machine, versions: a list."""
    facts = {"command": f"`{document['command']}`", **document["header"]}
    return "\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n"


def markdown(lines) -> str:
    """A table, the first column to the left."""
    head, *rest = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest)) + "\n"
