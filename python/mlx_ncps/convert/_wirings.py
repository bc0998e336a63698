"""Wirings of ncps as ours, and the wiring that an LTC's masks tell."""

from __future__ import annotations

import numpy as np

from ..cells import LTCCell
from ..wirings import NCP, AutoNCP, FullyConnected, Random, Wiring


def our_wiring(op: str, theirs) -> Wiring:
    """The wiring of ncps in our class of the same name, with its matrices as they are."""
    t = theirs
    make = {
        "FullyConnected": lambda: FullyConnected(
            t.units, t.output_dim, t._erev_init_seed, t.self_connections
        ),
        "Random": lambda: Random(t.units, t.output_dim, t.sparsity_level, t._random_seed),
        "AutoNCP": lambda: AutoNCP(t.units, t._output_size, t._sparsity_level, t._seed),
        "NCP": lambda: NCP(
            t._num_inter_neurons,
            t._num_command_neurons,
            t._num_motor_neurons,
            t._sensory_fanout,
            t._inter_fanout,
            t._recurrent_command_synapses,
            t._motor_fanin,
        ),
    }.get(type(t).__name__)
    if make is None and t.num_layers > 1:
        raise ValueError(
            f"[{op}] wiring must be given for the wiring class {type(t).__name__}, got None."
        )
    ours = make() if make else Wiring(t.units, t.output_dim)
    ours.build(t.input_dim)
    return with_matrices(ours, t.adjacency_matrix, t.sensory_adjacency_matrix)


def wiring_of_sizes(inputs: int, units: int, outputs: int) -> Wiring:
    """A wiring without layers and, until it follows an LTC's masks, without synapses."""
    wiring = Wiring(units, outputs)
    wiring.build(inputs)
    return wiring


def with_matrices(wiring: Wiring, adjacency, sensory_adjacency) -> Wiring:
    """`wiring` with these synapses."""
    wiring.adjacency_matrix = adjacency
    wiring.sensory_adjacency_matrix = sensory_adjacency
    return wiring


def follow_masks(cell: LTCCell) -> None:
    """Give the wiring the synapses of the cell's masks; new ones take the sign of erev."""
    matrices = []
    for side, old in (("", cell.wiring.adjacency), ("sensory_", cell.wiring.sensory_adjacency)):
        exists = np.array(cell[f"{side}sparsity_mask"] != 0)
        sign = np.where(np.array(cell[f"{side}erev"] < 0), -1, 1)
        matrices.append(np.where(exists, np.where(old != 0, old, sign), 0).astype(np.int32))
    with_matrices(cell.wiring, *matrices)
