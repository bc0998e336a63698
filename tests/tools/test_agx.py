"""tools/agx without its compilers: its stored figures are of today's plans, each launch is allowed
by the registers that they say, and worse figures are faults.
"""

import json
import math
import random
import re
from array import array
from pathlib import Path

import mslsim
import pytest
from mlx_ncps.backends.gpu.runner import header, text
from mlx_ncps.backends.gpu.trace import runner, trace_cfc, trace_ltc

from tests.support import ROOT
from tools.agx import loops, quads, report, variants
from tools.agx.judge import CHIPS, Figures, read
from tools.plans import chips, compiled

FIGURES = Figures(104, 512, 0, 0, 0, 1000, 8000, 900, 100)


@pytest.fixture(scope="module")
def stored():
    return report.load()


@pytest.fixture(scope="module")
def judged():
    return {one.name: one for one in variants.variants()}


# ---- The stored figures -------------------------------------------------------------------------


def test_the_stored_figures_are_of_the_variants_that_plans_choose(stored, judged):
    assert {name: v["launched"] for name, v in stored["variants"].items()} == {
        name: one.threads for name, one in judged.items()
    }


@pytest.mark.parametrize("chip", CHIPS)
def test_the_registers_of_every_variant_allow_the_threads_of_its_launch(stored, chip):
    for name, variant in stored["variants"].items():
        assert isinstance(variant[chip], Figures), name
        assert variant["launched"] <= variant[chip].allowed, name
        assert variant["arrays"] == 0, name


def test_the_page_shows_the_stored_figures(stored):
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.MARKS[0] + report.page(stored) + report.MARKS[1] in text


def arguments(name):
    kernel, *pairs = name.split()
    return {(kernel, pair) for pair in pairs}


def random_calls(draw):
    """Any call, larger ones too."""
    for _ in range(150):
        units, batch = (
            draw.choice((4, 8, 20, 50, 64, 100, 200, 300)),
            draw.choice((1, 2, 7, 20, 40, 100, 300, 700)),
        )
        facts = {"batch": batch, "steps": 2, "units": units, "inputs": draw.choice((1, 8, 70))}
        lists = None
        if draw.random() < 0.5:
            into, out = (draw.randint(1, max(1, units // 2)) for _ in range(2))
            lists = variants.star(units, into, out, facts["inputs"])
        yield trace_ltc, facts | {"unfolds": draw.randint(1, 6), "synapses": lists}
        facts |= {"backbone": (draw.randint(1, 300),) * draw.randint(0, 3)}
        facts |= {"mode": draw.choice(("default", "no_gate", "pure"))}
        facts |= {"activation": draw.choice(variants.ACTIVATIONS)}
        facts |= {"variant": draw.choice(("torch", "keras", "paper"))}
        yield trace_cfc, facts | {"scalar_ts": draw.random() < 0.5}


def test_every_argument_that_a_plan_chooses_is_of_a_judged_variant(judged):
    """Not every combination is judged, but each value of each argument of each kernel."""
    known = set().union(*map(arguments, judged))
    recorder = variants.Recorder()
    run = runner(recorder)
    for trace, facts in random_calls(random.Random(5)):
        trace(run, **facts, training=True)
    assert len(recorder.found) > 200
    assert set().union(*map(arguments, recorder.found)) <= known
    for name, one in recorder.found.items():
        assert one.threads <= int(dict(p.split("=") for p in name.split()[1:])["THREADS"])


# ---- The text -----------------------------------------------------------------------------------


def test_the_text_holds_the_products_own_text(judged):
    for one in judged.values():
        stem = one.name.split()[0]
        body = next(
            text(path.name)
            for path in sorted((ROOT / "metal").glob("*.metal"), reverse=True)
            if stem.startswith(path.stem)
        )
        assert body in one.text
        assert header() in one.text


def arrays_in_memory(text, tmp_path):
    """Those that clang leaves there, as tools/agx/compile.sh calls it."""
    (tmp_path / "kernel.clcpp").write_text(text, encoding="utf-8")
    options = "--target=spir64 -cl-std=CLC++2021 -O2 -fno-slp-vectorize -fno-vectorize -fno-builtin"
    folder = Path(variants.__file__).parent
    command = [*mslsim.compiler.toolchain().clang, *options.split(), "-Wno-everything"]
    command += [f"-I{folder}", "-S", "-emit-llvm", str(tmp_path / "kernel.clcpp"), "-o", "-"]
    done = mslsim.compiler.run(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.count("= alloca ")


def largest(judged):
    """Of each kernel, the variant with most registers in its loops."""
    found = {}
    for name in judged:
        count = math.prod(int(n) for n in re.findall(r"(?:ROWS|PER|HEADS)=(\d+)", name))
        found[name.split()[0]] = max(found.get(name.split()[0], (0, "")), (count, name))
    return [name for _, name in found.values()]


def test_clang_keeps_every_array_of_a_thread_in_registers(judged, tmp_path):
    mslsim.require()
    kept = {name: arrays_in_memory(judged[name].text, tmp_path) for name in largest(judged)}
    assert len(kept) > 30
    assert {name: count for name, count in kept.items() if count} == {}


@pytest.mark.usefixtures("native")
def test_clang_keeps_the_arrays_of_step_programs_in_registers(tmp_path):
    mslsim.require()
    found = {one.name: one for one in variants.program_variants()}
    kept = {name: arrays_in_memory(found[name].text, tmp_path) for name in largest(found)}
    assert len(kept) == 2 * len(variants.PROGRAMS)
    assert {name: count for name, count in kept.items() if count} == {}


def test_spills_and_scratch_are_outside_of_registers():
    found = report.outside({"a": variant(), "b": variant(spills=1), "c": variant(scratch=4)})
    assert [line.split(",")[0] for line in found] == ["b", "c"]


def test_clang_leaves_arrays_in_memory_where_loops_are_not_marked(judged, tmp_path):
    mslsim.require()
    name = next(n for n in judged if n.startswith("cfc_forward ") and "ROWS=16" in n)
    text = judged[name].text.replace('#define NCPS_UNROLL _Pragma("clang loop unroll(full)")', "")
    assert arrays_in_memory("#define NCPS_UNROLL\n" + text, tmp_path) > 0


# ---- Reading and comparing ----------------------------------------------------------------------

LOG = """CS shader: 9 instrs, 9 alu, 9 fscib, 9 ic, 9 code size, 9 gprs, 9 uniforms, 0 scratch, \
1024 threads, 0 loops, 0:0 spills:fills, 9 preamble inst
@ 0.spv
CS shader: 28 instrs, 24 alu, 24 fscib, 14 ic, 320 code size, 11 gprs, 26 uniforms, 0 scratch, \
1024 threads, 0 loops, 0:0 spills:fills, 11 preamble inst
CS shader: 25 instrs, 20 alu, 20 fscib, 10 ic, 300 code size, 11 gprs, 18 uniforms, 4 scratch, \
512 threads, 0 loops, 3:7 spills:fills, 5 preamble inst

allows 448 threads, 0 private, 0 shared
@ 1.spv
refused -11 Failed
"""


def test_read_takes_the_last_statistics_of_each_kernel_and_the_reason_of_a_refusal():
    want = Figures(6, 448, 3, 7, 4, 25, 300, 20, 10)
    assert read(LOG) == {"0.spv": want, "1.spv": "refused -11 Failed"}


def variant(launched=512, arrays=0, **changes):
    figures = FIGURES._replace(**changes)
    return {"launched": launched, "arrays": arrays, "m1": figures, "m2": FIGURES}


@pytest.mark.parametrize(
    ("now", "fault"),
    [
        (variant(), None),
        (variant(instructions=1010), None),
        (variant(instructions=900, allowed=640), None),
        (variant(instructions=1030), "instructions 1000 -> 1030"),
        (variant(code=8300), "code 8000 -> 8300"),
        (variant(ic=110), "ic 100 -> 110"),
        (variant(spills=1), "spills 0 -> 1"),
        (variant(scratch=4), "scratch 0 -> 4"),
        (variant(launched=384, allowed=448), "allowed 512 -> 448"),
        (variant(launched=640), "640 threads are launched, 512 allowed"),
        (variant(arrays=1), "1 arrays of a thread in memory"),
        (variant() | {"m2": "refused -11"}, "m2: refused: refused -11"),
    ],
)
def test_what_is_worse_than_stored_is_a_fault(now, fault):
    found = report.faults({"k A=1": now}, {"k A=1": variant()})
    assert bool(found) is bool(fault)
    assert fault is None or fault in found[0]


def test_variants_that_come_and_go_are_faults():
    found = report.faults({"new": variant()}, {"old": variant()})
    assert [line.split(";")[0] for line in found] == ["new: not stored", "old: no plan chooses it"]


def test_save_and_load_keep_the_figures(tmp_path):
    kept = report.save({"k": variant(spills=2)}, "mesa 1", "abc", "2026-01-01", tmp_path / "f.json")
    assert kept["variants"] == {"k": variant(spills=2)}
    assert json.loads((tmp_path / "f.json").read_text())["compilers"] == "mesa 1"


# ---- Bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", CHIPS)
def test_no_variant_of_a_plan_leaves_its_registers_or_the_instruction_cache(stored, chip):
    outside = {
        name: variant[chip]
        for name, variant in stored["variants"].items()
        if variant[chip].spills or variant[chip].scratch or variant[chip].code > report.CACHE
    }
    assert outside == {}


def test_sixteen_rows_of_three_heads_fit_the_registers_of_512_threads_as_plans_assume(stored):
    rows = [n for n in stored["variants"] if n.startswith("cfc_") and "ROWS=16" in n]
    assert any("HEADS=3" in n and "PARTS=4 THREADS=512" in n for n in rows)
    four = [n for n in rows if "HEADS=4" in n]  # without matrices 115 registers, of 104
    assert four
    assert all("_matrix" in n.split()[0] for n in four)


def test_stored_loops_are_of_the_stored_code(stored):
    kept = loops.load()
    assert set(kept) == compiled.names()
    for name, loop in kept.items():
        assert loop.instructions == stored["variants"][name]["m1"].instructions, name


def test_the_page_has_the_times_that_follow_from_the_stored_loops():
    text = report.PAGE.read_text(encoding="utf-8")
    assert compiled.MARKS[0] + "\n".join(compiled.markdown()) + "\n" + compiled.MARKS[1] in text


def test_turns_of_the_loops_follow_from_a_launch():
    """Of a dense LTC and a CfC as their texts loop; other loops are refused."""
    code, m1 = loops.load(), chips.CHIPS[0]
    forward, backward = compiled.launched("LTC 64", 8, m1)
    (step,) = code[forward.variant].inner
    (unfold,) = step.inner
    want = code[forward.variant].cycles + 128 * (step.cycles + 6 * unfold.cycles)
    assert compiled.cycles(forward, code[forward.variant]) == want
    (rows,) = code[backward.variant].inner
    assert (
        compiled.cycles(backward, code[backward.variant]) > 128 * 6 * rows.inner[0].inner[0].cycles
    )
    with pytest.raises(ValueError, match="loops with exp2"):
        compiled.cycles(forward, rows._replace(inner=[]))
    cfc = compiled.launched("CfC 128", 64, m1)[0]
    steps = max(code[cfc.variant].inner, key=lambda loop: loop.bytes)
    layer, heads = (loop for loop in steps.inner if loop.inner)
    step = steps.cycles + layer.cycles + heads.cycles
    step += 16 * (layer.inner[0].cycles + heads.inner[0].cycles)  # 128 terms in tiles of 8
    found = compiled.cycles(cfc, code[cfc.variant])
    assert found == pytest.approx(128 * step, rel=0.01)  # beside what is before and after
    with pytest.raises(ValueError, match="stages"):
        compiled.cycles(cfc, steps)


def test_an_unfold_of_the_dense_ltc_is_within_one_and_a_half_of_its_floor():
    """exp2, the reciprocal with the three instructions by which Mesa refines it, and three
    multiply-adds of each gate; without loads, shuffles and the update.
    """
    kept = loops.load()["ltc_dense_forward_save PER=16 PARTS=4 THREADS=256"]
    (step,) = kept.inner
    (unfold,) = step.inner
    assert unfold.mix["exp2"] == 16
    assert unfold.cycles <= 1.5 * 16 * (4 + 6 + 3 + 3)


@pytest.mark.parametrize("call", ["LTC 64", "LTC AutoNCP(64, 8)"])
def test_training_of_64_neurons_is_predicted_one_and_a_half_times_as_fast_as_before(call):
    code = loops.load()
    for batch in compiled.BATCHES:
        now = [compiled.milliseconds(call, batch, chip, code) for chip in chips.CHIPS]
        before = compiled.BEFORE["ms"][call][str(batch)]  # three digits
        assert [a / b > 1.49 for a, b in zip(before, now, strict=True)] == [True] * 3


def test_the_floor_of_an_ltc_counts_the_synapses_that_exist_and_the_rows_of_a_core():
    m1 = chips.CHIPS[0]
    cycle = 1 / (128 * m1.gigahertz * 1e6)  # of 128 lanes
    dense = 128 * 6 * 128**2 * (14 + 16) * cycle
    assert compiled.floor("LTC 128", 8, m1) == pytest.approx(dense)
    assert compiled.floor("LTC 128", 9, m1) == pytest.approx(2 * dense)
    assert compiled.floor("LTC 128", 256, m1) == pytest.approx(32 * dense)  # in several launches
    wired = 128 * 6 * 484 * (14 + 21) * cycle
    for batch in (8, 256):  # its forward in registers, and streamed
        found = compiled.floor("LTC AutoNCP(64, 8)", batch, m1)
        assert found == pytest.approx(batch // 8 * wired)
    assert compiled.floor("CfC 128", 8, m1) == 0


def test_a_sum_by_matrices_is_near_its_multiply_adds():
    """Of a turn, 16 for a layer of 8 rows and 48 for its three heads; without matrices the loop
    takes 4.2 and 2.6 cycles for each.
    """
    one = compiled.launched("CfC 128", 64, chips.CHIPS[0])[0]
    steps = max(loops.load()[one.variant].inner, key=lambda loop: loop.bytes)
    products = [loop.inner[0] for loop in steps.inner if loop.inner]
    assert "_matrix" in one.variant
    assert [loop.mix["ffma"] for loop in products] == [16, 48]
    assert [loop.cycles <= most for loop, most in zip(products, (34, 88), strict=True)] == [
        True
    ] * 2


LISTING = """
   0: 1234   mov      r0, 1
   2: 1234   exp2     r0, r0
   4: 1234   ffma     r0, r0, r0, r0
   6: 123456 wait     a
   9: 1234   jmp_any  -5
   b: 1234   imadd    r1, r1, r1, r1
   d: 12     jmp_any  -11
   e: 12     stop
"""


def test_loops_are_read_with_what_is_within():
    code = loops.read(LISTING)
    ((outer,), own) = code.inner, code.mix
    assert own == {"mov": 1, "stop": 1}
    assert outer.mix == {"exp2": 1, "imadd": 1, "jmp_any": 1}
    assert (outer.cycles, outer.inner[0].cycles, outer.bytes) == (9, 2, 12)
    assert outer.cost(lambda loop: 3) == 9 + 3 * 2
    assert code.cost() == 2 + 9 + 2
    assert (code.instructions, code.count("exp2")) == (8, 1)


def test_only_shuffles_within_four_lanes_become_swaps():
    head = [0x07230203, 0x10400, 0, 9, 0]
    constants = [[4 << 16 | 43, 2, 3, 2], [4 << 16 | 43, 2, 4, 16]]  # ids 3 and 4: masks 2 and 16
    shuffles = [[6 << 16 | 346, 1, 5, 6, 7, 3], [6 << 16 | 346, 1, 8, 6, 7, 4]]
    body = [*constants, [1 << 16 | 54], *shuffles]
    words = array(
        "I", quads.swapped(array("I", [*head, *(w for one in body for w in one)]).tobytes())
    ).tolist()
    assert words[3] == 10
    assert words[5:7] == [2 << 16 | 17, 68]
    assert words[15:19] == [4 << 16 | 43, 2, 9, 1]  # vertical, before the function
    assert words[-12:-6] == [6 << 16 | 366, 1, 5, 6, 7, 9]
    assert words[-6:] == shuffles[1]
    assert quads.swapped(array("I", head).tobytes()) == array("I", head).tobytes()
