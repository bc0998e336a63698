"""tools/perf_guard.py: more instructions fail, fewer pass; every case has a bound."""

import json
import re

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def guard():
    from tools import perf_guard

    return perf_guard


@pytest.mark.parametrize(
    ("count", "verdict", "fails"),
    [(1000, "ok", False), (1040, "ok", False), (1060, "TOO MANY", True), (900, "fewer", False)],
)
def test_compare_fails_beyond_the_slack(guard, count, verdict, fails):
    (line,), failed = guard.compare({"a": count}, {"a": 1000})
    assert verdict in line
    assert failed is fails


def test_compare_fails_for_a_case_without_a_bound_and_for_a_bound_without_a_case(guard):
    lines, failed = guard.compare({"new": 1}, {"old": 1})
    assert failed
    assert lines == ["new: no bound", "old: no longer measured"]


def test_every_case_has_a_bound(guard):
    text = (ROOT / "tests" / "native" / "perf_guard.cpp").read_text(encoding="utf-8")
    cases = re.findall(r'^ +\{"(\w+)"', text, re.MULTILINE)
    assert len(cases) > 10
    bounds = json.loads(guard.BOUNDS.read_text(encoding="utf-8"))["instructions"]
    assert sorted(bounds) == sorted(cases)


def driver(path, body):
    """A program in place of the real one and of valgrind: cases, then what `body` does."""
    path.write_text(f"#!/bin/sh\n[ $# = 0 ] && echo one && exit 0\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def counted(guard, tmp_path, monkeypatch):
    """Runs the tool with a fake valgrind -> its exit code."""

    def run(body, bound=100, *more):
        fake = driver(tmp_path / "valgrind", body)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        bounds = tmp_path / "bounds.json"
        document = {"compiler": "GCC 1.0", "isa": "avx2", "instructions": {"one": bound}}
        bounds.write_text(json.dumps(document))
        program = driver(tmp_path / "driver", "exit 1")
        assert fake.exists()
        return guard.main([str(program), "--bounds", str(bounds), *more]), bounds

    return run


FAKE = 'echo "one avx2"; echo "==1== Collected : {}" >&2'


def test_main_fails_when_a_kernel_needs_more(counted, capsys):
    assert counted(FAKE.format(100))[0] == 0
    assert counted(FAKE.format(106))[0] == 1
    assert "The bounds are those of GCC 1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "body", ["exit 3", 'echo "one avx2"', 'echo "one sse"; echo "Collected : 7" >&2']
)
def test_main_fails_when_nothing_is_counted(counted, capsys, body):
    assert counted(body)[0] == 2
    assert "perf_guard: " in capsys.readouterr().err


def test_update_stores_the_counts(counted):
    code, bounds = counted(FAKE.format(77), 100, "--update")
    assert code == 0
    assert json.loads(bounds.read_text())["instructions"] == {"one": 77}
