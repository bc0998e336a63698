"""Types that tools read: the marker py.typed, the stub of the native module."""

import ast
import re
import tarfile
import zipfile
from pathlib import Path

import mlx_ncps
import pytest
from mlx_ncps import _loader

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
STUB = ROOT / "python" / "mlx_ncps" / "_ext.pyi"


def test_the_package_says_that_it_has_types():
    assert (Path(mlx_ncps._loader.__file__).parent / "py.typed").is_file()


@pytest.fixture
def backend(monkeypatch):
    pytest.importorskip("scikit_build_core")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "build_backend"))
    monkeypatch.setenv("MLX_NCPS_NO_NATIVE", "1")
    import mlx_ncps_build

    return mlx_ncps_build


def test_a_source_distribution_has_marker_and_stub(backend, tmp_path):
    made = backend.build_sdist(str(tmp_path))
    with tarfile.open(tmp_path / made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"python/mlx_ncps/py.typed", "python/mlx_ncps/_ext.pyi"} <= names


def test_a_pure_wheel_has_the_marker_and_no_stub(backend, tmp_path):
    made = backend.build_wheel(str(tmp_path))
    with zipfile.ZipFile(tmp_path / made) as archive:
        names = set(archive.namelist())
    assert "mlx_ncps/py.typed" in names
    assert not [name for name in names if name.startswith("mlx_ncps/_ext")]


def signature_of(thing) -> tuple[str, ...]:
    """The parameters that nanobind tells of a function."""
    ((text, *_), *_) = thing.__nb_signature__
    text = re.sub(r"ndarray\[[^]]*\]|\\\d", "0", text)
    return parameters(ast.parse(text + ": ...").body[0])


def parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    everything = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return tuple(arg.arg for arg in everything if arg.arg != "self")


@pytest.mark.skipif(_loader.native is None, reason="the native module is not built")
def test_the_stub_of_the_native_module_is_of_today():
    told, real = {}, {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            told[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            told[node.name] = None
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    told[f"{node.name}.{part.name}"] = parameters(part)
        elif isinstance(node, ast.AnnAssign):
            told[node.target.id] = None
    for name, thing in vars(_loader.native).items():
        if name.startswith("_"):
            continue
        real[name] = signature_of(thing) if hasattr(thing, "__nb_signature__") else None
        for key, part in vars(thing).items() if isinstance(thing, type) else ():
            if isinstance(part, property):
                real[f"{name}.{key}"] = ()
            elif hasattr(part, "__nb_signature__"):
                real[f"{name}.{key}"] = signature_of(part)
            elif isinstance(part, staticmethod):
                real[f"{name}.{key}"] = signature_of(part.__func__)
    assert told == real, "run tools/extension_stub.py after a change of src/"
