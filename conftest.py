"""Shared by all tests: the CPU as default device on Linux, Python in a process of its own."""

import os
import platform
import subprocess
import sys

os.environ["MLX_ENABLE_TF32"] = "0"  # else an M5 rounds the operands of products to 10 bits

import mlx.core as mx
import pytest
from mlx_ncps import _loader

from tests.support import second_runs
from tests.support.generators import start_anew
from tests.support.left_out import hide, pytest_sessionfinish, pytest_unconfigure  # noqa: F401  hooks

hide(os.environ.get("MLX_NCPS_TEST_WITHOUT", ""))
if platform.system() == "Linux":  # a CUDA wheel would make the GPU the default
    mx.set_default_device(mx.cpu)


def pytest_addoption(parser):
    parser.addoption("--as-mac", action="store_true", help="as on a Mac: tests/support/as_mac.py")
    text = "without what the first run has shown: tests/support/second_runs.py"
    parser.addoption("--second-run", action="store_true", help=text)


def pytest_configure(config):
    if config.getoption("--as-mac"):
        from tests.support import as_mac

        as_mac.install()


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--as-mac"):
        from tests.support import as_mac

        path = collection_path.relative_to(config.rootpath).as_posix()
        if path.startswith(as_mac.SKIPPED):
            return True
    return second_runs.ignores(second_runs.mode(config), collection_path) or None


def pytest_collection_modifyitems(config, items):
    mode = second_runs.mode(config)
    if not mode:
        return
    kept, gone = [], []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        known = item.nodeid, parameters, getattr(item, "fixturenames", ())
        (gone if second_runs.left_out(mode, *known) else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=gone)


@pytest.fixture
def native():
    """The native module; skips the test where it is not loaded.

    With MLX_NCPS_REQUIRE_NATIVE=1, as `make test` sets it, there is no such place.
    """
    if _loader.native is None:
        pytest.skip(f"no native module: {_loader.reason}")
    return _loader.native


@pytest.fixture(autouse=True)
def same_import_path():
    """What a test or a tool in it adds to the import path is not there for the next test."""
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def same_numbers():
    """MLX and the generators of test modules draw the same for a test whatever ran before it."""
    mx.random.seed(11)
    start_anew()


@pytest.fixture(autouse=True)
def same_device():
    """The default device that a test, or a program that it runs in this process, sets is not that
    of the next test.
    """
    before = mx.default_device()
    yield
    mx.set_default_device(before)


@pytest.fixture
def cpu_device(same_device):
    """The CPU as the default device, on a Mac too: for tests of what runs on it."""
    mx.set_default_device(mx.cpu)


@pytest.fixture
def run_python():
    """A function that runs `python *arguments` with these MLX_NCPS_* variables and no others."""

    def run(*arguments, **variables):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MLX_NCPS_")}
        return subprocess.run(
            [sys.executable, *arguments],
            env=environ | {f"MLX_NCPS_{name}": value for name, value in variables.items()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def seeded_and_poisoned(native):
    """The same random numbers for every test; outputs are NaN before the kernels write them."""
    mx.random.seed(3)
    native.poison_outputs(True)
    yield
    native.poison_outputs(False)
