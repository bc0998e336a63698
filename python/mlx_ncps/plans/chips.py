"""The cost model: what a call costs on an Apple GPU at best, derived from published figures of the
chips and never measured by us. `plans` prints it.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Chip(NamedTuple):
    """Published figures of one chip."""

    name: str
    cores: int
    gigahertz: float
    gigabytes_per_second: float


CHIPS = (
    Chip("M1", 8, 1.278, 68.25),
    Chip("M3 Max", 40, 1.4, 400.0),
    Chip("M4 Max", 40, 1.58, 546.0),
)
LANES = 128  # float32 lanes of a core, one multiply-add each per cycle
EXP2_CYCLES, RECIPROCAL_CYCLES = 4, 6  # per 128 lanes
LAUNCH_SECONDS = 2.75e-6  # of one launch that waits for the one before


class Work(NamedTuple):
    """What a call computes and moves, however it is launched."""

    multiply_adds: int
    exponentials: int  # each with a reciprocal: a sigmoid, or two of a tanh's three operations
    bytes: int  # inputs and outputs, once


def ltc_work(batch, steps, inputs, units, unfolds, synapses, sensory, training) -> Work:
    """An LTC with that many synapses between neurons and from inputs. The backward computes every
    gate again, and seven multiply-adds beside it.
    """
    gates = batch * steps * (unfolds * synapses + sensory)
    moved = batch * steps * (inputs + units) + 4 * (synapses + sensory)
    if training:
        kept = 2 * batch * steps * unfolds * units
        return Work(gates * (3 + 8), 2 * gates, 4 * (2 * kept + 3 * moved))
    return Work(3 * gates, gates, 4 * moved)


def cfc_work(batch, steps, inputs, units, backbone, heads, training) -> Work:
    """A CfC; the backward multiplies by every weight twice."""
    widths = [inputs + units, *backbone, heads * units]
    weights = sum(n * m for n, m in itertools.pairwise(widths))
    points = sum(backbone) + min(heads, 3) * units
    moved = batch * steps * (inputs + units) + weights
    times = 3 if training else 1
    kept = batch * steps * (sum(backbone) + heads * units) if training else 0
    products = batch * steps * weights
    return Work(times * products, batch * steps * points, 4 * (times * moved + 4 * kept))


class Estimate(NamedTuple):
    """Seconds of each limit on one chip; the call takes at least the largest, and the launches."""

    arithmetic: float
    special: float
    memory: float
    launches: float

    @property
    def seconds(self) -> float:
        """The roofline: the longest of the limits, after the launches."""
        return max(self.arithmetic, self.special, self.memory) + self.launches


def estimate(work: Work, chip: Chip, launches: int, groups: int) -> Estimate:
    """`groups`: threadgroups of the longest launch; fewer than cores leave cores idle."""
    lanes = LANES * min(chip.cores, groups) * chip.gigahertz * 1e9
    return Estimate(
        work.multiply_adds / lanes,
        work.exponentials * (EXP2_CYCLES + RECIPROCAL_CYCLES) / lanes,
        work.bytes / (chip.gigabytes_per_second * 1e9),
        launches * LAUNCH_SECONDS,
    )
