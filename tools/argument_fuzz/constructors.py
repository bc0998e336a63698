"""Valid arguments of every constructor."""

from __future__ import annotations

import mlx.core as mx
import mlx_ncps as m
import numpy as np

from .objects import H, I, K, array, wiring

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
LTC_OPTIONS = {
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
        lambda: {"input_size": I, "units": H, **LTC_OPTIONS, **_RNN},
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
    "WiredCfCCell": [
        _wired_cfc,
        lambda: {**_wired_cfc(), "backbone_units": K, "activation": "tanh"},
    ],
    "LTCCell": [lambda: {"wiring": wiring(), "in_features": I, **LTC_OPTIONS}],
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
