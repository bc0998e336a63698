"""Importing the package computes nothing and opens no device: a Mac's GPU is opened by the first
array.
"""

import pkgutil

import mlx_ncps
import pytest
from mlx_ncps import CfCCell, convert

# Every function of MLX refuses but those that ask or wrap; an array, however made, takes memory.
IMPORT = """
import importlib, sys
import mlx.core as mx
import mlx.nn, mlx.optimizers, mlx.utils

HARMLESS = {"compile", "custom_function", "is_available", "get_peak_memory", "checkpoint"}

def refusing(where, name):
    def refuse(*_, **__):
        raise AssertionError(f"{where.__name__}.{name} at import")
    return refuse

patched = 0
for where in (mx, mx.fast, mx.linalg, mx.fft, mx.random, mx.metal, mx.cuda):
    for name in dir(where):
        if type(getattr(where, name)).__name__ == "nb_func" and name not in HARMLESS:
            setattr(where, name, refusing(where, name))
            patched += 1
assert patched > 200, patched
before = mx.get_peak_memory()
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert mx.get_peak_memory() == before, f"{name} made an array"
import mlx_ncps
print(mlx_ncps.dispatch.available_backends())
"""
MODULES = sorted(m.name for m in pkgutil.walk_packages(mlx_ncps.__path__, "mlx_ncps."))


def test_importing_every_module_makes_no_array_and_calls_no_operation(run_python):
    assert {"mlx_ncps.backends.cpu", "mlx_ncps.ops.numpy.cfc", "mlx_ncps.__main__"} <= set(MODULES)
    done = run_python("-c", IMPORT, *MODULES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "fault", ["mx.zeros((1,))", "mx.array(1.0)", "mx.default_stream(mx.gpu)", "mx.random.key(0)"]
)
def test_a_module_that_computes_is_found(run_python, tmp_path, fault):
    (tmp_path / "planted.py").write_text(f"import mlx.core as mx\nX = {fault}\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{IMPORT}"
    done = run_python("-c", code, "planted")
    assert done.returncode != 0
    assert "at import" in done.stderr or "planted made an array" in done.stderr


LATER = ("convert", "export", "ops.numpy", "weight_files", "alias", "plans")
LATER += ("backends.gpu", "backends.metal", "backends.metallib", "backends.cuda")


def test_importing_the_package_leaves_what_few_need_for_later(run_python):
    code = "import sys, mlx.nn; before = set(sys.modules); import mlx_ncps; "
    done = run_python("-c", code + "print(*set(sys.modules) - before)")
    assert done.returncode == 0, done.stderr
    new = set(done.stdout.split())
    assert not new & {f"mlx_ncps.{name}" for name in LATER}
    assert not new & {"email", "importlib.metadata", "socket", "zipfile", "json", "pathlib"}


@pytest.mark.parametrize(
    "use",
    [
        "mlx_ncps.convert.from_torch",
        "mlx_ncps.ops.numpy.cfc_sequence",
        "from mlx_ncps import *; convert.from_keras",
        "from mlx_ncps import convert; convert.from_keras",
        "from mlx_ncps.convert import from_torch",
        "assert 'convert' in dir(mlx_ncps) and 'numpy' in dir(mlx_ncps.ops)",
        "import pickle; pickle.loads(pickle.dumps(mlx_ncps.CfC(2, 3)))",
        "assert mlx_ncps.weights.load_weights",
        "mlx_ncps.config.from_config({'class': 'KerasMemoryCell', 'config': CONFIG})",
    ],
)
def test_what_is_left_for_later_is_there_when_it_is_used(run_python, use):
    config = convert.KerasMemoryCell(CfCCell(4, 4), 3).get_config()
    done = run_python("-c", f"import mlx_ncps; CONFIG = {config!r}; {use}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", [mlx_ncps, mlx_ncps.ops])
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'x'"):
        package.x  # noqa: B018
