"""Writes the golden arrays of this folder from ncps.torch 1.0.1 in float64.

    python tests/golden/make_golden.py      (needs torch and ncps; the tests need neither)

A file holds several cases as "<case>/<key>". The keys: "config" (JSON: class, arguments, wiring),
"inputs" [B, T, I], "hx" [B, H], "timespans" [B, T] (if timed), "outputs" [B, T, O], "states"
[B, T, H] after every step, "cotangent_outputs", "cotangent_state" (of the last state),
"param/<state dict name>", "adjacency" and "sensory_adjacency" (wired cases and LTC), and the
gradients of sum(cotangent_outputs * outputs) + sum(cotangent_state * states[:, -1]):
"grad/inputs", "grad/hx", "grad/timespans", "grad/param/<state dict name>".

ncps squeezes timespans and so breaks for B > 1: its cell is driven step by step here, with the
elapsed times of a step as [B, 1].
"""

import json
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
BATCH, STEPS, INPUTS = 2, 3, 3
MODES = ("default", "no_gate", "pure")
ACTIVATIONS = ("lecun_tanh", "tanh", "relu", "gelu", "silu")
WIRING = {"class": "AutoNCP", "units": 10, "output_size": 2}
STARTS = {"bias": 0.0, "w_tau": 0.0, "A": 1.0}  # ncps draws these from torch's generator
DENSE = {"class": "FullyConnected", "units": 5, "output_dim": 2}


def configs():
    """{file stem: {case name: config}}, everything that the folder holds."""
    timed = {"untimed": False, "timed": True}
    files = {"cfc": {}, "cfc_wired": {}, "cfc_backbone": {}, "ltc": {}, "ltc_wired": {}}
    for name, time in timed.items():
        for mode in MODES:
            arguments = {"mode": mode}
            sizes = {"units": 4, "backbone_units": 6}
            files["cfc"][f"{mode}_{name}"] = _config("CfC", arguments | sizes, None, time)
            files["cfc_wired"][f"{mode}_{name}"] = _config("CfC", arguments, WIRING, time)
        for kind, implicit in {"explicit": False, "implicit": True}.items():
            arguments = {"implicit_param_constraints": implicit, "ode_unfolds": 6}
            files["ltc"][f"{kind}_{name}"] = _config("LTC", arguments, DENSE, time)
            files["ltc_wired"][f"{kind}_{name}"] = _config("LTC", arguments, WIRING, time)
    for layers in (0, 1, 2):
        for activation in ACTIVATIONS if layers else ("lecun_tanh",):
            arguments = {"activation": activation, "backbone_layers": layers}
            arguments |= {"units": 3, "backbone_units": 4}
            config = _config("CfC", arguments, None, True)
            files["cfc_backbone"][f"{activation}_{layers}"] = config
    return files


def _config(kind, arguments, wiring, timed):
    return {"class": kind, "arguments": arguments, "wiring": wiring, "timed": timed}


def make_case(config):
    """The arrays of one case, by key."""
    import torch

    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(zlib.crc32(json.dumps(config, sort_keys=True).encode()))
    layer, wiring = _layer(config)
    parameters = _randomise(layer, rng, config)
    units = layer.state_size
    leaves = {
        "inputs": _leaf(rng.normal(size=(BATCH, STEPS, INPUTS))),
        "hx": _leaf(rng.normal(0.0, 0.5, (BATCH, units))),
    }
    if config["timed"]:
        leaves["timespans"] = _leaf(rng.uniform(0.05, 2.0, (BATCH, STEPS)))
    outputs, states = _run(layer, **leaves)
    cotangents = {
        "cotangent_outputs": torch.from_numpy(rng.normal(size=tuple(outputs.shape))),
        "cotangent_state": torch.from_numpy(rng.normal(size=(BATCH, units))),
    }
    loss = (outputs * cotangents["cotangent_outputs"]).sum()
    (loss + (states[:, -1] * cotangents["cotangent_state"]).sum()).backward()

    arrays = leaves | cotangents | {"outputs": outputs, "states": states}
    arrays |= {f"param/{name}": value for name, value in layer.state_dict().items()}
    gradients = leaves | {f"param/{name}": value for name, value in parameters.items()}
    arrays |= {f"grad/{name}": leaf.grad for name, leaf in gradients.items()}
    arrays = {key: value.detach().double().numpy() for key, value in arrays.items()}
    if wiring is not None:
        arrays["adjacency"] = wiring.adjacency_matrix.astype(np.int8)
        arrays["sensory_adjacency"] = wiring.sensory_adjacency_matrix.astype(np.int8)
    return {"config": np.array(json.dumps(config)), **arrays}


def _layer(config):
    import ncps.torch
    import ncps.wirings

    wiring = None
    arguments = dict(config["arguments"])
    units = arguments.pop("units", None)
    if config["wiring"]:
        options = dict(config["wiring"])
        wiring = getattr(ncps.wirings, options.pop("class"))(**options)
    layer = getattr(ncps.torch, config["class"])(INPUTS, wiring or units, **arguments)
    return layer, wiring


def _randomise(layer, rng, config):
    """Redraws every trainable parameter, so that none is at a value that hides an error (0, 1)."""
    import torch

    # implicit: both signs, for softplus follows; explicit: conductances stay positive, as in ncps
    low, low_cm = (
        (-1.5, -0.5) if config["arguments"].get("implicit_param_constraints") else (0.05, 0.4)
    )
    uniform = {"gleak": (low, 1.0), "cm": (low_cm, 0.6), "vleak": (-0.2, 0.2)}
    uniform |= {"w": (low, 1.0), "sigma": (3.0, 8.0), "mu": (0.3, 0.8), "weight": (-0.8, 0.8)}
    parameters = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        key = name.rsplit(".", 1)[-1].removeprefix("sensory_")
        if key in uniform:
            value = rng.uniform(*uniform[key], parameter.shape)
        else:
            start = STARTS[key] if key in STARTS else parameter.detach().numpy()
            value = start + rng.normal(0.0, 0.2, parameter.shape)
        parameter.data = torch.from_numpy(value)
    return parameters


def _leaf(array):
    import torch

    return torch.from_numpy(array).requires_grad_()


def _run(layer, inputs, hx, timespans=None):
    """Outputs [B, T, O] and states [B, T, H], by driving the cell of the layer."""
    import torch

    first, outputs, states = hx, [], []
    for t in range(inputs.shape[1]):
        ts = 1.0 if timespans is None else timespans[:, t : t + 1]
        output, hx = layer.rnn_cell(inputs[:, t], hx, ts)
        outputs.append(output)
        states.append(hx)
    outputs, states = torch.stack(outputs, dim=1), torch.stack(states, dim=1)
    if timespans is None:  # here the layer itself works, and must agree
        torch.testing.assert_close(layer(inputs, first)[0], outputs, rtol=0.0, atol=0.0)
    return outputs, states


def main():
    """Writes every file."""
    for stem, cases in configs().items():
        arrays = {}
        for name, config in cases.items():
            arrays |= {f"{name}/{key}": value for key, value in make_case(config).items()}
        np.savez_compressed(FOLDER / f"{stem}.npz", **arrays)
        print(f"{stem}.npz: {len(cases)} cases, {(FOLDER / f'{stem}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
