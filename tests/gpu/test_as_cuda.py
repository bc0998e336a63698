"""Every kernel text that MLX's CUDA backend would compile, compiled by NVRTC without a GPU."""

from dataclasses import replace

import pytest
from mlx_ncps.backends.gpu.geometry import APPLE

from tests.support import ROOT
from tests.support.as_cuda import (
    ARCHITECTURES,
    nvrtc,
    nvrtc_version,
    outside_registers,
    recorded,
    registers,
)
from tests.support.cases import CfcCase, LtcCase
from tools import kernel_registers

CASES = [
    LtcCase(units=9),
    LtcCase(units=64),
    LtcCase(batch=1, units=65),
    LtcCase(batch=33, units=65),
    LtcCase(units=64, density=0.2),
    LtcCase(units=128, density=0.15),
    LtcCase(batch=512, units=65, steps=1, unfolds=1),
    LtcCase(units=200, density=0.1),
    LtcCase(batch=1024, steps=1, units=130, unfolds=1, density=0.1),
    CfcCase(timespans="per_batch"),
    CfcCase(batch=64, units=128, backbone_units=128, layers=2, activation="gelu"),
    CfcCase(units=64, layers=0, mode="pure", activation="silu"),
    CfcCase(units=100, layers=3, mode="no_gate", activation="sigmoid", variant="keras"),
    CfcCase(units=20, variant="paper"),
    CfcCase(batch=128, steps=1, units=128, backbone_units=128),
    CfcCase(batch=1024, steps=1, units=64, timespans="per_batch"),
    CfcCase(units=256, backbone_units=256),
    CfcCase(batch=64, units=64, backbone_units=64, layers=2, dropout=0.5),
    CfcCase(batch=128, steps=1, units=128, backbone_units=128, variant="keras", dropout=0.5),
]


@pytest.fixture(scope="module")
def compiled():
    """A function (text, architecture) -> (result code, log) of NVRTC; skips where it is missing."""
    found = nvrtc()
    if found is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    return found


# Also with states that start anew, or stay.
STARTING = [
    CfcCase(batch=64, units=128, backbone_units=128, layers=2, timespans="per_batch", dropout=0.5),
    CfcCase(batch=1024, steps=1, units=64, variant="keras", dropout=0.5),
    CfcCase(units=64, layers=0, mode="pure"),
]
CALLS = [
    *(pytest.param(case, False, id=str(case)) for case in CASES),
    *(pytest.param(case, True, id=f"{case}-resets") for case in STARTING),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("case", "resets"), CALLS)
def test_kernels_compile_as_cuda(compiled, case, resets, architecture):
    texts = recorded(case, resets=resets)
    assert texts
    for name, (text, threads) in texts.items():
        code, log = compiled(text, architecture)
        print(name, log)  # registers and shared memory, with pytest -s
        assert code == 0, f"{name}:\n{log}"
        assert "warning" not in log, f"{name}:\n{log}"
        assert set(outside_registers(log)) == {0}, f"{name} leaves its registers:\n{log}"
        assert registers(log) * threads <= 65536, f"{name} needs more than a multiprocessor has"


@pytest.mark.parametrize(("case", "resets"), CALLS)
def test_kernels_fit_the_registers_of_an_apple_gpu(compiled, case, resets):
    for name, (text, threads) in recorded(
        case, replace(APPLE, matrix=False), resets=resets
    ).items():
        most = max(n for n in (52, 104, 128) if threads <= {52: 1024, 104: 512, 128: 384}[n])
        code, log = compiled(text, "sm_90a", f"--maxrregcount={most}")
        assert code == 0, log
        assert set(outside_registers(log)) == {0}, f"{name} needs more than {most}:\n{log}"


def test_a_text_with_an_error_does_not_compile(compiled):
    name, (text, _) = next(iter(recorded(CASES[0]).items()))
    code, log = compiled(text.replace("if (j >= H", "if (jj >= H"), "sm_80")
    assert code != 0, name
    assert "jj" in log


def test_the_page_has_what_the_compiler_says(compiled, monkeypatch):
    page = (ROOT / "docs" / "metal_kernels.md").read_text(encoding="utf-8")
    version = ".".join(map(str, nvrtc_version()))
    if f"(NVRTC {version})" not in page:
        pytest.skip(f"the page is of another NVRTC than {version}")
    few = {name: kernel_registers.CASES[name] for name in ("LTC 8", "LTC 64", "CfC 32")}
    monkeypatch.setattr(kernel_registers, "CASES", few)
    head, rule, *lines = kernel_registers.markdown(kernel_registers.rows(compiled)).splitlines()
    assert f"{head}\n{rule}" in page
    assert [line for line in lines if line not in page] == []
