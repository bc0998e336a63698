"""Host copies of an LTC's masks and the synapse lists made of them, read when a mask is set and
never from a tracer.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..ops import SynapseLists
from ..ops.checks import check_array
from ..ops.masks import Rule, guarded
from ..values import seen


class HostMasks:
    """Where `sparsity_mask` and `sensory_sparsity_mask` are not 0, and `lists`: their SynapseLists,
    or None when they are full.

    Inside mx.compile a captured mask is a tracer, which has no value: then the pattern of the last
    real mask stays, and `guard` makes the result NaN if at run time the mask has a synapse outside
    it.
    """

    def __init__(self, op: str) -> None:
        self.op = op
        self.lists: SynapseLists | None = None
        self._patterns: dict[
            str, np.ndarray
        ] = {}  # name -> bool array of the last mask that had a value
        self._seen: dict[str, Any] = {}  # name -> what tells whether it is still that mask

    def __copy__(self) -> HostMasks:
        twin = HostMasks(self.op)
        twin.lists = self.lists
        twin._patterns, twin._seen = dict(self._patterns), dict(self._seen)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": {}}

    def set(self, name: str, mask: mx.array, shape: tuple) -> None:
        """Take a new mask. Raises ValueError when it hasn't this shape."""
        check_array(self.op, name, mask, "[source, target]", shape, ())
        self._update(name, mask)

    def sync(self, name: str, mask: mx.array) -> bool:
        """Take the mask that the cell has now; False for a tracer. mx.compile sets masks unseen."""
        known = self._seen.get(name)
        return (known is not None and known.are([mask])) or self._update(name, mask)

    def count(self, name: str) -> int:
        """Synapses in the mask; 0 before it is set."""
        return int(self._patterns[name].sum()) if name in self._patterns else 0

    def guard(self, masks: dict[str, mx.array], w: mx.array) -> mx.array:
        """`w`, or NaN when one of the masks is a tracer that turns out to have a synapse that the
        lists don't know.
        """
        traced = [name for name, mask in masks.items() if not self.sync(name, mask)]
        if self.lists is None:
            return w
        rules, start = [], 0
        for name in traced:
            at = start + np.flatnonzero(~self._patterns[name]).astype(np.int32)
            rules.append(Rule(at, np.zeros((at.size, 0), np.int32)))
            start += masks[name].size
        return guarded(w, [masks[name] for name in traced], rules)

    def _update(self, name: str, mask: mx.array) -> bool:
        """Read `mask` unless it is a tracer; False if it is one."""
        pattern = _values(mask != 0)
        if pattern is None:
            return False
        self._seen[name] = seen([mask])
        known = self._patterns.get(name)
        if known is None or not np.array_equal(known, pattern):
            self._patterns[name] = pattern
            self._make_lists()
        return True

    def _make_lists(self) -> None:
        full = all(pattern.all() for pattern in self._patterns.values())
        self.lists = None
        if not full and len(self._patterns) == 2:
            self.lists = SynapseLists(
                self._patterns["sparsity_mask"], self._patterns["sensory_sparsity_mask"]
            )


def _values(array: mx.array) -> np.ndarray | None:
    """The array on the host, or None when it is a tracer of mx.compile or mx.vmap."""
    try:
        return np.array(array)
    except (ValueError, RuntimeError) as error:
        if "[eval]" not in str(error):
            raise
        return None
