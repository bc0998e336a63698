"""Wirings of the package ncps as ours: the same class, matrices and random state."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import refused
from ..recording import adopter
from .base import Wiring
from .dense import FullyConnected, Random
from .ncp import NCP, AutoNCP

_MAKERS = {
    "FullyConnected": lambda t: FullyConnected(
        t.units, t.output_dim, t._erev_init_seed, t.self_connections
    ),
    "Random": lambda t: Random(t.units, t.output_dim, t.sparsity_level, t._random_seed),
    "AutoNCP": lambda t: AutoNCP(t.units, t._output_size, t._sparsity_level, t._seed),
    "NCP": lambda t: NCP(
        t._num_inter_neurons,
        t._num_command_neurons,
        t._num_motor_neurons,
        t._sensory_fanout,
        t._inter_fanout,
        t._recurrent_command_synapses,
        t._motor_fanin,
        _unused_seed(t._rng),
    ),
}


def is_of_ncps(value: object) -> bool:
    """Whether ``value`` is a wiring of the package ncps."""
    bases = type(value).__mro__
    return any(b.__name__ == "Wiring" and b.__module__.split(".")[0] == "ncps" for b in bases)


def our_wiring(theirs: Any) -> Wiring | None:
    """`theirs`, a wiring of ncps, in our class of the same name, with its matrices as they are, and
    drawing as it would draw if it isn't built yet; None for a class with layers that we don't have.

    Example:
        >>> import ncps.wirings
        >>> our_wiring(ncps.wirings.AutoNCP(28, 4)).units
        28
    """
    if not is_of_ncps(theirs):
        raise refused("our_wiring", "theirs", "a wiring of the package ncps", theirs)
    if isinstance(theirs.adjacency_matrix, mx.array):
        return _of_mlx_port(theirs)
    make = _MAKERS.get(type(theirs).__name__)
    if make is None and theirs.num_layers > 1:
        return None
    ours = make(theirs) if make else Wiring(theirs.units, theirs.output_dim)
    if hasattr(theirs, "_rng"):
        ours._rng = copy.deepcopy(theirs._rng)
    if theirs.input_dim is not None:
        ours.build(theirs.input_dim)
        ours.sensory_adjacency_matrix = theirs.sensory_adjacency_matrix
    ours.adjacency_matrix = theirs.adjacency_matrix
    return ours


def _of_mlx_port(theirs: Any) -> Wiring | None:
    """A built wiring of the MLX port of ncps, which draws other synapses than ncps: ours with its
    matrices; None for one with other layers than an NCP's, and for one that isn't built.
    """
    layers = [list(theirs.get_neurons_of_layer(n)) for n in range(theirs.num_layers)]
    if theirs.input_dim is None:
        return None
    ours = Wiring(theirs.units, theirs.output_dim)
    if len(layers) > 1:
        if len(layers) != 3:
            return None
        inter, command, motor = map(len, layers)
        ours = NCP(inter, command, motor, 1, 1, 1, 1)
        if [ours.get_neurons_of_layer(n) for n in range(3)] != layers:
            return None
    ours.build(theirs.input_dim)
    ours.sensory_adjacency_matrix = np.array(theirs.sensory_adjacency_matrix)
    ours.adjacency_matrix = np.array(theirs.adjacency_matrix)
    return ours


def _unused_seed(rng: np.random.RandomState) -> int:
    """The seed of a RandomState that has drawn nothing, which is the first word of its state; else,
    as ncps doesn't keep it, the default of NCP.
    """
    words = _words(rng)
    seed = int(words[0])
    return seed if np.array_equal(_words(np.random.RandomState(seed)), words) else 22222


def _words(rng: np.random.RandomState) -> np.ndarray:
    return rng.get_state(legacy=False)["state"]["key"]


@adopter
def _adopted(value: Any) -> Any:
    """A wiring of ncps as ours, when that can be; anything else as it is."""
    ours = our_wiring(value) if is_of_ncps(value) else None
    return value if ours is None else ours
