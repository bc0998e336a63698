"""tools/sass: its stored figures are of today's plans and within bounds; how a listing is read."""

import pytest

from tests.support.as_cuda import nvrtc, nvrtc_version, outside_registers, registers
from tools.sass import compiler, machine_code, report


@pytest.fixture(scope="module")
def stored():
    return report.load()


@pytest.fixture(scope="module")
def chosen():
    return {one.name: one for one in compiler.variants()}


# ---- The stored figures -------------------------------------------------------------------------


def test_the_stored_figures_are_of_the_variants_that_plans_choose(stored, chosen):
    kept = {name: threads for name, (threads, _) in stored["variants"].items()}
    assert kept == {name: one.threads for name, one in chosen.items()}


def test_no_variant_leaves_its_registers(stored):
    assert report.faults(stored["variants"], stored["variants"]) == []


def test_the_page_shows_the_stored_figures(stored):
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.MARKS[0] + report.page(stored) + report.MARKS[1] in text


def loops(stored, kernel):
    return [
        one
        for name, (_, one) in stored["variants"].items()
        if name.split()[0] == kernel and one.work
    ]


@pytest.mark.parametrize("kernel", ["ltc_dense_forward_save"])
def test_a_gate_of_the_dense_forward_is_two_special_functions_and_few_more(stored, kernel):
    """exp2 and its reciprocal; with three multiply-adds, the addition of 1 and the scaling that
    keeps exp2 and reciprocal exact at their ends.
    """
    full = [one for one in loops(stored, kernel) if one.work >= 16]
    assert full
    for one in full:
        assert one.mix["special"] <= 2 * one.work + 2
        assert one.instructions <= MOST_OF_A_GATE * one.work


MOST_OF_A_GATE = 12


@pytest.mark.parametrize("kernel", ["cfc_forward_save", "cfc_backward"])
def test_products_of_eight_rows_cost_little_beside_their_multiply_adds(stored, kernel):
    rows = [one for one in loops(stored, kernel) if one.work >= 24]
    assert rows
    for one in rows:
        assert one.instructions <= 2.25 * one.work


def test_stored_registers_are_what_the_compiler_says(stored, chosen):
    if nvrtc() is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    version = ".".join(map(str, nvrtc_version()))
    if not stored["compilers"].startswith(f"NVRTC {version},"):
        pytest.skip(f"the figures are of another NVRTC than {version}")
    names = sorted(chosen)[::3]
    for name in names:
        status, log = nvrtc()(chosen[name].text, compiler.ARCHITECTURE)
        assert status == 0, log
        kept = stored["variants"][name][1]
        assert (registers(log), *outside_registers(log)[:3]) == kept[:4], name


# ---- Reading and comparing ----------------------------------------------------------------------

LISTING = """
.text.judged:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   MOV R2, RZ ;
.L_x_1:
        /*0020*/                   LDS R4, [R2] ;
.L_x_0:
        /*0030*/                   MUFU.EX2 R4, R4 ;
        /*0040*/              @!P0 FFMA R5, R4, R4, R5 ;
        /*0050*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0060*/               @P0 BRA `(.L_x_0) ;
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0080*/               @P1 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
.L_x_2:
        /*00a0*/                   BRA `(.L_x_2);
        /*00b0*/                   NOP;
"""


def test_a_listing_is_read_with_its_innermost_loops():
    found = machine_code.read(LISTING)
    assert [one.at for one in found] == [16 * n for n in range(12)]
    assert [(one.at, one.to) for one in found if one.to is not None] == [
        (0x60, 0x30),
        (0x80, 0x20),
        (0xA0, 0xA0),
    ]
    (inner,) = machine_code.loops(found)
    assert [one.name for one in inner] == ["MUFU.EX2", "FFMA", "IADD3", "BRA"]
    mix = {"special": 1, "multiply-add": 1, "integer, moves": 1, "control": 1}
    assert machine_code.hottest(found, "MUFU.EX2") == machine_code.Loop(4, mix, 1)
    assert machine_code.hottest(found, "MUFU.RSQ") is None


FIGURES = compiler.Figures(32, 0, 0, 0, 4096, 100, 8, {"special": 16})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"instructions": 103}, None),
        ({"instructions": 105}, "instructions 100 -> 105"),
        ({"code": 4352}, "code 4096 -> 4352"),
        ({"registers": 40}, "registers 32 -> 40"),
        ({"stack": 16}, "16 bytes of stack"),
        ({"stores": 8, "loads": 8}, "8 spilled"),
        ({"registers": 129}, "129 registers of each of 512 threads"),
    ],
)
def test_what_is_worse_than_stored_is_a_fault(changes, fault):
    found = report.faults({"k A=1": (512, FIGURES._replace(**changes))}, {"k A=1": (512, FIGURES)})
    assert bool(found) is bool(fault)
    assert fault is None or fault in " ".join(found)


def test_variants_that_come_and_go_are_faults():
    found = report.faults({"new": (32, FIGURES)}, {"old": (32, FIGURES)})
    assert [line.split(";")[0] for line in found] == ["new: not stored", "old: no plan chooses it"]


def test_save_and_load_keep_the_figures(tmp_path):
    found = {"k A=1": (512, FIGURES), "l": (32, FIGURES._replace(mix={}))}
    document = report.save(found, "NVRTC 1.2, nvdisasm 3", tmp_path / "figures.json")
    assert document["variants"] == found
    assert document["compilers"] == "NVRTC 1.2, nvdisasm 3"
