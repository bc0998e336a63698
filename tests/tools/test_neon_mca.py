"""tools/neon_mca.py: the loops that it finds, and the instructions of the NEON kernels' own."""

import shutil
from pathlib import Path

import pytest

CLANG = "clang++-19"
HEADERS = Path("/usr/aarch64-linux-gnu/include")  # g++-aarch64-linux-gnu


@pytest.fixture
def tool():
    from tools import neon_mca

    return neon_mca


TEXT = """
_Zone:
	mov	x0, x1
.LBB0_1:
	ldr	q0, [x0]
.LBB0_2:
	fmla	v1.4s, v0.4s, v2.s[0]
	fdiv	v1.4s, v0.4s, v2.4s
	b.ne	.LBB0_2
	b	.LBB0_1
.LBB0_3:
	cbz	x0, .LBB0_4
	fadd	v1.4s, v1.4s, v2.4s
.LBB0_4:
	cbnz	x2, .LBB0_3
	ret
_Ztwo:
.LBB1_1:
	fdiv	v3.4s, v0.4s, v2.4s
	tbnz	w0, #0, .LBB1_1
"""


def test_innermost_loops_may_branch_within_but_hold_no_loop(tool):
    loops = tool.innermost_loops(TEXT)
    assert [(loop.symbol, len(loop.lines)) for loop in loops] == [
        ("_Zone", 3),
        ("_Zone", 3),
        ("_Ztwo", 2),
    ]
    assert [loop.count(tool.VECTOR) for loop in loops] == [2, 1, 1]
    kernel = tool.Kernel("", "one", tool.DIVISION, "gate")
    assert tool.choose(loops, kernel) == loops[0]
    with pytest.raises(SystemExit, match="no loop in a function named three"):
        tool.choose(loops, kernel._replace(symbol="three"))


MOST = {  # vector instructions of each gate or multiply-add, of four lanes
    "gates alone": 22,
    "LTC, lanes are neurons, forward": 21,
    "LTC, lanes are neurons, backward of inputs": 30,
    "LTC, lanes are neurons, backward": 33,
    "LTC, lanes are rows, forward": 21,
    "LTC, lanes are rows, backward": 32,
    "CfC, product of 8 rows": 1,
}


@pytest.mark.skipif(not shutil.which(CLANG), reason="no clang-19")
@pytest.mark.skipif(not HEADERS.is_dir(), reason="no headers of g++-aarch64-linux-gnu")
def test_neon_kernels_need_few_vector_instructions(tool):
    loops = tool.innermost_loops(tool.compiled(CLANG))
    found = {kernel.name: tool.choose(loops, kernel) for kernel in tool.KERNELS}
    for kernel in tool.KERNELS:
        loop = found[kernel.name]
        each = loop.count(tool.VECTOR) / loop.count(kernel.counted)
        assert each <= MOST[kernel.name], kernel.name
        if kernel.counted is tool.DIVISION:
            assert each >= 20, f"{kernel.name}: the loop is not that of the gates"
