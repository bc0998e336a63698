"""Reads clang's textual dump of a syntax tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NODE = re.compile(r"^([|`\- ]*)([A-Za-z]+)(?: 0x([0-9a-f]+))?")
_LINKS = re.compile(r"(?: (?:parent|prev) 0x[0-9a-f]+)+")
_PREVIOUS = re.compile(r"prev 0x([0-9a-f]+)")
_POSITION = r"(?:line:\d+:\d+|col:\d+|(?:[^\s<>,:']|:(?!\d))+:\d+:\d+)"
_AFTER_RANGE = re.compile(rf"\s*({_POSITION})")
_ANY_POSITION = re.compile(
    r"<invalid sloc>|line:(?P<line>\d+):\d+|(?P<column>col):\d+"
    r"|(?P<file>(?:[^\s<>,:]|:(?!\d))+):(?P<file_line>\d+):\d+"
)
_TYPE = re.compile(r"'([^']*)'(?::'([^']*)')?")


@dataclass
class Node:
    depth: int
    kind: str
    address: str  # of a declaration: that of its first declaration
    places: list[tuple[str, int]]  # (file, line) of start, end, and name
    body: str  # the rest of the line

    @property
    def place(self) -> tuple[str, int]:
        """Where a message about this node points."""
        if not self.places:
            return ("", 0)
        return self.places[-1] if self.kind.endswith("Decl") else self.places[0]

    @property
    def written_type(self) -> str:
        """The node's type as it is written."""
        match = _TYPE.search(self.body)
        return match.group(1) if match else ""

    @property
    def type(self) -> str:
        """The node's type, aliases resolved."""
        match = _TYPE.search(self.body)
        return (match.group(2) or match.group(1)) if match else ""


def skip_to(dump: str, files: Iterable[str]) -> str:
    """The dump from the first declaration on that has to do with these files.

    What comes before is the stand-in and MLX's headers: most of the dump, and nobody's kernel.
    """
    found = [at for at in (dump.find(f"{file}:") for file in files) if at >= 0]
    return dump[dump.rfind("\n|-", 0, min(found)) + 1 :] if found else ""


def nodes(dump: str, first_declaration: dict[str, str]) -> Iterator[Node]:
    """The nodes of a dump in its order; notes the first declaration of each redeclaration."""
    file, line = "", 0  # a position leaves out what equals the one before it
    for text in dump.splitlines():
        match = _NODE.match(text)
        if not match:
            continue
        indent, kind, address = match.groups()
        rest = text[match.end() :]
        links = _LINKS.match(rest)
        if links:
            previous = _PREVIOUS.search(links.group())
            if previous:
                root = first_declaration.get(previous.group(1), previous.group(1))
                address = first_declaration[address] = root
            rest = rest[links.end() :]
        positions, body = _split(rest)
        places = []
        for position in _ANY_POSITION.finditer(positions):
            if position["line"]:
                line = int(position["line"])
            elif position["file"]:
                file, line = position["file"], int(position["file_line"])
            elif not position["column"]:
                continue
            places.append((file, line))
        yield Node(len(indent) // 2, kind, address or "", places, body)


def _split(rest: str) -> tuple[str, str]:
    """(the positions of a node, what follows them)."""
    if not rest.startswith(" <"):
        return "", rest
    end = rest.find("> ")
    if end < 0:
        return rest, ""
    positions, tail = rest[: end + 1], rest[end + 1 :]
    name = _AFTER_RANGE.match(tail)
    if name:
        return f"{positions} {name.group(1)}", tail[name.end() :]
    return positions, tail
