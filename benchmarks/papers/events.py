"""Bit strings as events, the data of event-based XOR (Hasani et al. 2022)."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

PAD = 32  # strings have 2 .. PAD - 1 bits; elapsed times are divided by it
STRINGS = ((100_000, 1234984), (10_000, 48736))  # number and seed of those to train and to test


class Events(NamedTuple):
    """Bit strings as events: N samples, the events of each at the front of PAD places."""

    bits: np.ndarray  # [N, PAD] 0 or 1, the bit of each run
    elapsed: np.ndarray  # [N, PAD] time from the event before to this one, in units of PAD bits
    count: np.ndarray  # [N] number of events
    parity: np.ndarray  # [N] 0 or 1


def make_events(samples: int, seed: int) -> Events:
    """Random strings of 2 .. PAD - 1 bits, lengths and bits uniform, as events. With the numbers
    and seeds of STRINGS they are the paper's own: its code draws from the same generator.

    The event of a run comes at its first bit, and says how many bits have come since the event
    before, this one included: so the first has an elapsed time of 1 bit. What is left after the
    last event is a last event with the last bit, unless nothing is left.
    """
    rng = np.random.RandomState(seed)
    events = Events(
        np.zeros((samples, PAD), np.float32),
        np.zeros((samples, PAD), np.float32),
        np.zeros(samples, np.int32),
        np.zeros(samples, np.int32),
    )
    for n in range(samples):
        string = rng.randint(0, 2, rng.randint(2, PAD))
        bits, elapsed = encode(string)
        events.bits[n, : len(bits)] = bits
        events.elapsed[n, : len(bits)] = elapsed / PAD
        events.count[n] = len(bits)
        events.parity[n] = string.sum() % 2
    return events


def encode(string):
    """A bit string as (bit of each event, bits that have come since the event before)."""
    starts = np.flatnonzero(np.diff(string, prepend=1 - string[0]))
    bits = string[starts]
    elapsed = np.diff(starts, prepend=-1)
    left = len(string) - 1 - starts[-1]
    if left > 0:
        bits, elapsed = np.append(bits, string[-1]), np.append(elapsed, left)
    return bits, elapsed


def batch_of(events: Events, chosen):
    """Inputs [B, T, 1], timespans [B, T], mask [B, T], parity [B]; T is the most events of any
    sample, since a masked step changes nothing.
    """
    steps = int(events.count[chosen].max())
    mask = np.arange(steps) < events.count[chosen][:, None]
    arrays = events.bits[chosen, :steps, None], events.elapsed[chosen, :steps], mask
    return *map(mx.array, arrays), mx.array(events.parity[chosen])
