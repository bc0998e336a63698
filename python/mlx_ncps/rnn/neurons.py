"""What a layer tells of its neurons: their names, all their states, conductances, time constants
and gates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..cells import dynamics
from ..cells.dynamics import Conductances, Moment
from ..shown import Shown, wired
from .any_cell import name_of, width_of
from .by_steps import is_spans
from .layout import Layout
from .watched import Run, watching


class Neurons(Shown):
    """What can be asked of its neurons: a layer, or a stack of layers, which answers with a tuple
    of what each layer does.
    """

    op: str

    def _layers(self) -> list[Any]:
        """The layers that are asked."""
        return [self]

    def _one_or_all(self, answers: list[Any]) -> Any:
        """What comes back of the answers of `_layers`."""
        return answers[0]

    def _holders(self) -> list[Any]:
        first = self._layers()[0]
        return [self, first, first.rnn_cell]

    def _shown(self) -> dict[str, Any]:
        first, last = self._layers()[0], self._layers()[-1]
        cell = first.rnn_cell
        units, sized = getattr(cell, "state_size", None), getattr(cell, "output_size", None)
        outputs = None if sized is None or last.merged_size == units else last.merged_size
        told = {"inputs": width_of(cell), "units": units, "outputs": outputs}
        ours = isinstance(cell, dict)
        named = {} if type(first).__name__ in ("CfC", "LTC") else {"cell": name_of(cell)}
        if len(self._layers()) > 1:
            told["layers"] = len(self._layers())
        return named | told | (wired(cell) if ours else {})

    def state_names(self) -> Any:
        """The name of each entry of a state, in the form of the state: a list of H names; (names of
        h, names of c) with mixed memory; (forward, backward) when bidirectional.

        A neuron of a wiring is named by its type and number there: "motor_0" is neuron 0. The state
        of an LTC is in the order of these numbers, in which the motor neurons come first; that of a
        wired CfC in the order of its layers, in which they come last. Other neurons are "neuron_0",
        "neuron_1", ..., and the entries of the LSTM's memory c "memory_motor_0", ....
        Raises ValueError for a cell that doesn't say how large its state is.

        Example:
            >>> from mlx_ncps import CfC
            >>> from mlx_ncps.wirings import AutoNCP
            >>> CfC(3, AutoNCP(5, 1)).state_names()
            ['inter_2', 'inter_3', 'inter_4', 'command_1', 'motor_0']
        """
        return self._one_or_all([_names_of_layer(layer) for layer in self._layers()])

    def states(
        self, inputs: mx.array, hx: Any = None, timespans: Any = None, **options: Any
    ) -> Any:
        """The states of all neurons after every step: [B, T, H] for inputs [B, T, I], laid out as
        the outputs of a call that returns sequences are, and named by `state_names`.

        The arguments are those of a call, and the layer runs as in one: a `stateful` layer goes on
        from its kept state and keeps the new one. A pair of arrays (h, c) with mixed memory, a pair
        (forward, backward) when bidirectional, both in the order of time.

        Example:
            >>> import mlx.core as mx
            >>> from mlx_ncps import CfC
            >>> from mlx_ncps.wirings import AutoNCP
            >>> CfC(3, AutoNCP(16, 4)).states(mx.zeros((8, 20, 3))).shape
            (8, 20, 16)
        """
        return self._of_each((inputs, hx, timespans), options, lambda run: run.states)

    def _of_moments(self, call: tuple, options: dict, function: Callable) -> Any:
        """`function` of the cell and the Moment of every step."""

        def of_run(run: Run) -> Any:
            found = function(run.half.rnn_cell, _moment(run))
            if isinstance(found, Conductances):
                return Conductances(*(_steps(part, run) for part in found))
            return _steps(found, run)

        return self._of_each(call, options, of_run)

    def _of_each(self, call: tuple, options: dict, function: Callable) -> Any:
        """`function` of each run of the call, [B, T, ...], in the layout of the outputs."""
        with watching() as runs:
            self(*call, **options)  # pyright: ignore[reportCallIssue]  a layer has it
        known = {id(run.half): run for run in runs}
        answers = [_answer(layer, call[0], known, function) for layer in self._layers()]
        return self._one_or_all(answers)


class TimeConstants(Neurons):
    """Neurons that have time constants."""

    def time_constants(
        self, inputs: mx.array, hx: Any = None, timespans: Any = None, **options: Any
    ) -> Any:
        """How fast the neurons of an LTC or a CfC are, [B, T, H], in the unit of the elapsed times.
        At step t it is that of inputs t at the state before the step.

        LTC: cm / (sum of conductances), the time constant of the neuron's equation (MATHS 3.6).
        CfC in the mode pure: 1 / (|w_tau| + |ff1|), of its exponential. CfC in another mode:
        1 / |time_a|, the time in which the argument of its gate changes by 1.

        Arguments, layout and order as in `states`; NaN where a mask leaves a step out. Infinite
        where nothing moves the neuron.

        Example:
            >>> import mlx.core as mx
            >>> from mlx_ncps import LTC
            >>> LTC(3, 8).time_constants(mx.zeros((2, 5, 3)), timespans=0.1).shape
            (2, 5, 8)
        """
        return self._of_moments((inputs, hx, timespans), options, dynamics.time_constants)


class Conducting(TimeConstants):
    """Those of an LTC."""

    def conductances(
        self, inputs: mx.array, hx: Any = None, timespans: Any = None, **options: Any
    ) -> Any:
        """What opens the neurons of an LTC: `Conductances` (leak, recurrent, sensory) of [B, T, H]
        each, and their sum `total`; MATHS (3.5). At step t they are those of inputs t at the state
        before the step. Arguments, layout and order as in `states`; NaN where a mask leaves a step
        out.

        Example:
            >>> import mlx.core as mx
            >>> from mlx_ncps import LTC
            >>> LTC(3, 8).conductances(mx.zeros((2, 5, 3))).total.shape
            (2, 5, 8)
        """
        return self._of_moments((inputs, hx, timespans), options, dynamics.conductances)


class Gated(TimeConstants):
    """Those of a CfC."""

    def gates(self, inputs: mx.array, hx: Any = None, timespans: Any = None, **options: Any) -> Any:
        """The gate of each neuron of a CfC at each step, [B, T, H] in [0, 1]: in the mode default
        the new state is (1 - gate) of the first head and gate of the second (MATHS 1). In the mode
        pure it is how far the exponential has run, 1 - exp(-ts / time constant).

        Arguments, layout and order as in `states`; NaN where a mask leaves a step out.

        Example:
            >>> import mlx.core as mx
            >>> from mlx_ncps import CfC
            >>> CfC(3, 8).gates(mx.zeros((2, 5, 3))).shape
            (2, 5, 8)
        """
        return self._of_moments((inputs, hx, timespans), options, dynamics.gates)


def _answer(layer: Any, inputs: Any, runs: dict, function: Callable) -> Any:
    """Of one layer: that of its run, or a pair of both directions."""
    layout, parts = Layout.of(layer.op, inputs, layer.batch_first), []
    for n, half in enumerate(layer._directions):
        part = function(runs[id(half)])
        if n == 1:  # which read backwards
            part = _map(lambda array: array[:, ::-1], part)
        parts.append(_map(layout.sequences, part))
    return tuple(parts) if layer.bidirectional else parts[0]


def _map(function: Callable, part: Any) -> Any:
    """`tree_map`, which would make a plain tuple of Conductances."""
    if isinstance(part, Conductances):
        return Conductances(*map(function, part))
    return tree_map(function, part)


def _names_of_layer(layer: Any) -> Any:
    halves = tuple(_names_of(half) for half in layer._directions)
    return halves if layer.bidirectional else halves[0]


def _names_of(half: Any) -> Any:
    """The names of one direction's state."""
    cell = half.rnn_cell
    if hasattr(cell, "state_names"):
        names = cell.state_names()
    elif isinstance(size := getattr(cell, "state_size", None), int):
        names = [f"neuron_{n}" for n in range(size)]
    elif isinstance(size, tuple | list) and all(isinstance(n, int) for n in size):
        names = tuple([f"state_{k}_{n}" for n in range(one)] for k, one in enumerate(size))
    else:
        raise ValueError(
            f"[{half.op}] state_names want a cell with a state_size, got {name_of(cell)}."
        )
    return (names, [f"memory_{name}" for name in names]) if half.mixed_memory else names


def _moment(run: Run) -> Moment:
    """All steps of a run, side by side in N = B T rows."""
    ts = run.ts.reshape(-1, 1) if is_spans(run.ts) else run.ts
    read = _read(run)
    if not run.half.mixed_memory:
        return Moment(_rows(run.x), read, _rows(run.states), ts)
    h, _ = run.half.lstm(_rows(run.x), read)  # which the cell reads as its state
    return Moment(_rows(run.x), h, _rows(run.states[0]), ts)


def _rows(array: mx.array) -> mx.array:
    """[B, T, n] as [B T, n] in float32."""
    batch, steps, width = array.shape
    return array.reshape(batch * steps, width).astype(mx.float32)


def _read(run: Run) -> Any:
    """The states that the steps read, as `_rows`."""

    def before(states: mx.array, first: mx.array) -> mx.array:
        earlier = mx.concatenate([first[:, None].astype(states.dtype), states], axis=1)
        return earlier[:, : states.shape[1]]

    states = tree_map(before, run.states, run.before)
    return tree_map(_rows, states if run.resets is None else run.resets.read(states))


def _steps(values: mx.array, run: Run) -> mx.array:
    """[B T, H] as [B, T, H], NaN where the mask leaves a step out."""
    values = values.reshape(*run.x.shape[:2], values.shape[-1])
    return values if run.mask is None else mx.where(run.mask[..., None], values, mx.nan)
