"""The head of a file says what the file is, not who calls it: that would go stale elsewhere."""

import ast
import re

import pytest

from tests.support import ROOT

FOLDERS = ("python", "csrc", "src", "metal", "tests", "simulator", "benchmarks", "tools")
FOLDERS += ("build_backend", "examples")
CODE = (".h", ".cpp", ".inl", ".metal")
CALLERS = re.compile(
    r"(?<!to )\b(?:calls?|asks?) (?:it|them)\b|; [^;]*\buses? (?:it|them)\b"
    r"|\busers call\b|\bcalled by\b|; `\w+` calls"
)


def head(path):
    """The first paragraph of a file's docstring or of its opening comment, on one line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        comment = ast.get_docstring(ast.parse(text)) or ""
    else:
        lines = re.match(r"(?:\s*//.*\n)*", text)[0]
        comment = re.sub(r"(?m)^\s*// ?", "", lines)
    return " ".join(comment.split("\n\n")[0].split())


def files(folder):
    for path in sorted((ROOT / folder).rglob("*.*")):
        if path.suffix in (".py", *CODE) and path != ROOT / "tests" / "docs" / "test_heads.py":
            yield path


@pytest.mark.parametrize("folder", FOLDERS)
def test_heads_do_not_tell_who_calls_a_file(folder):
    heads = {path.relative_to(ROOT).as_posix(): head(path) for path in files(folder)}
    assert heads
    told = {path: text for path, text in heads.items() if CALLERS.search(text)}
    assert not told, told


@pytest.mark.parametrize(
    "text",
    [
        "Checks of arrays; every op calls it.",
        "A layer; users call it.",
        "See a.h; `cells` calls f.",
    ],
)
def test_a_head_that_tells_it_is_seen(text):
    assert CALLERS.search(text)
