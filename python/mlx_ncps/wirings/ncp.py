"""NCP and AutoNCP: neural circuit policies (Lechner et al. 2020), drawn in the order of ncps."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .. import limits
from ..checks import brief
from . import _checks, _draws
from .base import Wiring

POLARITIES = [-1, 1]


class NCP(Wiring):
    """Inputs reach inter neurons, these command neurons, these each other and the motor neurons.

    Neuron ids run motor, command, inter; the layers of a wired CfC run inter, command, motor. All
    synapses are drawn in :meth:`build`, as in ncps.

    Args:
        inter_neurons, command_neurons, motor_neurons: sizes of the layers; motor neurons are the
            outputs.
        sensory_fanout: synapses from each input to inter neurons.
        inter_fanout: synapses from each inter neuron to command neurons.
        recurrent_command_synapses: draws of a synapse among the command neurons; one may be drawn
            twice.
        motor_fanin: synapses to each motor neuron from command neurons.
        seed: seed of places and polarities, as in ncps.
        input_dim: number of inputs; given, the wiring is built at once.
        key: an ``mx.random.key`` in place of the seed: MLX's random numbers, so not the wiring of
            ncps.

    Raises:
        ValueError: a layer is empty, or a fan-out or fan-in exceeds the layer that it draws from.

    Example:
        >>> wiring = NCP(10, 6, 2, sensory_fanout=4, inter_fanout=3, recurrent_command_synapses=8,
        ...              motor_fanin=4, input_dim=5)
        >>> wiring.units, wiring.output_dim
        (18, 2)
    """

    def __init__(
        self,
        inter_neurons: int,
        command_neurons: int,
        motor_neurons: int,
        sensory_fanout: int,
        inter_fanout: int,
        recurrent_command_synapses: int,
        motor_fanin: int,
        seed: int = 22222,
        *,
        input_dim: int | None = None,
        key: mx.array | None = None,
    ) -> None:
        op = type(self).__name__
        inter = _checks.integer(op, "inter_neurons", inter_neurons, 1)
        command = _checks.integer(op, "command_neurons", command_neurons, 1)
        motor = _checks.integer(op, "motor_neurons", motor_neurons, 1)
        super().__init__(inter + command + motor, motor)
        self._inter, self._command, self._motor = inter, command, motor
        self._sensory_fanout = self._degree(
            "sensory_fanout", sensory_fanout, "inter_neurons", inter
        )
        self._inter_fanout = self._degree("inter_fanout", inter_fanout, "command_neurons", command)
        self._motor_fanin = self._degree("motor_fanin", motor_fanin, "command_neurons", command)
        self._recurrent = _checks.integer(
            op, "recurrent_command_synapses", recurrent_command_synapses, 0
        )
        most = min(max(10_000, 32 * command**2), limits.MAX_DRAWS)
        _checks.at_most(op, "recurrent_command_synapses", self._recurrent, most)
        self._seed = _checks.seed(op, "seed", seed)
        self._key = _draws.checked_key(op, key)
        self._rng = _draws.source(np.random.RandomState, self._seed, self._key)
        if input_dim is not None:
            self.build(input_dim)

    def _degree(self, name: str, value: Any, layer_name: str, layer_size: int) -> int:
        value = _checks.integer(self._op, name, value, 0)
        return _checks.at_most(self._op, name, value, layer_size, layer_name)

    @property
    def num_layers(self) -> int:
        """3: inter, command, motor."""
        return 3

    def get_neurons_of_layer(self, layer_id: int) -> list[int]:
        """Neuron ids of layer 0 (inter), 1 (command) or 2 (motor), as a list."""
        layer_id = _checks.integer("get_neurons_of_layer", "layer_id", layer_id, 0, self.num_layers)
        first = (self._motor + self._command, self._motor, 0)[layer_id]
        return list(range(first, first + (self._inter, self._command, self._motor)[layer_id]))

    def get_type_of_neuron(self, neuron_id: int) -> str:
        """``"motor"``, ``"command"`` or ``"inter"``."""
        neuron_id = _checks.integer("get_type_of_neuron", "neuron_id", neuron_id, 0, self.units)
        if neuron_id < self._motor:
            return "motor"
        return "command" if neuron_id < self._motor + self._command else "inter"

    def build(self, input_dim: int) -> None:
        """Draws all synapses; see :meth:`Wiring.build`."""
        super().build(input_dim)
        inter, command, motor = (np.array(self.get_neurons_of_layer(n)) for n in range(3))
        sensory = np.array(self.sensory_adjacency)
        adjacency = np.array(self.adjacency)
        inputs = np.arange(input_dim)
        self._spread(sensory, inputs, inter, self._sensory_fanout)
        # ncps bounds this repair by the command layer, not by the inter layer that it draws from
        self._spread(adjacency, inter, command, self._inter_fanout, repair_limit=len(command))
        self._recur(adjacency, command)
        self._spread(adjacency.T, motor, command, self._motor_fanin)
        self.sensory_adjacency_matrix = sensory
        self.adjacency_matrix = adjacency

    def _spread(
        self,
        matrix: np.ndarray,
        near: np.ndarray,
        far: np.ndarray,
        degree: int,
        repair_limit: int | None = None,
    ) -> None:
        """Links each of ``near`` to ``degree`` of ``far``, then those of ``far`` left out."""
        missed = set(far.tolist())
        for a in near:
            drawn = self._rng.choice(far, size=degree, replace=False)
            missed.difference_update(drawn.tolist())
            matrix[a, drawn] = _draws.one_by_one(self._rng, POLARITIES, len(drawn))
        mean = max(len(near) * degree // len(far), 1)
        for b in sorted(missed):
            size = min(mean, repair_limit or len(near))
            drawn = self._rng.choice(near, size=size, replace=False)
            matrix[drawn, b] = _draws.one_by_one(self._rng, POLARITIES, size)

    def _recur(self, matrix: np.ndarray, command: np.ndarray) -> None:
        for _ in range(self._recurrent):
            src = self._rng.choice(command)
            dest = self._rng.choice(command)
            matrix[src, dest] = self._rng.choice(POLARITIES)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the matrices if they were edited since."""
        arguments = {
            "inter_neurons": self._inter,
            "command_neurons": self._command,
            "motor_neurons": self._motor,
            "sensory_fanout": self._sensory_fanout,
            "inter_fanout": self._inter_fanout,
            "recurrent_command_synapses": self._recurrent,
            "motor_fanin": self._motor_fanin,
            "seed": self._seed,
            "key": None if self._key is None else self._key.tolist(),
        }
        return self._config_of(NCP, arguments)


class AutoNCP(NCP):
    """NCP from a number of neurons, a number of outputs and a sparsity.

    Of the ``units - output_size`` other neurons 40 % are command neurons, the rest inter neurons.
    Fan-outs, fan-in and half the number of recurrent draws are ``1 - sparsity_level`` times the
    size of the layer that they draw from.

    Args:
        units: number of neurons.
        output_size: number of motor neurons, less than ``units - 2``; also spelled ``output_dim``.
        sparsity_level: in [0.1, 1.0].
        seed: seed of places and polarities, as in ncps.
        input_dim: number of inputs; given, the wiring is built at once.
        key: an ``mx.random.key`` in place of the seed: MLX's random numbers, so not the wiring of
            ncps.

    Raises:
        ValueError: a size is not a positive integer, ``output_size`` or ``sparsity_level`` is out
            of range, or ``output_size`` is missing or given twice.

    Example:
        >>> wiring = AutoNCP(28, 4, input_dim=20)
        >>> [len(wiring.get_neurons_of_layer(n)) for n in range(wiring.num_layers)]
        [15, 9, 4]
    """

    def __init__(
        self,
        units: int,
        output_size: int | None = None,
        sparsity_level: float = 0.5,
        seed: int = 22222,
        *,
        output_dim: int | None = None,
        input_dim: int | None = None,
        key: mx.array | None = None,
    ) -> None:
        if (output_size is None) == (output_dim is None):
            raise ValueError(
                "[AutoNCP] wanted either output_size or output_dim, "
                f"got {brief(output_size)} and {brief(output_dim)}."
            )
        units = _checks.integer("AutoNCP", "units", units, 1)
        name = "output_dim" if output_size is None else "output_size"
        output_size = output_dim if output_size is None else output_size
        output_size = _checks.integer("AutoNCP", name, output_size, 1)
        if output_size >= units - 2:
            raise ValueError(
                f"[AutoNCP] {name} must be less than units - 2 = {units - 2}, got {output_size}."
            )
        sparsity_level = _checks.share("AutoNCP", "sparsity_level", sparsity_level, 0.1, 1.0)
        density = 1.0 - sparsity_level
        rest = units - output_size
        command = max(int(0.4 * rest), 1)
        inter = rest - command
        super().__init__(
            inter_neurons=inter,
            command_neurons=command,
            motor_neurons=output_size,
            sensory_fanout=max(int(inter * density), 1),
            inter_fanout=max(int(command * density), 1),
            recurrent_command_synapses=max(int(command * density * 2), 1),
            motor_fanin=max(int(command * density), 1),
            seed=seed,
            key=key,
        )
        self.sparsity_level = sparsity_level
        if input_dim is not None:
            self.build(input_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the matrices if they were edited since."""
        arguments = {
            "units": self.units,
            "output_size": self.output_dim,
            "sparsity_level": self.sparsity_level,
            "seed": self._seed,
            "key": None if self._key is None else self._key.tolist(),
        }
        return self._config_of(AutoNCP, arguments)
