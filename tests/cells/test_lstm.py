"""The LSTM cell of mixed memory: equations in float64, first values, building, errors."""

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps.cells import LSTMCell

from tests.support.cases import assert_close, tolerance

B, I, H = 3, 4, 5
SAME = tolerance("float32", "forward")


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


def arrays(dtype=mx.float32):
    keys = mx.random.split(mx.random.key(1), 3)
    shapes = ((B, I), (B, H), (B, H))
    return [mx.random.normal(s, key=k).astype(dtype) for s, k in zip(shapes, keys, strict=True)]


def truth(cell, x, h, c):
    """MATHS 4 in float64."""
    w, b = (np.array(p, np.float64) for p in (cell.input_map.weight, cell.input_map.bias))
    u = np.array(cell.recurrent_map.weight, np.float64)
    x, h, c = (np.array(a.astype(mx.float32), np.float64) for a in (x, h, c))
    i, ig, fg, og = np.split(x @ w.T + b + h @ u.T, 4, axis=1)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    c = c * sigmoid(fg + 1) + np.tanh(i) * sigmoid(ig)
    return np.tanh(c) * sigmoid(og), c


def test_step_equals_the_equations():
    cell, (x, h, c) = LSTMCell(I, H), arrays()
    output, (new_h, new_c) = cell(x, (h, c))
    want_h, want_c = truth(cell, x, h, c)
    assert_close("output", output, want_h, SAME)
    assert_close("h", new_h, want_h, SAME)
    assert_close("c", new_c, want_c, SAME)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_results_have_the_dtype_of_the_inputs(dtype):
    cell, (x, h, c) = LSTMCell(I, H), arrays(dtype)
    cell.set_dtype(dtype)
    _, (new_h, new_c) = cell(x, (h, c))
    assert new_h.dtype == new_c.dtype == dtype
    tol = tolerance(str(dtype).rsplit(".", 1)[-1], "forward")
    cell.set_dtype(mx.float32)
    for name, got, want in zip("hc", (new_h, new_c), truth(cell, x, h, c), strict=True):
        assert_close(name, got.astype(mx.float32), want, tol)


def test_parameters_start_as_in_ncps_torch():
    cell = LSTMCell(30, 20)
    shapes = {name: array.shape for name, array in tree_flatten(cell.trainable_parameters())}
    assert shapes == {
        "input_map.weight": (80, 30),
        "input_map.bias": (80,),
        "recurrent_map.weight": (80, 20),
    }
    bound = np.sqrt(6 / 110)
    assert 0.9 * bound < mx.abs(cell.input_map.weight).max().item() <= bound
    assert 0.08 < mx.abs(cell.input_map.bias).max().item() <= 0.1
    u = cell.recurrent_map.weight
    assert_close("U^T U", u.T @ u, np.eye(20), SAME)


def test_sizes_and_lazy_building():
    cell = LSTMCell(None, H)
    assert (cell.state_size, cell.output_size, cell.sensory_size) == ((H, H), H, None)
    assert not tree_flatten(cell.parameters())
    x, h, c = arrays()
    output, _ = cell(x, (h, c))
    assert_close("output", output, truth(cell, x, h, c)[0], SAME)
    assert cell.sensory_size == I
    with pytest.raises(ValueError, match=rf"\[lstm\] inputs must have {I} features, got 3"):
        cell(mx.zeros((B, 3)), (h, c))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_equal_and_redraw_gives_other_weights(copier):
    cell, (x, h, c) = LSTMCell(I, H), arrays()
    twin = copier(cell)
    assert_close("output", twin(x, (h, c))[0], cell(x, (h, c))[0], 0.0)
    twin.redraw()
    assert np.abs(np.array(twin(x, (h, c))[0] - cell(x, (h, c))[0])).max() > 1e-2


def test_wrong_arguments_raise():
    cell, (x, h, c) = LSTMCell(I, H), arrays()
    with pytest.raises(ValueError, match=r"\[lstm\] state must be \(h, c\), got array"):
        cell(x, h)
    with pytest.raises(ValueError, match=r"\[lstm\] state c must be \[B, H\] = \(3, 5\), got"):
        cell(x, (h, c[:, 1:]))
    with pytest.raises(ValueError, match=r"\[lstm\] inputs must be \[B, I\], got"):
        cell(x[0], (h, c))
    with pytest.raises(ValueError, match="float32, float16 or bfloat16, got int32"):
        cell(x.astype(mx.int32), (h, c))
    for sizes in ((0, H), (I, 0), (I, None), (True, H)):
        with pytest.raises(ValueError, match=r"\[lstm\] \w+ must be an integer >= 1, got"):
            LSTMCell(*sizes)
