"""docs/api: every public object is on one page, its docstring names its arguments and has an
example that runs and prints what it shows.
"""

import doctest
import importlib
import inspect
import re

import mlx_ncps
import pytest

from tests.support import ROOT
from tests.support.public import public_modules

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
NUMPY = "mlx_ncps.ops.numpy"  # has the names and arguments of mlx_ncps.ops
MODULES = [name for name in public_modules() if name != NUMPY]
DIRECTIVES = {"class": inspect.isclass, "function": inspect.isfunction}
NATIVE = {"get_instruction_set", "get_num_threads", "instruction_sets"}
NATIVE |= {"set_instruction_set", "set_num_threads"}
NEEDS = {"import ncps": "ncps", "to_onnx(": "onnx", "to_coreml(": "coremltools"}
SESSION = re.search(r"```python\n(.*?)```", (ROOT / "docs/api/index.md").read_text(), re.DOTALL)[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def is_constant(thing):
    return isinstance(thing, str | tuple)


def public(modules):
    """{key: (module and name, object)}: each object once, a constant once for each module."""
    found = {}
    for module in modules:
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            if not inspect.ismodule(thing):
                key = f"{module}.{name}" if is_constant(thing) else id(thing)
                found.setdefault(key, (f"{module}.{name}", thing))
    return found


def documented():
    """[(page, module, directive, name)] of the pages."""
    for page in PAGES:
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = match[1]
            elif match := re.match(r"\.\. auto(\w+):: (\w+)", line):
                yield page.name, module, *match.groups()


OBJECTS = [entry for entry in public(MODULES).values() if not is_constant(entry[1])]
by_name = pytest.mark.parametrize(("name", "thing"), OBJECTS, ids=[name for name, _ in OBJECTS])


def test_every_module_that_the_pages_import_from_is_public():
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    named = set(re.findall(r"from (mlx_ncps[\w.]*) import", text))
    assert len(named) > 3
    assert named <= set(MODULES) | {NUMPY}
    assert {"mlx_ncps", "mlx_ncps.export", "mlx_ncps.pretrained"} <= set(MODULES)


def test_every_public_object_is_on_one_page():
    wanted = public([*MODULES, NUMPY])
    assert len(wanted) > 100
    places = {}
    for page, module, kind, name in documented():
        thing = getattr(importlib.import_module(module), name)
        assert DIRECTIVES.get(kind, is_constant)(thing), f"{page}: {kind} {name}"
        key = f"{module}.{name}" if is_constant(thing) else id(thing)
        assert key in wanted, f"{page}: {module}.{name} is not public"
        places.setdefault(key, []).append(page)
    lost = [name for key, (name, _) in wanted.items() if key not in places]
    assert not lost, f"on no page of docs/api: {lost}"
    twice = {wanted[key][0]: pages for key, pages in places.items() if len(pages) > 1}
    assert not twice


def own_arguments(thing):
    """The names of the arguments of a callable, those that are passed on left out."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(thing).parameters.values()
    return [p.name for p in parameters if p.kind not in kinds]


def told(thing):
    """The docstring, with those of the classes and functions whose arguments it says it has."""
    text = inspect.getdoc(thing)
    for name in re.findall(r"(?:arguments|keywords|inputs|options)[^.]*? of `(\w+)`", text):
        for other in (mlx_ncps.ops, mlx_ncps, mlx_ncps.rnn.stacked):
            if hasattr(other, name):
                text += told(getattr(other, name))
                break
    return text


@by_name
def test_the_docstring_names_every_argument(name, thing):
    text = told(thing)
    missing = [one for one in own_arguments(thing) if not re.search(rf"\b{one}\b", text)]
    assert not missing, f"{name} doesn't say what {missing} are"


def example(thing):
    """The lines below "Example:", the last part of a docstring; "" without one."""
    return (inspect.getdoc(thing) or "").partition("\nExample:\n")[2]


def run(text, name):
    """Run an example as Python's doctest does, after SESSION; what went wrong, "" if nothing."""
    names = {"__name__": "__main__"}
    exec(SESSION, names)
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    out = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=out.append)
    return "".join(out)


@by_name
def test_the_example_runs(name, thing, request, tmp_path, monkeypatch):
    text = example(thing)
    assert ">>> " in text, f"{name} has no `Example:` at the end of its docstring"
    wants = [part.want for part in doctest.DocTestParser().get_examples(inspect.cleandoc(text))]
    assert any(wants), f"{name}: its example shows nothing"
    if name.rpartition(".")[2] in NATIVE:
        request.getfixturevalue("native")
    for package in (package for needed, package in NEEDS.items() if needed in text):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    wrong = run(inspect.cleandoc(text), name)
    assert not wrong, wrong


def test_an_example_that_prints_something_else_is_seen():
    assert not run(">>> CfC(3, 4)(mx.ones((2, 5, 3)))[0].shape\n(2, 5, 4)\n", "right")
    assert "Expected:\n    (2, 5, 3)" in run(
        ">>> CfC(3, 4)(mx.ones((2, 5, 3)))[0].shape\n(2, 5, 3)\n", "wrong"
    )


@pytest.mark.parametrize("thing", [one for _, one in public([NUMPY]).values()])
def test_the_numpy_operators_have_docstrings(thing):
    assert is_constant(thing) or len(inspect.getdoc(thing)) > 15
