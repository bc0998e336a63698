"""`NCPLayer`, the base of `NCPDense` and of all cells: a layer that is built at its first call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from ..checks import is_array, refused, sizes
from ..config import Configurable
from ..fixed import FixedArrays, FrozenKeys
from ..options import CheckedOptions
from ..values import settle
from .drawing import drawing_from
from .lazy import LazyWeights, as_it_was_on_error, build_once_only, input_width
from .linear import Linear, is_plain

if TYPE_CHECKING:
    from .._types import KeyLike, ShapeLike


class NCPLayer(Configurable, FixedArrays, LazyWeights, CheckedOptions):
    """Base of layers whose weights are made at the first call, when the number of inputs is known.

    A subclass makes its weights in `build(input_shape)`, where `input_shape[-1]` is that number,
    and ends it with `super().build(input_shape)`; or it makes them in `_create(width)`. It computes
    in `call(inputs, ...)` and tells the shape of its output in `compute_output_shape`. `build` is
    made to run once: for the same width it does nothing afterwards, for another it raises
    ValueError. `get_config` and `from_config` follow from the constructor.

    Attributes: `op`, the name in errors; `built`; `built_width`, the number of inputs or None.
    Array names in `fixed_keys` are saved with the weights and never trained.

    Example:
        >>> class Scale(NCPLayer):
        ...     def build(self, input_shape):
        ...         self.scale = mx.ones(input_shape[-1])
        ...         super().build(input_shape)
        ...     def call(self, inputs):
        ...         return inputs * self.scale
        >>> layer = Scale()
        >>> layer(mx.ones((2, 3))).shape, layer.built_width
        ((2, 3), 3)
    """

    op = "layer"
    fixed_keys: tuple[str, ...] = ()
    built: bool
    built_width: int | None

    def __init__(self) -> None:
        super().__init__()
        self._no_grad = FrozenKeys(self.fixed_keys)
        self.built = False
        self.built_width = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in cls.__dict__:
            cls.build = build_once_only(cls.build)

    @build_once_only
    def build(self, input_shape: ShapeLike) -> None:
        """Make the weights for inputs of this shape, or of this width if it is an int; once.

        Only the last size of the shape counts, the others may be None.
        Raises ValueError when this is built for another width, and within nn.value_and_grad,
        mx.compile or mx.vmap.
        """
        self._create(input_width(self.op, input_shape))

    def _create(self, width: int) -> None:
        """Make the weights for `width` inputs."""

    def redraw(self, key: KeyLike = None) -> None:
        """Draw new weights, if there are any yet: from `key`, an `mx.random.key`, always the same,
        else from MLX's global random state. Raises ValueError when a part was replaced by another
        module, also by a quantized one.
        """
        with as_it_was_on_error(self), drawing_from(key):  # which checks the key, built or not
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

    def call(self, inputs: mx.array, *args: Any, **kwargs: Any) -> Any:
        """The outputs of inputs [..., I]; a subclass gives it."""
        raise self._must_define("call()")

    def __call__(self, inputs: mx.array, *args: Any, **kwargs: Any) -> Any:
        """Builds the layer if it isn't yet, then `call(inputs, ...)`."""
        if not is_array(inputs) or inputs.ndim == 0:
            raise refused(self.op, "inputs", "an mx.array [..., I]", inputs)
        self.build(inputs.shape)
        settle(self, inputs)
        return self.call(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
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


def output_shape(
    op: str, input_shape: Sequence[int | None], rank: int | None, width: int | None, units: int
) -> tuple[int | None, ...]:
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


def _kinds(layer: nn.Module) -> set:
    """The name and kind of every module in a layer."""
    modules = layer.named_modules()
    return {(name, Linear if is_plain(module) else type(module)) for name, module in modules}
