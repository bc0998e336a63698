"""left_out.py: the last line of a test run, and the skips that fail it."""

import pytest

from tests.support import ROOT

FILES = {
    "conftest.py": "from tests.support.left_out import pytest_sessionfinish, pytest_unconfigure\n",
    "test_whole.py": "import pytest\npytest.importorskip('no_such.module')\n",
    "test_some.py": """
import pytest
def test_first(): pytest.importorskip("no_such")
def test_second(): pytest.importorskip("no_such.other")
def test_third(): pytest.skip("no moon here")
def test_fourth(): pass
""",
}
LINE = "left out: 2 tests and test_whole.py for want of no_such; 1 test (no moon here)"


@pytest.fixture
def run_tests(run_python, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(*names, **variables):
        paths = [str(tmp_path / name) for name in names or [""]]
        return run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *paths, **variables)

    return run


def test_last_line_names_what_is_missing(run_tests):
    done = run_tests()
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert sorted(last.removeprefix("left out: ").split("; ")) == sorted(
        LINE.removeprefix("left out: ").split("; ")
    )


def test_last_line_is_pytests_where_nothing_is_left_out(run_tests):
    done = run_tests("test_some.py::test_fourth")
    assert done.returncode == 0
    assert "1 passed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("allowed", "code", "named"),
    [
        ("no moon|no_such", 0, []),
        ("no moon", 1, ["no_such"]),
        ("-", 1, ["no_such", "no moon here"]),
        ("", 0, []),
    ],
)
def test_skips_that_are_not_allowed_fail_the_run(run_tests, allowed, code, named):
    done = run_tests(ALLOWED_SKIPS=allowed)
    assert done.returncode == code
    told = [line for line in done.stdout.splitlines() if line.startswith("not allowed")]
    assert all(any(name in line for line in told) for name in named)
    assert bool(told) == bool(named)


def test_hidden_packages_are_not_installed(run_tests, tmp_path):
    hide = "from tests.support.left_out import hide\nhide('colorsys,wave')\n"
    (tmp_path / "conftest.py").write_text(FILES["conftest.py"] + hide)
    (tmp_path / "test_hidden.py").write_text("""
import pytest
from importlib.util import find_spec
def test_hidden(): assert not find_spec("colorsys") and find_spec("json")
def test_skipped(): pytest.importorskip("wave")
""")
    done = run_tests("test_hidden.py")
    assert "1 passed, 1 skipped" in done.stdout
    assert done.stdout.splitlines()[-1] == "left out: 1 test for want of wave"


def test_a_failure_stays_one(run_tests, tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong(): assert False\n")
    done = run_tests(ALLOWED_SKIPS="no moon|no_such")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
