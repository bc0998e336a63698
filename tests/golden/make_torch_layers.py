"""Writes torch_layers.npz: whole layers of ncps.torch 1.0.1 in float32, for `convert`.

    python tests/golden/make_torch_layers.py      (needs torch and ncps; the tests need neither)

Keys "<case>/<key>": "config" (JSON: class, arguments, wiring), "inputs" [B, T, I], "timespans"
[B, T], "h" (and "c" with mixed memory) [B, H] before the first step, "outputs" [B, T, O], "last_h"
and "last_c" after the last one, "param/<state dict name>".

ncps squeezes timespans and so breaks for B > 1: the parts of the layer are driven step by step.
"""

import json
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "torch_layers.npz"
BATCH, STEPS, INPUTS = 2, 3, 3
WIRING = {"class": "AutoNCP", "units": 8, "output_size": 2}
DENSE = {"class": "FullyConnected", "units": 4, "output_dim": 2}
SMALL = {"units": 4, "backbone_units": 5}
THREE = {"units": 3, "backbone_units": 4, "backbone_layers": 3, "backbone_dropout": 0.3}
NONE = {"input_mapping": None, "output_mapping": None}

CASES = {  # name: (class, arguments, wiring)
    "cfc_mixed_projected": ("CfC", SMALL | {"mixed_memory": True, "proj_size": 3}, None),
    "cfc_projected": ("CfC", SMALL | {"mode": "no_gate", "proj_size": 2}, None),
    "cfc_dropout": ("CfC", THREE | {"activation": "gelu"}, None),
    "cfc_wired_mixed": ("CfC", {"mixed_memory": True, "mode": "pure"}, WIRING),
    "ltc_mixed": ("LTC", {"mixed_memory": True}, DENSE),
    "ltc_wired_mixed": (
        "LTC",
        {"mixed_memory": True, "implicit_param_constraints": False, "input_mapping": "linear"},
        WIRING,
    ),
    "ltc_unmapped": ("LTC", {"units": 4, "ode_unfolds": 3, "epsilon": 1e-3} | NONE, None),
}


def make_case(kind, arguments, wiring):
    """The arrays of one case, by key."""
    import ncps.torch
    import ncps.wirings
    import torch

    config = {"class": kind, "arguments": arguments, "wiring": wiring}
    rng = np.random.default_rng(zlib.crc32(json.dumps(config).encode()))
    arguments = dict(arguments)
    units = arguments.pop("units", None)
    if wiring:
        options = dict(wiring)
        units = getattr(ncps.wirings, options.pop("class"))(**options)
    layer = getattr(ncps.torch, kind)(INPUTS, units, **arguments).eval()
    for parameter in layer.parameters():
        if parameter.requires_grad:  # none stays at a value that hides an error
            noise = 0.2 * rng.normal(size=parameter.shape)
            parameter.data += torch.from_numpy(noise.astype(np.float32))
    draw = {"inputs": rng.normal(size=(BATCH, STEPS, INPUTS))}
    draw["timespans"] = rng.uniform(0.05, 2.0, (BATCH, STEPS))
    for part in ("h", "c") if layer.use_mixed else ("h",):
        draw[part] = rng.normal(0.0, 0.5, (BATCH, layer.state_size))
    draw = {key: torch.from_numpy(value.astype(np.float32)) for key, value in draw.items()}
    with torch.no_grad():
        results = run(layer, **draw)
    arrays = draw | results | {f"param/{n}": value for n, value in layer.state_dict().items()}
    arrays = {key: value.numpy() for key, value in arrays.items()}
    return {"config": np.array(json.dumps(config)), **arrays}


def run(layer, inputs, timespans, h, c=None):
    """Outputs and last states of the parts of a layer, step by step."""
    import torch

    outputs = []
    for t in range(inputs.shape[1]):
        if c is not None:
            h, c = layer.lstm(inputs[:, t], (h, c))
        output, h = layer.rnn_cell(inputs[:, t], h, timespans[:, t : t + 1])
        outputs.append(layer.fc(output) if hasattr(layer, "fc") else output)
    last = {"outputs": torch.stack(outputs, dim=1), "last_h": h}
    return last if c is None else last | {"last_c": c}


if __name__ == "__main__":
    arrays = {f"{n}/{k}": v for n, case in CASES.items() for k, v in make_case(*case).items()}
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.name}: {len(CASES)} cases, {FILE.stat().st_size} bytes")
