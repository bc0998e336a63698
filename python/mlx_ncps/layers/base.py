"""What builds its weights on first use: `NCPLayer`, the base of `NCPDense` and of all cells."""

from __future__ import annotations

import contextlib
import functools

import mlx.core as mx
import mlx.nn as nn

from ..checks import MAX_SIZE, brief, integer, is_array, key_words, refused, sizes
from ..config import Configurable
from ..weights import WeightFiles


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
        build(self, tuple(input_shape) if isinstance(input_shape, (tuple, list)) else (width,))
        self.built_width = width
        self.built = True

    return build_once


def _width(op: str, input_shape) -> int:
    """The number of inputs: an int, or the last size of a shape."""
    width = input_shape
    if isinstance(input_shape, (tuple, list)):
        width = input_shape[-1] if input_shape else None
    if type(width) is int and 1 <= width <= MAX_SIZE:
        return width
    try:
        return integer(op, "inputs", width, 1)
    except ValueError:
        raise ValueError(
            f"[{op}] input_shape must end with a number of inputs >= 1, got {brief(input_shape)}."
        ) from None


class NCPLayer(Configurable, WeightFiles, nn.Module):
    """Base of layers whose weights are made at the first call, when the number of inputs is known.

    A subclass makes its weights in `build(input_shape)`, where `input_shape[-1]` is that number,
    and ends it with `super().build(input_shape)`; or it makes them in `_create(width)`. It computes
    in `call(inputs, ...)` and tells the shape of its output in `compute_output_shape`. `build` is
    made to run once: for the same width it does nothing afterwards, for another it raises
    ValueError. `get_config` and `from_config` follow from the constructor.

    Attributes: `op`, the name in errors; `built`; `built_width`, the number of inputs or None.
    """

    op = "layer"

    def __init__(self):
        super().__init__()
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
        Raises ValueError when this is built for another width.
        """
        self._create(input_shape[-1])

    def _create(self, width: int) -> None:
        """Make the weights for `width` inputs."""

    def redraw(self, key=None) -> None:
        """Draw new weights, if there are any yet: from `key`, an `mx.random.key`, always the same,
        else from MLX's global random state.
        """
        with drawing_from(key):  # which checks the key, built or not
            if self.built:
                self.built = False
                self.build(self.built_width)

    def call(self, inputs, *args, **kwargs):
        """The outputs of inputs [..., I]; a subclass gives it."""
        raise self._must_define("call()")

    def __call__(self, inputs, *args, **kwargs):
        """Builds the layer if it isn't yet, then `call(inputs, ...)`."""
        if not is_array(inputs) or inputs.ndim == 0:
            raise refused(self.op, "inputs", "an mx.array [..., I]", inputs)
        self.build(inputs.shape)
        return self.call(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape) -> tuple:
        """The shape of the output for inputs of this shape, where None is any size."""
        raise self._must_define("compute_output_shape()")

    def _must_define(self, name: str) -> NotImplementedError:
        """The error of a subclass that lacks something."""
        return NotImplementedError(f"[{self.op}] {type(self).__name__} must define {name}.")

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
