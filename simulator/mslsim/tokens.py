"""Tokens of preprocessed Metal text, each with the file and line that it came from."""

from __future__ import annotations

import re
from typing import NamedTuple

_PATTERN = re.compile(
    r"""
    (?P<line>^[ \t]*\#[^\n]*(?:\n|$))
  | (?P<space>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<string>L?"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
  | (?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<op>\[\[|\]\]|::|->|\+\+|--|\+=|-=|<<=|<<|&&|\|\||[-+*/%^&|~!=<>,.;:?(){}\[\]\#@\\])
    """,
    re.S | re.M | re.X,
)
_MARKER = re.compile(r'\s*#\s*(?:line\s+)?(\d+)\s+"([^"]*)"')
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">", "[[": "]]"}
_OPENING = frozenset(_CLOSING)
_CLOSERS = frozenset(_CLOSING.values())


class FrontEndError(Exception):
    """The front end cannot read the text."""


class Token(NamedTuple):
    kind: str  # line (a marker of the preprocessor), space, string, number, name, op
    text: str
    file: str
    line: int


class Tokens(list):
    """A list of tokens that steps over white space and line markers."""

    def next(self, i: int) -> int:
        """Index of the significant token after i."""
        i += 1
        while i < len(self) and self[i].kind in ("space", "line"):
            i += 1
        return i

    def previous(self, i: int) -> int:
        """Index of the significant token before i, or -1."""
        i -= 1
        while i >= 0 and self[i].kind in ("space", "line"):
            i -= 1
        return i

    def text(self, i: int) -> str:
        """Text of token i, or nothing outside of the list."""
        return self[i].text if 0 <= i < len(self) else ""

    def join(self, start: int, end: int) -> str:
        """Text of the tokens from start to end, without line markers."""
        return "".join(t.text for t in self[start:end] if t.kind != "line")

    def op(self, i: int) -> str:
        """Text of token i when it is an operator or a bracket."""
        return self[i].text if self[i].kind == "op" else ""

    def close(self, i: int) -> int:
        """Index of the bracket that closes the one at i, or -1; angle brackets too."""
        opening = self.text(i)
        if opening == "<":
            return self._close_angle(i)
        closing, depth = _CLOSING[opening], 0
        for j in range(i, len(self)):
            op = self.op(j)
            if op == opening:
                depth += 1
            elif op == closing:
                depth -= 1
            elif opening == "[" and op in ("[[", "]]"):  # two brackets read as one token
                depth += 2 if op == "[[" else -2
            else:
                continue
            if depth <= 0:
                return j
        return -1

    def _close_angle(self, i: int) -> int:
        depth = nested = 0
        for j in range(i, len(self)):
            op = self.op(j)
            if op in ("(", "[", "{"):
                nested += 1
            elif op in (")", "]", "}"):
                nested -= 1
                if nested < 0:
                    return -1
            elif op == ";":
                return -1
            elif op == "<" and not nested:
                depth += 1
            elif op == ">" and not nested:
                depth -= 1
                if depth == 0:
                    return j
        return -1

    def split(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges between the commas of the outermost level."""
        parts, depth, first = [], 0, start
        for i in range(start, end):
            op = self.op(i)
            if op in _OPENING:
                depth += 1
            elif op in _CLOSERS:
                depth -= 1
            elif op == "," and depth == 0:
                parts.append((first, i))
                first = i + 1
        if self.join(first, end).strip():
            parts.append((first, end))
        return parts


def tokenize(text: str, file: str) -> Tokens:
    """Tokens of preprocessed text; `file` is the name before the first line marker."""
    tokens, position, line = Tokens(), 0, 1
    while position < len(text):
        match = _PATTERN.match(text, position)
        if match is None:
            near = text[position : position + 40]
            raise FrontEndError(f"{file}:{line}: cannot read the text at {near!r}")
        kind, piece = match.lastgroup, match.group()
        tokens.append(Token(kind, piece, file, line))
        marker = _MARKER.match(piece) if kind == "line" else None
        if marker:
            line, file = int(marker.group(1)), marker.group(2)
        else:
            line += piece.count("\n")
        position = match.end()
    return tokens
