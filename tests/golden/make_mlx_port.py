"""Writes mlx_port.npz: layers of the earlier MLX port of ncps (ncps-mlx of 2025-11-08) in float32,
for `convert.from_mlx_port`.

    PYTHONPATH=<a checkout of ncps-mlx> python tests/golden/make_mlx_port.py

Keys "<case>/<key>": "config" (JSON: class, arguments, wiring), "parameters/<name>" as its
`save_weights` writes them, "adjacency" and "sensory_adjacency" of a wiring, "inputs" [B, T, I],
"timespans" [B, T], "state" [B, H] before the first step, "outputs" [B, T, O], "last" [B, H].
"""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from ncps import neurons, wirings

FILE = Path(__file__).parent / "mlx_port.npz"
BATCH, STEPS, INPUTS = 2, 3, 3
NCP = {"class": "AutoNCP", "units": 8, "output_size": 2}
DENSE = {"class": "FullyConnected", "units": 4, "output_dim": 2}
RANDOM = {"class": "Random", "units": 6, "output_dim": 2, "sparsity_level": 0.4}
TWO = {"backbone_units": 5, "backbone_layers": 2}
CASES = {  # name: (class, arguments, wiring)
    "cfc": ("CfC", {"units": 4, "backbone_units": 5}, None),
    "cfc_two": ("CfC", {"units": 3, "activation": "gelu"} | TWO, None),
    "cfc_dropout": ("CfC", {"units": 3, "activation": "tanh", "backbone_dropout": 0.2} | TWO, None),
    "cfc_no_gate": ("CfC", {"units": 4, "mode": "no_gate", "backbone_layers": 0}, None),
    "cfc_pure": ("CfC", {"units": 4, "mode": "pure", "backbone_units": 5}, None),
    "cfc_wired": ("CfC", {}, NCP),
    "cfc_wired_pure": ("CfC", {"mode": "pure"}, NCP),
    "cfc_wired_no_gate": ("CfC", {"mode": "no_gate"}, NCP),
    "cfc_random": ("CfC", {}, RANDOM),
    "ltc": ("LTC", {}, DENSE),
    "ltc_wired": ("LTC", {"ode_unfolds": 3}, NCP),
    "ltc_plain": ("LTC", {"input_mapping": "linear", "implicit_param_constraints": False}, RANDOM),
    "eltc": ("ELTC", {}, NCP),
    "eltc_explicit": ("ELTC", {"solver": "explicit", "activation": "relu"}, RANDOM),
}


def made(kind, arguments, wiring):
    """(layer, its wiring or None)."""
    if wiring is None:
        return getattr(neurons, kind)(INPUTS, **arguments), None
    options = dict(wiring)
    wiring = getattr(wirings, options.pop("class"))(**options)
    return getattr(neurons, kind)(INPUTS, wiring, **arguments), wiring


def main():
    mx.random.seed(5)
    entries = {}
    for name, (kind, arguments, options) in CASES.items():
        layer, wiring = made(kind, arguments, options)
        layer.eval()
        if kind == "ELTC":
            layer.return_state = True
        parameters = dict(tree_flatten(layer.parameters()))
        if kind != "ELTC":  # zeros and ones would hide what is swapped
            parameters = {
                n: a + mx.random.uniform(-0.1, 0.1, a.shape) for n, a in parameters.items()
            }
            parameters = {
                n: mx.maximum(a, 0.01) if n[-1] == "w" else a for n, a in parameters.items()
            }
            layer.load_weights(list(parameters.items()))
        x = mx.random.normal((BATCH, STEPS, INPUTS))
        ts = mx.random.uniform(0.2, 1.5, (BATCH, STEPS))
        units = wiring.units if wiring is not None else arguments["units"]
        state = mx.random.normal((BATCH, units))
        outputs, last = layer(x, state, ts)
        case = {"inputs": x, "timespans": ts, "state": state, "outputs": outputs, "last": last}
        case |= {f"parameters/{n}": a for n, a in parameters.items()}
        if wiring is not None:
            case["adjacency"] = wiring.adjacency_matrix
            case["sensory_adjacency"] = wiring.sensory_adjacency_matrix
        config = {"class": kind, "arguments": arguments, "wiring": options}
        case["config"] = json.dumps(config)
        entries |= {f"{name}/{key}": np.array(value) for key, value in case.items()}
    np.savez_compressed(FILE, **entries)


if __name__ == "__main__":
    main()
