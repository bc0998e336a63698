"""Valid arguments of every method, as functions of the object."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx_ncps as m
import numpy as np
from mlx_ncps import weights, wirings

from .objects import B, H, I, T, array

_LAYERS = ("CfC", "LTC", "CfCRNN", "LTCRNN", "LiquidRNN", "MMRNN")


def _layer_call(layer):
    first = layer.layers[0] if hasattr(layer, "layers") else layer
    shape = (B, T) if first.batch_first else (T, B)
    state, ts = ("initial_state", "time_delta") if type(layer) is m.MMRNN else ("hx", "timespans")
    return {
        "inputs": array(*shape, I),
        state: _state(layer, B),
        ts: 1.0 if _is_lstm(layer) else array(*shape),
        "mask": mx.ones(shape),
    }


def _is_lstm(layer):
    return isinstance(getattr(layer, "rnn_cell", None), m.LSTMCell)


def _state(layer, *rows):
    """A valid state of any layer."""
    if hasattr(layer, "layers"):
        return tuple(_state(one, *rows) for one in layer.layers)
    sizes = layer._state_sizes
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


def saved(made):
    """A file of the weights."""
    path = Path("weights.safetensors")  # in a folder of the process
    weights.save_weights(made, path)
    return path


def _built(made):
    if not isinstance(made, wirings.Wiring) and hasattr(made, "build"):
        made.build(I)
    return made


def _width_of(made):
    return "input_dim" if isinstance(made, wirings.Wiring) else "input_shape"


METHODS = {
    "step": _step,
    "build": lambda o: {_width_of(o): I},
    "redraw": lambda o: {"key": mx.random.key(2)},
    "reset_states": lambda o: {},
    "explain": lambda o: {"shape": (B, T, I), "dtype": mx.float32, "scalar_timespans": True},
    "get_config": lambda o: {},
    "from_config": lambda o: {"config": o.get_config()},
    "save_weights": lambda o: {"file": saved(_built(o))},
    "apply_weight_constraints": lambda o: (
        _built(o) and {"ranges": {"w": (0.1, 0.5), "cm": [0.0, None]}}
    ),
    "get_initial_state": lambda o: {"inputs": array(B, I), "batch_size": B},
    "sequence": _cell_sequence,
    "add_synapse": lambda o: {"src": 1, "dest": 2, "polarity": -1},
    "add_sensory_synapse": lambda o: {"src": 1, "dest": 2, "polarity": 1},
    "remove_synapse": lambda o: {"src": 1, "dest": 2},
    "remove_sensory_synapse": lambda o: {"src": 1, "dest": 2},
    "prune": lambda o: {"remove": np.zeros((o.units, o.units), bool), "sensory": False},
    "trainable_parameters": lambda o: _built(o) and {},
    "apply": lambda o: _built(o) and {"map_fn": lambda array: array * 2, "filter_fn": None},
    "as_given": lambda o: {},
    "copy": lambda o: {},
    "is_built": lambda o: {},
    "state_dict": lambda o: {},
    "set_input_dim": lambda o: {"input_dim": I},
    "set_output_dim": lambda o: {"output_dim": 3},
    "erev_initializer": lambda o: {"shape": (o.units, o.units), "dtype": mx.float32},
    "sensory_erev_initializer": lambda o: {"shape": (I, o.units), "dtype": mx.float16},
    "get_graph": lambda o: _built(o) and {"include_sensory_neurons": True},
    "get_neurons_of_layer": lambda o: {"layer_id": 0},
    "get_neurons_of_type": lambda o: {"neuron_type": "motor"},
    "get_type_of_neuron": lambda o: {"neuron_id": 1},
    "get_synapses": lambda o: {"source": 1, "target": 2, "sensory": True},
    "load_state_dict": lambda o: {"state_dict": o.state_dict()},
    "stable_unfolds": lambda o: _built(o) and {"ts": 1.0},
    "synapse_weights": lambda o: _built(o) and {"sensory": False},
    "synapses_into": lambda o: {"layer": 1},
    "reset": lambda o: {"state": array(H)},
    "draw_graph": lambda o: (
        _built(o)
        and {
            "layout": "shell",
            "neuron_colors": {"motor": "red"},
            "synapse_colors": {"excitatory": "blue"},
            "draw_labels": False,
            "legend": True,
        }
    ),
}
METHODS["apply_constraints"] = METHODS["apply_weight_constraints"]
METHODS["state_names"] = METHODS["reset_states"]
METHODS["save_pretrained"] = lambda o: _built(o) and {"folder": "model"}
METHODS["from_pretrained"] = lambda o: {"folder": m.save_pretrained(_built(o), "model")}
for _name in ("states", "time_constants", "gates", "conductances"):
    METHODS[_name] = _layer_call


def method_arguments(kind: str, name: str, made) -> dict:
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
        file = saved(_built(made))
        return {"file_or_weights": file, "strict": True}
    return METHODS[name](made)
