"""The last step of every conversion: arrays under a layer's names into the layer, all or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..cells import LTCCell, WiredCfCCell
from ..weight_files import Stored
from ..weights import check_names, check_shape, check_values, replace
from ._wirings import follow_masks
from .memory import KerasMemoryCell


def own_arrays(op: str, layer: Any) -> dict[str, mx.array]:
    """The parameters that a checkpoint has: all but those of wirings.

    Raises ValueError when the layer has no weights yet.
    """
    cell = getattr(layer, "rnn_cell", layer)
    if not hasattr(cell, "built"):
        raise ValueError(
            f"[{op}] layer must be a layer or cell of this package, got {type(layer).__name__}: "
            "give the layer within it; prefix= finds its weights among those of a larger model."
        )
    if not cell.built:
        raise ValueError(
            f"[{op}] layer must be a layer or cell that is built, "
            f"got {type(layer).__name__}: call build(input_size) of the cell first."
        )
    arrays: Any = tree_flatten(layer.parameters())
    return {name: array for name, array in arrays if "wiring" not in name.split(".")}


def load(op: str, layer: Any, arrays: dict[str, Stored], their_name: Callable[[str], str]) -> None:
    """Check every name and shape, read, check the values, then set the layer's parameters."""
    ours = own_arrays(op, layer)
    theirs = {name: their_name(name) for name in ours}
    check_names(op, set(theirs.values()), set(arrays))
    for name, array in ours.items():
        check_shape(op, theirs[name], array.shape, arrays[theirs[name]].shape)
    values = {name: arrays[theirs[name]].read().astype(a.dtype) for name, a in ours.items()}
    for name, value in values.items():
        check_values(op, theirs[name], value, ours[name])
    cells = [_innermost(part) for part in getattr(layer, "_directions", (layer,))]
    if isinstance(cells[0], WiredCfCCell):
        _check_masks(op, ours, theirs, values)
    replace(layer, values)
    for cell in cells:
        if isinstance(cell, LTCCell):
            follow_masks(cell)


def _innermost(layer: Any) -> Any:
    """The cell of a layer, and the one in a `KerasMemoryCell`."""
    cell = getattr(layer, "rnn_cell", layer)
    return cell.cell if isinstance(cell, KerasMemoryCell) else cell


def _check_masks(
    op: str, ours: dict[str, mx.array], theirs: dict[str, str], values: dict[str, mx.array]
) -> None:
    for name, array in ours.items():
        mask = values[name]
        if name.endswith("sparsity_mask") and not mx.array_equal(array, mask).item():
            raise ValueError(
                f"[{op}] {theirs[name]} must be the mask of the layer's wiring "
                f"({int(np.abs(np.array(array)).sum())} synapses), "
                f"got another ({int(np.abs(np.array(mask)).sum())})."
            )
