"""Writes tables and pictures of the results into docs/experiments.md, whose text is kept.

python -m benchmarks.papers.page
"""

from __future__ import annotations

import re
import sys
from collections import Counter

from . import cheetah, comparison, digits, original, robustness, vowels, xor
from .runs import FIGURES, RESULTS, ROOT, read_results

PAGE = ROOT / "docs" / "experiments.md"


def _compared(module, of=comparison):
    """Table and picture of a module that has an EXPERIMENT."""
    experiment = module.EXPERIMENT
    return (
        lambda entries: of.results_table(experiment, entries),
        lambda entries, path: of.draw(experiment, entries, path),
    )


EXPERIMENTS = {
    "xor": (xor.results_table, xor.draw),
    "cheetah": (cheetah.results_table, cheetah.draw),
    "original": (original.results_table, original.draw),
    "digits": _compared(digits),
    "vowels": _compared(vowels),
    "robustness": _compared(robustness, robustness),
}


def tables() -> dict[str, str]:
    """The table of each experiment that has results, and the commits of its runs."""
    found = {name: read_results(RESULTS / f"{name}.json") for name in EXPERIMENTS}
    return {
        name: f"{EXPERIMENTS[name][0](entries)}\n\n{commits(entries)}"
        for name, entries in found.items()
        if entries
    }


def commits(entries) -> str:
    """A line with the commits of these entries and how many runs are of each."""
    count = Counter(entry["commit"] for entry in entries)
    return f"Commits (runs): {', '.join(f'{commit} ({n})' for commit, n in count.items())}"


def with_tables(text: str) -> str:
    """The page with each table between its marks, `<!-- name -->` and `<!-- end -->`."""
    for name, table in tables().items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.DOTALL)
    return text


def main() -> int:
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for name, (_, draw) in EXPERIMENTS.items():
        entries = read_results(RESULTS / f"{name}.json")
        if entries:
            draw(entries, FIGURES / f"papers_{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
