"""What keeps the code easy to walk through: short files, short functions, no import circles."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
PACKAGE = ROOT / "python" / "mlx_ncps"
MOST_LINES = 300  # of a file, without the examples in docstrings
MOST_LINES_OF_FUNCTION = 60  # from its def to its end, without them
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
REASON = "# Long: "  # begins a comment in a longer function that says why it is one
GROUPS = {  # folder: where its absolute imports are found
    PACKAGE: (PACKAGE.parent,),
    ROOT / "benchmarks": (ROOT,),
    ROOT / "tools": (ROOT, ROOT / "tools"),
}


def files_of(folder):
    return sorted(p for p in folder.rglob("*.py") if "build" not in p.parts)


def short(path):
    return path.relative_to(ROOT).as_posix()


def without_examples(text):
    """The lines of a file, those left out that the examples of its docstrings take."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(node, DOCUMENTED):
            first, value = body[0], getattr(body[0], "value", None)
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                inside = range(first.lineno - 1, first.end_lineno - 1)
                begin = [n - 1 for n in inside if (lines[n] or "").strip() == "Example:"]
                for n in range(begin[0], first.end_lineno - 1) if begin else ():
                    lines[n] = None  # and the blank line above it
    return [line for line in lines if line is not None]


def test_lines_of_examples_are_left_out():
    text = 'def f():\n    """It.\n\n    Example:\n        >>> f()\n    """\n    return 1\n'
    assert without_examples(text) == ["def f():", '    """It.', '    """', "    return 1"]
    assert without_examples("x = 1\n") == ["x = 1"]


def test_no_file_of_the_package_is_long():
    lengths = {short(p): len(without_examples(p.read_text())) for p in files_of(PACKAGE)}
    assert len(lengths) > 90
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def long_functions(text):
    """{name: lines} of the functions that are long and don't say why."""
    text = "\n".join(without_examples(text))
    lines = text.splitlines()
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = lines[node.lineno - 1 : node.end_lineno]
            explained = any(line.strip().startswith(REASON) for line in inside)
            if len(inside) > MOST_LINES_OF_FUNCTION and not explained:
                found[node.name] = len(inside)
    return found


def test_no_function_of_the_package_is_long_without_a_reason():
    found = {short(p): long_functions(p.read_text()) for p in files_of(PACKAGE)}
    assert {name: functions for name, functions in found.items() if functions} == {}


@pytest.mark.parametrize(("first", "count"), [("pass", 1), ("# Long: one table", 0)])
def test_a_long_function_is_found_unless_it_says_why(first, count):
    text = "def f():\n    " + "\n    ".join([first, *["pass"] * MOST_LINES_OF_FUNCTION])
    assert len(long_functions(text)) == count
    assert long_functions(text.replace("    pass\n", "", 2)) == {}


# --- imports ---


def file_of(place):
    """The file of a module or package, or None."""
    for path in (place.with_suffix(".py"), place / "__init__.py", place.with_suffix(".pyi")):
        if path.is_file():
            return path
    return None


def imported(path, roots):
    """The files of these folders that a file imports: in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        places = []
        if isinstance(node, ast.Import):
            places = [root.joinpath(*a.name.split(".")) for a in node.names for root in roots]
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1] if node.level else None
            parts = (node.module or "").split(".") if node.module else []
            bases = [above] if above else roots
            bases = [base.joinpath(*parts) for base in bases]
            for base in bases:
                inner = [base / a.name for a in node.names]
                modules = [p for p in inner if base.is_dir() and file_of(p)]
                places += modules
                if len(modules) < len(inner):
                    places.append(base)
        found |= {file for place in places if (file := file_of(place))}
    return found - {path}


def circles(graph):
    """The sets of modules that reach each other."""

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for following in graph.get(todo.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    todo.append(following)
        return seen

    reach = {node: reached(node) for node in graph}
    found = {
        frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in graph if a in reach[a]
    }
    return sorted(sorted(circle) for circle in found)


@pytest.mark.parametrize("folder", GROUPS, ids=lambda path: path.name)
def test_no_imports_run_in_circles(folder):
    graph = {short(p): {short(f) for f in imported(p, GROUPS[folder])} for p in files_of(folder)}
    assert sum(map(len, graph.values())) > 10
    assert circles(graph) == []


def test_a_circle_is_found(tmp_path):
    package = tmp_path / "p"
    (package / "sub").mkdir(parents=True)
    texts = {
        "__init__": "from .a import f",
        "a": "def f():\n    from .sub import c",
        "b": "from . import a",
        "d": "from __future__ import annotations\nimport os",
        "sub/__init__": "",
        "sub/c": "if TYPE_CHECKING:\n    from ..a import f\nelse:\n    from p.b import x",
    }
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    graph = {
        p.relative_to(package).as_posix(): {
            f.relative_to(package).as_posix() for f in imported(p, (tmp_path,))
        }
        for p in files_of(package)
    }
    assert circles(graph) == [["a.py", "b.py", "sub/c.py"]]
    (package / "b.py").write_text("from .d import os")
    assert imported(package / "b.py", (tmp_path,)) == {package / "d.py"}


@pytest.mark.parametrize("folder", ["tests", "tools", "benchmarks", "examples"])
def test_no_module_hides_one_of_the_standard_library(folder):
    """A file run as a script puts its folder first on the path: a numbers.py beside it is what
    NumPy then imports.
    """
    found = files_of(ROOT / folder)
    assert len(found) > 5
    assert [short(p) for p in found if p.stem in sys.stdlib_module_names] == []
