"""The parameters of a CfC in float64, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arrays import as_float64
from .checks import choice, refused, shaped

MODES = ("default", "no_gate", "pure")
HEADS = ("ff1", "ff2", "time_a", "time_b")  # of every mode but pure, which has ff1


class CfCParams(NamedTuple):
    """The weights of a CfC; a layer is (weight [out, in], bias [out]); the first reads [x, h]."""

    backbone: tuple  # of layers, may be empty
    ff1: Any  # layer [H, K]
    ff2: Any = None  # layers [H, K], not in pure mode
    time_a: Any = None
    time_b: Any = None
    w_tau: Any = None  # [H] or [1, H], pure mode only
    A: Any = None


def params_as_float64(params: Any, mode: str) -> CfCParams:
    """CfCParams in float64, with exactly the fields that ``mode`` reads."""
    choice("cfc", "mode", mode, MODES)
    layers, vectors = (("ff1",), ("w_tau", "A")) if mode == "pure" else (HEADS, ())
    missing = [name for name in layers + vectors if getattr(params, name, None) is None]
    if missing:
        raise ValueError(f"[cfc] mode {mode} needs the parameters {', '.join(missing)}, got None.")
    if not isinstance(getattr(params, "backbone", None), (tuple, list)):
        raise refused("cfc", "params.backbone", "a tuple of layers", params)
    backbone, width, units = [], None, None
    for n, layer in enumerate(params.backbone):
        backbone.append(_layer(f"params.backbone[{n}]", layer, None, width))
        width = len(backbone[-1][1])
    fields = {}
    for name in layers:
        fields[name] = _layer(f"params.{name}", getattr(params, name), units, width)
        units, width = fields[name][0].shape
    fields |= {name: vector(f"params.{name}", getattr(params, name), units) for name in vectors}
    return CfCParams(tuple(backbone), **fields)


def _layer(name, layer, rows, columns):
    """A pair weight [rows, columns], bias [rows] in float64; None is any size."""
    if not isinstance(layer, (tuple, list)) or len(layer) != 2:
        raise refused("cfc", name, "a pair (weight, bias)", layer)
    weight = shaped("cfc", f"{name}[0]", layer[0], (rows, columns))
    return weight, shaped("cfc", f"{name}[1]", layer[1], weight.shape[:1])


def vector(name: str, array: Any, units: int | None) -> Any:
    """An array [H] or [1, H] in float64."""
    array = as_float64(array)
    shape = () if array is None else array.shape
    if shape not in ((units,), (1, units)):
        raise ValueError(f"[cfc] {name} must be [H] = ({units},), got {shape}.")
    return array


def zero_gradients(p: CfCParams) -> CfCParams:
    """Zeros shaped as the parameters."""
    return CfCParams(
        tuple((np.zeros_like(w), np.zeros_like(b)) for w, b in p.backbone),
        *(
            None if field is None else tuple(np.zeros_like(leaf) for leaf in field)
            for field in p[1:5]
        ),
        *(None if field is None else np.zeros_like(field) for field in p[5:]),
    )
