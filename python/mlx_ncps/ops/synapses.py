"""The synapses of a sparse LTC as lists: where its masks are not 0. Fused backends skip the rest.
In NumPy, since kernels and launches are chosen by them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import host_numbers


class SynapseLists:
    """The synapses of a wiring, in the order target, source.

    Args:
        mask: [H, H], indexed [source, target]; a synapse is where an element is not 0.
        sensory_mask: [I, H], the same from the inputs.

    Fields: `source`, `target`, `sensory_source`, `sensory_target`, read-only int32 arrays; `units`
    = H, `inputs` = I. Equal lists are equal and hash alike. The lists never replace a mask: they
    only name its non-zero elements.
    Raises ValueError when a mask isn't a matrix or the two don't have the same number of targets.

    Example:
        >>> lists = ops.SynapseLists(np.eye(2), np.ones((3, 2)))
        >>> lists.source.tolist(), lists.target.tolist(), lists.inputs
        ([0, 1], [0, 1], 3)
    """

    def __init__(self, mask: Any, sensory_mask: Any) -> None:
        mask = host_numbers("SynapseLists", "mask", mask)
        sensory_mask = host_numbers("SynapseLists", "sensory_mask", sensory_mask)
        if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
            raise ValueError(f"[SynapseLists] mask must be [H, H], got {mask.shape}.")
        self.units = mask.shape[0]
        if sensory_mask.ndim != 2 or sensory_mask.shape[1] != self.units:
            raise ValueError(
                f"[SynapseLists] sensory_mask must be [I, H] = (I, {self.units}), "
                f"got {sensory_mask.shape}."
            )
        self.inputs = sensory_mask.shape[0]
        self.source, self.target = _non_zero(mask)
        self.sensory_source, self.sensory_target = _non_zero(sensory_mask)
        lists = (self.source, self.target, self.sensory_source, self.sensory_target)
        self._key = (self.units, self.inputs, *(a.tobytes() for a in lists))
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self._key == other._key if isinstance(other, SynapseLists) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return (
            f"SynapseLists(units={self.units}, inputs={self.inputs}, synapses={self.source.size}, "
            f"sensory_synapses={self.sensory_source.size})"
        )


def _non_zero(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sources, targets) of the non-zero elements of mask [S, H], by target."""
    target, source = (a.astype(np.int32) for a in np.nonzero(mask.T))
    source.flags.writeable = target.flags.writeable = False
    return source, target
