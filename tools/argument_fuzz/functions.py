"""Valid arguments of every function."""

from __future__ import annotations

import contextlib

import mlx.core as mx
import mlx_ncps as m
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import config, convert, export, ops, rnn

from .constructors import LTC_OPTIONS
from .methods import saved
from .objects import B, H, I, K, OwnCell, T, array, wiring


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
    options = {k: LTC_OPTIONS[k] for k in ("ode_unfolds", "epsilon", "implicit_param_constraints")}
    options |= {"ode_solver": "semi_implicit", "synapses": None, "training": True}
    call = {"inputs": array(B, T, I), "state": array(B, H), "ts": array(B, T)}
    return call | {"params": _ltc_params()} | options | more


def _one_step(call):
    return call | {"inputs": array(B, I), "ts": array(B)}


def _dropped(*steps):
    return {"variant": "keras", "dropout": array(B, *steps, K)}


def _mixed(call):
    return call | {"state": (array(B, H), array(B, H)), "memory": _memory(H)}


def _initializer(**more):
    return lambda: {"shape": (4, 3), **more, "dtype": None, "key": mx.random.key(0)}


_HEADS = {"f1": (B, H), "f2": (B, H), "a": (B, H), "b": (B, H)}
OPS = {
    "cfc_sequence": [
        _cfc_call,
        lambda: _cfc_call(mode="pure", params=_cfc_params("pure")),
        lambda: _cfc_call(**_dropped(T)),
    ],
    "cfc_step": [lambda: _one_step(_cfc_call()), lambda: _one_step(_cfc_call(**_dropped()))],
    "cfc_mixed_sequence": [
        lambda: _mixed(_cfc_call()),
        lambda: _mixed(_cfc_call(**_dropped(T))),
    ],
    "ltc_sequence": [_ltc_call, lambda: _ltc_call(params=_ltc_params(False))],
    "ltc_step": [lambda: _one_step(_ltc_call())],
    "ltc_mixed_sequence": [lambda: _mixed(_ltc_call())],
    "cfc_update": [
        lambda: (
            {k: array(*shape) for k, shape in _HEADS.items()}
            | {"ts": array(B), "mode": "no_gate", "variant": "paper"}
        )
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
for _name in (*ops.ACTIVATIONS, "softplus"):
    OPS[_name] = OPS["gelu"]
OPS["cfc_sequence_backward"] = [
    lambda more=more: {"cotangents": array(B, T, H)} | _cfc_call(**more)
    for more in ({}, _dropped(T))
]
OPS["ltc_sequence_backward"] = [lambda: {"cotangents": array(B, T, H)} | _ltc_call()]
for _op, _call in (("cfc", _cfc_call), ("ltc", _ltc_call)):
    OPS[f"{_op}_mixed_sequence_backward"] = [
        lambda call=_call: {"cotangents": (array(B, T, H), array(B, T, H))} | _mixed(call())
    ]


def _chunked_loss(model, state, x):
    output, state = model(x, state)
    return output.sum(), state


def run_chunks(model, loss, chunks, state):
    """`chunked_value_and_grad`, called."""
    return m.chunked_value_and_grad(model, loss)(chunks, state)


def run_export(file, function, inputs, state, shapeless):
    """`export_function`, with arrays for `function`."""
    m.export_function(file, function, inputs, hx=state, shapeless=shapeless)


def _if_installed(function):
    """The function; nothing happens where the optional package that it needs is missing."""

    def run(**arguments):
        with contextlib.suppress(ImportError):
            function(**arguments)

    return run


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
        lambda: {"module": _layer(), "file_or_weights": saved(_layer()), "strict": True},
        lambda: {"module": _layer(), "file_or_weights": _pairs(_layer())},
        lambda: {"module": _layer(), "file_or_weights": dict(_pairs(_layer()))},
    ],
    "save_weights": [lambda: {"module": _layer(), "file": saved(_layer())}],
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
    "checkpoint": [lambda: {"module": _layer(), "fn": _chunked_loss}],
    "export_function": [
        lambda: {
            "file": "function.mlxfn",
            "function": _layer(),
            "inputs": array(B, T, I),
            "state": array(B, H),
            "shapeless": False,
        }
    ],
    "export_step": [
        lambda: {"layer": _layer(), "path": "step.mlxfn", "batch": B},
        lambda: {"layer": _layer(), "path": "step.mlxfn"},
    ],
    "export_sequence": [
        lambda: {"layer": _layer(), "path": "sequence.mlxfn", "steps": T, "batch": B},
        lambda: {"layer": _layer(), "path": "sequence.mlxfn", "steps": T},
    ],
    "to_c": [lambda: {"layer": _layer(), "path": "cell.h", "name": "cell"}],
    "to_onnx": [lambda: {"layer": _layer(), "path": "step.onnx", "sequence": True}],
    "to_coreml": [lambda: {"layer": _layer(), "path": "step.mlpackage", "batch": B}],
    "from_torch": [
        lambda: {"source": convert.to_torch(_layer(), numpy=True), "prefix": "", "mode": "default"},
        lambda: {"source": convert.to_torch(_layer(), numpy=True), "layer": _layer()},
    ],
    "to_torch": [lambda: {"layer": _layer(), "direction": None, "numpy": True}],
    "save_torch": [lambda: {"layer": _layer(), "path": saved(_layer()), "direction": None}],
    "from_mlx_port": [
        lambda: {"source": _port_arrays(), "prefix": "", "activation": "lecun_tanh"},
        lambda: {
            "source": _port_arrays(),
            "layer": m.CfC(I, H, backbone_units=K, variant="keras"),
        },
    ],
    "summary": [lambda: {"module": _layer(), "depth": 1}],
    "save_pretrained": [lambda: {"model": _layer(), "folder": "model"}],
    "from_pretrained": [
        lambda: {"folder": m.save_pretrained(_layer(), "model"), "download": False}
    ],
    "from_keras": [
        lambda: {"source": _keras_arrays(), "activation": "lecun_tanh"},
        lambda: {
            "source": dict(enumerate(_keras_arrays())),
            "layer": m.CfC(I, H, backbone_units=K, variant="keras"),
        },
    ],
}

RUNNERS = {"chunked_value_and_grad": run_chunks, "export_function": run_export}
RUNNERS |= {"to_onnx": _if_installed(export.to_onnx), "to_coreml": _if_installed(export.to_coreml)}


def _pairs(module):
    return tree_flatten(module.parameters())


def _of_ncps():
    import ncps.wirings

    return ncps.wirings.AutoNCP(9, 2)


def _port_arrays():
    cell = m.CfCCell(I, H, backbone_units=K, variant="keras")
    names = {f"rnn_cell.{name}": value for name, value in _pairs(cell)}
    return {name.replace("backbone.", "backbone.layers."): a for name, a in names.items()}


def _keras_arrays():
    head, backbone = [(K, H), (H,)], [(I + H, K), (K,)]
    shapes = [*head, *head, *backbone, *head, *head]
    return [np.array(array(*shape)) for shape in shapes]
