"""The texts of the library's kernels that the simulator judges are the texts that MLX compiles."""

import re

import mlx.core as mx
import mslsim
import pytest
from mlx_ncps import ops
from mlx_ncps.backends.gpu import OPERATIONS
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner

from tests.support import ROOT
from tests.support.case_arrays import to_mlx
from tests.support.cases import CfcCase, LtcCase, make
from tests.support.running import INFINITE_CASES, check_infinite
from tests.support.simulated_metal import replaced, simulated

CASES = [
    LtcCase(units=5),
    LtcCase(units=65),
    LtcCase(units=33, density=0.2),
    CfcCase(timespans="per_batch"),
    CfcCase(units=100, mode="pure", layers=0),
    CfcCase(layers=2, dropout=0.5),
    CfcCase(batch=64, units=32, backbone_units=40),
]


def check_text(inputs, named, called):
    """Name and text of one call of mx.fast.metal_kernel, against the simulator's."""
    original, simulated = mx.fast.metal_kernel(**named), mslsim.metal_kernel(**named)
    nodes = []

    def note(node):
        if node.get("name") == "CustomKernel":
            nodes.append(node["arguments"])

    mx.export_function(note, lambda *arrays: original(inputs=list(arrays), **called), *inputs)
    ((name, text, *_),) = nodes
    described = [(a, str(a.dtype).split(".")[-1]) for a in inputs]
    dtypes = ["float32"] * len(called["output_shapes"])
    assert simulated.text(described, dtypes, called["template"]) == (name, text)


# Of Metal's functions those that are exact whatever the compiler's options.
EXACT = {"copysign", "fabs", "simdgroup_load", "simdgroup_store", "simdgroup_multiply_accumulate"}


def test_kernels_name_the_set_of_every_rough_function():
    """macOS and the compiler's options decide what a bare metal::exp2 is."""
    for path in (ROOT / "metal").iterdir():
        text = re.sub(r"//.*", "", path.read_text())
        assert set(re.findall(r"metal::(\w+)\(", text)) <= EXACT, path.name
        bare = r"(?<![\w:.])(exp|exp2|log|log2|tanh|divide|pow|sqrt|rsqrt|sin|cos|fma|recip)\("
        assert not re.findall(bare, text), path.name


def test_gates_of_infinite_denominators_are_zero_in_the_kernels():
    with simulated():
        for case in INFINITE_CASES:
            check_infinite(case, "metal")


def test_gates_that_divide_infinities_are_caught():
    right = "return metal::fast::divide(1.0f, ncps_exp2(z) + 1.0f);"
    wrong = "const float e = ncps_exp2(z); return 1.0f - e / (e + 1.0f);"
    change = replaced(right, wrong)
    for case in INFINITE_CASES:
        with simulated(change=("math.h", change)), pytest.raises(AssertionError):
            check_infinite(case, "metal")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kernel_text_is_what_mlx_compiles(case):
    checked = []

    def register(**named):
        def kernel(*, inputs, stream, **called):
            check_text(inputs, named, called)
            checked.append(named["name"])
            return [mx.zeros(shape) for shape in called["output_shapes"]]

        return kernel

    run = Runner("metal", register, mx.cpu, APPLE)
    call = to_mlx(make(case))
    ts = 1.0 if call.ts is None else call.ts
    if isinstance(case, LtcCase):
        masks = make(case).params
        lists = None if masks.mask is None else ops.SynapseLists(masks.mask, masks.sensory_mask)
        options = {"ode_unfolds": 2, "epsilon": 1e-8, "implicit_param_constraints": False}
        op, options = OPERATIONS["ltc_sequence"].sequence, options | {"synapses": lists}
    else:
        op, options = OPERATIONS["cfc_sequence"].sequence, call.keywords

    def f(x):
        return op(run, x, call.state, ts, call.params, training=True, **options)

    mx.eval(mx.vjp(f, [call.inputs], [call.cotangents]))
    assert len(checked) >= 2


BODIES = sorted((ROOT / "metal").glob("*.metal"))
OVER_REGISTERS = re.compile(r"^\s*for \(int \w+ = 0; \w+ < (ROWS|PER|HEADS|OWN)\b")


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_every_loop_over_registers_is_marked_for_unrolling(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    loops = [n for n, line in enumerate(lines) if OVER_REGISTERS.match(line)]
    assert [n for n in loops if lines[n - 1].strip() != "NCPS_UNROLL"] == []
    assert sum("NCPS_UNROLL" in line for line in lines) == len(loops)
    assert len(loops) == len(re.findall(r"< (?:ROWS|PER|HEADS|OWN); \+\+", "\n".join(lines)))
