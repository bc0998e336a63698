"""The lists of a sparse LTC in the forms that its kernels read.

metal/ltc_lists_*.metal stream slices of 32 neurons, a synapse of each per entry; metal/ltc_dense_*
keep each neuron's own synapses in registers.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from .geometry import Geometry
from .pieces import SIMD, ceil_div

if TYPE_CHECKING:
    from ...ops.synapses import SynapseLists

SYNAPSE: tuple[str, ...] = ("synapse_s2", "synapse_m2", "synapse_w", "synapse_we")

# SynapseLists -> {Geometry: lists}, made once for equal ones
_made: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Slices(NamedTuple):
    """Synapses by neuron, padded within slices of 32 neurons of similar numbers of synapses."""

    slices: int
    neurons: mx.array  # [32 slices] a neuron, or -1
    begins: mx.array  # [slices + 1] first entry of each slice
    others: mx.array  # [32 entries] the neuron at the synapse's other end
    places: mx.array  # [32 entries] the synapse's place in a flat matrix [S, H]
    real: mx.array  # [32 entries] whether it is a synapse, not padding


class Owned(NamedTuple):
    """Synapses by neuron, padded to as many as the neuron with most has."""

    per: int  # synapses of one of the `parts` threads that share a neuron
    parts: int
    others: mx.array  # [neurons, per * parts] the neuron at the synapse's other end
    places: mx.array  # [neurons, per * parts] the synapse's place in a flat matrix [S, H]
    real: mx.array  # [neurons, per * parts] whether it is a synapse, not padding
    entry_of: mx.array  # [S H] the entry of the synapse at this place, or their number

    def scatter(self, values: mx.array, shape: tuple[int, int]) -> mx.array:
        """Values of the entries [neurons, per * parts] as a matrix [S, H], 0 without a synapse."""
        padded = mx.concatenate([values.reshape(-1), mx.zeros(1)])
        return mx.take(padded, self.entry_of).reshape(shape)


class Lists(NamedTuple):
    """The synapses of one matrix [S, H] for the kernels."""

    by_target: Slices
    by_source: Slices
    of_targets: Owned
    of_sources: Owned
    source: mx.array  # [synapses]
    target: mx.array  # [synapses]
    places: mx.array  # [synapses] in a flat matrix [S, H]
    synapse_of: mx.array  # [S H] the synapse at this place, or their number where there is none

    def pick(self, synapses: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Matrices [S, H] as values of the synapses."""
        return _taken(synapses, self.places)

    def scatter(self, values: mx.array, shape: tuple[int, int]) -> mx.array:
        """Values of the synapses [N, synapses] as matrices [N, S, H], 0 where there is none."""
        padded = mx.pad(values, [(0, 0), (0, 1)])
        return mx.contiguous(mx.take(padded, self.synapse_of, axis=1)).reshape(-1, *shape)


def gather(by: Slices | Owned, synapses: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The matrices [S, H] of SYNAPSE as entries, 0 for padding, and where slices begin."""
    entries = _taken(synapses, by.places, by.real)
    if isinstance(by, Slices):
        entries |= {"neurons": by.neurons, "begins": by.begins}
    return entries


def _taken(
    synapses: Mapping[str, mx.array], places: mx.array, real: mx.array | None = None
) -> dict[str, mx.array]:
    """All four at these places of the flat matrices, 0 where they are not `real`."""
    flat = mx.stack([synapses[name].reshape(-1) for name in SYNAPSE])
    found = mx.take(flat, places, axis=1)
    found = mx.contiguous(found) if real is None else mx.where(real, found, 0.0)
    return dict(zip(SYNAPSE, found, strict=True))


def lists_of(
    geometry: Geometry, synapses: SynapseLists | None
) -> tuple[Lists | None, Lists | None]:
    """(recurrent, sensory) of a SynapseLists or None: Lists where they pay, else None."""
    if synapses is None:
        return None, None
    known = _made.setdefault(synapses, {})
    if geometry not in known:
        s, recurrent, sensory = synapses, None, None
        if geometry.recurrent_lists_pay(s.units, s.source.size):
            recurrent = _lists(geometry, s.source, s.target, s.units, s.units)
        if geometry.lists_pay(s.inputs, s.units, s.sensory_source.size):
            sensory = _lists(geometry, s.sensory_source, s.sensory_target, s.inputs, s.units)
        known[geometry] = recurrent, sensory
    return known[geometry]


def _lists(
    geometry: Geometry, source: np.ndarray, target: np.ndarray, sources: int, targets: int
) -> Lists:
    places = source.astype(np.int64) * targets + target
    index = np.full(sources * targets, source.size)
    index[places] = np.arange(source.size)
    most = int(np.bincount(source, minlength=sources).max(initial=0))
    parts = geometry.lists_forward_parts, geometry.lists_backward_parts(sources, most)
    return Lists(
        _slices(target, source, places, targets),
        _slices(source, target, places, sources),
        _owned(target, source, places, targets, index.size, parts[0]),
        _owned(source, target, places, sources, index.size, parts[1]),
        *(mx.array(a.astype(np.int32)) for a in (source, target, places, index)),
    )


def _slices(owner: np.ndarray, other: np.ndarray, places: np.ndarray, units: int) -> Slices:
    """Slices by `owner`, the neuron of each synapse; most synapses first."""
    counts = np.bincount(owner, minlength=units)
    neurons = np.argsort(-counts, kind="stable")
    neurons = np.concatenate([neurons, np.full(-units % SIMD, -1)])
    lengths = [counts[neurons[at]] for at in range(0, neurons.size, SIMD)]  # the first has most
    begins = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.zeros((2, max(1, begins[-1]), SIMD), np.int64)
    real = np.zeros(entries.shape[1:], bool)
    for at, neuron in enumerate(neurons):
        mine = np.flatnonzero(owner == neuron)
        rows = begins[at // SIMD] + np.arange(mine.size)
        entries[:, rows, at % SIMD] = other[mine], places[mine]
        real[rows, at % SIMD] = True
    arrays = [mx.array(a.reshape(-1).astype(np.int32)) for a in (neurons, begins, *entries)]
    return Slices(len(lengths), *arrays, real=mx.array(real.reshape(-1)))


def _owned(
    owner: np.ndarray, other: np.ndarray, places: np.ndarray, units: int, size: int, parts: int
) -> Owned:
    """The synapses of each `owner`, the neuron of each synapse, in their order."""
    most = int(np.bincount(owner, minlength=units).max(initial=0))
    per = max(1, ceil_div(most, parts))
    entries = np.zeros((2, units, per * parts), np.int64)
    real = np.zeros(entries.shape[1:], bool)
    index = np.full(size, real.size)
    for neuron in range(units):
        mine = np.flatnonzero(owner == neuron)
        entries[:, neuron, : mine.size] = other[mine], places[mine]
        real[neuron, : mine.size] = True
        index[places[mine]] = neuron * per * parts + np.arange(mine.size)
    others, at, index = (mx.array(a.astype(np.int32)) for a in (*entries, index))
    return Owned(per, parts, others, at, mx.array(real), index)
