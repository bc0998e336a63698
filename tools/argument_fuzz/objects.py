"""Objects of every public class, some with several options, and the arrays of valid calls."""

from __future__ import annotations

import mlx.core as mx
import mlx_ncps as m
import numpy as np
from mlx_ncps import ops, wirings
from mlx_ncps.convert import KerasMemoryCell

B, T, I, H = 2, 3, 3, 5
K = 4  # width of a backbone


def array(*shape, dtype=None):
    """Evaluated numbers in [0, 1)."""
    values = np.random.default_rng(len(shape)).random(shape)
    return mx.array(values, dtype or mx.float32)


def wiring(built=False):
    """An NCP."""
    return wirings.AutoNCP(9, 2, input_dim=I if built else None)


class OwnCell(m.LiquidCell):
    """A user's cell."""

    state_size, output_size, sensory_size, op = H, H, None, "own"

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def _create(self, width):
        self.w = mx.ones((width, H))

    def sequence(self, inputs, state, ts):
        return inputs @ self.w + 0 * state[:, None]

    def readout(self, states):
        return states


class OwnNCPCell(m.NCPRNNCell):
    """A user's cell of a wiring."""

    def __init__(self, wiring):
        super().__init__(wiring)

    def build(self, input_shape):
        super().build(input_shape)

    def sequence(self, inputs, state, ts):
        mask = self.wiring.sensory_adjacency_matrix.astype(inputs.dtype)
        return inputs @ mask + 0 * state[:, None]

    def readout(self, states):
        return states[..., : self.output_size]


class OwnLayer(m.NCPLayer):
    """A user's layer."""

    def _create(self, width):
        self.w = mx.ones((width,))

    def call(self, inputs):
        return inputs * self.w

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


OBJECTS = {
    "CfC": [
        lambda: m.CfC(I, H, backbone_units=K),
        lambda: m.CfC(I, wiring(), return_sequences=False),
        lambda: m.CfC(I, H, backbone_units=K, mixed_memory=True, proj_size=2),
        lambda: m.CfC(I, H, backbone_units=K, bidirectional=True, merge_mode="sum"),
        lambda: m.CfC(None, wiring(), stateful=True),
        lambda: m.CfC(I, H, mode="pure", batch_first=False, return_state=False),
    ],
    "LTC": [
        lambda: m.LTC(I, H),
        lambda: m.LTC(I, wiring(), proj_size=2),
        lambda: m.LTC(None, wiring(), mixed_memory=True),
        lambda: m.LTC(I, H, ode_solver="explicit", implicit_param_constraints=False),
        lambda: m.LTC(I, H, bidirectional=True, merge_mode=None),
    ],
    "CfCRNN": [lambda: m.CfCRNN(I, H, 2, backbone_units=K)],
    "LTCRNN": [lambda: m.LTCRNN(I, H, 2, return_sequences=False)],
    "LiquidRNN": [
        lambda: m.LiquidRNN(m.CTRNNCell(I, H), True, True),
        lambda: m.LiquidRNN(m.LSTMCell(None, H), True, True),
        lambda: m.LiquidRNN(OwnCell(), True, True),
    ],
    "MMRNN": [lambda: m.MMRNN(m.CfCCell(I, H, backbone_units=K), True, True)],
    "StreamingSession": [lambda: m.StreamingSession(m.LTC(I, wiring()))],
    "CfCCell": [lambda: m.CfCCell(I, H, backbone_units=K), lambda: m.CfCCell(I, H, mode="pure")],
    "WiredCfCCell": [lambda: m.WiredCfCCell(I, wiring()), lambda: m.WiredCfCCell(wiring())],
    "LTCCell": [lambda: m.LTCCell(wiring(), I), lambda: m.LTCCell(H)],
    "BackboneLTCCell": [lambda: m.LTCCell(wiring(), I, backbone_units=K)],
    "LSTMCell": [lambda: m.LSTMCell(I, H)],
    "CTRNNCell": [lambda: m.CTRNNCell(I, H, learn_tau=True)],
    "NeuralODECell": [lambda: m.NeuralODECell(None, H, (K,))],
    "ELTCCell": [lambda: m.ELTCCell(wiring(), I)],
    "CTGRUCell": [lambda: m.CTGRUCell(I, H, 3)],
    "ODERNNCell": [lambda: m.ODERNNCell(I, H)],
    "ODELSTMCell": [lambda: m.ODELSTMCell(I, H)],
    "KerasMemoryCell": [lambda: KerasMemoryCell(m.CfCCell(H, H, backbone_units=K), I)],
    "LiquidCell": [OwnCell],
    "NCPRNNCell": [lambda: OwnNCPCell(wiring())],
    "NCPLayer": [OwnLayer],
    "NCPDense": [lambda: m.NCPDense(H, "tanh"), lambda: m.NCPDense(None, wiring=wiring(True))],
    "Wiring": [lambda: wirings.Wiring(H, 2, input_dim=I)],
    "FullyConnected": [lambda: wirings.FullyConnected(H, 2, input_dim=I)],
    "Random": [lambda: wirings.Random(H, 2, 0.5, input_dim=I)],
    "NCP": [lambda: wirings.NCP(4, 3, 2, 2, 2, 3, 2, input_dim=I)],
    "AutoNCP": [lambda: wiring(True)],
    "Configurable": [lambda: m.LTCCell(H, I)],
    "SynapseLists": [lambda: ops.SynapseLists(np.ones((H, H)), np.ones((I, H)))],
    "use_backend": [lambda: m.use_backend("auto")],
}
