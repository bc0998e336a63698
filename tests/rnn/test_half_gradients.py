"""Gradients of half weights over many steps: summed in float32 and rounded once, however a layer
runs.
"""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, cells, chunked_value_and_grad, dispatch
from mlx_ncps.rnn import LiquidRNN
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.rnn_layers import LAYERS, B, I

T, H = 48, 6
LITERATURE = {
    "ct_rnn": lambda: cells.CTRNNCell(I, H),
    "ct_gru": lambda: cells.CTGRUCell(I, H, scales=3),
    "neural_ode": lambda: cells.NeuralODECell(I, H),
    "ode_rnn": lambda: cells.ODERNNCell(I, H),
    "ode_lstm": lambda: cells.ODELSTMCell(I, H),
    "eltc": lambda: cells.ELTCCell(AutoNCP(10, 2), I),
}
CASES = {
    **{f"{name}_mixed": lambda f=f: f(mixed_memory=True) for name, f in LAYERS.items()},
    "ltc_backbone_mixed": lambda: LiquidRNN(
        cells.LTCCell(H, I, backbone_units=5, ode_unfolds=3), mixed_memory=True
    ),
    "ct_rnn_mixed": lambda: LiquidRNN(LITERATURE["ct_rnn"](), mixed_memory=True),
    **{name: lambda f=f: LiquidRNN(f()) for name, f in LITERATURE.items()},
}
BACKENDS = [name for name in ("reference", "cpu") if name in available_backends()]
dtypes = pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)


def half(name, dtype):
    """A layer of half weights, and inputs [B, T, I] of the same dtype."""
    mx.random.seed(3)
    layer = CASES[name]()
    layer.set_dtype(dtype)
    x = mx.random.normal((B, T, I)).astype(dtype)
    mx.eval(layer.parameters(), x)
    return layer, x


def gradients(layer, x):
    """Of a sum whose weights are numbers of half precision, so that none is rounded."""

    def loss(x):
        y = layer(x)[0].astype(mx.float32)
        return (y * (mx.arange(y.size).reshape(y.shape) % 7 - 2)).sum()

    return dict(tree_flatten(nn.value_and_grad(layer, loss)(x)[1]))


@dtypes
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_half_weights_are_rounded_once(name, backend, dtype):
    layer, x = half(name, dtype)
    before = dict(tree_flatten(layer.parameters()))
    with dispatch.use_backend(backend):
        got = gradients(layer, x)
        after = dict(tree_flatten(layer.parameters()))
        assert all(after[key].dtype == a.dtype for key, a in before.items())
        layer.set_dtype(mx.float32)
        want = gradients(layer, x.astype(mx.float32))
    assert all(got[key].dtype == before[key].dtype for key in got)
    kind = str(dtype).rsplit(".")[-1]
    assert_all_close(got, want, tolerance(kind, "gradient"))


@dtypes
def test_gradients_of_chunks_are_summed_in_float32(dtype):
    mx.random.seed(3)
    model, x = nn.Linear(I, H), mx.random.uniform(0.1, 1.0, (B, 4 * T, I)).astype(dtype)
    model.set_dtype(dtype)

    def loss(model, state, x):
        return model(x).astype(mx.float32).sum(), state

    chunks = [(x[:, t : t + 1],) for t in range(x.shape[1])]
    got = chunked_value_and_grad(model, loss)(chunks, mx.zeros((1,)))[1]["weight"]
    assert got.dtype == dtype
    want = mx.broadcast_to(x.astype(mx.float32).sum(axis=(0, 1)), (H, I))
    kind = str(dtype).rsplit(".")[-1]
    assert_close("weight", got, want, tolerance(kind, "gradient"))
