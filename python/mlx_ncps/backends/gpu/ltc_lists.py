"""The lists of a sparse LTC in the forms that its kernels read; _ltc_kernels.py calls it.

metal/ltc_list_*.metal stream slices of 32 neurons, a synapse of each per entry; metal/ltc_dense_*
keep each neuron's own synapses in registers.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from . import _launch

_lists = weakref.WeakKeyDictionary()  # SynapseLists -> Lists, made once for equal ones


class Slices(NamedTuple):
    """Synapses by neuron, padded within slices of 32 neurons of similar numbers of synapses."""

    neurons: mx.array  # [32 slices] a neuron, or -1
    begins: mx.array  # [slices + 1] first entry of each slice
    others: mx.array  # [32 entries] the neuron at the synapse's other end
    places: mx.array  # [32 entries] the synapse's place in a flat matrix [S, H]
    real: mx.array  # [32 entries] whether it is a synapse, not padding

    def gather(self, synapses) -> list:
        """Matrices [S, H] as entries, 0 for padding."""
        return [mx.where(self.real, mx.take(p.reshape(-1), self.places), 0.0) for p in synapses]


class Owned(NamedTuple):
    """Synapses by neuron, padded to as many as the neuron with most has."""

    per: int  # synapses of one of the `parts` threads that share a neuron
    parts: int
    others: mx.array  # [neurons, per * parts] the neuron at the synapse's other end
    places: mx.array  # [neurons, per * parts] the synapse's place in a flat matrix [S, H]
    real: mx.array  # [neurons, per * parts] whether it is a synapse, not padding
    index: mx.array  # [S H] the entry of the synapse at this place, or their number

    def gather(self, synapses) -> list:
        """Matrices [S, H] as entries, 0 for padding."""
        return [mx.where(self.real, mx.take(p.reshape(-1), self.places), 0.0) for p in synapses]

    def scatter(self, values, shape):
        """Values of the entries [neurons, per * parts] as a matrix [S, H], 0 without a synapse."""
        padded = mx.concatenate([values.reshape(-1), mx.zeros(1)])
        return mx.take(padded, self.index).reshape(shape)


class Lists(NamedTuple):
    """The synapses of one matrix [S, H] for the kernels."""

    by_target: Slices
    by_source: Slices
    of_targets: Owned
    of_sources: Owned
    source: mx.array  # [synapses]
    target: mx.array  # [synapses]
    places: mx.array  # [synapses] in a flat matrix [S, H]
    index: mx.array  # [S H] the synapse at this place, or their number where there is none

    def pick(self, synapses) -> list:
        """Matrices [S, H] as values of the synapses."""
        return [mx.take(p.reshape(-1), self.places) for p in synapses]

    def scatter(self, values, shape):
        """Values of the synapses as a matrix [S, H], 0 where there is no synapse."""
        padded = mx.concatenate([values, mx.zeros(1)])
        return mx.take(padded, self.index).reshape(shape)


def lists_of(synapses) -> tuple:
    """(recurrent, sensory) of a SynapseLists or None: Lists where they pay, else None."""
    if synapses is None:
        return None, None
    lists = _lists.get(synapses)
    if lists is None:
        s = synapses
        lists = _lists[synapses] = (
            _make(s.source, s.target, s.units, s.units)
            if _launch.recurrent_list_pays(s.units, s.source.size)
            else None,
            _make(s.sensory_source, s.sensory_target, s.inputs, s.units)
            if _launch.list_pays(s.inputs, s.units, s.sensory_source.size)
            else None,
        )
    return lists


def _make(source, target, sources, targets) -> Lists:
    places = source.astype(np.int64) * targets + target
    index = np.full(sources * targets, source.size)
    index[places] = np.arange(source.size)
    return Lists(
        _slices(target, source, places, targets),
        _slices(source, target, places, sources),
        _owned(target, source, places, targets, index.size, _launch.LISTED_FORWARD_PARTS),
        _owned(source, target, places, sources, index.size, _launch.listed_backward_parts(sources)),
        *(mx.array(a.astype(np.int32)) for a in (source, target, places, index)),
    )


def _slices(owner, other, places, units) -> Slices:
    """Slices by `owner`, the neuron of each synapse; most synapses first."""
    simd = _launch.SIMD
    counts = np.bincount(owner, minlength=units)
    neurons = np.argsort(-counts, kind="stable")
    neurons = np.concatenate([neurons, np.full(-units % simd, -1)])
    lengths = [counts[neurons[at]] for at in range(0, neurons.size, simd)]  # the first has most
    begins = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.zeros((2, max(1, begins[-1]), simd), np.int64)
    real = np.zeros(entries.shape[1:], bool)
    for at, neuron in enumerate(neurons):
        mine = np.flatnonzero(owner == neuron)
        rows = begins[at // simd] + np.arange(mine.size)
        entries[:, rows, at % simd] = other[mine], places[mine]
        real[rows, at % simd] = True
    arrays = (a.reshape(-1).astype(np.int32) for a in (neurons, begins, *entries))
    return Slices(*map(mx.array, arrays), mx.array(real.reshape(-1)))


def _owned(owner, other, places, units, size, parts) -> Owned:
    """The synapses of each `owner`, the neuron of each synapse, in their order."""
    most = int(np.bincount(owner, minlength=units).max(initial=0))
    per = max(1, _launch.ceil_div(most, parts))
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
