"""Writes keras.npz: cells of ncps.keras 1.0.1 (Keras 3) in float32, for `convert.from_keras`.

    KERAS_BACKEND=jax python tests/golden/make_keras.py      (needs keras, jax and ncps)

Keys "<case>/<key>": "config" (JSON: class, arguments, wiring, and the path and shape of every
weight in the order of `layer.weights`), "weights" (all of them, flat, one after the other),
"inputs" [B, T, I], "timespans" [B, T] (if timed), "h" (and "c" with mixed memory) [B, H] before the
first step, "outputs" [B, T, O], "last_h" and "last_c" after the last one.

Cells are driven step by step and sample by sample: `keras.layers.RNN` takes no pair (inputs, time),
and with a batch of time spans WiredCfCCell compares an array with 1.0 and LTCCell maps the pair in
place of its inputs.
"""

import json
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "keras.npz"
BATCH, STEPS, INPUTS = 2, 3, 3
NCP = {"class": "AutoNCP", "units": 8, "output_size": 2}
DENSE = {"class": "FullyConnected", "units": 4, "output_dim": 2}
TWO = {"backbone_units": 5, "backbone_layers": 2}
MIXED = {"mixed_memory": True}

CASES = {  # name: (class, arguments, wiring)
    "cfc": ("CfC", {"units": 4, "backbone_units": 5}, None),
    "cfc_two_layers": (
        "CfC",
        {"units": 3, "activation": "gelu", "backbone_dropout": 0.2} | TWO,
        None,
    ),
    "cfc_no_gate": ("CfC", {"units": 4, "mode": "no_gate", "backbone_layers": 0}, None),
    "cfc_pure": ("CfC", {"units": 4, "mode": "pure", "backbone_units": 5}, None),
    "cfc_mixed": ("CfC", {"units": 4, "backbone_units": 5} | MIXED, None),
    "cfc_wired": ("CfC", {}, NCP),
    "cfc_wired_pure": ("CfC", {"mode": "pure"}, NCP),
    "cfc_wired_mixed": ("CfC", {"mode": "no_gate"} | MIXED, NCP),
    "cfc_dense_wiring": ("CfC", {}, DENSE),
    "ltc": ("LTC", {"units": 4}, None),
    "ltc_wired": (
        "LTC",
        {"input_mapping": None, "output_mapping": "linear", "ode_unfolds": 4},
        NCP,
    ),
    "ltc_mixed": ("LTC", {} | MIXED, DENSE),
}


def make_layer(kind, arguments, wiring):
    """The Keras layer of a case, built."""
    import ncps.keras
    import ncps.wirings

    arguments = dict(arguments)
    units = arguments.pop("units", None)
    if wiring:
        options = dict(wiring)
        units = getattr(ncps.wirings, options.pop("class"))(**options)
    layer = getattr(ncps.keras, kind)(units, **arguments)
    layer.cell.build((None, INPUTS))
    layer.built = True
    return layer


def make_case(kind, arguments, wiring):
    """The arrays of one case, by key."""
    config = {"class": kind, "arguments": arguments, "wiring": wiring}
    rng = np.random.default_rng(zlib.crc32(json.dumps(config).encode()))
    layer = make_layer(kind, arguments, wiring)
    for weight in layer.weights:
        value, name = weight.numpy(), weight.path.rsplit("/", 1)[-1]
        noise = rng.normal(0.0, 0.2, value.shape).astype(np.float32)
        if name.removeprefix("sensory_") not in ("erev", "w", "gleak", "cm"):
            weight.assign(value + noise)
        elif name.removeprefix("sensory_") == "w":
            weight.assign(np.abs(value + noise))
    mixed = "mixed_memory" in arguments
    draw = {"inputs": rng.normal(size=(BATCH, STEPS, INPUTS))}
    if not mixed:  # the memory multiplies its inputs, which fails for a pair with the time
        draw["timespans"] = rng.uniform(0.05, 2.0, (BATCH, STEPS))
    units = (layer.cell.rnn_cell if mixed else layer.cell).state_size
    for part in ("h", "c") if mixed else ("h",):
        draw[part] = rng.normal(0.0, 0.5, (BATCH, units))
    draw = {key: value.astype(np.float32) for key, value in draw.items()}
    samples = [run(layer.cell, **{k: v[b : b + 1] for k, v in draw.items()}) for b in range(BATCH)]
    results = {key: np.concatenate([sample[key] for sample in samples]) for key in samples[0]}
    config["weights"] = [(weight.path, list(weight.shape)) for weight in layer.weights]
    flat = np.concatenate([np.asarray(w.numpy(), np.float32).ravel() for w in layer.weights])
    return {"config": np.array(json.dumps(config)), "weights": flat} | draw | results


def run(cell, inputs, h, timespans=None, c=None):
    """Outputs and last states of one sample."""
    outputs = []
    for t in range(inputs.shape[1]):
        x = inputs[:, t]
        if c is not None:
            output, (c, h) = cell.call(x, [c, h])
            h = h[0] if isinstance(h, list) else h
        elif hasattr(cell, "_ode_solver"):
            h = cell._ode_solver(cell._map_inputs(x), h, timespans[:, t : t + 1])
            output = cell._map_outputs(h)
        else:
            output, h = cell.call((x, timespans[:, t]), [h])
            h = h[0] if isinstance(h, list) else h
        outputs.append(np.array(output))
    last = {"outputs": np.stack(outputs, axis=1), "last_h": np.array(h)}
    return last if c is None else last | {"last_c": np.array(c)}


if __name__ == "__main__":
    arrays = {f"{n}/{k}": v for n, case in CASES.items() for k, v in make_case(*case).items()}
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.name}: {len(CASES)} cases, {FILE.stat().st_size} bytes")
