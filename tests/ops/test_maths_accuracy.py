"""The maths of metal/activations.h against float64, on every instruction set and as the GPU's text:
over all exponents of both signs, denormals, infinities and NaN; exact where float32 is saturated.
"""

import mlx.core as mx
import mlx_ncps
import mslsim
import numpy as np
import pytest
from mlx_ncps import _loader, ops
from mlx_ncps.backends.gpu import runner
from mlx_ncps.ops import numpy as truth

from tests.support.activation_truth import TRUTH
from tests.support.cases import (
    ACTIVATIONS,
    MODES,
    ULPS,
    CfcCase,
    assert_close,
    make,
    to_mlx,
    tolerance,
)
from tests.support.pairs import pairs
from tests.support.simulated_metal import rough_division

ISAS = mlx_ncps.instruction_sets() if _loader.native else []
NO_MODULE = pytest.param("", marks=pytest.mark.skip(reason="no native module"))
CHECKS = [(f, kind) for f, kinds in ULPS.items() for kind in kinds]
TINY = 2.0**-126  # the smallest normal number


def arguments(step) -> np.ndarray:
    """Every `step`-th float32 pattern but NaN, the range of interest, and the special ones."""
    patterns = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, TINY, -TINY, 3.4028235e38, -3.4028235e38]
    parts = (
        patterns[~np.isnan(patterns)],
        np.linspace(-150, 150, 30001),
        np.linspace(-14, 14, 30001),
    )
    return np.concatenate([*parts, special]).astype(np.float32)


def want(function, kind, z):
    """The function or its derivative in float64; NaN where the reference has it."""
    with np.errstate(all="ignore"):
        return getattr(TRUTH[function], kind)(z)


def worst(function, kind, z, got, exact):
    """(error in the units of ULPS, its argument). Below TINY a result may be flushed to 0, as GPUs
    do; a wrong NaN or infinity is an infinite error.
    """
    z, got = z.astype(np.float64), got.astype(np.float64)
    with np.errstate(all="ignore"):
        rounded, larger = exact.astype(np.float32), np.maximum(1, np.abs(z))
        size = np.maximum(np.abs(exact), TINY if kind == "value" else 0.5)
        if TRUTH[function].of_argument:
            size = np.maximum(size, np.maximum(0.5, np.abs(z)))
        grows = kind in TRUTH[function].grows
        flushed = TINY * (larger if function == "silu" else 1)
        errors = np.maximum(np.abs(got - exact) - flushed, 0) / ulp(size)
        errors /= larger if grows else 1
    special = ~np.isfinite(rounded) | ~np.isfinite(got)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    errors[special] = np.where(same[special], 0, np.inf)
    at = errors.argmax()
    return errors[at], z[at]


def ulp(size):
    """The distance of float32 numbers of this size."""
    return 2.0 ** (np.floor(np.log2(np.minimum(size, 2.0**127))) - 23)


def on_cpu(isa):
    """f(name, kind, z) by the kernels of an instruction set."""

    def run(function, kind, z):
        before = mlx_ncps.get_instruction_set()
        mlx_ncps.set_instruction_set(isa)
        try:
            return np.array(_loader.native.maths(function, kind == "slope", z))
        finally:
            mlx_ncps.set_instruction_set(before)

    return run


def on_gpu(function, kind, z):
    """The same by the GPU's text, in the simulator."""
    mslsim.require()
    value = {"exp2": "ncps_exp2(z)", "logistic": "ncps_logistic(z)", "erf": "ncps_erf(z)"}
    body = value.get(function, f"ncps_activation<NCPS_{function.upper()}>(z)")
    if kind == "slope":
        code = f"NCPS_{function.upper()}"
        kept = f"ncps_slope_from_value<{code}>() ? {body} : z"
        body = f"ncps_activation_slope<{code}>({kept})"
    source = f"uint i = thread_position_in_grid.x; float z = x[i]; out[i] = {body};"
    kernel = mslsim.metal_kernel(f"m_{function}_{kind}", ["x"], ["out"], source, runner.header())
    with mslsim.options(mode="fast"):  # of values alone: tests/gpu has the kernels checked
        (out,) = kernel(
            inputs=[mx.array(z)],
            grid=(len(z), 1, 1),
            threadgroup=(256, 1, 1),
            output_shapes=[z.shape],
            output_dtypes=[mx.float32],
        )
    return np.array(out)


def on_rough_gpu(last_places):
    """The same, of a GPU whose fast division is so many last places off."""

    def run(function, kind, z):
        header = runner.header
        runner.header = lambda: rough_division(header(), last_places)
        try:
            return on_gpu(function, kind, z)
        finally:
            runner.header = header

    return run


DIVISIONS = [c for c in CHECKS if c[0] in ("tanh", "lecun_tanh", "erf", "gelu")]


@pytest.mark.parametrize("last_places", [-2, 2])
@pytest.mark.parametrize(("function", "kind"), DIVISIONS)
def test_a_rough_division_adds_its_own_error_and_no_more(function, kind, last_places):
    z = arguments(4000009)
    got = on_rough_gpu(last_places)(function, kind, z)
    error, at = worst(function, kind, z, got, want(function, kind, z.astype(np.float64)))
    own = abs(last_places) * 2  # a number's last place is up to two of a product with it
    assert error <= ULPS[function][kind] + own, f"{error:.3g} ulps at {at!r}"
    truth, ends = TRUTH[function], np.abs(z) >= TRUTH[function].end
    if truth.values == (-1, 1) and kind == "value":
        assert np.array_equal(got[ends], np.sign(z[ends]))


BACKENDS = [*((isa, on_cpu(isa), 20011) for isa in ISAS), ("metal", on_gpu, 400009)]


@pytest.mark.parametrize(("function", "kind"), CHECKS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b[0])
def test_maths_are_accurate_over_the_whole_range(backend, function, kind):
    name, run, step = backend
    z = arguments(step)
    error, at = worst(
        function, kind, z, run(function, kind, z), want(function, kind, z.astype(np.float64))
    )
    assert error <= ULPS[function][kind], f"{name}: {error:.3g} ulps at {at!r}"
    if (function, kind) != ("relu", "slope"):
        # As many as make an input of the GPU's device memory, and not another kernel.
        assert np.isnan(run(function, kind, np.full(8, np.nan, np.float32))).all()


@pytest.mark.parametrize(("function", "kind"), CHECKS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b[0])
def test_maths_are_exact_where_they_saturate(backend, function, kind):
    """Both ends: a slope that is not exactly 0 there would pass an input of 1e6 into a gradient."""
    _, run, _ = backend
    truth = TRUTH[function]
    far = np.geomspace(truth.end, 3e38, 400).astype(np.float32)
    low, high = (f(far) if callable(f) else f for f in getattr(truth, f"{kind}s"))
    assert np.array_equal(run(function, kind, -far), np.broadcast_to(np.float32(low), far.shape))
    assert np.array_equal(run(function, kind, far), np.broadcast_to(high, far.shape))


@pytest.mark.parametrize(
    ("activation", "mode", "scale", "isa"),
    pairs(ACTIVATIONS, MODES, [1e6, 1e8], ISAS)
    or [pytest.param(*[None] * 4, marks=NO_MODULE.marks)],
)
def test_gradients_of_a_feature_in_large_units(activation, mode, scale, isa):
    """Its units are saturated; with 1e4 a few are not, and the rounding of their argument shows."""
    case = CfcCase(activation=activation, mode=mode, timespans="per_batch")
    call = make(case)
    call.inputs[..., 0] *= np.float32(scale)
    want_grads = truth.cfc_sequence_backward(call.cotangents, *call.arguments, **call.keywords)
    before = mlx_ncps.get_instruction_set()
    mlx_ncps.set_instruction_set(isa)
    try:
        arrays = to_mlx(call)

        def loss(inputs, weight, bias):
            params = arrays.params._replace(backbone=((weight, bias),))
            states = ops.cfc_sequence(inputs, arrays.state, arrays.ts, params, **arrays.keywords)
            return (states * arrays.cotangents).sum()

        with mlx_ncps.use_backend("cpu"):
            got = mx.grad(loss, argnums=(0, 1, 2))(arrays.inputs, *arrays.params.backbone[0])
            mx.eval(got)
    finally:
        mlx_ncps.set_instruction_set(before)
    wanted = want_grads[0], *want_grads[3].backbone[0]
    for name, g, w in zip(("inputs", "weight", "bias"), got, wanted, strict=True):
        assert_close(name, np.array(g), w, tolerance("float32", "gradient"))
