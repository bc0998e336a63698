"""Results as JSON and as Markdown tables; docs/mutation.md keeps the last.

A mutant is `killed`, `survived`, `equal` (the same machine code: no bug) or `invalid` (does not
compile). Only killed and survived ones count.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .explained import EXPLAINED
from .mutants import Mutant


class Result(NamedTuple):
    """What became of one mutant. stage, cause: where and by what it was killed."""

    path: str
    line: int
    operator: str
    before: str
    after: str
    key: str
    verdict: str
    stage: str
    cause: str
    seconds: float

    @property
    def explanation(self) -> str:
        """Why no test can see it, or ""."""
        return EXPLAINED.get((self.path, self.before, self.after), "")


def result(mutant: Mutant, verdict: str, stage: str, cause: str, seconds: float) -> Result:
    """The result of a mutant."""
    place = mutant.path, mutant.line, mutant.edit.operator, mutant.before, mutant.after, mutant.key
    return Result(*place, verdict, stage, cause, round(seconds, 1))


def load(path: Path) -> dict[str, Result]:
    """The results in a JSON file by key; none where there is no file."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    return {row["key"]: Result(**row) for row in rows}


def save(path: Path, facts: dict, results: list[Result]) -> None:
    """Write facts (commit, seed, ..) and results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "results": [r._asdict() for r in results]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def rate(results: list[Result]) -> tuple[int, int, int]:
    """(killed, survivors that are bugs, survivors explained as no bugs)."""
    survivors = [r for r in results if r.verdict == "survived"]
    killed = sum(r.verdict == "killed" for r in results)
    explained = sum(bool(r.explanation) for r in survivors)
    return killed, len(survivors) - explained, explained


def percent(killed: int, survived: int) -> str:
    """Like "95.0 %"; "-" of nothing."""
    total = killed + survived
    return f"{100 * killed / total:.1f} %" if total else "-"


def table(results: list[Result], name: str, of: Callable[[Result], str]) -> str:
    """A Markdown table with a row for every value of `of`, and the sum."""
    groups = defaultdict(list)
    for r in results:
        groups[of(r)].append(r)
    head = f"| {name} | mutants | killed | survived | of these no bug | killed of all | of bugs |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|"]
    for group, members in [*sorted(groups.items()), ("**all**", results)]:
        killed, open_, explained = rate(members)
        counts = killed + open_ + explained, killed, open_ + explained, explained
        cells = *counts, percent(killed, open_ + explained), percent(killed, open_)
        lines.append(" | ".join(["| " + group, *map(str, cells)]) + " |")
    return "\n".join(lines)


def survivors(results: list[Result]) -> str:
    """Each survivor as a diff with its explanation, those without one first."""
    alive = [r for r in results if r.verdict == "survived"]
    parts = []
    for r in sorted(alive, key=lambda r: (bool(r.explanation), r.path, r.line)):
        diff = f"```diff\n- {r.before}\n+ {r.after}\n```"
        why = r.explanation or "**not explained**"
        parts.append(f"`{r.path}`, {r.operator}: {why}\n{diff}")
    return "\n\n".join(parts) or "None."


def markdown(results: list[Result]) -> str:
    """The whole report."""
    stages = Counter(r.stage for r in results if r.verdict == "killed")
    unused = Counter(r.verdict for r in results)
    killed_by = ", ".join(f"{stage} {n}" for stage, n in stages.most_common())
    return "\n\n".join(
        [
            table(results, "file", lambda r: f"`{r.path}`"),
            table(results, "operator", lambda r: r.operator),
            f"Killed by: {killed_by or 'nothing'}. Not counted: {unused['invalid']} that do not "
            f"compile, {unused['equal']} that compile to the same machine code.",
            "Survivors\n\n" + survivors(results),
        ]
    )
