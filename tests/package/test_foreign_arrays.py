"""Arrays of NumPy, of PyTorch and lists where an mx.array is wanted: the error says what helps."""

import re

import mlx.core as mx
import mlx_ncps as m
import numpy as np
import pytest
from mlx_ncps import ops
from mlx_ncps.wirings import AutoNCP

I, H = 4, 6


class Tensor:
    """A stand-in of a tensor of PyTorch."""

    ndim, shape = 3, (2, 5, I)

    def numpy(self):
        return np.zeros(self.shape, np.float32)

    def __array__(self, *args, **kwargs):
        return self.numpy()


Tensor.__module__ = "torch"


class Jax(Tensor):
    numpy = None


Jax.__module__ = "jaxlib"

FOREIGN = {
    "numpy": (lambda a: np.array(a), "got a NumPy array ({shape}): wrap it in mx.array(...)."),
    "float64": (lambda a: np.array(a, float), "a NumPy array ({shape}): wrap it in mx.array(...)."),
    "list": (lambda a: a.tolist(), "got a list: wrap it in mx.array(...)."),
    "torch": (lambda a: Tensor(), "got a torch.Tensor: wrap it in mx.array(tensor.numpy())."),
    "jax": (lambda a: Jax(), "got an array of jaxlib: wrap it in mx.array(numpy.asarray(...))."),
}
OBJECTS = {
    "cfc": lambda: m.CfC(I, H),
    "cfc_wired": lambda: m.CfC(I, AutoNCP(8, 2), mixed_memory=True),
    "ltc": lambda: m.LTC(I, H),
    "ltc_both": lambda: m.LTC(I, H, bidirectional=True),
    "stack": lambda: m.CfCRNN(I, H, 2),
    "any": lambda: m.LiquidRNN(m.CTRNNCell(I, H)),
}
CELLS = {
    "cfc": lambda: m.CfCCell(I, H),
    "cfc_wired": lambda: m.WiredCfCCell(I, AutoNCP(8, 2)),
    "ltc": lambda: m.LTCCell(H, I),
    "ctrnn": lambda: m.CTRNNCell(I, H),
    "ctgru": lambda: m.CTGRUCell(I, H),
    "ode_lstm": lambda: m.ODELSTMCell(I, H),
    "lstm": lambda: m.LSTMCell(I, H),
    "eltc": lambda: m.ELTCCell(H, I),
}
all_foreign = pytest.mark.parametrize("kind", FOREIGN)


def refused(kind, array, call):
    make, message = FOREIGN[kind]
    message = message.format(shape=", ".join(map(str, array.shape)))
    with pytest.raises(ValueError, match=re.escape(message)):
        call(make(array))


@all_foreign
@pytest.mark.parametrize("name", OBJECTS)
def test_layers_say_how_to_make_an_mx_array(name, kind):
    layer = OBJECTS[name]()
    x = mx.zeros((2, 5, I))
    refused(kind, x, layer)
    if name != "ltc_both":
        refused(kind, x[:, 0], layer.step)


@all_foreign
@pytest.mark.parametrize("name", ["cfc", "ltc", "any"])
def test_states_say_how_to_make_an_mx_array(name, kind):
    layer = OBJECTS[name]()
    x = mx.zeros((2, 5, I))
    refused(kind, mx.zeros((2, H)), lambda hx: layer(x, hx))
    refused(kind, mx.zeros((2, H)), lambda hx: layer.step(x[:, 0], hx))


@pytest.mark.parametrize("kind", ["list", "torch", "jax"])
@pytest.mark.parametrize("name", OBJECTS)
def test_masks_and_time_spans_say_how_to_make_an_mx_array(name, kind):
    layer, x = OBJECTS[name](), mx.zeros((2, 5, I))
    refused(kind, mx.ones((2, 5)), lambda ts: layer(x, None, ts))
    refused(kind, mx.ones((2, 5)), lambda mask: layer(x, mask=mask))


@all_foreign
@pytest.mark.parametrize("name", CELLS)
def test_cells_say_how_to_make_an_mx_array(name, kind):
    cell = CELLS[name]()
    x, state = mx.zeros((2, I)), cell.get_initial_state(batch_size=2)
    refused(kind, x, lambda x: cell(x, state))
    if not isinstance(state, tuple):
        refused(kind, state, lambda state: cell(x, state))


@all_foreign
def test_other_functions_say_how_to_make_an_mx_array(kind):
    x = mx.zeros((2, 5, I))
    cell, ltc = m.CfCCell(I, H), m.LTCCell(H, I)
    refused(kind, x, m.NCPDense(4))
    refused(kind, x, lambda x: m.carry_forward(x, mx.ones((2, 5, I))))
    refused(kind, x, lambda x: ops.cfc_sequence(x, mx.zeros((2, H)), 1.0, cell.params()))
    refused(kind, x, lambda x: ops.ltc_sequence(x, mx.zeros((2, H)), 1.0, ltc.params()))
    refused(kind, mx.zeros((2, H)), lambda h: ops.ltc_sequence(x, h, 1.0, ltc.params()))
    if kind != "list":  # which is a state of several parts
        refused(kind, x[:, 0], lambda s: ops.reset_state(s, mx.array([True, False])))
    refused(kind, x, lambda x: cell.get_initial_state(x))


def test_a_tensor_of_pytorch_becomes_an_array_as_the_error_says():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"got a torch.Tensor: wrap it in mx.array\(tensor.num"):
        m.CfC(I, H)(torch.zeros(2, 5, I))
    assert m.CfC(I, H)(mx.array(torch.zeros(2, 5, I).numpy()))[0].shape == (2, 5, H)


def test_what_is_no_array_gets_no_advice():
    with pytest.raises(ValueError, match=r"got str\.$"):
        m.CfC(I, H)("inputs")
    with pytest.raises(ValueError, match=r"got dict\.$"):
        m.LTC(I, H)({})
