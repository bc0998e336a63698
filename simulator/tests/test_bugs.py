"""Every kind of bug that the simulator must see, planted in a kernel that is right without it."""

import re

import mslsim
import numpy as np
import pytest
from mslsim.samples import small

READ, WRITTEN = "// everyone has read h", "// everyone has written h"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
STORE = "out[(b * Tn + t) * H + j] ="
START = "h[j] = h0[b * H + j];"


@pytest.fixture(autouse=True)
def _without_lint():
    mslsim.require()
    with mslsim.options(lint=False):
        yield


def replace(text, old, new):
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def without(comment):
    return (f"{BARRIER}  {comment}", comment)


# name: (error, kind of a finding, (old, new) in the kernel's text)
RNN_BUGS = {
    "missing barrier after reading": (mslsim.RaceError, "race", without(READ)),
    "missing barrier after writing": (mslsim.RaceError, "race", without(WRITTEN)),
    "missing barrier after the start": (
        *(mslsim.RaceError, "race"),
        (f"{BARRIER}      // h is there", ""),
    ),
    "barrier with the wrong flag": (
        *(mslsim.RaceError, "race"),
        (f"{BARRIER}  {WRITTEN}", "threadgroup_barrier(mem_flags::mem_device);"),
    ),
    "barrier with no flag": (
        *(mslsim.RaceError, "race"),
        (f"{BARRIER}  {READ}", "threadgroup_barrier(mem_flags::mem_none);"),
    ),
    "barrier of the SIMD group only": (
        *(mslsim.RaceError, "race"),
        (f"{BARRIER}  {WRITTEN}", "simdgroup_barrier(mem_flags::mem_threadgroup);"),
    ),
    "write past the end of a buffer": (
        *(mslsim.OutOfBoundsError, "oob"),
        (STORE, "out[(b * Tn + t) * H + j + 1] ="),
    ),
    "read before the start of a buffer": (
        *(mslsim.OutOfBoundsError, "oob"),
        ("x[(b * Tn + t) * H + j]", "x[(b * Tn + t - 1) * H + j]"),
    ),
    "vector read past the end of a buffer": (
        *(mslsim.OutOfBoundsError, "oob"),
        ("(wrow + i)", "(wrow + i + 4)"),
    ),
    "index past a threadgroup array": (
        *(mslsim.OutOfBoundsError, "oob"),
        ("h[i + 3])", "h[i + 4])"),
    ),
    "index past a private array": (
        *(mslsim.OutOfBoundsError, "oob"),
        (
            "float acc =",
            "float tmp[4]; for (int q = 0; q <= 4; q++) tmp[q] = x[q]; float acc = tmp[Tn & 3] +",
        ),
    ),
    "early return before a barrier": (
        *(mslsim.BarrierError, "barrier"),
        (START, START + " if (j == 5) return;"),
    ),
    "barrier in a divergent branch": (
        *(mslsim.BarrierError, "barrier"),
        (f"{BARRIER}  {READ}", f"if (j < 32) {BARRIER}"),
    ),
    "barrier in a loop of divergent length": (
        *(mslsim.BarrierError, "barrier"),
        ("t < Tn; t++", "t < Tn - int(j == 3); t++"),
    ),
    "read of unwritten threadgroup memory": (
        *(mslsim.UninitialisedError, "uninit"),
        (START, "if (j > 0) " + START),
    ),
    "output never written": (
        *(mslsim.UnwrittenError, "unwritten"),
        (STORE, "if (t < Tn - 1) " + STORE),
    ),
    "read of an unwritten output": (
        *(mslsim.UninitialisedError, "uninit"),
        ("float acc =", "float acc = 0 * out[(b * Tn + t) * H + j] +"),
    ),
    "two threadgroups on one element": (
        *(mslsim.RaceError, "race"),
        (STORE, "out[t * H + j] = hn; " + STORE),
    ),
    "device memory over a threadgroup-only barrier": (
        *(mslsim.RaceError, "race"),
        (
            WRITTEN,
            f"\n float other = out[(b * Tn + t) * H + (j + 1) % H]; if (other > 1e30f) {STORE} 0;",
        ),
    ),
    "too much threadgroup memory": (
        *(mslsim.LaunchError, "limit"),
        ("threadgroup float h[H];", "threadgroup float h[H]; threadgroup float big[8192];"),
    ),
    "assignment to a const input": (mslsim.CompileError, "compile", (START, START + " h0[0] = 1;")),
    "write to an input behind a cast": (
        *(mslsim.ReadOnlyError, "read-only"),
        (START, START + " ((device float*)h0)[j] = 1;"),
    ),
    "misaligned vector read": (
        *(mslsim.UndefinedBehaviourError, "ub"),
        ("(wrow + i)", "(wrow + (i ? i - 1 : 0))"),
    ),
}

RMS_BUGS = {
    "SIMD sum in a divergent branch": (
        *(mslsim.SimdError, "simd-divergent"),
        ("acc = simd_sum(acc);", "if (lid & 1) acc = simd_sum(acc);"),
    ),
    "shuffle from an inactive lane": (
        *(mslsim.SimdError, "simd-inactive"),
        ("acc = simd_sum(acc);", "if ((lid & 31) < 16) acc = simd_shuffle(acc, 20);"),
    ),
    "missing barrier between two phases": (
        *(mslsim.RaceError, "race"),
        (
            f"part[simdgroup_index_in_threadgroup] = acc;\n    {BARRIER}",
            "part[simdgroup_index_in_threadgroup] = acc;",
        ),
    ),
    "partial sums not set to zero": (
        *(mslsim.UninitialisedError, "uninit"),
        ("if (simdgroup_index_in_threadgroup == 0) part[thread_index_in_simdgroup] = 0;", ""),
    ),
    "integer division by zero": (
        *(mslsim.UndefinedBehaviourError, "ub"),
        ("float acc = 0;", "float acc = 0; int z = int(lid) - 7; acc += (100 / z) * 0;"),
    ),
}


def check(sample, run, error, kind):
    with pytest.raises(mslsim.MSLError) as caught:
        run()
    assert kind in caught.value.kinds, str(caught.value)
    first = next(f for f in caught.value.findings if f.kind == kind)
    assert isinstance(caught.value, error) or caught.value.findings[0].kind != kind
    if kind not in ("unwritten", "limit"):
        place = rf"{sample}\.source:\d+( and {sample}\.source:\d+)?"
        assert re.fullmatch(place, first.where), str(first)


@pytest.mark.parametrize("name", RNN_BUGS)
def test_rnn_bug_is_caught(name):
    error, kind, change = RNN_BUGS[name]
    check("rnn", lambda: small.run_rnn(replace(small.RNN, *change)), error, kind)


@pytest.mark.parametrize("name", RMS_BUGS)
def test_rms_bug_is_caught(name):
    error, kind, change = RMS_BUGS[name]
    check("rms", lambda: small.run_rms(replace(small.RMS, *change)), error, kind)


def test_threadgroup_access_through_a_pointer_is_bounded():
    source = replace(small.RNN, "h[i + 3])", "hp[i + 4])")
    source = replace(source, "float tau", "threadgroup float* hp = h; float tau")
    check("rnn", lambda: small.run_rnn(source), mslsim.OutOfBoundsError, "oob")


def test_more_than_1024_threads_are_refused():
    x, w = small.rms_inputs(columns=2000)
    with pytest.raises(mslsim.LaunchError, match="more than 1024 threads"):
        small.run_rms(x=x, w=w, threads=2048)


def test_pointer_of_another_address_space_is_refused():
    source = replace(small.RNN, "float tau = decay[j];", "float tau = ld(h, j);")
    header = "inline float ld(const device float* p, uint i) { return p[i]; }\n"
    check("rnn", lambda: small.run_rnn(source, header=header), mslsim.CompileError, "compile")


def test_findings_name_lines_elements_and_threads():
    line = 1 + next(i for i, text in enumerate(small.RNN.splitlines()) if STORE in text)
    with pytest.raises(mslsim.OutOfBoundsError) as caught:
        small.run_rnn(replace(small.RNN, STORE, "out[(b * Tn + t) * H + j + 64 * Tn] ="))
    (finding,) = caught.value.findings
    assert finding.where == f"rnn.source:{line}"
    assert "'out'" in finding.text
    assert "element 768 of 768; thread 0 of threadgroup (1,0,0)" in finding.text


def test_race_names_both_lines():
    broken = replace(small.RNN, *without(READ))
    lines = small.RNN.splitlines()
    write = 1 + next(i for i, text in enumerate(lines) if text.strip() == "h[j] = hn;")
    with pytest.raises(mslsim.RaceError) as caught:
        small.run_rnn(broken)
    assert any(f"rnn.source:{write}" in f.where.split(" and ") for f in caught.value.findings)
    for finding in caught.value.findings:
        assert "threadgroup 'h'" in finding.text
        one, other = re.findall(r"thread \d+ of threadgroup \(\d,0,0\)", finding.text)
        assert one != other


def test_a_race_with_the_right_values_is_still_a_race():
    source = "out[0] = 1.0f; out[thread_position_in_grid.x] = 1.0f;"
    kernel = mslsim.metal_kernel("same", ["x"], ["out"], source)
    call = {
        "inputs": [np.zeros(8, np.float32)],
        "grid": (8, 1, 1),
        "threadgroup": (8, 1, 1),
        "output_shapes": [(8,)],
        "output_dtypes": [np.float32],
    }
    with mslsim.options(allow={"race"}):
        (out,) = kernel(**call)
    np.testing.assert_array_equal(out, np.ones(8))
    with pytest.raises(mslsim.RaceError, match="write/write"):
        kernel(**call)


def test_read_by_two_threadgroups_then_write_is_a_race():
    """The barrier orders the second group's own reads, not those of the first."""
    source = """
        uint g = threadgroup_position_in_grid.x;
        float v = out[2];
        threadgroup_barrier(mem_flags::mem_device);
        if (g == 1 && thread_position_in_threadgroup.x == 0) out[2] = v + 1;
    """
    kernel = mslsim.metal_kernel("late", ["x"], ["out"], source)
    with pytest.raises(mslsim.RaceError, match="different threadgroups"):
        kernel(
            inputs=[np.zeros(8, np.float32)],
            grid=(8, 1, 1),
            threadgroup=(4, 1, 1),
            output_shapes=[(4,)],
            output_dtypes=[np.float32],
            init_value=0,
        )
