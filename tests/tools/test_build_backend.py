"""build_backend/: which MLX and nanobind a build asks for, and the guard that they fit."""

import importlib.metadata
import subprocess
import sys

import pytest

from build_backend import build_tools, check_nanobind_abi, native_requirements
from tests.support import ROOT

BUILD_BACKEND = ROOT / "build_backend"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    monkeypatch.delenv("MLX_NCPS_BUILD_MLX", raising=False)
    monkeypatch.delenv("MLX_NCPS_NO_NATIVE", raising=False)


def install(folder, version):
    metadata = folder / f"mlx-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: mlx\nVersion: {version}\n")


def test_installed_mlx_reads_the_target_environment(tmp_path):
    assert native_requirements.installed_mlx([str(tmp_path)]) is None
    install(tmp_path, "0.32.1")
    assert native_requirements.installed_mlx([str(tmp_path)]) == "0.32.1"


@pytest.mark.parametrize(
    ("mlx", "nanobind"),
    [
        ("0.32.1", "2.14.0"),
        ("0.32.2", "2.15.0"),
        ("0.32.3", "3.1.0"),
        ("0.32.4", "3.1.0"),
        ("0.32.4.dev20260101+abc", "3.1.0"),
    ],
)
def test_nanobind_for_follows_the_wheels(mlx, nanobind):
    assert native_requirements.nanobind_for(mlx) == nanobind


@pytest.mark.parametrize(("mlx", "match"), [("0.32.0", "needs mlx >= 0.32.1"), ("new", "'new'")])
def test_nanobind_for_refuses(mlx, match):
    with pytest.raises(SystemExit, match=match):
        native_requirements.nanobind_for(mlx)


def test_native_requirements_pin_the_installed_mlx(monkeypatch):
    monkeypatch.setattr(native_requirements, "installed_mlx", lambda: "0.32.2")
    assert native_requirements.native_requirements() == [
        "mlx==0.32.2; platform_system != 'Linux'",
        "mlx[cpu]==0.32.2; platform_system == 'Linux'",
        "nanobind==2.15.0",
    ]


@pytest.mark.parametrize(("value", "more"), [("1", ["numpy"]), ("0", [])])
def test_native_requirements_of_a_metallib(monkeypatch, value, more):
    plain = native_requirements.native_requirements()
    monkeypatch.setenv("MLX_NCPS_METALLIB", value)
    assert native_requirements.native_requirements() == plain + more


def test_native_requirements_follow_the_variable(monkeypatch):
    monkeypatch.setattr(native_requirements, "installed_mlx", lambda: "0.32.4")
    monkeypatch.setenv("MLX_NCPS_BUILD_MLX", "0.32.1")
    assert "mlx[cpu]==0.32.1; platform_system == 'Linux'" in (
        native_requirements.native_requirements()
    )


def test_native_requirements_allow_what_the_package_allows(monkeypatch):
    monkeypatch.setattr(native_requirements, "installed_mlx", lambda: None)
    wanted = native_requirements.allowed_mlx()
    oldest = ".".join(map(str, native_requirements.NANOBIND_FOR_MLX[-1][0]))
    assert wanted == f">={oldest},<0.33"
    assert f"mlx[cpu]{wanted}; platform_system == 'Linux'" in (
        native_requirements.native_requirements()
    )


def test_native_requirements_are_none_for_a_pure_python_wheel(monkeypatch):
    monkeypatch.setenv("MLX_NCPS_NO_NATIVE", "1")
    assert native_requirements.native_requirements() == []


SETTINGS = {"mlx": ">=0.32.1,<0.33", "others": ["numpy>=1.26"]}


@pytest.fixture
def wheel_dependencies(monkeypatch):
    """The module as a build imports it, from the folder itself."""
    monkeypatch.syspath_prepend(str(BUILD_BACKEND))
    return importlib.import_module("wheel_dependencies")


def dependencies(module, state):
    made = module.Dependencies()
    made.build_state(state)
    return made.dynamic_metadata(SETTINGS, {})["dependencies"]


@pytest.mark.parametrize("state", ["wheel", "editable", "metadata_wheel", "metadata_editable"])
def test_a_native_wheel_needs_the_mlx_that_it_was_built_against(
    wheel_dependencies, monkeypatch, state
):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.32.3+abc")
    assert dependencies(wheel_dependencies, state) == ["mlx==0.32.3", "numpy>=1.26"]


def test_a_source_and_a_pure_python_wheel_need_any_mlx_that_is_allowed(
    wheel_dependencies, monkeypatch
):
    wanted = [f"mlx{SETTINGS['mlx']}", "numpy>=1.26"]
    assert dependencies(wheel_dependencies, "sdist") == wanted
    monkeypatch.setenv("MLX_NCPS_NO_NATIVE", "1")
    assert dependencies(wheel_dependencies, "wheel") == wanted
    assert wheel_dependencies.Dependencies().dynamic_wheel(SETTINGS) == {"dependencies": True}


@pytest.mark.parametrize("native", [True, False])
def test_the_metadata_of_a_wheel_names_the_mlx_that_it_fits(tmp_path, native, monkeypatch):
    """By scikit-build-core itself, as pip asks it."""
    code = (
        "import sys; sys.path.insert(0, 'build_backend')\n"
        "from scikit_build_core.build import prepare_metadata_for_build_wheel as prepare\n"
        "print('made', prepare(sys.argv[1]))\n"
    )
    if not native:
        monkeypatch.setenv("MLX_NCPS_NO_NATIVE", "1")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = next(tmp_path.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    version = importlib.metadata.version("mlx").partition("+")[0]
    wanted = {f"mlx=={version}"} if native else {"mlx<0.33", "mlx>=0.32.1"}
    found = {line.split(": ")[1] for line in text.splitlines() if line.startswith("Requires-Dist")}
    mlx = {part for line in found if line.startswith("mlx") and "[" not in line for part in [line]}
    assert any(set(line.removeprefix("mlx").split(",")) == {w[3:] for w in wanted} for line in mlx)
    assert "numpy>=1.26" in found
    version = importlib.import_module("mlx_ncps").__version__
    assert f"Version: {version}" in text


def test_the_settings_of_the_dependencies_are_those_that_the_build_asks_for():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'mlx = "{native_requirements.allowed_mlx()}"' in text
    assert 'module = "wheel_dependencies:Dependencies"' in text
    assert 'dynamic = ["version", "dependencies"]' in text


@pytest.mark.parametrize(
    ("key", "header", "fits"),
    [
        (b"nanobind_system_libstdcpp_abi_1_a1_v22\0", "nb_internals.h", True),
        (b"nanobind_system_libstdcpp_abi_1_a1_v21\0", "nb_internals.h", False),
        (b"nanobind_system_libstdcpp_abi_1_a1_v22_stable\0", "nb_internals.h", False),
        (b"v22_system_libstdcpp_gxx_abi_1xxx\0", "nb_abi.h", True),
        (b"v19_system_libstdcpp_gxx_abi_1xxx\0", "nb_abi.h", False),
    ],
)
def test_check_nanobind_abi_compares_internals(tmp_path, capsys, key, header, fits):
    (tmp_path / "core.so").write_bytes(b"\x7fELF..." + key + b"...")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / header).write_text("#  define NB_INTERNALS_VERSION 22\n")
    assert check_nanobind_abi.main(str(tmp_path), str(tmp_path)) == (0 if fits else 1)
    assert "v22" in capsys.readouterr().out


def test_check_nanobind_abi_reports_a_folder_without_mlx(tmp_path):
    with pytest.raises(SystemExit, match="no nanobind internals key"):
        check_nanobind_abi.main(str(tmp_path), str(tmp_path))


# --- what the machine lacks


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """A function that puts a shell script into an otherwise empty PATH, under this name."""
    for name in ("CXX", "CMAKE_ARGS", "CMAKE_TOOLCHAIN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


def message(config_settings=None, native=True):
    with pytest.raises(SystemExit) as caught:
        build_tools.check(config_settings, native)
    text = str(caught.value)
    assert text.startswith("[mlx-ncps build] ")
    assert "\n" not in text
    return text


def test_check_accepts_this_machine():
    build_tools.check(None, native=True)  # it has built the module under test


def test_check_names_a_missing_compiler(compilers):
    text = message()
    assert "needs a C++20 compiler, and none is found" in text
    assert "MLX_NCPS_NO_NATIVE=1" in text


def test_check_names_a_cxx_that_is_no_program(compilers, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/g++ -m64")
    assert "CXX=/nonexistent/g++ -m64 is not a program" in message()


def test_check_gives_the_first_error_of_a_compiler(compilers):
    compilers("c++", "echo 'c++: note: old' >&2; echo 'c++: error: no C++20 here' >&2; exit 1")
    assert "c++ makes no C++20 program (c++: error: no C++20 here)" in message()
    compilers("c++", "exit 3")
    assert "c++ makes no C++20 program (exit status 3)" in message()


def test_check_says_that_the_compiler_came_from_cxx(compilers, monkeypatch):
    compilers("broken", "exit 1")
    monkeypatch.setenv("CXX", "broken")
    fault = "broken, from the variable CXX, makes no C++20 program (exit status 1)"
    assert f"{fault}: unset CXX or name another, or set MLX_NCPS_NO_NATIVE=1" in message()


def test_check_leaves_a_compiler_that_cmake_is_told_of_to_cmake(compilers, monkeypatch):
    build_tools.check({"cmake.define.CMAKE_CXX_COMPILER": "icpx"}, native=True)
    monkeypatch.setenv("CMAKE_ARGS", "-DCMAKE_CXX_COMPILER=icpx")
    build_tools.check(None, native=True)


def test_check_asks_no_compiler_for_a_pure_python_wheel(compilers):
    build_tools.check(None, native=False)


def test_check_names_missing_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(build_tools.sysconfig, "get_path", lambda name: str(tmp_path))
    text = message()
    assert f"there is no {tmp_path}/Python.h" in text
    assert "python3-dev" in text
    build_tools.check(None, native=False)


@pytest.mark.parametrize("native", [True, False])
def test_check_names_an_old_python(monkeypatch, native):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert "mlx-ncps needs Python 3.10 or newer, got 3.9" in message(native=native)


def test_oldest_python_is_that_of_pyproject():
    oldest = ".".join(map(str, build_tools.OLDEST_PYTHON))
    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={oldest}"' in text


def test_check_packages_names_what_pip_did_not_bring(compilers, monkeypatch):
    monkeypatch.setattr(build_tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="no cmake, no nanobind, no mlx") as caught:
        build_tools.check_packages(["mlx[cpu]==0.32.4", "nanobind==3.1.0"])
    wanted = '"scikit-build-core" "cmake" "ninja" "mlx[cpu]==0.32.4" "nanobind==3.1.0"'
    assert str(caught.value).endswith(f"first pip install {wanted}")
    monkeypatch.setattr(build_tools.importlib.util, "find_spec", lambda name: name)
    build_tools.check_packages([])


def test_backend_names_a_missing_scikit_build():
    code = "import sys; sys.modules['scikit_build_core'] = None; import mlx_ncps_build"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=BUILD_BACKEND, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "there is no scikit-build-core" in sentence


HOOKS = """
import sys, types
def hook(*arguments): print("scikit-build ran")
theirs = types.ModuleType("scikit_build_core.build")
theirs.__getattr__ = lambda name: hook
package = types.ModuleType("scikit_build_core")
package.build = theirs
sys.modules |= {"scikit_build_core": package, "scikit_build_core.build": theirs}
sys.path.insert(0, sys.argv[1])
import mlx_ncps_build
getattr(mlx_ncps_build, sys.argv[2])(*sys.argv[3:])
"""


@pytest.mark.parametrize(
    "words",
    [
        ("get_requires_for_build_wheel",),
        ("get_requires_for_build_editable",),
        ("prepare_metadata_for_build_wheel", "folder"),
        ("prepare_metadata_for_build_editable", "folder"),
        ("build_wheel", "folder"),
        ("build_editable", "folder"),
    ],
)
def test_hooks_check_before_scikit_build(words, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    command = [sys.executable, "-c", HOOKS, str(BUILD_BACKEND), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("[mlx-ncps build] CXX=/nonexistent is not a program")
