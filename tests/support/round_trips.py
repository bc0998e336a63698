"""One of everything that has weights: cells, layers, stacks; for the tests of configurations,
files, copies and keys.
"""

import inspect

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import (
    LTC,
    LTCRNN,
    MMRNN,
    CfC,
    CfCCell,
    CfCRNN,
    LiquidCell,
    LiquidRNN,
    LSTMCell,
    LTCCell,
    NCPDense,
    WiredCfCCell,
    cells,
)
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

B, T, I = 2, 4, 3
BASES = {"LiquidCell", "NCPRNNCell"}


class KnownLeaky(LiquidCell):
    """A user's cell with options: h' = h + rate ts (tanh(W [x, h]) - h), step by step."""

    op = "leaky"

    def __init__(self, hidden, *, rates=(0.5,), names=None):
        super().__init__()
        self.hidden, self.rate, self.names = hidden, sum(rates), names

    @property
    def state_size(self):
        return self.hidden

    @property
    def sensory_size(self):
        return self.built_width

    @property
    def output_size(self):
        return self.hidden

    def build(self, input_shape):
        self.weight = mx.random.normal((self.hidden, input_shape[-1] + self.hidden))
        super().build(input_shape)

    def sequence(self, inputs, state, ts):
        states = []
        for t in range(inputs.shape[1]):
            span = 1.0 if ts is None else ts[:, t, None] if isinstance(ts, mx.array) else ts
            drive = mx.concatenate([inputs[:, t], state], axis=-1) @ self.weight.T
            state = state + self.rate * span * (mx.tanh(drive) - state)
            states.append(state)
        return mx.stack(states, axis=1)

    def readout(self, states):
        return states


def wired():
    return AutoNCP(10, 2)


CELLS = {
    "cfc": lambda: CfCCell(I, 6),
    "cfc_pure": lambda: CfCCell(I, 6, "pure", backbone_layers=0),
    "cfc_no_gate": lambda: CfCCell(I, 6, "no_gate", "relu", [7, 5]),
    "cfc_mask": lambda: CfCCell(
        I, 6, backbone_units=5, sparsity_mask=mx.array(np.arange(30).reshape(5, 6) % 3 == 0)
    ),
    "cfc_keras": lambda: CfCCell(I, 6, variant="keras", mode="pure"),
    "wired": lambda: WiredCfCCell(None, wired()),
    "wired_backbone": lambda: CfCCell(wired(), backbone_units=[5, 4]),
    "wired_own": lambda: WiredCfCCell(I, NCP(3, 2, 1, 2, 1, 2, 2), fully_recurrent=False),
    "ltc": lambda: LTCCell(wired()),
    "ltc_number": lambda: LTCCell(5, I, None, "linear", 3, 1e-6, True),
    "ltc_keyed": lambda: LTCCell(Random(7, 2, 0.5, key=mx.random.key(4)), I),
    "ltc_backbone": lambda: LTCCell(wired(), activation="tanh", backbone_units=[5, 4]),
    "lstm": lambda: LSTMCell(I, 5),
    "lstm_lazy": lambda: LSTMCell(None, 5),
    "user": lambda: KnownLeaky(6, rates=(0.25, np.float32(0.5)), names={"a": (1, 2)}),
}


def _any_cell(name):
    cell_class = getattr(cells, name)
    wants_wiring = "wiring" in list(inspect.signature(cell_class.__init__).parameters)[1:2]
    return cell_class(*((wired(), I) if wants_wiring else (I, 6)))


LISTED = {"CfCCell", "WiredCfCCell", "LTCCell", "BackboneLTCCell", "LSTMCell"}
CELLS.update(
    {name: lambda name=name: _any_cell(name) for name in set(cells.__all__) - BASES - LISTED}
)
BOTH = {"bidirectional": True}
LAYERS = {
    "CfC": lambda: CfC(I, 6),
    "CfC_pure": lambda: CfC(I, 6, mode="pure", return_sequences=False),
    "CfC_no_gate": lambda: CfC(I, 6, 2, mode="no_gate", backbone_layers=2, backbone_dropout=0.3),
    "CfC_wired": lambda: CfC(None, wired(), batch_first=False),
    "CfC_random": lambda: CfC(I, Random(8, 3, 0.4), mode="pure", **BOTH),
    "CfC_cell": lambda: CfC(cell=CfCCell(wired(), backbone_units=4), return_state=True),
    "CfC_mixed": lambda: CfC(I, 6, 2, mixed_memory=True, merge_mode="mul", **BOTH),
    "CfC_keras": lambda: CfC(I, 6, variant="keras"),
    "LTC": lambda: LTC(I, 6, input_mapping=None, output_mapping="linear", ode_unfolds=3),
    "LTC_wired": lambda: LTC(None, wired(), stateful=True, implicit_param_constraints=False),
    "LTC_full": lambda: LTC(I, FullyConnected(5, 2, self_connections=False), go_backwards=True),
    "LTC_mixed": lambda: LTC(I, wired(), mixed_memory=True, proj_size=3, **BOTH),
    "LTC_cell": lambda: LTC(LTCCell(wired()), merge_mode=None, **BOTH),
    "CfCRNN": lambda: CfCRNN(I, wired(), 2, mixed_memory=True, **BOTH),
    "LTCRNN": lambda: LTCRNN(I, 5, 2, proj_size=3, return_state=False, ode_unfolds=2),
    "LiquidRNN": lambda: LiquidRNN(KnownLeaky(5), return_sequences=True, **BOTH),
    "LiquidRNN_two": lambda: LiquidRNN(CfCCell(I, 5), backward_cell=KnownLeaky(5), **BOTH),
    "LiquidRNN_lstm": lambda: LiquidRNN(LSTMCell(I, 5), return_state=True),
    "MMRNN": lambda: MMRNN(LTCCell(wired()), return_state=True, proj_size=2),
}
DENSE = {
    "dense": lambda: NCPDense(4, "tanh"),
    "dense_wired": lambda: NCPDense(wiring=NCP(3, 2, 1, 2, 1, 2, 2), use_bias=False),
}
ALL = {**CELLS, **LAYERS, **DENSE}
everything = sorted(ALL)


def arguments(name):
    """Random arguments of a call of the cell, layer or dense layer, evaluated: a lazy input may
    take another path through a cell, whose rounding differs.
    """
    shape = (B, T, I) if name in LAYERS else (B, I)
    found = [mx.random.normal(shape)]
    if name in CELLS:
        sizes = ALL[name]().state_size
        found.append(tree_map(lambda size: 0.3 * mx.random.normal((B, size)), sizes))
    mx.eval(found)
    return tuple(found)


def made(name):
    """One of them, its weights made by a call, in inference."""
    one = ALL[name]().eval()
    results(one, arguments(name))
    return one


def results(module, inputs):
    """The arrays of a call; a state that the layer kept is forgotten."""
    found = [leaf for _, leaf in tree_flatten(module(*inputs))]
    mx.eval(found)
    if hasattr(module, "reset_states"):
        module.reset_states()
    return found


def parameters(module):
    return dict(tree_flatten(module.parameters()))


def trainable(module):
    return set(dict(tree_flatten(module.trainable_parameters())))


def assert_same_results(one, other, inputs):
    """Bitwise equal outputs and states."""
    got, wanted = results(other, inputs), results(one, inputs)
    assert len(got) == len(wanted) > 0
    for n, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert mx.array_equal(a, b).item(), f"result {n} differs by {mx.abs(a - b).max()}"


def assert_same_weights(one, other):
    """Bitwise equal parameters."""
    got, wanted = parameters(other), parameters(one)
    assert set(got) == set(wanted)
    for key, value in wanted.items():
        assert mx.array_equal(got[key], value).item(), key


def differ(one, other):
    """Whether any of two lists of arrays differ."""
    return any(not mx.array_equal(a, b) for a, b in zip(one, other, strict=True))
