"""Whether a stateful layer runs where its state would be lost."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


def check_state_captured(op: str, layer: Any, inputs: mx.array) -> None:
    """Raises ValueError when `inputs` stand for others, under mx.compile or mx.vmap, and the
    layer's weights don't: then nothing brings the state that the layer keeps in and out.
    """
    weights: Any = (
        tree_flatten(layer.rnn_cell.parameters()) if hasattr(layer.rnn_cell, "keys") else []
    )
    if weights and is_traced(inputs) and not is_traced(weights[0][1]):
        raise ValueError(
            f"[{op}] stateful=True under mx.compile wants the state of the layer, built before, "
            "captured: mx.compile(function, inputs=model.state, outputs=model.state), got a "
            "function without (under mx.vmap it can't be kept at all)."
        )


def is_traced(array: mx.array) -> bool:
    """Whether an array has no value, because it stands for others in mx.compile or mx.vmap."""
    try:
        mx.async_eval(array)  # waits for nothing, but refuses under mx.grad too
    except ValueError:
        try:
            mx.eval(array)
        except ValueError:
            return True
    return False
