"""What no launch of the GPU kernels exceeds: the threads that its pipeline allows, the time after
which a watchdog ends it, and indices of 32 bits. Nothing is computed: launches are traced.
"""

import itertools
import math
import re

import mlx.core as mx
import mslsim
import pytest
from mlx_ncps.backends import CfCFacts, LTCFacts, metal
from mlx_ncps.backends.gpu.runner import THREADS_BOUND
from mlx_ncps.backends.gpu.trace import runner, trace_cfc, trace_ltc
from mslsim.preprocess import preprocess

from tools.plans import chips
from tools.plans.launches import gpu_launches
from tools.plans.table import auto_ncp

M1 = chips.CHIPS[0]
LONGEST = 0.05  # seconds of a launch on an M1, by the cost model; a watchdog waits for some

CFC = {"mode": "default", "activation": "lecun_tanh", "scalar_ts": True}
LTC = {"unfolds": 6}


def ltc(batch, steps, units, inputs=64, synapses=None, **beside):
    facts = {"batch": batch, "steps": steps, "inputs": inputs, "units": units, **LTC}
    return trace_ltc, facts | {"synapses": synapses} | beside


def cfc(batch, steps, units, inputs=64, **more):
    facts = {"batch": batch, "steps": steps, "inputs": inputs, "units": units, **CFC}
    return trace_cfc, facts | {"backbone": (units,)} | more


# ---- Threads ------------------------------------------------------------------------------------


def generated(trace, facts):
    """{host name: (text, threads of a group)} as MLX hands them out, of a call and its gradient."""
    texts = {}

    def launched(kernel, call):
        registered = mx.fast.metal_kernel(**kernel)
        keywords = {name: call[name] for name in call if name not in ("inputs", "stream")}
        inputs = [mx.zeros(a.shape, a.dtype) for a in call["inputs"]]  # instead of tracers

        def note(node):
            if node.get("name") == "CustomKernel":
                name, text, *rest = node["arguments"]
                texts[name] = text, math.prod(rest[3:6])

        mx.export_function(note, lambda *a: registered(inputs=list(a), **keywords), *inputs)

    trace(runner(launched), **facts, training=True)
    return texts


TRACED = [
    *(ltc(b, 2, h, 5) for b, h in ((1, 3), (16, 19), (64, 64), (64, 128))),
    *(cfc(b, 2, h, 5) for b, h in ((1, 8), (64, 64), (128, 128), (2, 256))),
    cfc(64, 2, 64, 5, mode="pure", backbone=(), scalar_ts=False),
]


@pytest.mark.parametrize(("trace", "facts"), TRACED)
def test_every_kernel_that_mlx_compiles_is_bound_to_the_threads_of_its_launch(trace, facts):
    mslsim.require()
    texts = generated(trace, facts)
    assert texts
    for name, (text, threads) in texts.items():
        expanded = preprocess(text, "kernel.metal", 310)
        heads = re.findall(r"\[\[kernel[^\]]*\]\] void (\w+)", expanded)
        assert heads == [name]
        assert "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void" in expanded
        assert re.search(r"template <[^>]*int THREADS>", expanded)
        instance = re.search(rf"\[\[kernel\]\] decltype\({name}<([^>]*)>\)", expanded)
        assert threads <= int(instance[1].split(",")[-1]) <= max(256, threads)


def test_a_launch_above_its_attribute_is_an_error():
    mslsim.require()
    header = THREADS_BOUND
    kernel = mslsim.metal_kernel(
        "k", [], ["y"], "#undef kernel\ny[thread_position_in_grid.x] = 1.0f;", header
    )

    def launch(threads):
        return kernel(
            inputs=[],
            template=[("THREADS", 512)],
            grid=(1024, 1, 1),
            threadgroup=(threads, 1, 1),
            output_shapes=[(1024,)],
            output_dtypes=[mx.float32],
        )

    launch(512)
    with pytest.raises(mslsim.LaunchError, match=r"more threads than max_total_.*\(512\)"):
        launch(1024)


# ---- Time and indices ---------------------------------------------------------------------------

LARGE = [
    *(ltc(b, 500, h) for b, h in itertools.product((1, 64, 512), (64, 256, 512))),
    *(ltc(*sizes) for sizes in ((1, 64, 2048), (4096, 16, 512), (65_536, 4, 64), (8, 4, 1000))),
    *(ltc(*sizes) for sizes in ((1, 20_000, 64), (64, 4096, 64))),
    *(ltc(b, 1500, h, synapses=auto_ncp(h, 8)) for b in (1, 64, 512) for h in (64, 256, 500)),
    *(ltc(b, 500, h, memory=True) for b, h in itertools.product((1, 64, 512), (64, 256, 512))),
    *(ltc(b, 1500, h, synapses=auto_ncp(h, 8), memory=True) for b in (1, 512) for h in (64, 500)),
    ltc(1, 20_000, 64, memory=True, resets=True),
    *(cfc(b, 8192, h) for b, h in itertools.product((1, 64, 1024), (64, 128, 200))),
    cfc(65_536, 16, 128),
    cfc(256, 4096, 128, backbone=(128, 128, 128)),
    cfc(256, 4096, 64, mode="pure", backbone=(), scalar_ts=False),
]


def test_no_launch_lasts_as_long_as_a_watchdog_waits(capsys):
    found = []
    for trace, facts in LARGE:
        for one in gpu_launches(trace, **facts, training=True):
            found.append((one._replace(count=1).estimate(M1).seconds, one.kernel, facts))
    found.sort(key=lambda launch: -launch[0])
    with capsys.disabled():
        seconds, kernel, facts = found[0]
        print(f"\nlongest launch, derived for an M1: {1e3 * seconds:.1f} ms, {kernel}, {facts}")
    assert found[0][0] <= LONGEST, found[:5]


WIDE = [  # sizes whose arrays have more than 2^32 elements as a whole
    ltc(2**21, 8, 64),
    ltc(2, 2**19, 256),
    ltc(2**12, 8, 64, inputs=2**19),
    ltc(2**21, 8, 64, unfolds=1, memory=True, resets=True),
    cfc(2**22, 8, 64),
    cfc(2**22, 2, 512),
    cfc(2**14, 2**13, 64),
    cfc(2**20, 8, 32, inputs=2**12),
    cfc(2**22, 4096, 4, mode="pure", backbone=(), scalar_ts=False),  # many elements, few products
]


@pytest.mark.parametrize(("trace", "facts"), WIDE)
def test_no_array_of_a_launch_has_more_elements_than_indices_reach(trace, facts):
    largest = 0

    def launched(kernel, call):
        nonlocal largest
        shapes = [a.shape for a in call["inputs"]] + call["output_shapes"]
        largest = max(largest, *(math.prod(shape) for shape in shapes))
        assert all(g < 2**31 for g in call["grid"])

    trace(runner(launched), **facts, training=True)
    assert largest <= 2**31


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (LTCFacts(inputs=4, units=8, ode_unfolds=10**6), "unfolds"),
        (LTCFacts(inputs=2**22, units=64, ode_unfolds=1), "more than a launch"),
        (LTCFacts(inputs=4, units=2000, ode_unfolds=100), "more than a launch"),
        (CfCFacts(inputs=2**28, units=8, backbone=(8,)), "more than a launch"),
    ],
)
def test_a_single_step_beyond_a_launch_is_refused_with_the_reason(facts, reason):
    op = "ltc_sequence" if isinstance(facts, LTCFacts) else "cfc_sequence"
    assert reason in metal.unsupported(op, facts)
