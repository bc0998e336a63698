"""The lists of a sparse LTC in the form that metal/ltc_list_*.metal read: slices of 32 neurons, a
synapse of each per entry; _ltc_kernels.py calls it.
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


class Lists(NamedTuple):
    """The synapses of one matrix [S, H] for the kernels."""

    by_target: Slices
    by_source: Slices
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
