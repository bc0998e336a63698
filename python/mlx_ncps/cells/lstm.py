"""The LSTM cell of mixed memory (MATHS 4, Lechner and Hasani 2020), weights as in ncps.torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from .._fork import check_process
from ..at_once import BATCH, StepCell, attempt
from ..checks import size
from ..layers.base import NCPLayer, output_shape
from ..layers.linear import Linear, check_linear, float32_map, weight_and_bias, why_called
from ..ops import LSTMParams, orthogonal, shapeless, uniform, xavier_uniform
from ..ops.checks import check_array, check_memory
from ..ops.mixed_memory import lstm_gates
from ..shown import Shown
from .base import first_state

if TYPE_CHECKING:
    from .._types import StateLike
    from ..options import Check


class LSTMCell(Shown, NCPLayer):
    """LSTM cell: `cell(inputs [B, I], state (h, c)) -> (output, (h', c'))`, output = h', all
    [B, H].

    z = Wx x + b + Wh h, split into i, ig, fg, og: c' = c sigmoid(fg + 1) + tanh(i) sigmoid(ig);
    h' = tanh(c') sigmoid(og). Arithmetic is float32, the results have the dtype of the inputs.

    Args:
        input_size: number of inputs I; None: that of the first call.
        hidden_size: number of neurons H.

    Parameters: `input_map.weight` [4H, I], `input_map.bias` [4H], `recurrent_map.weight` [4H, H].
    A module or function in place of a map is called at each step.

    Example:
        >>> cell = LSTMCell(20, 16)
        >>> output, (h, c) = cell(mx.ones((8, 20)), (mx.zeros((8, 16)), mx.zeros((8, 16))))
        >>> output.shape, c.shape
        ((8, 16), (8, 16))
    """

    op = "lstm"
    hidden_size: int
    input_map: Linear
    recurrent_map: Linear
    _checked_options: ClassVar[dict[str, Check]] = {"hidden_size": size}
    _fixed_options = frozenset(_checked_options)

    def __init__(self, input_size: int | None, hidden_size: int):
        super().__init__()
        self._step_cell = StepCell()
        self.hidden_size = hidden_size
        if input_size is not None:
            self.build(size(self.op, "input_size", input_size))

    @property
    def state_size(self) -> tuple[int, int]:
        """The sizes of h and c."""
        return (self.hidden_size, self.hidden_size)

    @property
    def output_size(self) -> int:
        """Number of outputs, H."""
        return self.hidden_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self.built_width

    def get_initial_state(
        self, inputs: mx.array | None = None, batch_size: int | None = None
    ) -> Any:
        """Zeros (h, c), [B, H] each, where B is `batch_size` or the first size of `inputs`, whose
        dtype they take.
        """
        return first_state(self.op, inputs, batch_size, self.state_size)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape (B, H) of the output for inputs of shape (B, I), where None is any size."""
        return output_shape(self.op, input_shape, 2, self.sensory_size, self.hidden_size)

    def _create(self, width: int) -> None:
        rows, hidden = 4 * self.hidden_size, self.hidden_size
        self.input_map = Linear(width, rows)
        self.input_map.weight = xavier_uniform((rows, width))
        self.input_map.bias = uniform(-0.1, 0.1, (rows,))
        self.recurrent_map = Linear(hidden, rows, bias=False)
        self.recurrent_map.weight = orthogonal((rows, hidden))

    def _shown(self) -> dict:
        return {"inputs": self.sensory_size, "units": self.hidden_size}

    def _parts(self) -> dict:
        return {"input_map": self.input_map, "recurrent_map": self.recurrent_map}

    def stepwise(self) -> str:
        """Why no fused operator runs this, which modules in place of the linear maps do; or ""."""
        return why_called(self._parts())

    def _step_plan(self, mixed: bool) -> None:
        """As `LiquidCell` has it: a step program."""

    def _one_step(
        self, x: mx.array, ts: mx.array, h: mx.array, c: mx.array
    ) -> tuple[list[mx.array], list]:
        """What the step program computes: ([h', c'], no output but h')."""
        h, c = self._gates(self._drive(x), h, c)
        return [h, c], []

    def _step_weights(self) -> LSTMParams | None:
        """The weights that a packed cell has in front of it; None where a subclass has its own
        equations, or modules of a user are called.
        """
        if type(self) is not LSTMCell or not self.built or self.stepwise():
            return None
        weights = self.weights()
        check_memory(self.op, weights, self.sensory_size, self.hidden_size)
        return weights

    def weights(self) -> LSTMParams:
        """Input map [4H, I], bias [4H], recurrent map [4H, H]; quantized ones by their values.

        Raises ValueError when a part is no linear map.
        """
        check_linear(self.op, self._parts())
        maps: Any = map(weight_and_bias, (self.input_map, self.recurrent_map))
        (weight, bias), (recurrent, more) = maps
        biases = [b for b in (bias, more) if b is not None]
        bias: Any = sum(biases[1:], biases[0]) if biases else mx.zeros(weight.shape[:1])
        return LSTMParams(weight, bias, recurrent)

    def _drive(self, inputs: mx.array) -> mx.array:
        """The half of z that reads inputs [..., I], for all steps at once: [..., 4H], float32."""
        if not self.stepwise():
            check_memory(self.op, self.weights(), self.sensory_size, self.hidden_size)
        rows = 4 * self.hidden_size
        return float32_map(self.op, "input_map", self.input_map, rows)(inputs.astype(mx.float32))

    def _gates(self, drive: mx.array, h: mx.array, c: mx.array) -> tuple[mx.array, mx.array]:
        """One step from its drive [B, 4H] and float32 h, c [B, H] -> (h', c')."""
        rows = 4 * self.hidden_size
        recurrent = float32_map(self.op, "recurrent_map", self.recurrent_map, rows)
        return lstm_gates(drive + recurrent(h), c)

    def __call__(
        self, inputs: mx.array, state: StateLike
    ) -> tuple[mx.array, tuple[mx.array, mx.array]]:
        """One step: inputs [B, I], state (h, c), each [B, H]. Returns (h', (h', c')).

        An LSTM knows no elapsed time. Raises ValueError for a wrong shape, width or dtype.
        """
        done: Any = attempt(self, None, inputs, state, None, BATCH)
        if done is not None:
            return done
        check_process(self.op)
        check_array(self.op, "inputs", inputs, "[B, I]", (None, None))
        shapeless.refuse(self.op, "a cell of MLX operations", length=False)
        self.build(inputs.shape)
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise ValueError(f"[{self.op}] state must be (h, c), got {type(state).__name__}.")
        for name, part in zip("hc", state, strict=True):
            shape = (inputs.shape[0], self.hidden_size)
            check_array(self.op, f"state {name}", part, "[B, H]", shape)
        h, c = (part.astype(mx.float32) for part in state)
        h, c = (part.astype(inputs.dtype) for part in self._gates(self._drive(inputs), h, c))
        return h, (h, c)
