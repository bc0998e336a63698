"""Weights that are made at the first call: once, undone on an error, and missed aloud where a walk
over the parameters wants them before.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import limits
from ..checks import at_most, brief, check_numbers, integer, is_array, refused
from ..pretrained import Pretrained
from ..values import is_tracing
from ..weights import WeightFiles

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._types import ShapeLike, WeightSource


def build_once_only(build: Callable[..., None]) -> Callable[..., None]:
    """`build` that does nothing when the layer is built for this width already."""

    @functools.wraps(build)
    def build_once(self: LazyWeights, input_shape: ShapeLike) -> None:
        if self.built and type(input_shape) is int and input_shape == self.built_width:
            return  # each step of a stream comes here
        width = input_width(self.op, input_shape)
        if self.built:
            if width != self.built_width:
                raise ValueError(
                    f"[{self.op}] inputs must have {self.built_width} features, got {width}."
                )
            return
        shape = (*input_shape[:-1], width) if isinstance(input_shape, (tuple, list)) else (width,)
        arrays = _arrays(self)
        if self.__dict__.get("_made_unbuilt") and is_tracing():
            _build_traced(build, self, shape)
        else:
            build(self, shape)
        self.__dict__.pop("_made_unbuilt", None)
        check_numbers(self.op, self)
        self.built_width = width
        self.built = True
        self.train(self.training)  # what was asked of the layer holds for what is made now
        if getattr(self._no_grad, "asked", None) == arrays:
            self.freeze()

    return build_once


def _build_traced(build: Callable[..., None], layer: LazyWeights, shape: tuple) -> None:
    """Build while a function is traced, unless that makes weights: then raise ValueError and leave
    `layer` as it was. A gradient would leave them out, and drawn from mx.compile's random state
    they would be tracers.
    """
    with as_it_was_on_error(layer):
        known = _trainable(layer)
        build(layer, shape)
        if _trainable(layer) != known:
            raise ValueError(
                f"[{layer.op}] the weights must exist before nn.value_and_grad, mx.compile or "
                "mx.vmap, got the first call in it: call the layer once before, "
                f"or build({shape[-1]})."
            )


@contextlib.contextmanager
def as_it_was_on_error(layer: nn.Module) -> Iterator[None]:
    """Undo what the block did to `layer` and its wiring when it raises."""
    before = copy.copy(layer)
    if isinstance(layer.get("wiring"), nn.Module):
        before.wiring = copy.copy(layer.wiring)
    try:
        yield
    except BaseException:
        layer.__dict__.clear()
        layer.__dict__.update(before.__dict__)
        dict.clear(layer)
        dict.update(layer, before)
        raise


def _trainable(layer: nn.Module) -> set:
    """The names of the weights that there are."""
    return {name for name, _ in tree_flatten(nn.Module.trainable_parameters(layer))}


def _arrays(module: nn.Module) -> set:
    """The names of a module's own arrays."""
    return {name for name, value in module.items() if isinstance(value, mx.array)}


def input_width(op: str, input_shape: ShapeLike) -> int:
    """The number of inputs: an int, or the last size of a shape."""
    width = input_shape
    if isinstance(input_shape, (tuple, list)):
        width = input_shape[-1] if input_shape else None
    if type(width) is not int or width < 1:
        try:
            width = integer(op, "inputs", width, 1, most=limits.MAX_AXIS)
        except ValueError:
            raise ValueError(
                f"[{op}] input_shape must end with a number of inputs >= 1, "
                f"got {brief(input_shape)}."
            ) from None
    return at_most(op, "the number of inputs", width, limits.MAX_SIZE)


class LazyWeights(Pretrained, WeightFiles):
    """A module whose weights may not exist yet: what asks for them then is an error, as MLX would
    go on with whatever else there is, or nothing.
    """

    op: str
    built: bool
    built_width: int | None

    def trainable_parameters(self) -> dict[str, Any]:
        """As in `mlx.nn.Module`. Raises ValueError when there is none because the layer is to be
        built: call it once before, or `build(input_size)`.
        """
        found = super().trainable_parameters()
        if self._is_unbuilt() and not tree_flatten(found):
            raise ValueError(
                f"[{self.op}] the weights must exist before they are trained, changed, saved or "
                "loaded, got a layer that isn't built: call it once before, or build(input_size)."
            )
        return found

    def apply(
        self,
        map_fn: Callable[[mx.array], mx.array],
        filter_fn: Callable[[nn.Module, str, Any], bool] | None = None,
    ) -> nn.Module:
        """As in `mlx.nn.Module`, and so `set_dtype`; masks and wirings stay as they are. Raises
        ValueError as `trainable_parameters` does.
        """
        self.trainable_parameters()
        if not callable(map_fn):
            raise refused(self.op, "map_fn", "a function that gives an mx.array", map_fn)
        if filter_fn is not None and not callable(filter_fn):
            raise refused(self.op, "filter_fn", "a function or None", filter_fn)

        def mapped(array: mx.array) -> mx.array:
            new = map_fn(array)
            if not is_array(new):
                raise refused(self.op, "map_fn", "a function that gives an mx.array", new)
            return new

        return super().apply(mapped, filter_fn)

    def load_weights(self, file_or_weights: WeightSource, strict: bool = True) -> Self:
        """As `WeightFiles` has it. Raises ValueError as `trainable_parameters` does."""
        self.trainable_parameters()
        return super().load_weights(file_or_weights, strict)

    def save_weights(self, file: str | os.PathLike[str]) -> None:
        """As `WeightFiles` has it. Raises ValueError as `trainable_parameters` does."""
        self.trainable_parameters()
        super().save_weights(file)

    def _is_unbuilt(self) -> bool:
        """Whether weights are missing."""
        raise NotImplementedError
