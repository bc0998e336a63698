"""The cost model: what a kernel's launch costs on a GPU at best, derived from published figures of
the chips and never measured by us; `costs` counts what a launch does.

Sources: P. Turner's metal-benchmarks (Apple cores: exp2 4 and reciprocal 6 cycles per 128 lanes,
208 KiB of registers, 60 KiB of threadgroup memory, 32 bytes per cycle from L2, half of that
from beyond), Chips and Cheese (latencies of the M1), NVIDIA's data sheets. The latency of a round
is an estimate of ours.
"""

from __future__ import annotations

from typing import NamedTuple

LANES = 128  # float32 lanes of a core in four schedulers, one multiply-add each per cycle
LAUNCH_SECONDS = 2.75e-6  # of one launch that waits for the one before
ROUND_CYCLES = 120  # shuffles, update, barrier and the read behind it: no other work of the group
MEMORY_CYCLES = 400  # a load from memory that the round waits for
PRODUCT_SHARE = 0.7  # of the multiply-adds that a matrix product of whole tiles reaches


class Chip(NamedTuple):
    """Published figures of one chip; those of a core hold for an NVIDIA multiprocessor."""

    name: str
    cores: int
    gigahertz: float
    gigabytes_per_second: float
    cache: int  # bytes of the L2
    gate_cycles: float = 10.0  # of exp2 and reciprocal per 128 lanes
    registers: int = 53248  # of a core, 32 bits
    shared: int = 60 * 1024  # bytes of threadgroup memory of a core
    threads: int = 3072  # of a core, at most
    architecture: str = ""  # as Metal names it, whose last letter is the class of the chip


CHIPS = (
    Chip("M1", 8, 1.278, 68.25, 768 * 1024, architecture="applegpu_g13g"),
    Chip("M3 Max", 40, 1.4, 400.0, 2**20, architecture="applegpu_g15s"),
    Chip("M4 Max", 40, 1.58, 546.0, 2**20, architecture="applegpu_g16s"),
)
_NVIDIA = {"registers": 65536, "threads": 2048}
H200 = Chip("H200", 132, 1.785, 4800.0, 50 * 2**20, 16.0, shared=228 * 1024, **_NVIDIA)
GTX_1080 = Chip("GTX 1080", 20, 1.607, 320.0, 2 * 2**20, 9.0, shared=96 * 1024, **_NVIDIA)


class Cost(NamedTuple):
    """What one threadgroup of a launch does over its life, counted per thread or group, and what
    the launch moves.
    """

    gates: float = 0  # exp2 with a reciprocal, of all threads
    operations: float = 0  # multiply-adds and others of the kind, of all threads
    loads: float = 0  # from threadgroup memory, one of a SIMD group each
    streamed: float = 0  # bytes that come from L2 again and again
    working_set: float = 0  # bytes that are streamed, each counted once
    rounds: float = 0  # that wait for each other: unfolds, or stages of a step
    memory_rounds: float = 0  # of these, loads from memory that nothing hides
    bytes: float = 0  # of the whole launch's inputs and outputs, once


class Estimate(NamedTuple):
    """Seconds of a launch on a chip, and the name of what bounds it."""

    seconds: float
    bound: str


def resident(chip: Chip, threads: int, registers: int, threadgroup_bytes: int) -> int:
    """Threadgroups that a core holds at a time."""
    most = min(chip.registers // registers, chip.threads) // threads
    if threadgroup_bytes:
        most = min(most, chip.shared // threadgroup_bytes)
    return max(1, most)


def estimate(chip: Chip, cost: Cost, groups: int, threads: int, residents: int) -> Estimate:
    """The launch's slowest limit: a core's units shared by all of its threadgroups; the rounds of
    as many as it can't hold at a time; memory.

    A threadgroup's own rounds add to its own work, as nothing else of it goes on meanwhile.
    """
    rate = chip.gigahertz * 1e9
    per_core = -(-groups // chip.cores)
    at_once = min(per_core, residents)
    wide = 32 if cost.working_set <= chip.cache else 16
    cycles = {
        "exp2, 1/x": cost.gates * chip.gate_cycles / LANES,
        "multiply-adds": cost.operations / LANES,
        "threadgroup memory": cost.loads,
        "L2": cost.streamed / wide,
    }
    bound, work = max(cycles.items(), key=lambda item: item[1])
    idle = max(1.0, LANES / (threads * at_once))  # too few SIMD groups for the four schedulers
    issue = max(cycles["exp2, 1/x"], cycles["multiply-adds"]) * max(1.0, LANES / threads)
    alone = max(work, issue) + cost.rounds * ROUND_CYCLES + cost.memory_rounds * MEMORY_CYCLES
    busy = max(work, max(cycles["exp2, 1/x"], cycles["multiply-adds"]) * idle) * per_core
    waiting = alone * -(-per_core // at_once)
    memory = cost.bytes / (chip.gigabytes_per_second * 1e9)
    if memory > max(busy, waiting) / rate:
        return Estimate(memory, "memory")
    return Estimate(max(busy, waiting) / rate, bound if waiting < 1.3 * busy else "latency")


def product_seconds(chip: Chip, rows: int, depth: int, columns: int) -> float:
    """A matrix product [rows, depth] x [depth, columns] in tiles of 32 x 32 or, where these fill
    the chip, 64 x 64; launch included.
    """
    tiles = {size: -(-rows // size) * -(-columns // size) for size in (64, 32)}
    size = 64 if tiles[64] >= chip.cores else 32
    cycles = -(-tiles[size] // chip.cores) * size * size * depth / (LANES * PRODUCT_SHARE)
    size_bytes = 4 * (rows * depth + depth * columns + rows * columns)
    moved = size_bytes / (chip.gigabytes_per_second * 1e9) if size_bytes > chip.cache else 0.0
    return max(cycles / (chip.gigahertz * 1e9), moved) + LAUNCH_SECONDS
