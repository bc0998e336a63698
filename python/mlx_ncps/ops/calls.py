"""A checked call of a fused operator with the backend that will run it, with or without an LSTM in
front of the cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from ..backends import Backend
from . import shapeless
from .resets import run_by_steps


class Call(NamedTuple):
    """One call of `op`, its arguments as `backends` says what `ops` guarantees."""

    op: str
    backend: Backend
    inputs: mx.array  # [B, T, I]
    state: mx.array  # [B, H]
    ts: Any  # a number, [] or [B, T]
    params: Any
    keywords: dict[str, Any]

    def step(self, t: int, state: mx.array) -> Call:
        """The call of step t alone, from `state`; what is between steps stays float32."""
        now = slice(t, t + 1)
        span = self.ts[:, now] if getattr(self.ts, "ndim", 0) == 2 else self.ts
        keywords = self.keywords
        if "dropout" in keywords:
            keywords = keywords | {"dropout": keywords["dropout"][:, now]}
        inputs = self.inputs[:, now].astype(mx.float32)
        return self._replace(inputs=inputs, state=state, ts=span, keywords=keywords)

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
        if "resets" in self.keywords and self.op not in self.backend.RESETS:
            return run_by_steps(self)
        if "held" in self.keywords and self.op not in self.backend.MASKS:
            return run_by_steps(self)
        sequence = getattr(self.backend, self.op)
        return sequence(self.inputs, self.state, self.ts, self.params, **self.keywords)
