"""FullyConnected and Random: wirings of one layer, drawn as ncps draws (``default_rng``)."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from . import _checks, _draws
from .base import Wiring

POLARITIES = [-1, 1, 1]  # two synapses in three are excitatory


class FullyConnected(Wiring):
    """Every neuron reaches every neuron, and every input every neuron.

    Args:
        units: number of neurons H.
        output_dim: number of motor neurons; default ``units``.
        erev_init_seed: seed of the polarities, as in ncps.
        self_connections: whether a neuron reaches itself.
        input_dim: number of inputs; given, the wiring is built at once.
        key: an ``mx.random.key`` in place of the seed: MLX's random numbers, so not the polarities
            of ncps.

    Raises:
        ValueError: a size is not a positive integer, or ``output_dim`` exceeds ``units``.

    Example:
        >>> FullyConnected(8, 2, input_dim=3).synapse_count
        64
    """

    def __init__(
        self,
        units: int,
        output_dim: int | None = None,
        erev_init_seed: int = 1111,
        self_connections: bool = True,
        *,
        input_dim: int | None = None,
        key: mx.array | None = None,
    ) -> None:
        super().__init__(units, units if output_dim is None else output_dim)
        self.self_connections = _checks.flag(self._op, "self_connections", self_connections)
        self._seed = _checks.seed(self._op, "erev_init_seed", erev_init_seed)
        self._key = _draws.checked_key(self._op, key)
        self._rng = _draws.source(np.random.default_rng, self._seed, self._key)
        used = np.ones((self.units, self.units), bool)
        if not self.self_connections:
            np.fill_diagonal(used, False)
        adjacency = np.zeros(used.shape, np.int32)
        adjacency[used] = self._rng.choice(POLARITIES, size=int(used.sum()))
        self.adjacency_matrix = adjacency
        if input_dim is not None:
            self.build(input_dim)

    def build(self, input_dim: int) -> None:
        """Draws a synapse from every input to every neuron; see :meth:`Wiring.build`."""
        super().build(input_dim)
        self.sensory_adjacency_matrix = self._rng.choice(
            POLARITIES, size=(self.input_dim, self.units)
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the matrices if they were edited since."""
        arguments = {
            "units": self.units,
            "output_dim": self.output_dim,
            "erev_init_seed": self._seed,
            "self_connections": self.self_connections,
            "key": None if self._key is None else self._key.tolist(),
        }
        return self._config_of(FullyConnected, arguments)


class Random(Wiring):
    """Synapses at random places, the same share of them between neurons and from the inputs.

    Args:
        units: number of neurons H.
        output_dim: number of motor neurons; default ``units``.
        sparsity_level: share of missing synapses, in [0, 1).
        random_seed: seed of places and polarities, as in ncps.
        input_dim: number of inputs; given, the wiring is built at once.
        key: an ``mx.random.key`` in place of the seed: MLX's random numbers, so not the wiring of
            ncps.

    Raises:
        ValueError: a size is not a positive integer, ``output_dim`` exceeds ``units``, or
            ``sparsity_level`` is outside [0, 1).

    Example:
        >>> Random(8, 2, sparsity_level=0.5, input_dim=3).synapse_count
        32
    """

    def __init__(
        self,
        units: int,
        output_dim: int | None = None,
        sparsity_level: float = 0.0,
        random_seed: int = 1111,
        *,
        input_dim: int | None = None,
        key: mx.array | None = None,
    ) -> None:
        super().__init__(units, units if output_dim is None else output_dim)
        self.sparsity_level = _checks.share(
            self._op, "sparsity_level", sparsity_level, 0, 1, open_end=True
        )
        self._seed = _checks.seed(self._op, "random_seed", random_seed)
        self._key = _draws.checked_key(self._op, key)
        self._rng = _draws.source(np.random.default_rng, self._seed, self._key)
        self.adjacency_matrix = self._sparse(self.units, draws_each=1)
        if input_dim is not None:
            self.build(input_dim)

    def build(self, input_dim: int) -> None:
        """Draws the sensory synapses; see :meth:`Wiring.build`."""
        super().build(input_dim)
        # ncps draws a sensory polarity twice and keeps the second
        self.sensory_adjacency_matrix = self._sparse(input_dim, draws_each=2)

    def _sparse(self, rows: int, draws_each: int) -> np.ndarray:
        """A matrix [rows, H] with its share of synapses; the last drawn polarity counts."""
        count = int(np.round(rows * self.units * (1 - self.sparsity_level)))
        places = self._rng.choice(rows * self.units, size=count, replace=False)
        polarities = self._rng.choice(POLARITIES, size=(count, draws_each))
        matrix = np.zeros((rows, self.units), np.int32)
        matrix.flat[places] = polarities[:, -1]
        return matrix

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the matrices if they were edited since."""
        arguments = {
            "units": self.units,
            "output_dim": self.output_dim,
            "sparsity_level": self.sparsity_level,
            "random_seed": self._seed,
            "key": None if self._key is None else self._key.tolist(),
        }
        return self._config_of(Random, arguments)
