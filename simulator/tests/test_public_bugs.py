"""Bugs of published Metal kernels: each is found, and the mended kernel is right."""

import dataclasses
from pathlib import Path

import mslsim
import numpy as np
import pytest
from mslsim.samples.public_memory import MEMORY
from mslsim.samples.public_races import RACES

BUGS = RACES | MEMORY
TOLERANCE = 1e-5  # float32, sums of up to 128 numbers
PAGE = Path(__file__).parents[2] / "docs" / "metal_simulator.md"


@pytest.fixture(autouse=True)
def _clang():
    mslsim.require()


@pytest.mark.parametrize("name", BUGS)
def test_public_bug_is_found(name):
    bug = BUGS[name]
    with pytest.raises(mslsim.MSLError) as caught:
        bug.broken().run()
    assert bug.kind in caught.value.kinds, str(caught.value)


@pytest.mark.parametrize("name", BUGS)
def test_mended_kernel_is_right_in_any_order(name):
    bug = BUGS[name]
    expected = bug.expected(**bug.inputs)
    for order, seed in (("forward", 1), ("chaos", 7)):
        with mslsim.options(order=order, seed=seed):
            found = bug.run()
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, err_msg=order)


def test_page_lists_every_public_bug():
    page = PAGE.read_text()
    for name, bug in BUGS.items():
        (row,) = (line for line in page.splitlines() if f"({bug.link})" in line and name in line)
        assert f"| `{bug.kind}` |" in row


def test_fast_mathematics_and_wrapping_are_findings_only_where_asked_for():
    nan, wrap = BUGS["a test for NaN in fast mathematics"], BUGS["an offset that wraps in uint"]
    for bug, change in ((nan, {"math_mode": "safe"}), (wrap, {"options": {}})):
        plain = dataclasses.replace(bug.broken(), **change)
        plain.run()
