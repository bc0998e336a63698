"""A checked call of a fused operator with the backend that will run it, with or without an LSTM in
front of the cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from ..backends import Backend
from . import shapeless


class Call(NamedTuple):
    """One call of `op`, its arguments as `backends` says what `ops` guarantees."""

    op: str
    backend: Backend
    inputs: mx.array  # [B, T, I]
    state: mx.array  # [B, H]
    ts: Any  # a number, [] or [B, T]
    params: Any
    keywords: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, T, H."""
        batch, steps, _ = self.inputs.shape
        return batch, steps, self.state.shape[1]

    def run(self) -> Any:
        """The states [B, T, H]; with memory those and c."""
        if 0 in self.inputs.shape[:2] or self.state.shape[1] == 0:
            shapeless.refuse(self.op, "an empty batch or sequence", length=False)
            return mx.zeros(self.shape, self.inputs.dtype)
        sequence = getattr(self.backend, self.op)
        return sequence(self.inputs, self.state, self.ts, self.params, **self.keywords)
