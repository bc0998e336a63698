"""Launch geometry of the GPU kernels of metal/, in one place: pure functions of the shape, so that
results depend on nothing else; _ltc_kernels.py and _cfc_kernels.py call them.

Limits of every Apple GPU: SIMD groups of 32, 32 KiB of threadgroup memory, 1024 threads per
threadgroup, fewer for a pipeline that needs many registers (1024 threads up to 52 float registers
each, 512 up to 104, 384 up to 128). Every kernel tells the compiler how many threads it is launched
with (`_kernels.THREADS_BOUND`), so that its pipeline allows them.

One launch also stays far below the seconds after which a watchdog ends it, and below 2^32 elements
of an array, as kernels count in 32 bits: `Piece` says how much of a call it takes.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

SIMD = 32
MEMORY = 32 * 1024  # bytes of threadgroup memory
THREADS = 512  # of a threadgroup, at most

DENSE_UNITS = 64  # up to here all synapses of an LTC stay in registers
LISTED_FORWARD_PARTS = 4  # threads that share a target whose few synapses stay in registers
LISTED_FORWARD_PER, LISTED_BACKWARD_PER = 14, 7  # of a thread, in 104 registers: 5 and 9 a synapse
LAUNCH_UNFOLDS = 6 * 1024  # of an LTC: each waits for the one before
LAUNCH_STEPS = 4096  # of a CfC, likewise
LAUNCH_ELEMENTS = 2**30  # of the largest array: indices are 32 bits wide
LAUNCH_GATES, ROW_GATES = 2**30, 2**25  # of an LTC, and of one batch row, which one core computes
LAUNCH_PRODUCTS, ROW_PRODUCTS = 2**33, 2**28  # of a CfC's weights
PRODUCT_WEIGHTS = 2**18  # of a CfC's step, from which MLX's products beat streamed weights
MIN_GROUPS = {"cuda": 128}  # by backend: threadgroups that rows are not merged below, about the
MIN_GROUPS_APPLE = 8  # cores of the chips where merging pays most (docs/metal_kernels.md)
LTC_ROWS = 8  # that share a load, at most: from there on arithmetic is the limit
LIST_BATCH = 256  # rows from which the forward of a wiring streams its lists
LIST_ROWS = 0  # rows of a SIMD group of the streamed lists; 0: as the batch allows
DENSE_GROUPS = 256  # threadgroups of the dense backward, which own a slab of gradients each


class Launch(NamedTuple):
    """Threadgroups and threads of each, along x, y, z."""

    groups: tuple
    threads: tuple

    @property
    def grid(self) -> tuple:
        """Threads in all, as mx.fast.metal_kernel counts."""
        return tuple(g * t for g, t in zip(self.groups, self.threads, strict=True))


class Blocked(NamedTuple):
    """A launch of threadgroups that each own `rows` batch rows; `parts` threads share a neuron."""

    launch: Launch
    rows: int
    parts: int


def ceil_div(n: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-n // by)


def round_up(n: int, to: int = SIMD) -> int:
    """The next multiple of `to`."""
    return ceil_div(n, to) * to


class Piece(NamedTuple):
    """What one launch takes of a call: so many batch rows and steps, at most."""

    rows: int
    steps: int


def _piece(batch: int, steps: int, elements: int, work: int, most: int, most_of_row: int) -> Piece:
    """elements: of the largest array, work: gates or products; of one row's step."""
    elements, work = max(1, elements), max(1, work)
    rows = max(1, min(batch, LAUNCH_ELEMENTS // elements, most // work))
    steps = min(steps, LAUNCH_ELEMENTS // (rows * elements), most // (rows * work))
    return Piece(rows, max(1, min(steps, most_of_row // work)))


def ltc_piece(
    batch: int, inputs: int, units: int, unfolds: int, synapses: int, sensory: int
) -> Piece:
    """Of an LTC with so many synapses that a kernel computes, those of the inputs apart."""
    elements = max(2 * unfolds * units, inputs * ceil_div(units, SIMD))
    work = max(unfolds * synapses, sensory)
    steps = LAUNCH_UNFOLDS // unfolds
    return _piece(batch, steps, elements, work, LAUNCH_GATES, ROW_GATES)


def cfc_piece(batch: int, inputs: int, units: int, widths: tuple, heads: int) -> Piece:
    """Of a CfC."""
    elements = max(inputs, sum(widths) + max(heads, 3) * units)
    work = sum(n * m for n, m in itertools.pairwise((units, *widths, heads * units)))
    return _piece(batch, LAUNCH_STEPS, elements, work, LAUNCH_PRODUCTS, ROW_PRODUCTS)


def ltc_excess(inputs: int, units: int, unfolds: int) -> str:
    """Why no launch may take a single step of a single row of this LTC; "" when one may."""
    if unfolds > LAUNCH_UNFOLDS:
        return f"a launch has at most {LAUNCH_UNFOLDS} unfolds, got {unfolds}"
    if max(unfolds * units, inputs) * units > 2 * ROW_GATES:
        return (
            f"a step of {inputs} inputs, {units} neurons and {unfolds} unfolds is more than a "
            "launch may take"
        )
    return ""


def cfc_excess(inputs: int, units: int, widths: tuple) -> str:
    """The same for a CfC."""
    edges = (inputs + units, *widths, 4 * units)
    if max(n * m for n, m in itertools.pairwise(edges)) > LAUNCH_ELEMENTS:
        return f"its weights of {inputs} inputs and {units} neurons are more than a launch may take"
    return ""


def neurons_by_rows(units: int, rows: int) -> Launch:
    """A thread per (neuron, row)."""
    return Launch((ceil_div(units, SIMD), ceil_div(rows, 8), 1), (SIMD, 8, 1))


def sensory_rows(rows: int, units: int) -> int:
    """Rows that share a load of a synapse in the kernels of the inputs: 8 where 1024 SIMD groups
    are left, else 4.
    """
    return 8 if rows * units >= 2**18 else 4


def sensory_forward(rows: int, units: int) -> Launch:
    """A thread per (target, block of sensory_rows rows)."""
    return neurons_by_rows(units, ceil_div(rows, sensory_rows(rows, units)))


def synapse_chunks(rows: int, sources: int, units: int) -> int:
    """Chunks of rows whose gradients are summed apart: of >= 64 rows, while 2^19 threads last."""
    return max(1, min(ceil_div(rows, 64), 2**19 // (sources * units)))


def synapse_backward(sources: int, units: int, chunks: int) -> Launch:
    """A thread per (synapse, chunk); a SIMD group per (32 targets, source, chunk)."""
    y = min(8, sources)
    return Launch((ceil_div(units, SIMD), ceil_div(sources, y), chunks), (SIMD, y, 1))


def dense(units: int, groups: int, parts: int) -> Launch:
    """`parts` threads per neuron; every padded neuron that others read has its threads."""
    threads = round_up(parts * round_up(units, parts))
    return Launch((groups, 1, 1), (threads, 1, 1))


def dense_fits(units: int) -> bool:
    """Whether the kernels with synapses in registers can run: forward 4, backward 8 threads per
    neuron.
    """
    return units <= DENSE_UNITS and dense(units, 1, 8).threads[0] <= THREADS


def listed_backward_parts(units: int) -> int:
    """Threads that share a source whose few synapses stay in registers."""
    return 8 if units <= DENSE_UNITS else 4


def listed_fits(units: int, forward_per: int, backward_per: int) -> bool:
    """Whether a sparse wiring's synapses stay in registers, with so many per thread."""
    parts = max(LISTED_FORWARD_PARTS, listed_backward_parts(units))
    threads = dense(units, 1, parts).threads[0]
    few = forward_per <= LISTED_FORWARD_PER and backward_per <= LISTED_BACKWARD_PER
    return few and threads <= THREADS


def streams_lists(batch: int, backend: str) -> bool:
    """Whether the forward of a sparse wiring streams its lists although they fit registers: rows
    that share a load waste fewer lanes on padding, once each core has many rows.
    """
    return batch >= LIST_BATCH and backend not in MIN_GROUPS


def dense_groups(batch: int) -> int:
    """Threadgroups of the dense backward."""
    return min(batch, DENSE_GROUPS)


def blocked(
    batch: int,
    neurons: int,
    bytes_per_row: int,
    most_rows: int,
    backend: str,
    bytes_shared: int = 0,
) -> Blocked | None:
    """Threadgroups of several batch rows, striding over `neurons`; None when not one row fits.

    Rows: a power of two up to `most_rows`, as memory and a batch of at least MIN_GROUPS
    threadgroups allow. Parts: up to 4 threads per neuron while they stay within `THREADS`.
    """
    memory = MEMORY - bytes_shared
    if bytes_per_row > memory:
        return None
    groups = MIN_GROUPS.get(backend, MIN_GROUPS_APPLE)
    most = max(1, min(memory // bytes_per_row, batch // groups, most_rows))
    rows = 1 << (most.bit_length() - 1)
    parts = next((p for p in (4, 2) if round_up(p * neurons) <= THREADS), 1)
    threads = min(round_up(parts * neurons), THREADS)
    return Blocked(Launch((ceil_div(batch, rows), 1, 1), (threads, 1, 1)), rows, parts)


def streamed_forward(batch: int, units: int, backend: str = "") -> Blocked | None:
    """Each row keeps v, double-buffered."""
    return blocked(batch, units, 2 * 4 * round_up(units), LTC_ROWS, backend)


def streamed_backward(batch: int, units: int, backend: str = "") -> Blocked | None:
    """Each row keeps dn, dd and dv."""
    return blocked(batch, units, 3 * 4 * round_up(units), LTC_ROWS, backend)


def list_pays(sources: int, units: int, synapses: int) -> bool:
    """Whether a list of the synapses beats the dense kernels: half of them missing."""
    return 0 < 2 * synapses <= sources * units


def recurrent_list_pays(units: int, synapses: int) -> bool:
    """`list_pays`, and one row's state fits threadgroup memory."""
    return list_pays(units, units, synapses) and 3 * 4 * round_up(units) <= MEMORY


class Listed(NamedTuple):
    """A launch of threadgroups of `simds` SIMD groups that each own `rows` batch rows."""

    launch: Launch
    rows: int
    simds: int


def listed(batch: int, units: int, backend: str = "") -> Listed:
    """The kernels of streamed lists: dn, dd and dv of each row in threadgroup memory.

    Rows: up to 8, which share each load. Few cores gain by more rows, many cores by more SIMD
    groups; the root of a quarter of the batch loses to neither by more than a factor of 2. SIMD
    groups share nothing, and join only where 8 cores have several each.
    """
    share = (
        batch // MIN_GROUPS[backend]
        if backend in MIN_GROUPS
        else LIST_ROWS or math.isqrt(batch // 4)
    )
    fits = MEMORY // (3 * 4 * round_up(units))
    rows = 1 << (max(1, min(LTC_ROWS, fits, share)).bit_length() - 1)
    simds = max(1, min(4, fits // rows, batch // (64 * rows)))
    return Listed(Launch((ceil_div(batch, rows * simds), 1, 1), (SIMD * simds, 1, 1)), rows, simds)


def list_sensory(rows: int, slices: int) -> Launch:
    """A thread per (neuron of a slice, block of sensory_rows rows)."""
    return sensory_forward(rows, SIMD * slices)


def list_gradient(synapses: int, chunks: int) -> Launch:
    """A thread per (synapse, chunk of rows)."""
    return Launch((ceil_div(synapses, 128), chunks, 1), (128, 1, 1))


def cfc_rows(heads: int, backend: str) -> int:
    """Rows of a CfC that share a load, at most: 16 halves what 8 stream, but four heads of 16 rows
    don't fit 104 registers, and CUDA's compiler takes more than 512 threads can have.
    """
    return 16 if heads < 4 and backend != "cuda" else 8


class Cfc(NamedTuple):
    """The launch of a CfC kernel; `chip`: weights that move to threadgroup memory, 0: none do."""

    blocks: Blocked
    units: int
    width: int
    chip: int


def cfc(
    batch: int,
    units: int,
    widths: tuple,
    weights: int,
    buffers: tuple,
    most_rows: int,
    backend: str,
) -> Cfc | None:
    """The CfC kernels: weights in threadgroup memory if they fit beside one row, else streamed.

    buffers: how many states [units] and outputs of a layer [widest] one row keeps there. None when
    not one row fits.
    """
    width = round_up(max(widths)) if widths else 1
    neurons = max(units, *widths) if widths else units
    bytes_per_row = 4 * (buffers[0] * round_up(units) + buffers[1] * width)
    for chip in (round_up(weights, 1024), 0):
        most = min(most_rows, 8) if chip else most_rows  # nothing is streamed: rather more groups
        blocks = blocked(batch, neurons, bytes_per_row, most, backend, 4 * chip)
        if blocks is not None:
            return Cfc(blocks, round_up(units), width, chip)
    return None


def cfc_forward(
    batch: int, units: int, widths: tuple, heads: int, weights: int, backend: str = ""
) -> Cfc | None:
    """Each row keeps h and the layers' outputs, both double-buffered."""
    return cfc(batch, units, widths, weights, (2, 2), cfc_rows(heads, backend), backend)


def cfc_backward(
    batch: int, units: int, widths: tuple, heads: int, weights: int, backend: str = ""
) -> Cfc | None:
    """Each row keeps dh, the heads' gradients, and the layers', these double-buffered."""
    return cfc(batch, units, widths, weights, (1 + heads, 2), cfc_rows(heads, backend), backend)


def cfc_takes_products(units: int, widths, heads: int) -> bool:
    """Whether a CfC runs step by step on MLX's matrix products: where a threadgroup would stream
    its weights for longer than the products' launches take, or where the backward of one row
    exceeds threadgroup memory.
    """
    edges = [units, *widths, heads * units]
    if sum(n * m for n, m in itertools.pairwise(edges)) >= PRODUCT_WEIGHTS:
        return True
    return cfc_backward(1, units, tuple(widths), 4, MEMORY) is None
