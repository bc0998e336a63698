"""Reads tests/golden: arrays of ncps.torch, its parameters as those of mlx_ncps.ops.numpy."""

import json
from functools import cache

import numpy as np
from mlx_ncps.ops.numpy import CfCParams, LTCParams

from tests.support import ROOT

FOLDER = ROOT / "tests" / "golden"
FILES = ("cfc", "cfc_backbone", "cfc_wired", "ltc", "ltc_wired")


@cache
def load_golden(stem):
    """{case: {key: array}} of golden/<stem>.npz; the keys stand in golden/make_golden.py."""
    cases = {}
    with np.load(FOLDER / f"{stem}.npz") as file:
        for name in file.files:
            case, key = name.split("/", 1)
            array = file[name]
            cases.setdefault(case, {})[key] = json.loads(str(array)) if key == "config" else array
    return cases


def state_dict(case, group="param/"):
    """The arrays under their names in ncps.torch's state dict; group "grad/param/": gradients."""
    return {k.removeprefix(group): v for k, v in case.items() if k.startswith(group)}


def ltc_params(weights, masks):
    """LTCParams from a state dict of an LTC; ``masks`` is the state dict that holds the masks."""
    names = {"mask": "sparsity_mask", "sensory_mask": "sensory_sparsity_mask"}
    fields = {}
    for field in LTCParams._fields:
        source = masks if field in names else weights
        fields[field] = source.get(f"rnn_cell.{names.get(field, field)}")
    return LTCParams(**fields)


def cfc_params(weights, prefix="rnn_cell.", mask=None):
    """CfCParams from a state dict of a CfC; ``mask`` [H, K] multiplies ff1 and ff2."""

    def layer(name, factor=None):
        weight = weights.get(f"{prefix}{name}.weight")
        if weight is None:
            return None
        return weight if factor is None else weight * factor, weights[f"{prefix}{name}.bias"]

    start = f"{prefix}backbone."
    numbers = sorted({int(k.removeprefix(start).split(".")[0]) for k in weights if start in k})
    return CfCParams(
        tuple(layer(f"backbone.{n}") for n in numbers),
        layer("ff1", mask),
        layer("ff2", mask),
        layer("time_a"),
        layer("time_b"),
        weights.get(f"{prefix}w_tau"),
        weights.get(f"{prefix}A"),
    )


def cfc_layers(weights, masks):
    """One CfCParams per layer of a wired CfC; of gradients too, whose masked entries are 0."""
    layers = []
    while f"rnn_cell.layer_{len(layers)}.ff1.weight" in weights:
        prefix = f"rnn_cell.layer_{len(layers)}."
        layers.append(cfc_params(weights, prefix, masks[f"{prefix}sparsity_mask"]))
    return layers
