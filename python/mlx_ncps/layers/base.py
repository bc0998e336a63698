"""What builds its weights on first use: `NCPLayer`, the base of `NCPDense` and of all cells."""

from __future__ import annotations

import contextlib
import copy
import functools

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import limits
from ..checks import at_most, brief, check_numbers, integer, is_array, key_words, refused, sizes
from ..config import Configurable
from ..fixed import FixedArrays, FrozenKeys
from ..options import CheckedOptions
from ..values import is_tracing, settle
from ..weights import WeightFiles
from .linear import Linear, is_plain


@contextlib.contextmanager
def drawing_from(key):
    """Within it MLX's global random numbers come from `key`, an `mx.random.key` or its seed, or go
    on when it is None; after it they go on as if nothing was drawn.
    """
    if key is None:
        yield
        return
    kept = mx.random.state[0]
    mx.random.seed(_seed(key))
    try:
        yield
    finally:
        mx.random.seed(_seed(kept))


def _seed(key) -> int:
    """The seed of a key: `mx.random.key(seed)` is that key. An int is a seed."""
    if isinstance(key, int) and not isinstance(key, bool):
        if not 0 <= key < 2**64:
            raise refused("redraw", "key", "an mx.random.key or a seed in [0, 2**64)", key)
        return key
    words = key_words("redraw", key)
    return int(words[0]) << 32 | int(words[1])


def _build_once(build):
    """`build` that does nothing when the layer is built for this width already."""

    @functools.wraps(build)
    def build_once(self, input_shape) -> None:
        if self.built and type(input_shape) is int and input_shape == self.built_width:
            return  # each step of a stream comes here
        width = _width(self.op, input_shape)
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


def _build_traced(build, layer, shape: tuple) -> None:
    """Build while a function is traced, unless that makes weights: then raise ValueError and leave
    `layer` as it was. A gradient would leave them out, and drawn from mx.compile's random state
    they would be tracers.
    """
    with _as_it_was_on_error(layer):
        known = _trainable(layer)
        build(layer, shape)
        if _trainable(layer) != known:
            raise ValueError(
                f"[{layer.op}] the weights must exist before nn.value_and_grad, mx.compile or "
                "mx.vmap, got the first call in it: call the layer once before, "
                f"or build({shape[-1]})."
            )


@contextlib.contextmanager
def _as_it_was_on_error(layer):
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


def _trainable(layer) -> set:
    """The names of the weights that there are."""
    return {name for name, _ in tree_flatten(nn.Module.trainable_parameters(layer))}


def _arrays(module) -> set:
    """The names of a module's own arrays."""
    return {name for name, value in module.items() if isinstance(value, mx.array)}


def _kinds(layer) -> set:
    """The name and kind of every module in a layer."""
    modules = layer.named_modules()
    return {(name, Linear if is_plain(module) else type(module)) for name, module in modules}


def _width(op: str, input_shape) -> int:
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


class LazyWeights:
    """A module whose weights may not exist yet: what asks for them then is an error, as MLX would
    go on with whatever else there is, or nothing.
    """

    def trainable_parameters(self):
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

    def apply(self, map_fn, filter_fn=None):
        """As in `mlx.nn.Module`, and so `set_dtype`; masks and wirings stay as they are. Raises
        ValueError as `trainable_parameters` does.
        """
        self.trainable_parameters()
        if not callable(map_fn):
            raise refused(self.op, "map_fn", "a function that gives an mx.array", map_fn)
        if filter_fn is not None and not callable(filter_fn):
            raise refused(self.op, "filter_fn", "a function or None", filter_fn)

        def mapped(array):
            new = map_fn(array)
            if not is_array(new):
                raise refused(self.op, "map_fn", "a function that gives an mx.array", new)
            return new

        return super().apply(mapped, filter_fn)

    def load_weights(self, file_or_weights, strict=True):
        """As `WeightFiles` has it. Raises ValueError as `trainable_parameters` does."""
        self.trainable_parameters()
        return super().load_weights(file_or_weights, strict)

    def save_weights(self, file):
        """As `WeightFiles` has it. Raises ValueError as `trainable_parameters` does."""
        self.trainable_parameters()
        super().save_weights(file)

    def _is_unbuilt(self) -> bool:
        """Whether weights are missing."""
        raise NotImplementedError


class NCPLayer(Configurable, FixedArrays, LazyWeights, WeightFiles, CheckedOptions, nn.Module):
    """Base of layers whose weights are made at the first call, when the number of inputs is known.

    A subclass makes its weights in `build(input_shape)`, where `input_shape[-1]` is that number,
    and ends it with `super().build(input_shape)`; or it makes them in `_create(width)`. It computes
    in `call(inputs, ...)` and tells the shape of its output in `compute_output_shape`. `build` is
    made to run once: for the same width it does nothing afterwards, for another it raises
    ValueError. `get_config` and `from_config` follow from the constructor.

    Attributes: `op`, the name in errors; `built`; `built_width`, the number of inputs or None.
    Array names in `fixed_keys` are saved with the weights and never trained.
    """

    op = "layer"
    fixed_keys: tuple = ()

    def __init__(self):
        super().__init__()
        self._no_grad = FrozenKeys(self.fixed_keys)
        self.built = False
        self.built_width = None

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "build" in cls.__dict__:
            cls.build = _build_once(cls.build)

    @_build_once
    def build(self, input_shape) -> None:
        """Make the weights for inputs of this shape, or of this width if it is an int; once.

        Only the last size of the shape counts, the others may be None.
        Raises ValueError when this is built for another width, and within nn.value_and_grad,
        mx.compile or mx.vmap.
        """
        self._create(input_shape[-1])

    def _create(self, width: int) -> None:
        """Make the weights for `width` inputs."""

    def redraw(self, key=None) -> None:
        """Draw new weights, if there are any yet: from `key`, an `mx.random.key`, always the same,
        else from MLX's global random state. Raises ValueError when a part was replaced by another
        module, also by a quantized one.
        """
        with _as_it_was_on_error(self), drawing_from(key):  # which checks the key, built or not
            if not self.built:
                return
            before = _kinds(self)
            self.built = False
            self.build(self.built_width)
            if other := sorted(name for name, _ in before ^ _kinds(self)):
                raise ValueError(
                    f"[{self.op}] redraw wants the parts that the layer made, got another module "
                    f"as {other[0]}, which would be lost."
                )

    def call(self, inputs, *args, **kwargs):
        """The outputs of inputs [..., I]; a subclass gives it."""
        raise self._must_define("call()")

    def __call__(self, inputs, *args, **kwargs):
        """Builds the layer if it isn't yet, then `call(inputs, ...)`."""
        if not is_array(inputs) or inputs.ndim == 0:
            raise refused(self.op, "inputs", "an mx.array [..., I]", inputs)
        self.build(inputs.shape)
        settle(self, inputs)
        return self.call(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape) -> tuple:
        """The shape of the output for inputs of this shape, where None is any size."""
        raise self._must_define("compute_output_shape()")

    def _must_define(self, name: str) -> NotImplementedError:
        """The error of a subclass that lacks something."""
        return NotImplementedError(f"[{self.op}] {type(self).__name__} must define {name}.")

    def _is_unbuilt(self) -> bool:
        return not self.built

    def _built_for(self) -> int | None:
        return self.built_width if self.built else None

    def _build_for(self, width: int) -> None:
        self.build(width)


def output_shape(op: str, input_shape, rank: int | None, width: int | None, units: int) -> tuple:
    """`input_shape` [..., I] with `units` in place of I, after checks: I is `width` unless either
    is None, and there are `rank` sizes unless that is None.
    """
    shape = sizes(op, "input_shape", input_shape, "a tuple of sizes or None", None)
    if not shape or (rank is not None and len(shape) != rank):
        wanted = f"{rank} sizes" if rank else "one size or more"
        raise ValueError(f"[{op}] input_shape must have {wanted}, got {shape}.")
    if None not in (width, shape[-1]) and shape[-1] != width:
        raise ValueError(f"[{op}] input_shape must end with {width}, got {shape}.")
    return (*shape[:-1], units)
