"""Wirings of ncps as ours, and the wiring that an LTC's masks tell."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from ..cells import LTCCell
from ..wirings import Wiring, foreign


def our_wiring(op: str, theirs: Any) -> Wiring:
    """The wiring of ncps in our class of the same name, with its matrices as they are."""
    ours = foreign.our_wiring(theirs)
    if ours is None:
        raise ValueError(
            f"[{op}] wiring must be given for the wiring class {type(theirs).__name__}, got None."
        )
    return ours


def wiring_of_sizes(inputs: int, units: int, outputs: int) -> Wiring:
    """A wiring without layers and, until it follows an LTC's masks, without synapses."""
    wiring = Wiring(units, outputs)
    wiring.build(inputs)
    return wiring


def with_matrices(wiring: Wiring, adjacency: np.ndarray, sensory_adjacency: np.ndarray) -> Wiring:
    """`wiring` with these synapses."""
    wiring.adjacency_matrix = adjacency
    wiring.sensory_adjacency_matrix = sensory_adjacency
    return wiring


def follow_masks(cell: LTCCell) -> None:
    """Give the wiring the synapses of the cell's masks; new ones take the sign of erev."""
    matrices, known = [], (cell.wiring.adjacency, cell.wiring.sensory_adjacency)
    for side, old in zip(("", "sensory_"), cast("tuple[np.ndarray, ...]", known), strict=True):
        exists = np.array(cell[f"{side}sparsity_mask"] != 0)
        sign = np.where(np.array(cell[f"{side}erev"] < 0), -1, 1)
        matrices.append(np.where(exists, np.where(old != 0, old, sign), 0).astype(np.int32))
    with_matrices(cell.wiring, *matrices)
