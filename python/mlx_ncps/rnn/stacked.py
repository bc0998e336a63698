"""Several CfC or LTC layers on top of each other: `CfCRNN`, `LTCRNN`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from ..checks import check_numbers, flag, size
from ..config import Configurable
from ..layers.base import LazyWeights, drawing_from
from ..options import CheckedOptions, layer_count, optional
from ..wirings import Wiring
from .cfc import CfC
from .layout import one_of
from .ltc import LTC
from .neurons import Conducting, Gated, Neurons
from .options import OptionsSignature
from .plan import Plan
from .sequence import SequenceLayer

if TYPE_CHECKING:
    from .._types import KeyLike, MaskLike, Ranges, ShapeLike, StateLike, TimespansLike
    from ..options import Check


class StackedRNN(Configurable, Neurons, LazyWeights, CheckedOptions):
    """Layers over a sequence, each reading the outputs of the one below; `layers` holds them.

    Args:
        input_size: number of inputs I.
        hidden_size: number of neurons H of each layer, or a `Wiring`, of which each keeps a copy.
        num_layers: how many layers, >= 1.
        bidirectional: each layer reads in both directions, the next one what both gave, merged.
        return_sequences: the outputs of all steps, or of the last one.
        return_state: return (output, state).
        proj_size: outputs of a linear map after the last layer; None for none.
        options: of each layer, as in the layer's class: batch_first, merge_mode, mixed_memory,
            stateful, mode, backbone_units, ode_unfolds, ...

    Returns (output, state): the output [B, T, O] of the last layer, O twice the cell's when
    bidirectional with merge_mode "concat", and the states, a tuple with that of each layer.
    Raises ValueError for a bad number of layers or an option that doesn't stack.
    """

    _layer_class: type
    op = "rnn"
    layers: list[SequenceLayer]
    return_state: bool
    __signature__ = OptionsSignature(
        lambda cls: getattr(cls, "_layer_class", cls), without=("units",)
    )
    _checked_options: ClassVar[dict[str, Check]] = {"return_state": flag}

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int | Wiring,
        num_layers: int = 1,
        bidirectional: bool = False,
        *,
        return_sequences: bool = True,
        return_state: bool = True,
        proj_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        num_layers = layer_count(self.op, "num_layers", num_layers)
        input_size = optional(size)(self.op, "input_size", input_size)
        if not isinstance(hidden_size, Wiring):
            hidden_size = size(self.op, "hidden_size", hidden_size)
        bidirectional = flag(self.op, "bidirectional", bidirectional)
        return_sequences = flag(self.op, "return_sequences", return_sequences)
        if flag(self.op, "go_backwards", options.get("go_backwards", False)):
            raise ValueError(
                f"[{self.op}] go_backwards must be False for stacked layers, got True."
            )
        merge_mode = options.get("merge_mode", "concat")
        if bidirectional and merge_mode is None and num_layers > 1:
            raise ValueError(
                f"[{self.op}] merge_mode must give one output for the next layer, got None."
            )
        self.return_state = return_state
        self.layers = []
        width = input_size
        for n in range(num_layers):
            last = n == num_layers - 1
            layer = self._layer_class(
                width,
                hidden_size,
                return_sequences=return_sequences or not last,
                return_state=True,
                bidirectional=bidirectional,
                proj_size=proj_size if last else None,
                **options,
            )
            self.layers.append(layer)
            width = layer.merged_size
        check_numbers(self.op, self)

    def __call__(
        self,
        inputs: mx.array,
        hx: StateLike | None = None,
        timespans: TimespansLike = None,
        *,
        mask: MaskLike | None = None,
        resets: MaskLike | None = None,
        reset_state: Any = None,
        time_delta: TimespansLike = None,
        initial_state: StateLike | None = None,
        initial_states: StateLike | None = None,
    ) -> Any:
        """The layers over a sequence; arguments as in a call of `CfC`, hx a tuple with one state
        for each layer, and so is reset_state. Every layer gets the time spans, the resets and the
        mask; of a feature mask those above the first get which steps had any feature.
        """
        hx = one_of(self.op, hx=hx, initial_state=initial_state, initial_states=initial_states)
        timespans = one_of(self.op, timespans=timespans, time_delta=time_delta)
        output, states = inputs, []
        firsts = self._states(reset_state, "reset_state")
        for layer, state, first in zip(self._layers(), self._states(hx), firsts, strict=True):
            anew = {"resets": resets, "reset_state": first}
            output, state = layer(output, state, timespans, mask=mask, **anew)
            states.append(state)
            if mask is not None and len(states) == 1 and mask.ndim == inputs.ndim:
                mask = (mask != 0).any(axis=-1)
        return (output, tuple(states)) if self.return_state else output

    def step(
        self,
        x: mx.array,
        state: StateLike | None = None,
        ts: TimespansLike = None,
        *,
        resets: Any = None,
        reset_state: Any = None,
    ) -> tuple[mx.array, tuple[Any, ...]]:
        """One step of a stream -> (output [B, O], new states); arguments as in `CfC.step`."""
        states = []
        firsts = self._states(reset_state, "reset_state")
        for layer, below, first in zip(self._layers(), self._states(state), firsts, strict=True):
            x, new_state = layer.step(x, below, ts, resets=resets, reset_state=first)
            states.append(new_state)
        return x, tuple(states)

    def _layers(self) -> list:
        """The layers, which can only be such as return (output, state)."""
        for n, layer in enumerate(self.layers):
            if not isinstance(layer, SequenceLayer):
                raise ValueError(
                    f"[{self.op}] layers.{n} must be a layer of this package, "
                    f"got {type(layer).__name__}."
                )
        return self.layers

    def _one_or_all(self, answers: list[Any]) -> Any:
        return tuple(answers)

    def _states(self, hx: Any, name: str = "hx") -> Sequence[Any]:
        """The state of each layer, None for each when hx is None, 0 when it is 0."""
        if hx is None or (isinstance(hx, (int, float)) and hx == 0):
            return (hx,) * len(self.layers)
        if not isinstance(hx, tuple | list) or len(hx) != len(self.layers):
            got = f"{len(hx)}" if isinstance(hx, tuple | list) else type(hx).__name__
            raise ValueError(
                f"[{self.op}] {name} must be a tuple of {len(self.layers)} states, one per layer, "
                f"got {got}."
            )
        return hx

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        """The shape of the output for inputs of this shape; as in `CfC.compute_output_shape`."""
        *below, last = self.layers
        for layer in below:
            layer.compute_output_shape(input_shape)  # which checks it
            input_shape = (*input_shape[:-1], layer.merged_size)
        return last.compute_output_shape(input_shape)

    def redraw(self, key: KeyLike = None) -> None:
        """Draw new weights in every layer: from `key`, an `mx.random.key`, always the same."""
        with drawing_from(key):
            for layer in self.layers:
                layer.redraw()

    def _built_for(self) -> int | None:
        return self.layers[0]._built_for()

    def build(self, input_shape: ShapeLike) -> None:
        """Make the weights for so many inputs, or for inputs of this shape; as in `CfC.build`."""
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = layer.merged_size

    def _build_for(self, width: int) -> None:
        self.build(width)

    def _is_unbuilt(self) -> bool:
        return any(layer._is_unbuilt() for layer in self.layers)

    def reset_states(self) -> None:
        """Forget the states that `stateful` kept."""
        for layer in self.layers:
            layer.reset_states()

    def explain(
        self,
        shape: Sequence[int],
        *,
        dtype: mx.Dtype = mx.float32,
        scalar_timespans: bool = True,
        resets: bool = False,
    ) -> Plan:
        """What a call with inputs of this shape, and with `resets`, would run and why, as a
        printable `Plan`.
        """
        calls, stepwise, graph, launches, program = (), "", (), (), ""
        for layer in self.layers:
            plan = layer.explain(
                shape, dtype=dtype, scalar_timespans=scalar_timespans, resets=resets
            )
            calls, stepwise, graph = calls + plan.calls, plan.stepwise, graph + plan.graph
            launches, program = launches + plan.launches, plan.program or program
            shape = (*tuple(shape)[:-1], layer.merged_size)
        return Plan(calls, stepwise, graph, launches, program)


class CfCRNN(StackedRNN, Gated):
    """Stacked `CfC` layers; the arguments are those of `StackedRNN` and the options of `CfC`.

    Example:
        >>> stack = CfCRNN(20, 16, num_layers=2, bidirectional=True)
        >>> output, states = stack(mx.zeros((8, 50, 20)))
        >>> output.shape, len(states)
        ((8, 50, 32), 2)
    """

    _layer_class = CfC
    op = "cfc_rnn"


class LTCRNN(StackedRNN, Conducting):
    """Stacked `LTC` layers; the arguments are those of `StackedRNN` and the options of `LTC`.

    Example:
        >>> stack = LTCRNN(20, 16, num_layers=2, return_sequences=False)
        >>> output, states = stack(mx.zeros((8, 50, 20)))
        >>> output.shape, [state.shape for state in states]
        ((8, 16), [(8, 16), (8, 16)])
    """

    _layer_class = LTC
    op = "ltc_rnn"
    layers: list[Any]  # of LTC

    def apply_weight_constraints(self, ranges: Ranges | None = None) -> None:
        """As `LTCCell.apply_weight_constraints`, in every layer."""
        for layer in self.layers:
            layer.apply_weight_constraints(ranges)

    apply_constraints = apply_weight_constraints
