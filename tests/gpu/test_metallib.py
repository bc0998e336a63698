"""The backend metallib without a Mac: the source that the build would compile ahead of time is
compiled and run in the simulator, in the place of the native module's metallib.
"""

import re
from functools import cache
from importlib import import_module

import mlx.core as mx
import mslsim
import numpy as np
import pytest
from mlx_ncps import _loader, dispatch
from mlx_ncps.backends import metallib
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner

from build_backend import metallib_source
from tests.support.cases import CfcCase, LtcCase
from tests.support.running import check_gradients, check_states, gradients
from tests.support.simulated_metal import VERSIONS, simulated

CASES = [
    LtcCase(batch=2, steps=2, units=17, timespans="per_batch"),
    LtcCase(batch=2, steps=2, inputs=2, units=96, unfolds=2),
    CfcCase(batch=3, units=32, backbone_units=128),
    CfcCase(batch=2, units=64, layers=0, timespans="per_batch"),
    CfcCase(batch=64, steps=2, units=32, backbone_units=128),
]


@cache
def recorder():
    """What build_backend/metallib_source.py writes."""
    return metallib_source.record()


@cache
def compiled(function):
    """One function of the source; compiled at every language level and linted."""
    one = recorder().text({function})
    return mslsim.Kernel(one, function, metal_versions=VERSIONS)


class SimulatedMetallib:
    """The part of the native module that the backend calls."""

    def metallib_available(self):
        return True

    def mappable(self, outputs):
        return outputs

    def metallib_max_threads(self, function):
        return 1024 if function in recorder().functions else 0

    def metallib_kernel(self, function, inputs, output_shapes, grid, threadgroup, stream=None):
        names = re.findall(r"\* (\w+) \[\[buffer", recorder().functions[function])
        outputs = [np.empty(shape, np.float32) for shape in output_shapes]
        buffers = [mslsim.Buffer(np.array(a, order="C")) for a in inputs]
        buffers += [mslsim.Buffer(a, output=True, initialised=False) for a in outputs]
        slots = dict(zip(names, buffers, strict=True))
        mslsim.launch(compiled(function), slots, grid, threadgroup)
        return [mx.array(a) for a in outputs]


@pytest.fixture
def native(monkeypatch):
    """The backend metallib, on the simulator; chosen within the test."""
    mslsim.require()
    monkeypatch.setattr(_loader, "native", SimulatedMetallib())
    run = Runner(metallib.NAME, metallib.register, mx.cpu, APPLE)
    monkeypatch.setattr(metallib, "run", run)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("native")
def test_metallib_equals_numpy(case):
    with mslsim.options(order="chaos"):
        check_states(case, "metallib", training=False)
        check_gradients(case, "metallib")


@pytest.mark.usefixtures("native")
def test_metallib_has_every_bit_of_metal():
    case = CASES[0]
    with mslsim.options(order="forward"):
        got = gradients(case, "metallib")
    with simulated("forward"):
        want = gradients(case, "metal")
    for name, array in want.items():
        assert np.array_equal(np.array(got[name]), np.array(array)), name


@pytest.mark.parametrize(
    "case",
    [
        CfcCase(units=32, backbone_units=7),
        CfcCase(units=32, backbone_units=128, variant="keras"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("native")
def test_metallib_names_the_variant_that_it_lacks(case):
    with pytest.raises(
        RuntimeError, match=r'\[metallib\] ncps_cfc_forward.*use_backend\("metal"\)'
    ):
        check_states(case, "metallib")


def test_metallib_is_there_only_where_it_was_asked_for():
    built = _loader.native is not None and import_module("mlx_ncps._build_info").HAS_METALLIB
    assert metallib.available()[0] == (built and mx.metal.is_available())
    if metallib.available()[0]:
        return
    with pytest.raises(RuntimeError, match="metallib"):
        dispatch.use_backend("metallib")


def test_metallib_source_holds_every_ltc_variant_up_to_64_units():
    names = recorder().functions
    for per in range(1, 17):
        assert f"ncps_ltc_dense_forward_save_PER{per}_PARTS4_UNITS{4 * per}_THREADS256" in names
    for per in range(1, 9):
        assert any(name.startswith(f"ncps_ltc_dense_backward_PER{per}_") for name in names)
