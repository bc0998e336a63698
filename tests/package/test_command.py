"""`python -m mlx_ncps`: its commands without arguments, and `version`."""

import mlx.core as mx
import mlx_ncps
import pytest


def run(run_python, *words, **variables):
    done = run_python("-m", "mlx_ncps", *words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_explain_alone_explains_a_sample_call_of_each_layer(run_python):
    printed = run(run_python, "explain")
    for words in ("cfc B32 T64 I16 H32\n", "ltc B32 T64 I16 H32\n", "ltc_sequence runs here on"):
        assert words in printed
    command = next(line for line in printed.splitlines() if "python -m mlx_ncps explain" in line)
    one = run(run_python, *command.split("mlx_ncps ")[1].split())
    assert "ltc_sequence runs here on" in one


def test_explain_alone_keeps_its_options(run_python):
    assert "ncps_cfc_backward" in run(run_python, "explain", "--training")
    assert "ncps_cfc_backward" not in run(run_python, "explain")


def test_explain_names_an_operator_that_it_does_not_know(run_python):
    done = run_python("-m", "mlx_ncps", "explain", "B4")
    assert done.returncode == 2
    assert "'B4'" in done.stderr


def lines_of(run_python, **variables):
    return run(run_python, "version", **variables).splitlines()


def test_version_tells_package_mlx_backend_and_devices(run_python):
    lines = lines_of(run_python)
    assert lines[:2] == [f"mlx-ncps {mlx_ncps.__version__}", f"mlx {mx.__version__}"]
    assert lines[2].startswith("backend: ")
    assert lines[3] == "devices: cpu (default)" or "gpu" in lines[3]
    assert len(lines) == 5


@pytest.mark.usefixtures("native")
def test_version_says_that_the_native_module_is_in_use(run_python):
    assert f"native module: in use, built for mlx {mx.__version__}" in lines_of(run_python)


def test_version_says_why_the_native_module_is_not_in_use(run_python):
    line = "native module: not in use, switched off by MLX_NCPS_DISABLE_NATIVE"
    assert line in lines_of(run_python, DISABLE_NATIVE="1")


@pytest.mark.skipif(mx.cuda.is_available(), reason="has a GPU here")
def test_version_says_why_a_backend_that_was_asked_for_does_not_run(run_python):
    (line,) = (line for line in lines_of(run_python, BACKEND="cuda") if line.startswith("backend"))
    assert line.startswith("backend: cuda, which can't run here: ")
