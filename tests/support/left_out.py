"""Hooks of pytest for conftest.py: the last line of a run says what it skipped, for want of what.

MLX_NCPS_ALLOWED_SKIPS, a regular expression, makes a run fail that skips for another reason; CI
sets it. "-" allows none.
MLX_NCPS_TEST_WITHOUT=networkx,scipy hides these packages, so that a test that needs one must skip.
"""

from __future__ import annotations

import collections
import os
import re
from importlib.machinery import PathFinder

import pytest

_MISSING = re.compile(r"No module named '(\w+)")


def hide(packages: str) -> None:
    """Make these packages, separated by commas, as good as not installed."""
    hidden = set(filter(None, packages.split(",")))
    find = PathFinder.find_spec

    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in hidden else find(name, path, target)

    if hidden:
        PathFinder.find_spec = classmethod(find_spec)


def _skips(config) -> list[tuple[str, str]]:
    """(file, reason) of every test that was skipped, and of every file that was skipped whole."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    found = []
    for report in terminal.stats.get("skipped", []) if terminal else []:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        is_file = isinstance(report, pytest.CollectReport)
        found.append((report.nodeid if is_file else "", reason))
    return found


def _forbidden(config) -> list[str]:
    allowed = os.environ.get("MLX_NCPS_ALLOWED_SKIPS", "")
    reasons = dict.fromkeys(reason for _, reason in _skips(config))
    return [reason for reason in reasons if allowed and not re.search(allowed, reason)]


def _line(skips: list[tuple[str, str]]) -> str:
    """ "left out: 14 tests and test_parity_torch.py for want of torch; ..." """
    groups = collections.defaultdict(list)
    for file, reason in skips:
        missing = _MISSING.search(reason)
        groups[f"for want of {missing[1]}" if missing else f"({reason})"].append(file)
    parts = []
    for cause, files in groups.items():
        single = files.count("")
        tests = [f"{single} test{'s' * (single > 1)}"] * bool(single)
        parts.append(f"{' and '.join([*tests, *filter(None, files)])} {cause}")
    return f"left out: {'; '.join(parts)}"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Fail a run with a skip that is not allowed."""
    if session.exitstatus == pytest.ExitCode.OK and _forbidden(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config):
    """Print the line, below pytest's own last one."""
    skips = _skips(config)
    if not skips:
        return
    writer = config.get_terminal_writer()
    for reason in _forbidden(config):
        writer.line(f"not allowed by MLX_NCPS_ALLOWED_SKIPS: {reason}", red=True)
    writer.line(_line(skips), yellow=True)
