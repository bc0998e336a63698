"""Cuts C++ and Metal text into tokens, as far as mutation needs it."""

import re
from typing import NamedTuple

_PATTERN = re.compile(
    r"""
    (?P<skip>\s+|//[^\n]*|/\*.*?\*/|\\\n
      |^[ \t]*\#define\ \w+\([^)\n]*\)[ \t]*\\\n(?=(?:[^\n]*\\\n)*[^\n]*\})  # head of code
      |^[ \t]*\#(?:\\\n|[^\n])*)
  | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
  | (?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fFuUlL]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<symbol><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|::|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_OPEN = {"(": ")", "[": "]", "{": "}"}


class Token(NamedTuple):
    """A piece of the text: text[start:end]."""

    kind: str  # "name", "number", "string" or "symbol"
    text: str
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """Every token but white space, comments and preprocessor lines, but for macros of several lines
    with code in braces.
    """
    return [
        Token(m.lastgroup, m.group(), m.start(), m.end())
        for m in _PATTERN.finditer(text)
        if m.lastgroup != "skip"
    ]


def partners(tokens: list[Token]) -> dict[int, int]:
    """Index of each bracket -> index of the one that it opens or closes. Raises ValueError."""
    pairs, stack = {}, []
    for i, token in enumerate(tokens):
        if token.kind == "symbol" and token.text in _OPEN:
            stack.append(i)
        elif token.kind == "symbol" and token.text in _OPEN.values():
            if not stack or _OPEN[tokens[stack[-1]].text] != token.text:
                raise ValueError(f"[mutation] unbalanced '{token.text}' at {token.start}")
            pairs[i] = stack.pop()
            pairs[pairs[i]] = i
    if stack:
        raise ValueError(f"[mutation] '{tokens[stack[-1]].text}' is never closed")
    return pairs


def of_cuda_alone(text: str, position: int) -> bool:
    """Whether the position lies in the `#else` of an `#if` that asks for Metal."""
    blocks = []
    for word, rest in re.findall(r"^[ \t]*#[ \t]*(\w+)(.*)", text[:position], re.MULTILINE):
        if word.startswith("if"):
            blocks.append("metal" if "__METAL_VERSION__" in rest else "")
        elif word == "endif":
            blocks.pop()
        elif word == "else" and blocks[-1]:
            blocks[-1] = "cuda"
    return "cuda" in blocks


def conditional(text: str, position: int) -> bool:
    """Whether the position lies in an `#if` block: text that not every build compiles."""
    directives = re.findall(r"^[ \t]*#[ \t]*(if|endif)", text[:position], re.MULTILINE)
    return directives.count("if") > directives.count("endif")
