"""To ncps.torch: our layers as state dicts that its modules load with strict=True."""

from __future__ import annotations

import os
import re
from typing import Any

import mlx.core as mx
import numpy as np

from .. import checks
from ..cells import LTCCell
from ..checks import flag
from ..layers import NCPLayer
from ..layers.linear import is_plain
from ..rnn.direction import Direction
from ..weight_files import save_arrays
from ..wirings import Wiring
from ._load import own_arrays

_BACKBONE = re.compile(r"(.*\bbackbone\.)(\d+)(\..+)")


def to_torch(layer: Any, *, direction: str | None = None, numpy: bool = False) -> dict:
    """The state dict of a `CfC`, an `LTC` or one of their cells, for the class of the same name in
    ncps.torch, made with the same arguments: `module.load_state_dict(to_torch(layer))`.

    Args:
        layer: what to convert; it must be built. Not changed.
        direction: "forward" or "backward" of a bidirectional layer, which ncps.torch doesn't have.
        numpy: NumPy arrays in place of tensors; PyTorch is then not needed.

    All values are float32, and `from_torch` gives them back bit by bit. Raises ValueError for what
    ncps.torch can't compute: another variant or solver, a backbone of unequal widths or behind a
    wiring, `proj_size` of an LTC, other cells, quantized maps and other modules in place of linear
    maps. ImportError without PyTorch.

    Example:
        >>> sorted(convert.to_torch(CfC(3, 4), numpy=True))[:2]
        ['rnn_cell.backbone.0.bias', 'rnn_cell.backbone.0.weight']
    """
    numpy = flag("to_torch", "numpy", numpy)
    arrays = {name: np.array(array) for name, array in _renamed("to_torch", layer, direction)}
    if numpy:
        return arrays
    try:
        import torch
    except ImportError as error:
        raise ImportError("[to_torch] tensors need PyTorch; numpy=True gives arrays.") from error
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def save_torch(layer: Any, path: str | os.PathLike[str], *, direction: str | None = None) -> None:
    """Write `to_torch(layer, direction=direction)` to `path`: a `.pt` or `.pth` file, which needs
    PyTorch, or a `.safetensors` or `.npz` file.

    Example:
        >>> convert.save_torch(CfC(3, 4), "cfc.safetensors")
        >>> convert.from_torch("cfc.safetensors").output_size
        4
    """
    path = checks.path("save_torch", "path", path)
    if path.suffix in (".pt", ".pth"):
        state_dict = to_torch(layer, direction=direction)
        import torch

        torch.save(state_dict, path)
    elif path.suffix in (".safetensors", ".npz"):
        save_arrays("save_torch", path, dict(_renamed("save_torch", layer, direction)))
    else:
        raise ValueError(
            f"[save_torch] path must end in .pt, .pth, .safetensors or .npz, got {path.name!r}."
        )


def _renamed(op: str, layer: Any, direction: str | None) -> list[tuple[str, mx.array]]:
    """The names of ncps.torch and their arrays, float32."""
    layer = _one_direction(op, layer, direction)
    cell = getattr(layer, "rnn_cell", layer)
    if problem := _problem(layer, cell):
        raise ValueError(f"[{op}] {problem}")
    ours = own_arrays(op, layer)
    drops = not isinstance(cell, LTCCell) and cell.backbone_options.dropout > 0.0
    names = ((_torch_name(name, drops), name) for name in ours if not name.startswith("backward."))
    return [(theirs, ours[name].astype(mx.float32)) for theirs, name in names]


def _one_direction(op: str, layer: Any, direction: str | None) -> Any:
    bidirectional = getattr(layer, "bidirectional", False)
    wanted = ("forward", "backward") if bidirectional else (None,)
    checks.choice(op, "direction", direction, wanted, f"one of {wanted} for this layer")
    return layer.backward if direction == "backward" else layer


def _problem(layer: Any, cell: Any) -> str:
    """Why ncps.torch can't compute what this layer does, or ""."""
    kind = type(cell).__name__
    if kind not in ("CfCCell", "WiredCfCCell", "LTCCell"):
        return f"layer must be a CfC or LTC, or a cell of theirs, got {type(layer).__name__}."
    for name, part in layer.named_modules():
        if not (isinstance(part, (NCPLayer, Direction, Wiring)) or is_plain(part)):
            return f"{name} must be an nn.Linear, got {type(part).__name__}."
    if kind == "LTCCell":
        if cell.ode_solver != "semi_implicit":
            return f"ode_solver must be 'semi_implicit', got {cell.ode_solver!r}."
        if getattr(layer, "proj_size", None) is not None:
            return f"proj_size must be None for an LTC, got {layer.proj_size}."
        return ""
    sizes = cell.backbone_options.sizes
    if cell.variant != "torch" and cell.mode != "pure":
        return f"variant must be 'torch', got {cell.variant!r}."
    if len(set(sizes)) > 1:
        return f"the backbone's layers must be of one width, got {list(sizes)}."
    if kind == "WiredCfCCell" and sizes:
        return f"a wired CfC must have no backbone, got {list(sizes)}."
    return ""


def _torch_name(name: str, drops: bool) -> str:
    """Torch counts activations too, and the dropouts, which follow all layers but the first."""
    match = _BACKBONE.fullmatch(name)
    if not match:
        return name
    n = int(match[2])
    return f"{match[1]}{2 * n + max(n - 1, 0) * drops}{match[3]}"
