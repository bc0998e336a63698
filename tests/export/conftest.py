"""C compilers, for the tests that compile what is exported."""

import shutil

import pytest

CANDIDATES = ("gcc", "clang", "clang-19", "cc")


@pytest.fixture(scope="session")
def c_compilers():
    """The paths of GCC and of Clang, of what is there; another C compiler where neither is."""
    found = {name.split("-")[0]: path for name in CANDIDATES if (path := shutil.which(name))}
    if not found:
        pytest.skip("no C compiler")
    if len(found) > 1:
        found.pop("cc", None)
    return list(found.values())
