"""docs/maths.md: every "MATHS n" in the tree is a section of it, its equations are numbered without
gaps and stand in the LaTeX that GitHub and Sphinx both render, and its blocks compute what the
package computes.
"""

import re

import pytest

from tests.support import ROOT
from tests.support.cases import assert_all_close, assert_close, tolerance

PAGE = ROOT / "docs" / "maths.md"
TEXT = PAGE.read_text(encoding="utf-8")
FOLDERS = ("python", "csrc", "src", "metal", "tests", "simulator", "benchmarks", "tools")
FOLDERS += ("examples", "docs", "build_backend", "cmake")
SUFFIXES = {".py", ".md", ".h", ".cpp", ".inl", ".metal", ".cmake", ".txt", ".toml"}
NUMBER = r"\d+(?:\.\d+)?"
CITATION = re.compile(rf"\bMATHS\s+({NUMBER}(?:(?:, | and | to ){NUMBER})*)")

SECTIONS = dict(re.findall(r"(?ms)^## (\d+)\. (.*?)(?=^## |\Z)", TEXT))
BLOCKS = {
    number: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for number, text in SECTIONS.items()
}


def tags(text):
    return re.findall(r"\\tag\{([\d.]+)\}", text)


def citations(text):
    """The numbers of every citation in a text, those that a comment's lines break included."""
    joined = re.sub(r"[ \t]*\n[ \t]*(?://|#)?[ \t]*", " ", text)
    return [number for found in CITATION.findall(joined) for number in re.findall(NUMBER, found)]


def cited():
    """{number: a file that cites it} of all files of the project."""
    found = {}
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in [*paths, *ROOT.glob("*.md")]:
        if path.suffix in SUFFIXES and path.is_file():
            for number in citations(path.read_text(encoding="utf-8")):
                found.setdefault(number, str(path.relative_to(ROOT)))
    return found


def test_citations_are_read_across_the_lines_of_a_comment():
    text = "// unfold (MATHS 3 and\n// 6), (MATHS\n4); as MATHS 1.5 and MATHS_EXP2 say"
    assert citations(text) == ["3", "6", "4", "1.5"]


def test_every_citation_is_a_section_or_an_equation():
    found, known = cited(), {*SECTIONS, *tags(TEXT)}
    assert len(found) > 5
    lost = {number: path for number, path in found.items() if number not in known}
    assert not lost, f"MATHS that docs/maths.md does not have: {lost}"


def test_sections_and_equations_are_numbered_without_gaps():
    assert list(SECTIONS) == [str(n + 1) for n in range(len(SECTIONS))]
    for number, text in SECTIONS.items():
        numbered = tags(text)
        assert numbered == [f"{number}.{n + 1}" for n in range(len(numbered))], f"section {number}"
        assert numbered, f"section {number} has no equation"
        assert BLOCKS[number], f"section {number} has no block that computes it"


def test_equations_are_named_only_where_they_exist():
    text = re.sub(r"\\tag\{[\d.]+\}", "", TEXT)
    named = set(re.findall(r"\((\d+\.\d+)\)", text))
    assert len(named) > 20
    assert named <= set(tags(TEXT))


def test_code_that_a_section_names_exists():
    homes = [ROOT, ROOT / "python" / "mlx_ncps"]
    for named in re.findall(r"`([\w*]+(?:/[\w*.]*)+)`", TEXT):
        assert any(any(home.glob(named.rstrip("/"))) for home in homes), named


def test_formulas_are_latex_that_every_renderer_reads():
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    display = re.findall(r"\$\$(.*?)\$\$", prose, re.DOTALL)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.*?\$\$", "", prose, flags=re.DOTALL))
    assert len(display) == len(tags(TEXT))
    for formula in display + inline:
        # GitHub's Markdown eats the backslash of \, \\ \{ and the like before it renders a formula.
        eaten = re.findall(r"\\[^A-Za-z]", formula)
        assert not eaten, f"{eaten} in {formula}"
        assert formula.count("{") == formula.count("}"), formula
        assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula)), (
            formula
        )
        assert "\n" not in formula, formula
        assert "|" not in formula, formula
        assert "`" not in formula, formula


@pytest.mark.parametrize("number", BLOCKS)
def test_blocks_compute_what_the_package_computes(number):
    same = tolerance("float32", "forward")
    for n, block in enumerate(BLOCKS[number]):
        names = {}
        exec(compile(block, f"maths.md, section {number}, block {n}", "exec"), names)
        got, want = names["got"], names["want"]
        if isinstance(want, dict):
            assert_all_close(got, want, same)
        else:
            assert_close(f"section {number}", got, want, same)
