"""Survivors that are no bugs: (file, line before, line after) -> why no test can or should see it.

`explained.txt` has them: a line `# why`, then of each survivor its file, `- line before` and
`+ line after`. Add one only after reading the line. Delete one whose lines no longer exist.
"""

from pathlib import Path


def parse(text: str) -> dict[tuple[str, str, str], str]:
    """The survivors of such a text. Raises ValueError for a line that is none of the four."""
    found, why, path, before = {}, "", "", ""
    for line in filter(None, text.splitlines()):
        kind, _, rest = line.partition(" ")
        if kind == "#":
            why = rest
        elif kind == "-":
            before = rest
        elif kind == "+":
            found[path, before, rest] = why
        elif not rest:
            path = kind
        else:
            raise ValueError(f"[mutation] explained.txt has a line that is none: {line!r}")
    return found


EXPLAINED = parse(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
