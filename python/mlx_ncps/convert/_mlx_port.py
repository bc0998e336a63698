"""From the earlier MLX port of ncps (ncps-mlx): its layers and weight files as ours."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..cells import ELTCCell, LTCCell, WiredCfCCell
from ..recording import adopted
from ..rnn import LTC, CfC, LiquidRNN
from ..weight_files import Stored
from ..weights import check_shape
from ..wirings import Wiring
from ._arrays import check_holds, read_state_dict, stored
from ._load import load, own_arrays
from ._torch import check_no_options

OP = "from_mlx_port"
_BACKBONE = re.compile(r"rnn_cell\.backbone\.layers\.(\d{1,6})\.weight")
_ACTIVATIONS = {"LeCunTanh": "lecun_tanh", "SiLU": "silu", "ReLU": "relu", "Tanh": "tanh"}
_ACTIVATIONS |= {"GELU": "gelu"}
_SOLVERS = {"rk4": "runge_kutta", "explicit": "explicit"}


def from_mlx_port(
    source: Any,
    layer: Any = None,
    *,
    wiring: Any = None,
    prefix: str = "",
    **options: Any,
) -> Any:
    """The `CfC`, `LTC` or `LiquidRNN` that equals a layer of the earlier MLX port of ncps.

    Its CfC is our variant "keras": heads without tanh, the gate sigmoid(b - a ts). The polarities
    of a wiring, which that variant reads and the port doesn't, are taken out of the weights.

    Args:
        source: a `CfC`, `LTC` or `ELTC` of the port; or its parameters by name (`rnn_cell.ff1.
            weight`, ...), a dict of arrays; or the path of such, `.npz` or `.safetensors`, as its
            `save_weights` writes them.
        layer: load into this layer and return it; it must be built. None: make a new layer.
        wiring: of the new layer: the port's own object, built, or one of ours with the same
            synapses. Arrays don't tell it, and equal arguments draw other synapses here than there.
            None: that of the module; a CfC without wiring has none.
        prefix: what stands before the layer's names in the parameters of a larger model, with the
            dot: "policy.rnn.".
        options: of the new layer, over what the source tells. Arrays don't tell `mode` ("default"
            is taken, or "pure" where w_tau is found), `activation`, `batch_first`, `ode_unfolds`,
            `epsilon`, `implicit_param_constraints` (True in its LTC, as in ours) and the map of
            `proj_size`, which it doesn't save.

    The new layer returns what the port's does: (output, state), but an `ELTC` its output alone.
    Raises ValueError when a name is missing or unknown, a shape is another than the layer's, the
    wiring is missing, or a file is corrupt; a layer to load into is then left as it was.

    Example:
        >>> import mlx.core as mx
        >>> from mlx_ncps.convert import from_mlx_port
        >>> heads = ("ff1", "ff2", "time_a", "time_b")
        >>> arrays = {f"rnn_cell.{h}.weight": mx.zeros((4, 7)) for h in heads}
        >>> arrays |= {f"rnn_cell.{h}.bias": mx.zeros((4,)) for h in heads}
        >>> layer = from_mlx_port(arrays)
        >>> layer.sensory_size, layer.state_size, layer.rnn_cell.variant
        (3, 4, 'keras')
    """
    module = source if isinstance(source, nn.Module) else None
    arrays = _arrays(module, source, prefix)
    wiring = _wiring(module, wiring)
    if layer is None:
        told = _module_options(module) if module is not None else {}
        layer = _new_layer(arrays, wiring, told | options)
    else:
        check_no_options(OP, wiring if module is None else None, options)
    cell: Any = getattr(layer, "rnn_cell", None)
    if getattr(cell, "variant", "keras") != "keras" and cell.mode != "pure":
        raise ValueError(
            f"[{OP}] layer must be a CfC of variant='keras', whose equations are those of the "
            f"port, got variant={cell.variant!r}."
        )
    load(OP, layer, _complete(layer, arrays), str)
    return layer


def _arrays(module: Any, source: Any, prefix: str) -> dict[str, Stored]:
    """The parameters under the names of our layers, as far as that is a matter of names."""
    if module is not None:
        flat: Any = tree_flatten(module.parameters())
        source = dict(flat)
        if isinstance(getattr(module, "_fc", None), nn.Linear):
            source |= {f"fc.{name}": array for name, array in module._fc.items()}
    arrays = read_state_dict(OP, source, prefix)
    numbers = sorted({int(m[1]) for m in map(_BACKBONE.fullmatch, arrays) if m})
    for place, number in enumerate(numbers):  # it counts activations and dropouts too
        for part in ("weight", "bias"):
            old = f"rnn_cell.backbone.layers.{number}.{part}"
            if old in arrays:
                arrays[f"rnn_cell.backbone.{place}.{part}"] = arrays.pop(old)
    return arrays


def _wiring(module: Any, wiring: Any) -> Wiring | None:
    """The wiring that was given, or the module's, as ours."""
    if wiring is None and module is not None:
        cell = getattr(module, "rnn_cell", getattr(module, "cell", None))
        wiring = getattr(cell, "_wiring", None)
    ours = adopted(wiring)
    if ours is not None and not isinstance(ours, Wiring):
        raise ValueError(f"[{OP}] wiring must be a Wiring or None, got {type(wiring).__name__}.")
    if ours is not None and not ours.is_built():
        raise ValueError(
            f"[{OP}] wiring must be built, as another draws other synapses than the port, got one "
            "that isn't: wiring.build(input_size)."
        )
    return ours


def _module_options(module: Any) -> dict[str, Any]:
    """What a layer of the port tells beside its arrays."""
    told = {"return_sequences": module.return_sequences, "batch_first": module.batch_first}
    cell = getattr(module, "rnn_cell", None)
    if cell is None:
        cell = module.cell
        if cell._solver not in _SOLVERS:
            raise ValueError(
                f"[{OP}] solver must be 'rk4' or 'explicit', got {cell._solver!r}, which is "
                "Heun's method."
            )
        names = {"tanh": "tanh", "lecun_tanh": "lecun_tanh", "relu": "relu", "gelu": "gelu"}
        activation = names.get(getattr(cell._activation, "__name__", ""))
        told |= {"ode_solver": _SOLVERS[cell._solver], "ode_unfolds": cell._ode_unfolds}
        told["return_state"] = module.return_state
        return told | ({"activation": activation} if activation else {})
    if hasattr(cell, "_ode_unfolds"):
        names = ("input_mapping", "output_mapping", "ode_unfolds", "epsilon")
        told |= {name: getattr(cell, f"_{name}") for name in names}
        return told | {"implicit_param_constraints": cell._implicit_param_constraints}
    first = getattr(cell, "layer_0", cell)
    told["mode"] = first.mode
    backbone = list(first.backbone.layers) if first.backbone is not None else []
    if backbone:
        kind = type(backbone[1]).__name__
        if kind not in _ACTIVATIONS:
            raise ValueError(f"[{OP}] activation must be one of ours, got {kind}.")
        told["activation"] = _ACTIVATIONS[kind]
        drops = [1 - part._p_1 for part in backbone if isinstance(part, nn.Dropout)]
        told["backbone_dropout"] = max(drops, default=0.0)
    return told


def _new_layer(arrays: dict[str, Stored], wiring: Wiring | None, told: dict[str, Any]) -> Any:
    """A built layer of the sizes that the arrays tell."""
    if "fc.weight" in arrays:
        told = {"proj_size": arrays["fc.weight"].shape[0]} | told
    if "cell.input_linear.weight" in arrays:
        units, inputs = _shape(arrays, "cell.input_linear.weight")
        of_cell = {n: told.pop(n) for n in ("activation", "ode_solver", "ode_unfolds") if n in told}
        cell = ELTCCell(_needed(wiring, units), inputs, **of_cell)
        return LiquidRNN(cell, **{"return_sequences": True, **told})
    if "rnn_cell.gleak" in arrays:
        inputs, units = _shape(arrays, "rnn_cell.sensory_w")
        for side in ("input", "output"):
            has = [f"rnn_cell.{side}_{part}" in arrays for part in "bw"]
            kind = "affine" if has[0] else "linear" if has[1] else None
            told = {f"{side}_mapping": kind} | told
        return LTC(inputs, _needed(wiring, units), **told)
    pure = any(name.endswith("w_tau") for name in arrays)
    told = {"mode": "pure" if pure else "default", "variant": "keras"} | told
    if "rnn_cell.layer_0.ff1.weight" in arrays:
        units, columns = _shape(arrays, "rnn_cell.layer_0.ff1.weight")
        wiring = _needed(wiring).copy()
        if wiring.num_layers == 1:  # of which the port gives every neuron out
            wiring.set_output_dim(wiring.units)
        return CfC(columns - units, wiring, **told)
    if wiring is not None:
        raise ValueError(f"[{OP}] wiring must be None for a CfC without one, got a wiring.")
    if "rnn_cell.ff1.weight" not in arrays:
        raise ValueError(
            f"[{OP}] source must have rnn_cell.ff1.weight (CfC), rnn_cell.gleak (LTC) or "
            f"cell.input_linear.weight (ELTC), got {', '.join(sorted(arrays)[:4])}, ... (a larger "
            "model's needs prefix=)."
        )
    units, columns = _shape(arrays, "rnn_cell.ff1.weight")
    widths, n = [], 0
    while f"rnn_cell.backbone.{n}.weight" in arrays:
        width, before = _shape(arrays, f"rnn_cell.backbone.{n}.weight")
        columns = before if n == 0 else columns
        widths, n = [*widths, width], n + 1
    chain = [columns, *widths, units]
    check_holds(OP, sum(a * b for a, b in pairwise(chain)), arrays.values())
    return CfC(columns - units, units, backbone_units=widths, **told)


def _needed(wiring: Wiring | None, units: int | None = None) -> Wiring:
    if wiring is None:
        raise ValueError(
            f"[{OP}] wiring must be given, as the port saves no masks: its own object, built, or a "
            "wiring with the same synapses; got None."
        )
    if units is not None and wiring.units != units:
        raise ValueError(f"[{OP}] wiring must have {units} units, got {wiring.units}.")
    return wiring


def _shape(arrays: dict[str, Stored], name: str) -> tuple[int, int]:
    if name not in arrays:
        raise ValueError(f"[{OP}] source must have {name}, got none of them.")
    shape = arrays[name].shape
    if len(shape) != 2:
        raise ValueError(f"[{OP}] {name} must be of 2 sizes, got {shape}.")
    return shape[0], shape[1]


def _complete(layer: Any, arrays: dict[str, Stored]) -> dict[str, Stored]:
    """The arrays in the form of ours, with the masks that the port doesn't save."""
    arrays, cell = dict(arrays), getattr(layer, "rnn_cell", layer)
    if isinstance(cell, ELTCCell):
        arrays = _eltc(arrays)
    ours = own_arrays(OP, layer)
    fixed = ("sparsity_mask", "erev") if isinstance(cell, LTCCell) else ("sparsity_mask",)
    for name, array in ours.items():
        if name.endswith(fixed) and name not in arrays:
            arrays[name] = stored(OP, name, array)
    if isinstance(cell, WiredCfCCell):
        for n in range(cell.num_layers):
            sign = mx.array(np.where(np.array(cell[f"layer_{n}"].sparsity_mask) < 0, -1.0, 1.0))
            for head in ("ff1", "ff2"):
                name = f"rnn_cell.layer_{n}.{head}.weight"
                if name in arrays and arrays[name].shape == sign.shape:
                    arrays[name] = _times(arrays[name], sign.astype(mx.float32))
    return arrays


def _times(entry: Stored, factor: mx.array) -> Stored:
    return Stored(entry.shape, lambda: entry.read() * factor)


def _eltc(arrays: dict[str, Stored]) -> dict[str, Stored]:
    """An ELTC's two linear maps as `w`, `sensory_w`, indexed [source, target], and `b`."""
    arrays, made = dict(arrays), {}
    for theirs, name in (("input", "sensory_w"), ("recurrent", "w")):
        weight = arrays.pop(f"cell.{theirs}_linear.weight", None)
        if weight is not None:
            made[f"rnn_cell.{name}"] = Stored(weight.shape[::-1], lambda w=weight: w.read().T)
    name, other = (f"cell.{side}_linear.bias" for side in ("recurrent", "input"))
    if name in arrays and other in arrays:
        one, two = arrays.pop(name), arrays.pop(other)
        check_shape(OP, name, two.shape, one.shape)
        made["rnn_cell.b"] = Stored(one.shape, lambda: one.read() + two.read())
    return arrays | made
