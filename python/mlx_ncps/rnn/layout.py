"""Contracts and shapes of a call of a recurrent layer: how its arrays lie, and what its states are
made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ..checks import flag, is_array, kind_of, refused
from ..ops import shapeless
from ..ops.checks import check_array
from ..values import is_tracer

if TYPE_CHECKING:
    from .._types import TimespansLike

    StateSizes = int | dict[str, Any] | None  # as `Layout` says


class Contract(NamedTuple):
    """What a call returns."""

    return_sequences: bool
    return_state: bool


def call_contract(
    op: str, default: Contract, return_sequences: bool | None, return_state: bool | None
) -> Contract:
    """The contract of a layer: the default of how it was made, but for an argument that is not
    None.
    """
    given = {"return_sequences": return_sequences, "return_state": return_state}
    told = {name: flag(op, name, value) for name, value in given.items() if value is not None}
    return default._replace(**told)


def one_of(op: str, **aliases: Any) -> Any:
    """The one argument that is not None among several spellings of it, or None."""
    given = [name for name, value in aliases.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"[{op}] one of {', '.join(aliases)} must be given, got {', '.join(given)}."
        )
    return aliases[given[0]] if given else None


def truths(op: str, name: str, given: Any, symbols: str, shape: tuple) -> mx.array:
    """True where the elements of an array of this shape, mx.array or NumPy's, are not 0."""
    _check_grid(op, name, given, symbols, shape)
    return _not_zero(op, name, given)


def _check_grid(op: str, name: str, given: Any, symbols: str, shape: tuple) -> None:
    if not (is_array(given) or isinstance(given, np.ndarray)):
        raise refused(op, name, f"an array {symbols}", given)
    if given.shape != shape:
        raise ValueError(f"[{op}] {name} must be {symbols} = {shape}, got {given.shape}.")
    _check_real(op, name, given)


def _check_real(op: str, name: str, given: Any) -> None:
    kind: Any = given.dtype
    if not (kind != mx.complex64 if is_array(given) else kind.kind in "fiub"):
        raise ValueError(f"[{op}] {name} must be of real numbers, got {given.dtype}.")


def _not_zero(op: str, name: str, given: Any) -> mx.array:
    _check_real(op, name, given)
    if isinstance(given, np.ndarray):
        given = mx.array(np.ascontiguousarray(given))  # MLX refuses negative strides
    return given != 0


class Layout(NamedTuple):
    """How a call's arrays lie; its methods bring them to [B, T, ...] and back.

    A state is described by its `sizes`: a number H for an array [B, H], a dict of names and sizes
    for a tuple of states, or None for a state of any form.
    """

    op: str
    batched: bool
    batch_first: bool

    @classmethod
    def of(cls, op: str, inputs: object, batch_first: bool) -> Layout:
        """The layout of inputs [B, T, I], [T, B, I] unless `batch_first`, or [T, I]."""
        if not is_array(inputs) or inputs.ndim not in (2, 3):
            wanted = f"{'[B, T, I]' if batch_first else '[T, B, I]'} or [T, I]"
            got = inputs.shape if is_array(inputs) else kind_of(inputs)
            raise ValueError(f"[{op}] inputs must be {wanted}, got {got}.")
        return cls(op, inputs.ndim == 3, batch_first)

    def inputs(self, inputs: mx.array) -> mx.array:
        """The inputs as [B, T, I]."""
        if not self.batched:
            return inputs[None]
        return inputs if self.batch_first else inputs.swapaxes(0, 1)

    def _grid(self, batch: int, steps: int) -> tuple[str, tuple]:
        """Symbols and shape of an array with one element per step, as the user writes it."""
        if not self.batched:
            return "[T]", (steps,)
        return ("[B, T]", (batch, steps)) if self.batch_first else ("[T, B]", (steps, batch))

    def timespans(self, ts: TimespansLike, batch: int, steps: int) -> TimespansLike:
        """The time spans as None, a number, [], [T] or [B, T]."""
        if not (is_array(ts) or isinstance(ts, np.ndarray)) or ts.shape in ((), (steps,)):
            return ts
        symbols, shape = self._grid(batch, steps)
        if ts.shape not in (shape, (*shape, 1)):
            raise ValueError(f"[{self.op}] timespans must be {symbols} = {shape}, got {ts.shape}.")
        ts = ts if ts.shape == shape else ts.squeeze(-1)
        return ts.T if self.batched and not self.batch_first else ts

    def resets(self, resets: Any, batch: int, steps: int) -> mx.array:
        """Where an episode begins, [B, T], True where `resets` is not 0."""
        return self.inputs(truths(self.op, "resets", resets, *self._grid(batch, steps)))

    def resets_of_step(self, resets: Any, batch: int) -> Any:
        """The same of one step, [B]; in NumPy where its values are known."""
        if isinstance(resets, (bool, np.generic)):
            resets = np.asarray(resets)
        symbols, shape = ("[B]", (batch,)) if self.batched else ("[]", ())
        _check_grid(self.op, "resets", resets, symbols, shape)
        if is_array(resets) and not is_tracer(resets):
            known = resets.astype(mx.float32) if resets.dtype == mx.bfloat16 else resets
            resets = np.array(known)  # NumPy has no bfloat16
        at = resets != 0
        return at if self.batched else at[None]

    def mask(self, mask: Any, batch: int, steps: int, features: int) -> mx.array | None:
        """The mask, True where it is not 0, as None, [B, T] or [B, T, I]."""
        if mask is None:
            return None
        symbols, shape = self._grid(batch, steps)
        wide = f"{symbols[:-1]}, I]"
        if not (is_array(mask) or isinstance(mask, np.ndarray)):
            raise ValueError(
                f"[{self.op}] mask must be an array {symbols} or {wide}, got {kind_of(mask)}."
            )
        if mask.shape not in (shape, (*shape, features)):
            raise ValueError(
                f"[{self.op}] mask must be {symbols} = {shape} or {wide} = {(*shape, features)}, "
                f"got {mask.shape}."
            )
        return self.inputs(_not_zero(self.op, "mask", mask))

    def state(self, hx: Any, sizes: StateSizes, x: mx.array, name: str = "hx") -> Any:
        """hx, or zeros, batched, for inputs x [B, T, F], whose dtype it takes."""
        batch = x.shape[0]
        if sizes is None:
            return tree_map(lambda array: self._free_state(array, batch, name), hx)
        if isinstance(sizes, dict):
            if hx is None:
                hx = (None,) * len(sizes)
            if not isinstance(hx, tuple | list) or len(hx) != len(sizes):
                got = type(hx).__name__
                if isinstance(hx, tuple | list):
                    got += f" of {len(hx)}"
                raise ValueError(f"[{self.op}] {name} must be ({', '.join(sizes)}), got {got}.")
            parts = zip(hx, sizes.items(), strict=True)
            return tuple(self.state(h, n, x, f"{name}.{key}") for h, (key, n) in parts)
        if hx is None:
            return shapeless.zero_state(x, sizes, x.dtype)
        if isinstance(hx, list) and len(hx) == 1:  # the list of one state of earlier MLX ports
            hx = hx[0]
        symbols, shape = ("[B, H]", (batch, sizes)) if self.batched else ("[H]", (sizes,))
        check_array(self.op, name, hx, symbols, shape)
        array: Any = hx
        return (array if self.batched else array[None]).astype(x.dtype)

    def _free_state(self, array: object, batch: int, name: str) -> mx.array:
        """An array of a state of any form, batched."""
        if not is_array(array):
            raise refused(self.op, name, "mx.arrays", array)
        array = array if self.batched else array[None]
        if array.shape[:1] != (batch,):
            raise ValueError(
                f"[{self.op}] {name} must be [B, ...], B = {batch}, got {array.shape}."
            )
        return array

    def sequences(self, output: Any) -> Any:
        """Output [B, T, O], or several, in the layout of the inputs."""
        if not self.batched:
            return self.single(output)
        return output if self.batch_first else tree_map(lambda o: o.swapaxes(0, 1), output)

    def single(self, tree: Any) -> Any:
        """Output [B, O] or state [B, H], or several, in the layout of the inputs."""
        return tree if self.batched else tree_map(lambda array: array.squeeze(0), tree)
