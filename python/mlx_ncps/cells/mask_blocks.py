"""How a part of a mask and the synapses of a wiring that it stands for follow each other,
in NumPy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

PAIRS, OWN, SOURCES = "pairs", "own", "sources"


class Settled(NamedTuple):
    """Both sides of a block as they must be, and which edits of the wiring changed nothing."""

    mask: np.ndarray
    matrix: np.ndarray
    unread: np.ndarray


class Block(NamedTuple):
    """Rows `first` to `first + len(sources)` of a mask [source, target], and the synapses
    `sources` x `targets` in a matrix of the wiring.

    part, key: the mask is `cell[part][key]`, or `cell[key]` where part is "".
    transposed: the mask lies as [target, source].
    signed: the mask holds the polarities.
    kind: PAIRS, an element for each synapse; OWN, elements that are 1 without a synapse too, as
        neurons of a layer read each other; SOURCES, an element [source] that is 1 where a source
        has any synapse.
    """

    part: str
    key: str
    matrix: str
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    first: int = 0
    transposed: bool = False
    signed: bool = False
    kind: str = PAIRS

    def of(self, mask: Any) -> Any:
        """The block's view of a mask, [source, target] or [source]."""
        return (mask.T if self.transposed else mask)[self.first : self.first + len(self.sources)]

    def at(self, matrix: Any) -> Any:
        """A copy of the block's synapses in a matrix, [source, target]."""
        if isinstance(matrix, mx.array):
            return matrix[mx.array(self.sources)][:, mx.array(self.targets)]
        return matrix[np.ix_(self.sources, self.targets)]

    def put(self, matrix: np.ndarray, values: np.ndarray) -> None:
        """Write the block's synapses into a matrix."""
        matrix[np.ix_(self.sources, self.targets)] = values

    def settle(
        self,
        op: str,
        old_mask: np.ndarray,
        old: np.ndarray,
        mask: np.ndarray,
        matrix: np.ndarray,
        signs: np.ndarray | None,
    ) -> Settled:
        """Carry edits from one side to the other, element by element.

        signs: the polarity of a synapse that only the mask knows. Raises ValueError where both
        sides were edited and disagree.
        """
        rule = {PAIRS: self._pairs, OWN: self._own, SOURCES: self._sources}[self.kind]
        return rule(op, mask != old_mask, matrix != old, mask, matrix, signs)

    def _pairs(
        self,
        op: str,
        mask_edited: np.ndarray,
        wiring_edited: np.ndarray,
        mask: np.ndarray,
        matrix: np.ndarray,
        signs: Any,
    ) -> Settled:
        exists = mask != 0
        polarity = np.sign(mask) if self.signed else np.where(matrix != 0, matrix, signs)
        wanted = np.where(exists, polarity, 0)  # of the wiring, by the mask
        self._refuse(op, mask_edited & wiring_edited & (wanted != matrix))
        kept = np.where(exists, np.abs(mask) if self.signed else mask, 1)
        implied = np.where(matrix != 0, kept * (matrix if self.signed else 1), 0)
        return Settled(
            np.where(wiring_edited, implied, mask),
            np.where(mask_edited & ~wiring_edited, wanted, matrix),
            np.zeros_like(exists),
        )

    def _own(
        self,
        op: str,
        mask_edited: np.ndarray,
        wiring_edited: np.ndarray,
        mask: np.ndarray,
        matrix: np.ndarray,
        signs: np.ndarray | None,
    ) -> Settled:
        exists = mask != 0
        lost = (matrix != 0) & ~exists
        self._refuse(op, mask_edited & wiring_edited & lost)
        return Settled(
            np.where(wiring_edited & lost, 1, mask),
            np.where(mask_edited & lost, 0, matrix),
            wiring_edited & exists,
        )

    def _sources(
        self,
        op: str,
        mask_edited: np.ndarray,
        wiring_edited: np.ndarray,
        mask: np.ndarray,
        matrix: np.ndarray,
        signs: np.ndarray | None,
    ) -> Settled:
        exists, drives = mask != 0, (matrix != 0).any(axis=1)
        rows = wiring_edited.any(axis=1)
        self._refuse(op, (mask_edited & (rows | exists) & (exists != drives))[:, None])
        new = np.where(rows & (drives != exists), drives, mask)
        return Settled(
            new,
            np.where((mask_edited & ~exists)[:, None], 0, matrix),
            wiring_edited & (new == mask)[:, None] & ~mask_edited[:, None],
        )

    def _refuse(self, op: str, pairs: np.ndarray) -> None:
        if pairs.any():
            row, column = (int(i) for i in np.argwhere(pairs)[0])
            target = "" if pairs.shape[1] == 1 else f" to {self.targets[column]}"
            raise ValueError(
                f"[{op}] {self.key} and wiring.{self.matrix} must agree where both are edited, got "
                f"different synapses from {self.sources[row]}{target}: edit one of them."
            )


def whole_masks(inputs: int, units: int) -> list[Block]:
    """The blocks of a cell with `sparsity_mask` [H, H] and `sensory_sparsity_mask` [I, H]."""
    sources, neurons = tuple(range(inputs)), tuple(range(units))
    return [
        Block("", "sparsity_mask", "adjacency_matrix", neurons, neurons),
        Block("", "sensory_sparsity_mask", "sensory_adjacency_matrix", sources, neurons),
    ]


def synapses_into(wiring: Any, layer: int, fully_recurrent: bool) -> np.ndarray:
    """What `WiredCfCCell.synapses_into` says of a wiring that is built."""
    neurons, adjacency = wiring.get_neurons_of_layer(layer), wiring.adjacency
    if layer == 0:
        incoming = wiring.sensory_adjacency[:, neurons]
    else:
        incoming = adjacency[np.ix_(wiring.get_neurons_of_layer(layer - 1), neurons)]
    own = adjacency[np.ix_(neurons, neurons)]
    if fully_recurrent:
        own = np.ones_like(own)
    return np.concatenate([incoming, own]).astype(np.float32)
