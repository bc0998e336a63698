"""A dense layer whose synapses may follow a wiring: y = activation(x (W * mask)^T + b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from ..checks import flag, size
from ..ops import get_activation, xavier_uniform
from ..ops.activations import activation_name
from ..ops.checks import check_array
from ..wirings import Wiring
from .base import NCPLayer, output_shape

if TYPE_CHECKING:
    from .._types import Activation
    from ..options import Check


def _activation(op: str, name: str, value: Any) -> Any:
    return value if value is None or callable(value) else activation_name(op, name, value)


class NCPDense(NCPLayer):
    """Dense layer: inputs [..., I] -> activation(inputs @ (weight * mask).T + bias) [..., H].

    The mask is 1 where the wiring has a synapse from input i to neuron j, i.e. where its *sensory*
    adjacency [I, H] is not 0; signs don't count, as in a wired CfC (MATHS 2). The adjacency between
    neurons [H, H] is not used: a dense layer has no step before. A neuron without a sensory synapse
    gives activation(bias).

    Args:
        units: number of outputs H; None: that of the wiring.
        activation: None, a name of `ops.ACTIVATIONS`, or a function, which `get_config` refuses.
        use_bias: add `bias`.
        wiring: a `Wiring` of H units, of which the layer keeps its own copy; None: dense.

    Parameters: `weight` [H, I], Xavier uniform, and `bias` [H], zeros, made at the first call or by
    `build`, or at once when the wiring knows its number of inputs. The wiring is saved and never
    trained. The output has the dtype of the inputs.
    Raises ValueError for bad sizes, another activation, or inputs of another width.

    Example:
        >>> NCPDense(4, activation="tanh")(mx.ones((2, 3))).shape
        (2, 4)
        >>> NCPDense(wiring=AutoNCP(8, 2))(mx.ones((2, 3))).shape
        (2, 8)
    """

    op = "dense"
    units: int
    use_bias: bool
    activation: Activation | None
    wiring: Wiring
    weight: mx.array
    bias: mx.array

    _checked_options: ClassVar[dict[str, Check]] = {
        "units": size,
        "activation": _activation,
        "use_bias": flag,
    }
    _fixed_options = frozenset(("units", "use_bias"))

    def __init__(
        self,
        units: int | None = None,
        activation: Activation | None = None,
        use_bias: bool = True,
        wiring: Wiring | None = None,
    ) -> None:
        super().__init__()
        if wiring is not None and not isinstance(wiring, Wiring):
            raise ValueError(
                f"[dense] wiring must be a Wiring or None, got {type(wiring).__name__}."
            )
        if units is None and wiring is not None:
            units = wiring.units
        self.units = units  # pyright: ignore[reportAttributeAccessIssue] checked: no None
        if wiring is not None and wiring.units != units:
            raise ValueError(
                f"[dense] units must be those of the wiring, {wiring.units}, got {units}."
            )
        self.activation = activation
        self.use_bias = use_bias
        if wiring is not None:
            self.wiring = wiring.as_given()
            if self.wiring.is_built():
                self.build(self.wiring.input_dim)

    def _create(self, width: int) -> None:
        if "wiring" in self:
            self.wiring.build(width)
        self.weight = xavier_uniform((self.units, width))
        if self.use_bias:
            self.bias = mx.zeros((self.units,))

    def _argument_now(self, value: object) -> object:
        return self.wiring.unless_drawn_by(value) if isinstance(value, Wiring) else value

    @property
    def mask(self) -> mx.array | None:
        """The mask [H, I] of 0 and 1 on the weight; None without a wiring or before `build`."""
        if "wiring" not in self or not self.wiring.is_built():
            return None
        sensory: mx.array = self.wiring["sensory_adjacency_matrix"]
        return mx.abs(sensory).T

    def call(self, inputs: mx.array) -> mx.array:
        """The outputs [..., H] of inputs [..., I], in the dtype of the inputs."""
        check_array(self.op, "inputs", inputs, "[..., I]", (*inputs.shape[:-1], self.built_width))
        mask = self.mask
        weight = self.weight if mask is None else self.weight * mask.astype(self.weight.dtype)
        output = inputs @ weight.T
        if self.use_bias:
            output = output + self.bias
        activation = self.activation
        if activation is not None:
            function = activation if callable(activation) else get_activation(activation)
            output = function(output)
        return output.astype(inputs.dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        """[..., I] -> [..., H]; ValueError when I is not the width that the layer is built for."""
        return output_shape(self.op, input_shape, None, self.built_width, self.units)

    def _extra_repr(self) -> str:
        return (
            f"units={self.units}, activation={self.activation}, use_bias={self.use_bias}, "
            f"inputs={self.built_width}"
        )
