"""From ncps.torch: modules and state dicts of its layers as ours."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, TypeVar, overload

import mlx.nn as nn

from ..cells import CfCCell, LTCCell, WiredCfCCell
from ..rnn import LTC, CfC
from ..weight_files import Stored
from ..wirings import Wiring
from ._arrays import check_holds, read_state_dict
from ._load import load
from ._wirings import our_wiring, wiring_of_sizes

OP = "from_torch"
Layer = TypeVar("Layer", bound=nn.Module)
Made = CfC | LTC | CfCCell | WiredCfCCell | LTCCell
Sizes = tuple[int, Any]  # inputs; units or a wiring
Facts = tuple[type, Sizes, dict[str, Any]]  # class, sizes, options of a new layer

_BACKBONE = re.compile(r"(.*\bbackbone\.)(\d{1,6})(\..+)")
_ACTIVATIONS = {
    "LeCun": "lecun_tanh",
    "SiLU": "silu",
    "ReLU": "relu",
    "Tanh": "tanh",
    "GELU": "gelu",
}


@overload
def from_torch(
    source: Any,
    layer: None = None,
    *,
    wiring: Wiring | None = None,
    prefix: str = "",
    **options: Any,
) -> Made: ...
@overload
def from_torch(source: Any, layer: Layer, *, prefix: str = "") -> Layer: ...
def from_torch(
    source: Any,
    layer: Any = None,
    *,
    wiring: Wiring | None = None,
    prefix: str = "",
    **options: Any,
) -> Any:
    """The `CfC` or `LTC` that equals a layer of ncps.torch, or the cell that equals its cell.

    Args:
        source: an `ncps.torch.CfC` or `ncps.torch.LTC`, or a cell of theirs; or its state dict, of
            tensors or arrays; or the path of one, `.pt`, `.pth` (these need PyTorch, and nothing in
            them is run), `.safetensors` or `.npz`.
        layer: load into this layer or cell and return it; it must be built. None: make a new layer.
        wiring: of the new layer. None: that of the module, or for the state dict of an LTC the one
            that its masks and reversal potentials tell; for the state dict of a wired CfC it must
            be given.
        prefix: what stands before the layer's names in the state dict of a larger model, with the
            dot: "policy.rnn.".
        options: of the new layer, over what the source tells. A state dict doesn't hold `mode`
            ("default" is taken, or "pure" where w_tau is found), `activation`, `batch_first`,
            `backbone_dropout`, `ode_unfolds`, `epsilon` and `implicit_param_constraints`.

    Raises ValueError when a name is missing or unknown, a shape is another than the layer's, the
    masks of a wired CfC are not those of the wiring, a CfC to load into is of another variant, or a
    file is corrupt; the layer is then left as it was.

    Example:
        >>> weights = convert.to_torch(CfC(3, 4), numpy=True)  # as a state dict of ncps.torch
        >>> convert.from_torch(weights)(mx.ones((2, 5, 3)))[0].shape
        (2, 5, 4)
    """
    module = source if hasattr(source, "state_dict") else None
    arrays = read_state_dict(OP, source, prefix)
    if layer is None:
        facts = _module_facts(module, wiring) if module else _array_facts(arrays, wiring)
        kind, sizes, told = facts
        told["mixed_memory"] = "lstm.input_map.weight" in arrays
        layer = kind(*sizes, **{**told, **options})
        layer = layer.rnn_cell if _is_cell(module) else layer
    else:
        check_no_options(OP, wiring, options)
    _check_variant(layer)
    load(OP, layer, arrays, lambda name: _their_name(name, arrays))
    return layer


def check_no_options(op: str, wiring: Wiring | None, options: dict) -> None:
    """Raise ValueError when there are options for a layer that exists."""
    if wiring is not None or options:
        given = sorted(options) + ["wiring"] * (wiring is not None)
        raise ValueError(f"[{op}] layer has its own options, got {', '.join(given)} too.")


def _check_variant(layer: Any) -> None:
    cell = getattr(layer, "rnn_cell", layer)
    variant = getattr(cell, "variant", "torch")
    if variant != "torch" and cell.mode != "pure":
        raise ValueError(
            f"[{OP}] layer must be a CfC of variant='torch', whose equations are those of "
            f"ncps.torch, got variant={variant!r}."
        )


# --- what to make: (class, (inputs, units or wiring), options) ---------------------------------


def _module_facts(module: Any, wiring: Wiring | None) -> Facts:
    """The facts that a module of ncps.torch tells."""
    if _is_cell(module):
        return _CELLS[type(module).__name__](module, wiring)
    cell = getattr(module, "rnn_cell", None)
    if not _is_cell(cell):
        raise ValueError(
            f"[{OP}] source must be an ncps.torch CfC or LTC, got {type(module).__name__}."
        )
    kind = _CELLS[type(cell).__name__]
    told = {"return_sequences": module.return_sequences, "batch_first": module.batch_first}
    layer, sizes, of_cell = kind(cell, wiring)
    if layer is CfC:
        told["proj_size"] = module.proj_size
    return layer, sizes, told | of_cell


def _cfc_facts(cell: Any, wiring: Wiring | None) -> Facts:
    _check_no_wiring(wiring)
    backbone = [] if cell.backbone is None else list(cell.backbone)
    sizes = [part.out_features for part in backbone if hasattr(part, "out_features")]
    told = {"mode": cell.mode, "backbone_units": sizes}
    told["backbone_dropout"] = max((part.p for part in backbone if hasattr(part, "p")), default=0.0)
    if backbone:
        told["activation"] = _ACTIVATIONS[type(backbone[1]).__name__]
    return CfC, (cell.input_size, cell.hidden_size), told


def _wired_facts(cell: Any, wiring: Wiring | None) -> Facts:
    wiring = our_wiring(OP, cell._wiring) if wiring is None else wiring
    return CfC, (cell._wiring.input_dim, wiring), {"mode": cell._layers[0].mode}


def _ltc_facts(cell: Any, wiring: Wiring | None) -> Facts:
    wiring = our_wiring(OP, cell._wiring) if wiring is None else wiring
    told = {
        "input_mapping": mapping(cell._input_mapping),
        "output_mapping": mapping(cell._output_mapping),
        "ode_unfolds": cell._ode_unfolds,
        "epsilon": cell._epsilon,
        "implicit_param_constraints": cell._implicit_param_constraints,
    }
    return LTC, (cell._wiring.input_dim, wiring), told


_CELLS = {"CfCCell": _cfc_facts, "WiredCfCCell": _wired_facts, "LTCCell": _ltc_facts}


def _is_cell(module: Any) -> bool:
    return type(module).__name__ in _CELLS


def mapping(name: Any) -> str | None:
    """For ncps every mapping but these two is the identity."""
    return name if name in ("affine", "linear") else None


def _array_facts(arrays: dict[str, Stored], wiring: Wiring | None) -> Facts:
    """The facts that the names and shapes of a state dict tell."""
    told: dict[str, Any] = (
        {"proj_size": _shape(arrays, "fc.weight")[0]} if "fc.weight" in arrays else {}
    )
    if "rnn_cell.gleak" in arrays:
        layer, sizes, of_cell = LTC, *_ltc_array_facts(arrays, wiring)
    elif "rnn_cell.layer_0.ff1.weight" in arrays:
        if wiring is None:
            raise ValueError(f"[{OP}] wiring must be given for a wired CfC, got None.")
        units, columns = _shape(arrays, "rnn_cell.layer_0.ff1.weight")
        layer, sizes, of_cell = CfC, (columns - units, wiring), _mode(arrays, "layer_0.")
    elif "rnn_cell.ff1.weight" in arrays:
        _check_no_wiring(wiring)
        layer, sizes, of_cell = CfC, *_cfc_array_facts(arrays)
    else:
        raise ValueError(
            f"[{OP}] source must have rnn_cell.gleak (LTC) or rnn_cell.ff1.weight (CfC), "
            f"got {', '.join(sorted(arrays)[:4])}, ... (a larger model's needs prefix=)."
        )
    inputs, units = sizes
    if "lstm.input_map.weight" in arrays and isinstance(units, int):
        check_holds(OP, 4 * units * (inputs + units), arrays.values())
    return layer, sizes, told | of_cell


def _ltc_array_facts(
    arrays: dict[str, Stored], wiring: Wiring | None
) -> tuple[Sizes, dict[str, Any]]:
    inputs, units = _shape(arrays, "rnn_cell.sensory_w")
    check_holds(OP, units * (units + inputs), arrays.values())
    if wiring is None:
        motor = "rnn_cell.output_w"
        outputs = _shape(arrays, motor, 1)[0] if motor in arrays else units
        wiring = wiring_of_sizes(inputs, units, outputs)
    told = {f"{side}_mapping": _told_mapping(arrays, side) for side in ("input", "output")}
    return (inputs, wiring), told


def _told_mapping(arrays: dict[str, Stored], side: str) -> str | None:
    if f"rnn_cell.{side}_b" in arrays:
        return "affine"
    return "linear" if f"rnn_cell.{side}_w" in arrays else None


def _cfc_array_facts(arrays: dict[str, Stored]) -> tuple[Sizes, dict[str, Any]]:
    units, columns = _shape(arrays, "rnn_cell.ff1.weight")
    names = _backbone_names(arrays)
    widths = [_shape(arrays, name)[0] for name in names]
    columns = _shape(arrays, names[0])[1] if names else columns
    chain = (columns, *widths, units)
    check_holds(OP, sum(n * m for n, m in pairwise(chain)), arrays.values())
    return (columns - units, units), {"backbone_units": widths, **_mode(arrays, "")}


def _mode(arrays: dict[str, Stored], layer: str) -> dict:
    return {"mode": "pure" if f"rnn_cell.{layer}w_tau" in arrays else "default"}


def _shape(arrays: dict[str, Stored], name: str, rank: int = 2) -> tuple:
    """The shape of an array that must be there, with so many sizes."""
    if name not in arrays:
        raise ValueError(f"[{OP}] source must have {name}, got none of them.")
    shape = arrays[name].shape
    if len(shape) != rank:
        raise ValueError(f"[{OP}] {name} must be of {rank} sizes, got {shape}.")
    return shape


def _check_no_wiring(wiring: Wiring | None) -> None:
    if wiring is not None:
        raise ValueError(f"[{OP}] wiring must be None for a CfC without one, got a wiring.")


def _backbone_names(arrays: dict[str, Stored]) -> list[str]:
    numbers = (_BACKBONE.fullmatch(name) for name in arrays if name.endswith(".weight"))
    return [match[0] for match in sorted(filter(None, numbers), key=lambda m: int(m[2]))]


def _their_name(name: str, arrays: dict[str, Stored]) -> str:
    """Torch numbers the backbone's linear maps, activations and dropouts together, we the maps."""
    match = _BACKBONE.fullmatch(name)
    if not match:
        return name
    numbers = sorted(
        {int(m[2]) for m in map(_BACKBONE.fullmatch, arrays) if m and m[1] == match[1]}
    )
    n = int(match[2])
    return f"{match[1]}{numbers[n] if n < len(numbers) else 2 * n}{match[3]}"
