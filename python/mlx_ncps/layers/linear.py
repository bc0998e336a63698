"""Linear maps as parts of cells and layers, and what a user may put in their place: an adapter, a
quantized map, any module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import mlx.core as mx
import mlx.nn as nn


class Linear(nn.Linear):
    """`nn.Linear` that `nn.quantize` leaves alone where its width is no multiple of the group, so
    that a model can be quantized whatever sizes a cell in it has.
    """

    def to_quantized(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> nn.Module:
        """The quantized map; this one where its inputs don't divide into groups, or are to be
        quantized too, which no cell does.
        """
        _, scales, *_ = mx.quantize(mx.zeros((1, 128)), group_size, bits, mode=mode)
        group = 128 // scales.shape[-1]
        if quantize_input or self.weight.shape[-1] % group:
            return self
        return super().to_quantized(group_size, bits, mode)


_PLAIN = (Linear, nn.Linear)
_LINEAR = (*_PLAIN, nn.QuantizedLinear)


def is_plain(part: object) -> TypeGuard[nn.Linear]:
    """Whether a part is a linear map and nothing else; a subclass may compute more."""
    return type(part) in _PLAIN


def weight_and_bias(part: Any) -> tuple[mx.array, mx.array | None] | None:
    """(weight [out, in], bias [out] or None) of a linear map, of the values in use if quantized;
    None for any other part, which has to be called.
    """
    if is_plain(part):
        return part["weight"], part.get("bias")
    if type(part) is not nn.QuantizedLinear:
        return None
    weight = mx.dequantize(
        part["weight"],
        part["scales"],
        part.get("biases"),
        group_size=part.group_size,
        bits=part.bits,
        mode=part.mode,
    )
    return weight, part.get("bias")


def weights_of(op: str, parts: dict[str, object]) -> dict[str, tuple[mx.array, mx.array]]:
    """(weight, bias) of each part, 0 where it has no bias. Raises ValueError for one that is no
    linear map.
    """
    pairs = {}
    for name, part in parts.items():
        if isinstance(part, nn.Linear) and type(part) in _PLAIN:  # nearly always
            weight, bias = part["weight"], part.get("bias")
        else:
            known = weight_and_bias(part)
            if known is None:
                raise _no_linear_map(op, name, part)
            weight, bias = known
        pairs[name] = weight, mx.zeros(weight.shape[:1]) if bias is None else bias
    return pairs


def arrays_of(part: nn.Module) -> list[mx.array]:
    """Every array that a linear map, quantized or not, is made of."""
    return [value for value in part.values() if isinstance(value, mx.array)]


def why_called(parts: dict[str, object]) -> str:
    """Why the parts, by name, have to be called at each step; "" when all are linear maps."""
    others = [
        f"{name} is {_kind(part)}" for name, part in parts.items() if type(part) not in _LINEAR
    ]
    return f"{', '.join(others)}, no nn.Linear: each step calls it" if others else ""


def check_linear(op: str, parts: dict[str, object]) -> None:
    """Raises ValueError with the names of the parts that are no linear maps."""
    for name, part in parts.items():
        if type(part) not in _LINEAR:
            raise _no_linear_map(op, name, part)


def _no_linear_map(op: str, name: str, part: object) -> ValueError:
    return ValueError(f"[{op}] {name} must be an nn.Linear here, got {_kind(part)}.")


def float32_map(
    op: str, name: str, part: object, outputs: int, mask: mx.array | None = None
) -> Callable[[mx.array], mx.array]:
    """The function z [..., K] -> [..., outputs] of a part, float32: the linear map, or else a call.

    mask: [outputs, K], multiplied into the weight. A part without a weight is called with z times
    each row of it, and gives output n from row n, which is the same for whatever is linear.
    Raises ValueError, when it is called, for a part that gives another shape.
    """
    known = weight_and_bias(part)
    if known is not None:
        return _of_weights(*known, mask)
    if not callable(part):
        raise ValueError(f"[{op}] {name} must be a module or a function, got {_kind(part)}.")

    def call(z: mx.array) -> mx.array:
        masked = z if mask is None else z[..., None, :] * mask  # [..., outputs, K]
        y, wanted = part(masked), (*masked.shape[:-1], outputs)
        if not isinstance(y, mx.array) or y.shape != wanted:
            got = y.shape if isinstance(y, mx.array) else type(y).__name__
            raise ValueError(f"[{op}] {name} must give {wanted} for {masked.shape}, got {got}.")
        y = y if mask is None else mx.diagonal(y, axis1=-2, axis2=-1)
        return y.astype(mx.float32)

    return call


def _of_weights(
    weight: mx.array, bias: mx.array | None, mask: mx.array | None
) -> Callable[[mx.array], mx.array]:
    weight = (weight if mask is None else weight * mask).astype(mx.float32)
    if bias is None:
        return lambda z: z @ weight.T
    bias = bias.astype(mx.float32)
    return lambda z: z @ weight.T + bias


def _kind(part: object) -> str:
    return getattr(part, "__name__", type(part).__name__)
