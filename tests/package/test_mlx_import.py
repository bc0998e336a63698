"""_mlx.py: the sentence for every state of MLX's packages in which it can't be imported."""

import os
import sys
from pathlib import Path

import mlx_ncps
import pytest
from mlx_ncps import _mlx

NO_LIBRARY = ImportError("libmlx.so: cannot open shared object file: No such file or directory")
ALONE = "mlx 0.32.4 comes without a backend on Linux"
MIXED = "mlx 0.32.2 and mlx-cpu 0.32.4 are different releases"


@pytest.fixture
def packages(monkeypatch):
    """A function that puts these versions into the place of what is installed, and a system."""

    def put(system="Linux", **versions):
        found = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(_mlx, "_version", found.get)
        monkeypatch.setattr(_mlx.platform, "system", lambda: system)

    return put


@pytest.mark.parametrize(
    ("installed", "why", "advice"),
    [
        ({}, "MLX is not installed", "mlx[cpu]"),
        ({"system": "Darwin"}, "MLX is not installed", "mlx"),
        ({"mlx_cpu": "0.32.4"}, "MLX is not installed", "mlx[cpu]"),
        ({"mlx": "0.32.4"}, ALONE, "mlx[cpu]==0.32.4"),
        ({"mlx": "0.32.2", "mlx_cpu": "0.32.4"}, MIXED, "mlx[cpu]==0.32.2"),
        (
            {"mlx": "0.32.2", "mlx_cuda_12": "0.32.4"},
            MIXED.replace("cpu", "cuda-12"),
            "mlx[cuda12]==0.32.2",
        ),
        ({"mlx": "0.32.4", "mlx_cuda_13": "0.32.4"}, str(NO_LIBRARY), "mlx[cuda13]==0.32.4"),
        ({"mlx": "0.32.4", "system": "Darwin"}, str(NO_LIBRARY), "mlx==0.32.4"),
    ],
)
def test_missing_names_the_cause_and_one_command(packages, installed, why, advice):
    packages(**installed)
    sentence = _mlx._missing(NO_LIBRARY)
    assert why in sentence
    assert sentence.endswith(f': pip install "{advice}"')
    assert sentence.count("pip install") == 1
    assert "\n" not in sentence


def without_core(folder):
    """Environment in which an `mlx` without a library comes before the real one."""
    (folder / "mlx").mkdir()
    (folder / "mlx" / "core.py").write_text(f"raise ImportError({str(NO_LIBRARY)!r})")
    (folder / "mlx" / "__init__.py").touch()
    package = str(Path(mlx_ncps.__file__).parents[1])
    return os.pathsep.join([str(folder), package])


@pytest.mark.parametrize(
    "words", [("-m", "mlx_ncps"), ("-m", "mlx_ncps", "status"), ("-mmlx_ncps",)]
)
def test_main_ends_with_the_sentence_alone(run_python, tmp_path, monkeypatch, words):
    monkeypatch.setenv("PYTHONPATH", without_core(tmp_path))
    result = run_python(*words)
    assert result.returncode == 1
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("[mlx_ncps] MLX can't be imported, ")


@pytest.mark.parametrize("name", ["mlx_ncps", "mlx_ncps.wirings", "mlx_ncps.ops.numpy"])
def test_import_ends_with_the_sentence(run_python, tmp_path, monkeypatch, name):
    monkeypatch.setenv("PYTHONPATH", without_core(tmp_path))
    result = run_python("-c", f"import {name}")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: [mlx_ncps] MLX can't be")
    assert result.stderr.count("Traceback") == 1


def test_is_command_knows_this_package_alone(monkeypatch):
    for words, argv, is_it in (
        (["python", "-m", "mlx_ncps"], "-m", True),
        (["python", "-X", "dev", "-m", "mlx_ncps", "explain"], "-m", True),
        (["python", "-m", "mlx_ncps"], "/lib/mlx_ncps/__main__.py", False),
        (["python", "-m", "mlx_ncps_tools"], "-m", False),
        (["python", "-m", "pytest", "mlx_ncps"], "-m", False),
        (["python", "-c", "import mlx_ncps"], "-c", False),
    ):
        monkeypatch.setattr(sys, "orig_argv", words)
        monkeypatch.setattr(sys, "argv", [argv])
        assert _mlx.is_command() is is_it, words
