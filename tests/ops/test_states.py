"""State helpers: zeros of any form, a past cut off, rows set back; in MLX and NumPy."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import CfC, ops
from mlx_ncps.ops import numpy as truth

from tests.support.cases import assert_close

B, H = 3, 4


def test_initial_states_are_zeros_of_any_form_and_dtype():
    for source, dtype, half in ((ops, mx.float32, mx.float16), (truth, np.float64, np.float16)):
        state = source.initial_state(B, H)
        assert (state.shape, state.dtype) == ((B, H), dtype)
        assert not np.any(np.array(state))
        h, (c, d) = source.initial_state(B, (H, [1, 2]), dtype=half)
        assert (h.shape, c.shape, d.shape) == ((B, H), (B, 1), (B, 2))
        assert h.dtype == d.dtype == half


def test_reset_state_sets_finished_rows_to_zero():
    h = np.arange(1.0, 1 + B * H).reshape(B, H)
    c = np.full((B, 2, 2), np.nan)
    done = np.array([False, True, False])
    wanted = np.where(done[:, None], 0, h)
    np.testing.assert_array_equal(truth.reset_state(h, done), wanted)
    got_h, (got_c,) = ops.reset_state((mx.array(h), [mx.array(c)]), mx.array(done))
    assert_close("h", got_h, wanted, 0.0)
    assert np.isnan(np.array(got_c)[[0, 2]]).all()
    assert not np.any(np.array(got_c)[1])
    half = ops.reset_state(mx.ones((B, H), mx.bfloat16), mx.array([1, 0, 2]))
    assert half.dtype == mx.bfloat16
    assert half.sum().item() == H
    _, (again,) = truth.reset_state((h, [c]), [0, 1, 0])
    np.testing.assert_array_equal(again, np.array(got_c))


@pytest.mark.parametrize("source", [ops, truth])
def test_reset_state_wants_one_flag_for_each_row(source):
    array = mx.array if source is ops else np.array
    with pytest.raises(
        ValueError, match=r"\[reset_state\] done must be \[B\] = \(3,\), got \(2,\)"
    ):
        source.reset_state(array(np.ones((B, H))), array([True, False]))


def test_reset_rows_start_a_stream_anew():
    layer, x = CfC(2, H), mx.random.normal((2, B, 2))
    _, state = layer.step(x[0])
    output, _ = layer.step(x[1], ops.reset_state(state, mx.array([False, True, True])))
    fresh, _ = layer.step(x[1])
    kept, _ = layer.step(x[1], state)
    assert_close("fresh", output[1:], fresh[1:], 1e-6)
    assert_close("kept", output[0], kept[0], 1e-6)


def test_detach_state_stops_gradients():
    def loss(x, detached):
        state = (3 * x, [x * x])
        h, (c,) = ops.detach_state(state) if detached else state
        return (x * h + c).sum()

    x = mx.array([2.0, 5.0])
    assert mx.grad(loss)(x, False).tolist() == [16.0, 40.0]
    assert mx.grad(loss)(x, True).tolist() == [6.0, 15.0]
    _, (c,) = truth.detach_state((np.ones(2), [x]))
    assert c.dtype == np.float64
    np.testing.assert_array_equal(c, [2.0, 5.0])
