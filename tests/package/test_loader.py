"""_loader.py: every reason for which the native module is or is not used; `python -m mlx_ncps`."""

import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest
from mlx_ncps import _loader


@pytest.fixture
def install(monkeypatch):
    """Puts a build into the place of the installed one; None stands for a missing module."""

    def put(build_info, ext=None):
        monkeypatch.setitem(sys.modules, "mlx_ncps._build_info", build_info)
        monkeypatch.setitem(sys.modules, "mlx_ncps._ext", ext)

    return put


def build_info(mlx_version=mx.__version__):
    module = ModuleType("mlx_ncps._build_info")
    module.MLX_VERSION = mlx_version
    module.NANOBIND_VERSION = "9.8.7"
    return module


def ext(array_type=lambda: mx.array):
    module = ModuleType("mlx_ncps._ext")
    module.array_type = array_type
    module.num_threads = lambda: 1
    module.isa = lambda: "baseline"
    return module


def unknown():
    """What a module answers that was built with another nanobind."""


def raise_value_error():
    raise ValueError("MLX_NCPS_SOMETHING must be an integer, got 'many'.")


def load_in_silence(**environ):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _loader.load(environ)


def test_load_returns_the_module_that_fits(install):
    module = ext()
    install(build_info(), module)
    assert load_in_silence() == (module, "")
    assert load_in_silence(MLX_NCPS_REQUIRE_NATIVE="1") == (module, "")
    assert load_in_silence(MLX_NCPS_DISABLE_NATIVE="0") == (module, "")


def test_load_ignores_a_local_version_label(install):
    module = ext()
    install(build_info(mx.__version__.split("+")[0] + "+local"), module)
    assert load_in_silence() == (module, "")


def test_load_leaves_a_disabled_module_alone(install):
    install(build_info(), ext(array_type=unknown))
    native, reason = load_in_silence(MLX_NCPS_DISABLE_NATIVE="1")
    assert native is None
    assert "MLX_NCPS_DISABLE_NATIVE" in reason


def test_load_is_silent_in_a_pure_python_install(install):
    install(None)
    native, reason = load_in_silence()
    assert native is None
    assert "pure-Python" in reason


def test_load_does_not_open_a_module_for_another_mlx(install, monkeypatch):
    install(build_info("0.1.2"))
    opened = []
    find = _loader.import_module
    monkeypatch.setattr(_loader, "import_module", lambda name: opened.append(name) or find(name))
    with pytest.warns(RuntimeWarning, match=r"built for mlx 0\.1\.2"):
        native, reason = _loader.load({})
    assert native is None
    assert mx.__version__ in reason
    assert opened == ["mlx_ncps._build_info"]


def test_load_keeps_the_reason_of_an_import_error(install, monkeypatch):
    install(build_info())
    find = _loader.import_module

    def fail(name):
        if name.endswith("_ext"):
            raise ImportError("undefined symbol: _ZN3mlx4core5arrayE")
        return find(name)

    monkeypatch.setattr(_loader, "import_module", fail)
    with pytest.warns(RuntimeWarning, match="undefined symbol: _ZN3mlx4core5arrayE") as caught:
        native, reason = _loader.load({})
    assert native is None
    assert "undefined symbol" in reason
    assert len(caught) == 1


def test_load_reports_a_missing_module(install):
    install(build_info(), None)
    with pytest.warns(RuntimeWarning, match="does not load"):
        assert _loader.load({})[0] is None


def test_load_reports_a_nanobind_that_does_not_fit(install):
    install(build_info(), ext(array_type=unknown))
    with pytest.warns(RuntimeWarning, match=r"nanobind 9\.8\.7") as caught:
        native, reason = _loader.load({})
    assert native is None
    assert f"does not fit mlx {mx.__version__}" in reason
    assert len(caught) == 1


def test_load_hides_no_other_error(install):
    def broken():
        raise RuntimeError("broken")

    install(build_info(), ext(array_type=broken))
    with pytest.raises(RuntimeError, match="broken"):
        _loader.load({})


@pytest.mark.parametrize("variable", ["num_threads", "isa"])
def test_load_raises_for_a_bad_value_of_a_variable(install, variable):
    module = ext()
    setattr(module, variable, raise_value_error)
    install(build_info(), module)
    with pytest.raises(ValueError, match="got 'many'"):
        _loader.load({})


@pytest.mark.parametrize(
    ("build", "module", "environ", "match"),
    [
        (None, None, {}, "pure-Python"),
        (build_info("0.1.2"), ext(), {}, r"built for mlx 0\.1\.2"),
        (build_info(), None, {}, "does not load"),
        (build_info(), ext(array_type=unknown), {}, "nanobind"),
        (build_info(), ext(), {"MLX_NCPS_DISABLE_NATIVE": "1"}, "MLX_NCPS_DISABLE_NATIVE"),
    ],
    ids=["pure", "version", "missing", "nanobind", "disabled"],
)
def test_load_raises_when_the_module_is_required(install, build, module, environ, match):
    install(build, module)
    with pytest.raises(ImportError, match=match) as caught:
        load_in_silence(MLX_NCPS_REQUIRE_NATIVE="1", **environ)
    assert "MLX_NCPS_REQUIRE_NATIVE" in str(caught.value)


@pytest.mark.parametrize(
    ("system", "packages", "command"),
    [
        ("Linux", {"mlx-cpu"}, 'pip install "mlx[cpu]==0.1.2"'),
        ("Linux", {"mlx-cuda-12"}, 'pip install "mlx[cuda12]==0.1.2"'),
        ("Linux", {"mlx-cuda-13"}, 'pip install "mlx[cuda13]==0.1.2"'),
        ("Linux", set(), 'pip install "mlx[cpu]==0.1.2"'),
        ("Darwin", set(), 'pip install "mlx==0.1.2"'),
    ],
)
def test_load_advises_what_keeps_mlx_whole(install, monkeypatch, system, packages, command):
    install(build_info("0.1.2+local"))
    monkeypatch.setattr(_loader._mlx.platform, "system", lambda: system)
    monkeypatch.setattr(_loader._mlx, "_version", lambda name: "1" if name in packages else None)
    with pytest.warns(RuntimeWarning, match="built for"):
        _, reason = _loader.load({})
    assert command in reason


@pytest.mark.parametrize("broken", ["version", "missing", "nanobind"])
def test_load_advises_to_build_from_a_checkout(install, broken):
    module = ext(array_type=unknown) if broken == "nanobind" else None
    install(build_info("0.1.2") if broken == "version" else build_info(), module)
    with pytest.warns(RuntimeWarning, match="native module"):
        _, reason = _loader.load({})
    assert "pip install --force-reinstall --no-deps . in a checkout" in reason
    assert "mlx-ncps mlx-ncps" not in reason
    assert "install mlx-ncps" not in reason  # no index has it


# --- the package itself, in a process of its own


def test_import_falls_back_when_disabled(run_python):
    code = "import mlx_ncps; print(mlx_ncps.available_backends())"
    result = run_python("-W", "error", "-c", code, DISABLE_NATIVE="1")
    assert result.returncode == 0, result.stderr
    assert "'reference'" in result.stdout
    assert "'cpu'" not in result.stdout


def test_import_fails_when_required_and_disabled(run_python):
    result = run_python("-c", "import mlx_ncps", DISABLE_NATIVE="1", REQUIRE_NATIVE="1")
    assert result.returncode == 1
    assert "ImportError: [mlx_ncps] the native module is not available" in result.stderr


def test_import_raises_for_an_unknown_instruction_set(run_python, native):
    result = run_python("-c", "import mlx_ncps", ISA="mmx")
    assert result.returncode == 1
    assert "ValueError" in result.stderr
    assert "'mmx'" in result.stderr


def test_main_reports_backends_versions_and_variables(run_python):
    result = run_python("-m", "mlx_ncps", DISABLE_NATIVE="1", NUM_THREADS="3")
    assert result.returncode == 0, result.stderr
    assert f"mlx {mx.__version__}" in result.stdout
    assert "* reference  yes" in result.stdout
    assert "not available: switched off by MLX_NCPS_DISABLE_NATIVE" in result.stdout
    (threads,) = [line for line in result.stdout.splitlines() if "MLX_NCPS_NUM_THREADS" in line]
    assert "'3'" in threads


def test_main_reports_the_native_module(run_python, native):
    result = run_python("-m", "mlx_ncps", "status", NUM_THREADS="3", ISA="baseline")
    assert result.returncode == 0, result.stderr
    words = [line.split() for line in result.stdout.splitlines()]
    assert ["threads", "3"] in words
    assert ["instruction", "set", "baseline"] in [line[:3] for line in words]
    assert ["built", "for", "mlx"] in [line[:3] for line in words]


@pytest.fixture
def foreign_build(tmp_path, monkeypatch):
    """A copy of the package, built for another MLX, in the place of the real one."""
    source = Path(_loader.__file__).parent
    shutil.copytree(source, tmp_path / "mlx_ncps", ignore=shutil.ignore_patterns("_ext*"))
    built = 'MLX_VERSION, NANOBIND_VERSION, HAS_METALLIB, COMPILER = "0.1.2", "9.8.7", False, ""'
    (tmp_path / "mlx_ncps" / "_build_info.py").write_text(built)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_main_gives_a_reason_once(run_python, foreign_build):
    result = run_python("-m", "mlx_ncps")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("built for mlx 0.1.2") == 1
    assert result.stdout.count("no native module, as said below") == 2


def test_import_warns_of_a_foreign_build_once(run_python, foreign_build):
    result = run_python("-c", "import mlx_ncps")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("built for mlx 0.1.2") == 1


def test_main_ends_with_a_sentence_when_required(run_python, foreign_build):
    result = run_python("-m", "mlx_ncps", REQUIRE_NATIVE="1")
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("[mlx_ncps] the native module is not available: it was built for")
    assert sentence.endswith("(MLX_NCPS_REQUIRE_NATIVE is set.)")


@pytest.mark.parametrize(
    ("name", "value"),
    [("BACKEND", "gpu"), ("ISA", "mmx"), ("NUM_THREADS", "many"), ("NUM_THREADS", "0")],
)
def test_main_ends_with_a_sentence_for_a_bad_value(run_python, native, name, value):
    result = run_python("-m", "mlx_ncps", **{name: value})
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert f"'{value}'" in sentence


def test_main_hides_no_other_error(run_python, foreign_build, tmp_path):
    (tmp_path / "mlx_ncps" / "dispatch.py").write_text("1 / 0\n")
    result = run_python("-m", "mlx_ncps")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError" in result.stderr


def test_main_rejects_an_unknown_command(run_python):
    result = run_python("-m", "mlx_ncps", "nonsense")
    assert result.returncode == 2
    assert "nonsense" in result.stderr


def test_the_module_knows_the_arrays_of_mlx(native):
    assert native.array_type() is mx.array
