"""The fold of an LTC's parameters on a GPU, a launch forward and one back, is that of
backends/fold.py in MLX's operations.
"""

from functools import partial

import mlx.core as mx
import mslsim
import numpy as np
import pytest
from mlx_ncps.backends.fold import fold_ltc
from mlx_ncps.backends.gpu import ltc_fold
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner
from mlx_ncps.ops import LTCParams

from tests.support.cases import assert_all_close, tolerance
from tests.support.folding import OPTIONAL, drawn, fold_and_gradients
from tests.support.simulated_metal import ORDERS, VERSIONS

GRADIENT = tolerance("float32", "gradient")
SIZES = [(1, 1), (5, 1), (3, 9), (9, 33)]


@pytest.fixture(params=ORDERS)
def fold(request):
    """(params, implicit, epsilon) -> FoldedLTC by the kernels, simulated."""
    mslsim.require()
    run = Runner("metal", mslsim.metal_kernel, mx.cpu, APPLE)
    with mslsim.options(order=request.param, metal_versions=VERSIONS):
        yield partial(ltc_fold.fold, run)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_fold_and_gradients_equal_those_of_the_operations(fold, sizes, implicit):
    """With all that may be missing there, and without."""
    for present in (OPTIONAL, ()) if sizes[0] > 1 else (OPTIONAL,):
        params = drawn(*sizes, present)
        want = fold_and_gradients(fold_ltc, params, implicit)
        assert_all_close(fold_and_gradients(fold, params, implicit), want, GRADIENT)


@pytest.mark.parametrize("value", [0.0, -0.0, 30.0, -30.0, 120.0, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("implicit", [False, True])
def test_extreme_parameters_fold_as_with_the_operations(fold, value, implicit):
    params = LTCParams(*(mx.full(a.shape, value) for a in drawn(2, 3)))
    want = fold_and_gradients(fold_ltc, params, implicit)
    got = fold_and_gradients(fold, params, implicit)
    for name in want:
        np.testing.assert_allclose(np.array(got[name]), np.array(want[name]), GRADIENT, 1e-30, name)
