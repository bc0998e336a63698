"""The extras of pyproject.toml: the install page has them all, and what is said of the examples'
packages is what their extra holds.
"""

import re

import pytest

from tests.support import ROOT


def extras():
    """{extra: the names of its packages}"""
    text = page("pyproject.toml").partition("[project.optional-dependencies]\n")[2]
    text = re.sub(r"#.*", "", text.partition("\n[tool.")[0])
    lists = re.split(r"^(\w+) = \[", text, flags=re.MULTILINE)[1:]
    packages = [set(re.findall(r'"([\w-]+)', one)) for one in lists[1::2]]
    return dict(zip(lists[::2], packages, strict=True))


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_install_page_has_every_extra():
    table = page("docs/guide/install.md").partition("| extra |")[2].partition("\n\n")[0]
    firsts = [row.split("|")[1] for row in table.splitlines()[2:]]
    named = [name for cell in firsts for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(extras())
    assert len(named) > 8


@pytest.mark.parametrize("name", ["README.md", "examples/README.md", "examples/common.py"])
def test_the_packages_of_the_examples_are_those_of_their_extra(name):
    wanted = extras()["draw"] | extras()["examples"] - {"mlx-ncps"}
    text = re.sub(r'"\s+"', "", page(name))
    found = re.findall(r"pip install (matplotlib[\w -]*\w)", text)
    assert len(found) == 1
    assert set(found[0].split()) == wanted


@pytest.mark.parametrize(
    ("example", "package"),
    [("time_series", "tqdm"), ("inspect_wiring", "matplotlib"), ("digits", "sklearn")],
)
def test_an_example_says_which_package_it_lacks(example, package, run_python):
    pytest.importorskip("tqdm")
    pytest.importorskip("matplotlib")
    code = f"import runpy, sys; sys.modules[{package!r}] = None; sys.path.insert(0, 'examples')\n"
    done = run_python("-c", f"{code}runpy.run_path('examples/{example}.py')", cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the examples need {package}, which is not installed: pip ")
