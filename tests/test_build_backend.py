"""build_backend/: which MLX and nanobind a build asks for, and the guard that they fit."""

import sys
from pathlib import Path

import pytest

BUILD_BACKEND = Path(__file__).resolve().parent.parent / "build_backend"
sys.path.insert(0, str(BUILD_BACKEND))

import check_nanobind_abi  # noqa: E402
import native_requirements  # noqa: E402


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
        ("0.32.0", "2.14.0"),
        ("0.32.1", "2.14.0"),
        ("0.32.2", "2.15.0"),
        ("0.32.3", "3.1.0"),
        ("0.32.4", "3.1.0"),
        ("0.32.4.dev20260101+abc", "3.1.0"),
    ],
)
def test_nanobind_for_follows_the_wheels(mlx, nanobind):
    assert native_requirements.nanobind_for(mlx) == nanobind


@pytest.mark.parametrize(("mlx", "match"), [("0.31.2", "needs mlx >= 0.32.0"), ("new", "'new'")])
def test_nanobind_for_refuses(mlx, match):
    with pytest.raises(SystemExit, match=match):
        native_requirements.nanobind_for(mlx)


def test_native_requirements_pin_the_installed_mlx(monkeypatch):
    monkeypatch.setattr(native_requirements, "installed_mlx", lambda: "0.32.2")
    assert native_requirements.native_requirements() == [
        "mlx==0.32.2; platform_system != 'Linux'",
        "mlx[cpu]==0.32.2; platform_system == 'Linux'",
        "nanobind==2.15.0",
        "numpy; platform_system != 'Linux'",
    ]


def test_native_requirements_follow_the_variable(monkeypatch):
    monkeypatch.setattr(native_requirements, "installed_mlx", lambda: "0.32.4")
    monkeypatch.setenv("MLX_NCPS_BUILD_MLX", "0.32.1")
    assert "mlx[cpu]==0.32.1; platform_system == 'Linux'" in (
        native_requirements.native_requirements()
    )


def test_native_requirements_allow_what_the_package_allows(monkeypatch):
    monkeypatch.setattr(native_requirements, "installed_mlx", lambda: None)
    wanted = native_requirements.allowed_mlx()
    assert wanted.startswith(">=0.32")
    assert f"mlx[cpu]{wanted}; platform_system == 'Linux'" in (
        native_requirements.native_requirements()
    )


def test_native_requirements_are_none_for_a_pure_python_wheel(monkeypatch):
    monkeypatch.setenv("MLX_NCPS_NO_NATIVE", "1")
    assert native_requirements.native_requirements() == []


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
