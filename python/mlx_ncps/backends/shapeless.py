"""Help for `mx.compile(shapeless=True)`, where one trace serves arrays of every batch and length.
Code that takes a size from an array must follow the array there, or refuse.

MLX takes the shape of each operation anew from its inputs, but a size that Python read while
tracing stays what it was, and so does a slice of it. What stands here is made of operations that
follow: products, `broadcast_arrays`, `take_along_axis`.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from .. import _loader

if TYPE_CHECKING:
    from ..backends.types import Timespans

_local = threading.local()


def tracing() -> bool:
    """Whether such a trace goes on in this thread."""
    if _loader.native is not None:
        return _loader.native.in_shapeless_trace()
    graph = (
        io.StringIO()
    )  # only a shapeless trace broadcasts equal shapes, as they may differ later
    mx.export_to_dot(graph, mx.broadcast_arrays(mx.array(0.0), mx.array(0.0))[0])
    return "Broadcast" in graph.getvalue()


@contextlib.contextmanager
def one_step() -> Iterator[None]:
    """Within it the length is 1 whatever the inputs are, so that nothing need refuse it."""
    before = getattr(_local, "one_step", False)
    _local.one_step = True
    try:
        yield
    finally:
        _local.one_step = before


def length_varies() -> bool:
    """`tracing()`, unless within `one_step()`."""
    return not getattr(_local, "one_step", False) and tracing()


def refuse(op: str, what: str, *, length: bool = True) -> None:
    """Raises ValueError within such a trace, as `what` keeps a size of the first call; `length`: if
    that is the length alone.
    """
    if not (length_varies() if length else tracing()):
        return
    raise ValueError(
        f"[{op}] {what} keeps the sizes of the first call: use mx.compile without shapeless=True, "
        "which traces anew for every shape."
    )


def _rows(x: mx.array) -> mx.array:
    """[..., 1] of x [..., I], for its shape alone. By a product: MLX 0.32 crashes where a reduction
    finds nothing but axes of size 1.
    """
    return x @ mx.zeros((x.shape[-1], 1), x.dtype)


def _follow(value: mx.array, like: mx.array) -> mx.array:
    """`value` broadcast against the shape that `like` will have. By `broadcast_arrays`: elementwise
    operations that MLX fuses take a size of 0 for 1.
    """
    return mx.broadcast_arrays(value, like)[0]


def zero_state(inputs: mx.array, size: int, dtype: mx.Dtype) -> mx.array:
    """Zeros [B, size] for inputs [B, I] or [B, T, I]."""
    if not tracing():
        return mx.zeros((inputs.shape[0], size), dtype)
    rows = _rows(inputs)
    if rows.ndim == 3:
        rows = (rows.swapaxes(1, 2) @ rows).squeeze(2)
    return _follow(mx.zeros((1, size), dtype), rows)


def timespans(ts: Timespans, inputs: mx.array) -> mx.array:
    """A number, or an array [], [T] or [B, T], as an array [B, T] for inputs [B, T, I]."""
    if tracing():
        return _follow(mx.array(ts, mx.float32), _rows(inputs).squeeze(2))
    if isinstance(ts, mx.array):
        return mx.broadcast_to(ts, inputs.shape[:2])
    return mx.full(inputs.shape[:2], ts, mx.float32)


def last_step(states: mx.array, before: mx.array) -> mx.array:
    """The last of states [B, T, H] of any length, `before` [B, H] where there is none."""
    states = mx.concatenate([before[:, None].astype(states.dtype), states], axis=1)
    return mx.take_along_axis(states, mx.array([[[-1]]]), axis=1).squeeze(1)


def columns(array: mx.array, first: int, count: int) -> mx.array:
    """Elements first .. first + count of the last axis."""
    if (first, count) == (0, array.shape[-1]):
        return array
    if not tracing():
        return array[..., first : first + count]
    index = mx.arange(first, first + count).reshape(*[1] * (array.ndim - 1), count)
    return mx.take_along_axis(array, index, axis=-1)


def linear(layer: Any, x: mx.array) -> mx.array:
    """`layer(x)`; of what computes as `nn.Linear`, our maps too, without its fused product, which
    would keep the rows of its bias (MLX 0.32 writes past them).
    """
    plain = isinstance(layer, nn.Linear) and type(layer).__call__ is nn.Linear.__call__
    if not plain or not tracing():
        return layer(x)
    y = x @ layer.weight.T
    return y + layer.bias if "bias" in layer else y
