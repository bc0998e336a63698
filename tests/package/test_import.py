"""Importing the package computes nothing and opens no device: a Mac's GPU is opened by the first
array.
"""

import pkgutil

import mlx_ncps
import pytest

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
