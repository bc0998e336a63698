"""second_runs.py: what a second run leaves out, and that a first run leaves out nothing."""

import pytest

from tests.support import ROOT, second_runs

FILE = """
import pytest
BACKENDS = ["cpu", "metal", "reference"]
@pytest.mark.parametrize("backend", BACKENDS)
def test_forced(backend): pass
@pytest.mark.parametrize("backend", [3])
def test_number(backend): pass
def test_any(): pass
"""
RUNS = {  # variables: what runs
    (): {"cpu", "metal", "reference", "3", "any"},
    ("ISA",): {"cpu", "3", "any"},
    ("DISABLE_NATIVE",): {"cpu", "reference", "3", "any"},
}


@pytest.fixture
def run_file(tmp_path, run_python):
    (tmp_path / "test_some.py").write_text(FILE)
    hooks = "from conftest import pytest_collection_modifyitems, pytest_ignore_collect\n"
    options = 'for name in ("--as-mac", "--second-run"):\n'
    options += '        parser.addoption(name, action="store_true")'
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "local.py").write_text(f"{hooks}\ndef pytest_addoption(parser):\n    {options}\n")

    def run(*arguments, **variables):
        command = ["-c", f"import sys, pytest; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}];"]
        command[1] += f"sys.exit(pytest.main(['-v', '-plocal', {str(tmp_path)!r}, *sys.argv[1:]]))"
        return run_python(*command, *arguments, **variables)

    return run


@pytest.mark.parametrize("variables", RUNS)
def test_a_second_run_leaves_out_what_the_first_has_shown(variables, run_file):
    given = {name: "1" if name == "DISABLE_NATIVE" else "baseline" for name in variables}
    done = run_file(*["--second-run"] * bool(given), **given)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line for line in done.stdout.splitlines() if "PASSED" in line]
    names = [line.split("::test_")[1].split()[0] for line in names]
    assert {name.rstrip("]").rpartition("[")[2] for name in names} == RUNS[variables]


def test_as_a_mac_only_gpus_are_forced_but_where_a_backend_is_chosen():
    left = {
        (path, backend)
        for path in ("tests/rnn/test_masks.py", "tests/backends/test_auto.py")
        for backend in ("cpu", "metal", "reference")
        if second_runs.left_out("mac", path, {"backend": backend})
    }
    assert left == {("tests/rnn/test_masks.py", name) for name in ("cpu", "reference")}
    assert not second_runs.left_out("mac", "tests/rnn/test_masks.py", {"name": "cpu"})
    assert second_runs.left_out("mac", "tests/rnn/test_masks.py", {}, ["run_python"])
    for name in second_runs.PROCESSES:
        path, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / path).read_text(), name


def test_without_packages_only_files_that_name_one_are_run():
    tests = ROOT / "tests"
    for path, packages, named in (
        (tests / "wirings/test_draw.py", "networkx,h5py", True),
        (tests / "wirings/test_module.py", "networkx,h5py", False),
        (tests / "convert/test_from_torch.py", "torch", True),
        (tests / "tools/test_examples.py", "sklearn", True),
    ):
        assert second_runs.names_a_package(path, packages) == named, path


def test_a_second_run_of_nothing_else_is_refused(run_file):
    done = run_file("--second-run")
    assert done.returncode != 0
    assert "--second-run wants one of MLX_NCPS_*, got []" in done.stdout + done.stderr
