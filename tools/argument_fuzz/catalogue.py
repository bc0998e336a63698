"""Valid arguments of every public callable: `targets(name)` gives the calls that the fuzz spoils."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx_ncps as m
import numpy as np
from mlx_ncps import cells, config, convert, layers, ops, rnn, weights, wirings
from mlx_ncps.convert import KerasMemoryCell

B, T, I, H = 2, 3, 3, 5
K = 4  # width of a backbone


def array(*shape, dtype=None):
    """Evaluated numbers in [0, 1)."""
    values = np.random.default_rng(len(shape)).random(shape)
    return mx.array(values, dtype or mx.float32)


def wiring(built=False):
    return wirings.AutoNCP(9, 2, input_dim=I if built else None)


# --- objects of each class, in some of their forms ------------------------------------------------


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

# --- arguments of constructors --------------------------------------------------------------------

_RNN = {
    "proj_size": 2,
    "return_sequences": True,
    "batch_first": True,
    "mixed_memory": False,
    "return_state": True,
    "bidirectional": False,
    "merge_mode": "concat",
    "go_backwards": False,
    "stateful": False,
}
_CFC = {
    "mode": "default",
    "activation": "silu",
    "backbone_units": K,
    "backbone_layers": 1,
    "backbone_dropout": 0.1,
    "variant": "torch",
}
_LTC = {
    "input_mapping": "affine",
    "output_mapping": "linear",
    "ode_unfolds": 3,
    "epsilon": 1e-6,
    "implicit_param_constraints": True,
    "ode_solver": "semi_implicit",
    "initialization_ranges": {"w": (0.1, 0.5), "vleak": [-1.0, 1.0]},
}
_ODE = {"field_units": (K,), "ode_unfolds": 2, "ode_solver": "explicit"}
_STACK = {
    "input_size": I,
    "hidden_size": H,
    "num_layers": 2,
    "bidirectional": False,
    "return_sequences": True,
    "return_state": True,
    "proj_size": 2,
}
_CELL_RNN = {k: v for k, v in _RNN.items() if k != "proj_size"} | {"proj_size": None}


def _wired_cfc():
    return {"input_size": I, "wiring": wiring(), "mode": "no_gate", "fully_recurrent": True}


CONSTRUCTORS = {
    "CfC": [
        lambda: {"input_size": I, "units": H, **_CFC, **_RNN},
        lambda: {"input_size": I, "units": wiring(), **_RNN},
        lambda: {"cell": m.CfCCell(I, H, backbone_units=K), "return_state": True},
    ],
    "LTC": [
        lambda: {"input_size": I, "units": H, **_LTC, **_RNN},
        lambda: {"input_size": I, "units": wiring(), **_RNN},
        lambda: {"cell": m.LTCCell(H, I), "return_state": True},
    ],
    "CfCRNN": [lambda: {**_STACK, **_CFC, "merge_mode": "sum", "stateful": False}],
    "LTCRNN": [lambda: {**_STACK, "hidden_size": wiring(), "ode_unfolds": 3}],
    "LiquidRNN": [
        lambda: {"cell": m.CTRNNCell(I, H), **_CELL_RNN, "backward_cell": None},
        lambda: {
            "cell": m.CTRNNCell(I, H),
            "bidirectional": True,
            "backward_cell": m.CTRNNCell(I, H),
        },
    ],
    "MMRNN": [lambda: {"cell": m.CTRNNCell(I, H), "return_sequences": True, "proj_size": 2}],
    "StreamingSession": [lambda: {"layer": m.LTC(I, H), "state": array(H)}],
    "CfCCell": [
        lambda: {
            "input_size": I,
            "hidden_size": H,
            "mode": "default",
            "backbone_activation": "tanh",
            "backbone_units": [K, K],
            "backbone_layers": 2,
            "backbone_dropout": 0.0,
            "sparsity_mask": np.ones((K, H)),
            "variant": "keras",
        },
        lambda: {"input_size": wiring(), "mode": "pure"},
    ],
    "WiredCfCCell": [_wired_cfc, lambda: {**_wired_cfc(), "backbone_units": K, "variant": "keras"}],
    "LTCCell": [lambda: {"wiring": wiring(), "in_features": I, **_LTC}],
    "BackboneLTCCell": [
        lambda: {"wiring": H, "in_features": I, "activation": "tanh", "backbone_units": K},
    ],
    "LSTMCell": [lambda: {"input_size": I, "hidden_size": H}],
    "CTRNNCell": [
        lambda: {
            "input_size": I,
            "hidden_size": H,
            "tau": 0.5,
            "learn_tau": True,
            "ode_unfolds": 2,
            "ode_solver": "semi_implicit",
        }
    ],
    "NeuralODECell": [lambda: {"input_size": I, "hidden_size": H, **_ODE}],
    "ELTCCell": [
        lambda: {"wiring": wiring(), "in_features": I, "activation": "tanh", "ode_unfolds": 2}
    ],
    "CTGRUCell": [lambda: {"input_size": I, "hidden_size": H, "scales": 3, "tau": 1.0}],
    "ODERNNCell": [lambda: {"input_size": I, "hidden_size": H, **_ODE}],
    "ODELSTMCell": [lambda: {"input_size": I, "hidden_size": H, **_ODE}],
    "KerasMemoryCell": [lambda: {"cell": m.LTCCell(H), "input_size": I}],
    "LiquidCell": [dict],
    "NCPRNNCell": [lambda: {"wiring": wiring()}],
    "NCPLayer": [dict],
    "Configurable": [dict],
    "NCPDense": [
        lambda: {"units": 9, "activation": "tanh", "use_bias": True, "wiring": wiring(True)}
    ],
    "Wiring": [lambda: {"units": H, "output_dim": 2, "input_dim": I}],
    "FullyConnected": [
        lambda: {
            "units": H,
            "output_dim": 2,
            "erev_init_seed": 1,
            "self_connections": False,
            "input_dim": I,
            "key": None,
        }
    ],
    "Random": [
        lambda: {
            "units": H,
            "output_dim": 2,
            "sparsity_level": 0.5,
            "random_seed": 1,
            "input_dim": I,
            "key": mx.random.key(1),
        },
        lambda: {"units": H, "sparsity_level": 0.5, "random_seed": 1},
    ],
    "NCP": [
        lambda: {
            "inter_neurons": 4,
            "command_neurons": 3,
            "motor_neurons": 2,
            "sensory_fanout": 2,
            "inter_fanout": 2,
            "recurrent_command_synapses": 3,
            "motor_fanin": 2,
            "seed": 1,
            "input_dim": I,
        }
    ],
    "AutoNCP": [
        lambda: {
            "units": 9,
            "output_size": 2,
            "sparsity_level": 0.4,
            "seed": 1,
            "input_dim": I,
            "key": None,
        },
        lambda: {"units": 9, "output_dim": 2},
    ],
    "SynapseLists": [lambda: {"mask": np.ones((H, H)), "sensory_mask": np.ones((I, H))}],
    "use_backend": [lambda: {"name": "cpu"}],
}

# --- arguments of methods: functions of the object ------------------------------------------------

_LAYERS = ("CfC", "LTC", "CfCRNN", "LTCRNN", "LiquidRNN", "MMRNN")


def _layer_call(layer):
    first = layer.layers[0] if hasattr(layer, "layers") else layer
    shape = (B, T) if first.batch_first else (T, B)
    return {
        "inputs": array(*shape, I),
        "hx": _state(layer, B),
        "timespans": 1.0 if _is_lstm(layer) else array(*shape),
        "mask": mx.ones(shape),
    }


def _is_lstm(layer):
    return isinstance(getattr(layer, "rnn_cell", None), m.LSTMCell)


def _state(layer, *rows):
    """A valid state of any layer."""
    if hasattr(layer, "layers"):
        return tuple(_state(one, *rows) for one in layer.layers)
    sizes = layer.state_sizes
    if isinstance(sizes, dict):
        state = tuple(array(*rows, size) for size in sizes.values())
    else:
        state = array(*rows, sizes)
    return (state, state) if layer.bidirectional else state


def _step(layer):
    return {"x": array(B, I), "state": _state(layer, B), "ts": 1.0 if _is_lstm(layer) else array(B)}


def _cell_call(cell):
    size = cell.state_size
    state = tuple(array(B, n) for n in size) if isinstance(size, tuple) else array(B, size)
    call = {"inputs": array(B, I), "state": state, "ts": array(B)}
    if isinstance(cell, m.LSTMCell):
        del call["ts"]
    return call


def _cell_sequence(cell):
    cell.build(I)
    return _cell_call(cell) | {"inputs": array(B, T, I), "ts": array(B, T)}


def _file(made):
    path = Path("weights.safetensors")  # in a folder of the process
    weights.save_weights(made, path)
    return path


def _built(made):
    if not isinstance(made, wirings.Wiring) and hasattr(made, "build"):
        made.build(I)
    return made


def _width_of(made):
    if isinstance(made, wirings.Wiring):
        return "input_dim"
    return "width" if hasattr(made, "rnn_cell") else "input_shape"


METHODS = {
    "step": _step,
    "build": lambda o: {_width_of(o): I},
    "redraw": lambda o: {"key": mx.random.key(2)},
    "reset_states": lambda o: {},
    "explain": lambda o: {"shape": (B, T, I), "dtype": mx.float32, "scalar_timespans": True},
    "get_config": lambda o: {},
    "from_config": lambda o: {"config": o.get_config()},
    "save_weights": lambda o: {"file": _file(_built(o))},
    "apply_weight_constraints": lambda o: _built(o) and {"ranges": {"w": (0.1, 0.5), "cm": [0.0, None]}},
    "get_initial_state": lambda o: {"inputs": array(B, I), "batch_size": B},
    "sequence": _cell_sequence,
    "add_synapse": lambda o: {"src": 1, "dest": 2, "polarity": -1},
    "add_sensory_synapse": lambda o: {"src": 1, "dest": 2, "polarity": 1},
    "as_given": lambda o: {},
    "copy": lambda o: {},
    "is_built": lambda o: {},
    "state_dict": lambda o: {},
    "build_by_layer": lambda o: {"input_dim": I},
    "set_input_dim": lambda o: {"input_dim": I},
    "set_output_dim": lambda o: {"output_dim": 3},
    "erev_initializer": lambda o: {"shape": (o.units, o.units), "dtype": mx.float32},
    "sensory_erev_initializer": lambda o: {"shape": (I, o.units), "dtype": mx.float16},
    "get_graph": lambda o: {"include_sensory_neurons": True},
    "get_neurons_of_layer": lambda o: {"layer_id": 0},
    "get_neurons_of_type": lambda o: {"neuron_type": "motor"},
    "get_type_of_neuron": lambda o: {"neuron_id": 1},
    "get_synapses": lambda o: {"source": 1, "target": 2, "sensory": True},
    "load_state_dict": lambda o: {"state_dict": o.state_dict()},
    "synapses_into": lambda o: {"layer": 1},
    "reset": lambda o: {"state": array(H)},
    "draw_graph": lambda o: {
        "layout": "shell",
        "neuron_colors": {"motor": "red"},
        "synapse_colors": {"excitatory": "blue"},
        "draw_labels": False,
        "legend": True,
    },
}
METHODS["apply_constraints"] = METHODS["apply_weight_constraints"]


def _method(kind: str, name: str, made) -> dict:
    """Valid arguments of one method."""
    if name == "__call__":
        if kind in _LAYERS:
            return _layer_call(made)
        if kind == "StreamingSession":
            return {"x": array(I), "ts": 0.5}
        return {"inputs": array(B, I)} if kind in ("NCPDense", "NCPLayer") else _cell_call(made)
    if name == "compute_output_shape":
        return {"input_shape": (B, T, I) if kind in _LAYERS else (B, I)}
    if name == "load_weights":
        file = _file(_built(made))
        return {"file_or_weights": file, "strict": True}
    return METHODS[name](made)


# --- arguments of functions -----------------------------------------------------------------------


def _memory(units):
    return ops.LSTMParams(array(4 * units, I), array(4 * units), array(4 * units, units))


def _cfc_params(mode="default"):
    head = (array(H, K), array(H))
    backbone = ((array(K, I + H), array(K)),)
    if mode == "pure":
        return ops.CfCParams(backbone, head, w_tau=array(H), A=array(H))
    return ops.CfCParams(backbone, head, head, head, head)


def _ltc_params(masks=True):
    shapes = [(H,)] * 3 + [(H, H)] * 4 + [(I, H)] * 4 + [(H, H), (I, H), (I,), (I,)][: 4 * masks]
    return ops.LTCParams(*(array(*shape) for shape in shapes))


def _cfc_call(**more):
    options = {"mode": "default", "activation": "tanh", "variant": "torch", "training": True}
    call = {"inputs": array(B, T, I), "state": array(B, H), "ts": array(B, T)}
    return call | {"params": _cfc_params()} | options | more


def _ltc_call(**more):
    options = {k: _LTC[k] for k in ("ode_unfolds", "epsilon", "implicit_param_constraints")}
    options |= {"ode_solver": "semi_implicit", "synapses": None, "training": True}
    call = {"inputs": array(B, T, I), "state": array(B, H), "ts": array(B, T)}
    return call | {"params": _ltc_params()} | options | more


def _one_step(call):
    return call | {"inputs": array(B, I), "ts": array(B)}


def _mixed(call):
    return call | {"state": (array(B, H), array(B, H)), "memory": _memory(H)}


def _initializer(**more):
    return lambda: {"shape": (4, 3), **more, "dtype": None, "key": mx.random.key(0)}


_HEADS = {"f1": (B, H), "f2": (B, H), "a": (B, H), "b": (B, H)}
OPS = {
    "cfc_sequence": [_cfc_call, lambda: _cfc_call(mode="pure", params=_cfc_params("pure"))],
    "cfc_step": [lambda: _one_step(_cfc_call())],
    "cfc_mixed_sequence": [lambda: _mixed(_cfc_call())],
    "ltc_sequence": [_ltc_call, lambda: _ltc_call(params=_ltc_params(False))],
    "ltc_step": [lambda: _one_step(_ltc_call())],
    "ltc_mixed_sequence": [lambda: _mixed(_ltc_call())],
    "cfc_update": [
        lambda: {k: array(*shape) for k, shape in _HEADS.items()}
        | {"ts": array(B), "mode": "no_gate", "variant": "paper"}
    ],
    "cfc_update_pure": [
        lambda: {"f1": array(B, H), "w_tau": array(H), "A": array(H), "ts": array(B)}
    ],
    "detach_state": [lambda: {"state": (array(B, H), array(B, H))}],
    "initial_state": [lambda: {"batch_size": B, "units": (H, H)}],
    "reset_state": [lambda: {"state": (array(B, H), array(B, H)), "done": mx.array([True, False])}],
    "get_activation": [lambda: {"name": "tanh"}],
    "uniform": [
        lambda: {"low": 0.0, "high": 1.0, "shape": (2, 3), "dtype": None, "key": mx.random.key(0)}
    ],
    "xavier_uniform": [_initializer(gain=1.0)],
    "xavier_normal": [_initializer(gain=1.0)],
    "lecun_uniform": [_initializer()],
    "lecun_normal": [_initializer()],
    "orthogonal": [_initializer(gain=1.0)],
    "gelu": [lambda: {"x": array(B, H)}],
}
for _name in ("lecun_tanh", "relu", "sigmoid", "silu", "softplus", "tanh"):
    OPS[_name] = OPS["gelu"]
OPS["cfc_sequence_backward"] = [lambda: {"cotangents": array(B, T, H)} | _cfc_call()]
OPS["ltc_sequence_backward"] = [lambda: {"cotangents": array(B, T, H)} | _ltc_call()]
for _op, _call in (("cfc", _cfc_call), ("ltc", _ltc_call)):
    OPS[f"{_op}_mixed_sequence_backward"] = [
        lambda call=_call: {"cotangents": (array(B, T, H), array(B, T, H))} | _mixed(call())
    ]


def _chunked_loss(model, state, x):
    output, state = model(x, state)
    return output.sum(), state


def _run_chunks(model, loss, chunks, state):
    return m.chunked_value_and_grad(model, loss)(chunks, state)


def _layer(units=H):
    return m.CfC(I, units, backbone_units=K)


FUNCTIONS = {
    "available_backends": [dict],
    "describe": [dict],
    "last_backend": [dict],
    "get_instruction_set": [dict],
    "get_num_threads": [dict],
    "instruction_sets": [dict],
    "set_instruction_set": [lambda: {"name": "auto"}],
    "set_num_threads": [lambda: {"n": 2}],
    "register": [lambda: {"cls": OwnCell}],
    "to_config": [lambda: {"value": m.LTCCell(H, I)}],
    "from_config": [lambda: {"config": config.to_config(m.LTCCell(wiring(), I))}],
    "our_wiring": [lambda: {"theirs": _of_ncps()}],
    "load_weights": [
        lambda: {"module": _layer(), "file_or_weights": _file(_layer()), "strict": True},
        lambda: {"module": _layer(), "file_or_weights": _pairs(_layer())},
        lambda: {"module": _layer(), "file_or_weights": dict(_pairs(_layer()))},
    ],
    "save_weights": [lambda: {"module": _layer(), "file": _file(_layer())}],
    "carry_forward": [
        lambda: {
            "inputs": array(B, T, I),
            "mask": mx.ones((B, T, I)),
            "ts": array(B, T),
            "last": rnn.Seen(array(B, I), array(B, I)),
        }
    ],
    "chunked_value_and_grad": [
        lambda: {
            "model": _layer(),
            "loss": _chunked_loss,
            "chunks": [(array(B, T, I),), (array(B, T, I),)],
            "state": array(B, H),
        }
    ],
    "from_torch": [
        lambda: {"source": convert.to_torch(_layer(), numpy=True), "prefix": "", "mode": "default"},
        lambda: {"source": convert.to_torch(_layer(), numpy=True), "layer": _layer()},
    ],
    "to_torch": [lambda: {"layer": _layer(), "direction": None, "numpy": True}],
    "save_torch": [lambda: {"layer": _layer(), "path": _file(_layer()), "direction": None}],
    "from_keras": [
        lambda: {"source": _keras_arrays(), "activation": "lecun_tanh"},
        lambda: {
            "source": dict(enumerate(_keras_arrays())),
            "layer": m.CfC(I, H, backbone_units=K, variant="keras"),
        },
    ],
}


def _pairs(module):
    from mlx.utils import tree_flatten

    return tree_flatten(module.parameters())


def _of_ncps():
    import ncps.wirings

    return ncps.wirings.AutoNCP(9, 2)


def _keras_arrays():
    head, backbone = [(K, H), (H,)], [(I + H, K), (K,)]
    shapes = [*head, *head, *backbone, *head, *head]
    return [np.array(array(*shape)) for shape in shapes]


# --- all of them ------------------------------------------------------------------------------


def targets(name: str):
    """The calls of a public name, each a function that gives (callable, valid arguments).

    Raises KeyError, with the name, for one that this file doesn't know.
    """
    kind, _, method = name.partition(".")
    try:
        if kind == "numpy":
            return [_plain(getattr(ops.numpy, method), made, True) for made in OPS[method]]
        if method:
            objects = [make for make in OBJECTS[kind] if _one_way(method, make())]
            return [_bound(kind, method, made) for made in objects]
        if kind in CONSTRUCTORS:
            return [_plain(_find(kind), made) for made in CONSTRUCTORS[kind]]
        if kind == "chunked_value_and_grad":
            return [_plain(_run_chunks, made) for made in FUNCTIONS[kind]]
        return [_plain(_find(kind), made) for made in (OPS | FUNCTIONS)[kind]]
    except KeyError as error:
        raise KeyError(f"no arguments known for {name}") from error


def _find(name: str):
    modules = (m, ops, cells, layers, rnn, wirings, convert, weights, config)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def _plain(function, arguments, in_numpy=False):
    def call():
        given = arguments()
        return function, _numpy(given) if in_numpy else given

    return call


def _one_way(method, made) -> bool:
    """Whether this form of an object takes part: a stream can't go backwards."""
    return method != "step" or not getattr(made, "bidirectional", False)


def _bound(kind: str, method: str, make):
    if method not in METHODS and method not in (
        "__call__",
        "compute_output_shape",
        "load_weights",
    ):
        raise KeyError(method)

    def call():
        made = make()
        arguments = _method(kind, method, made)
        return getattr(made, method), arguments

    return call


def _numpy(tree):
    """The same arguments with NumPy's arrays."""
    if isinstance(tree, mx.array):
        return np.array(tree)
    if isinstance(tree, dict):
        return {key: _numpy(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        items = [_numpy(value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree
