"""Launch geometry of the GPU kernels of metal/: a `Geometry` says, for a kind of GPU, how a call of
a shape is cut into launches and how many threads each has. Its answers are functions of the shape
alone, so that on one chip results depend on nothing else.

Limits of every Apple GPU: SIMD groups of 32, 32 KiB of threadgroup memory, 1024 threads per
threadgroup, fewer for a pipeline that needs many registers (1024 threads up to 52 float registers
each, 512 up to 104, 384 up to 128). Every kernel tells the compiler how many threads it is launched
with (`runner.THREADS_BOUND`), so that its pipeline allows them.

How much of a call one launch takes is said in `pieces`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx

from .pieces import (
    BUSY,
    LTC_COPIES,
    SIMD,
    Launch,
    Pieces,
    ceil_div,
    dense_launch,
    dense_threads,
    fitting,
    gradient_chunks,
    once,
    power_of_two,
    round_up,
)

TILE = 8  # rows and columns of a simdgroup_matrix
Kept = tuple[int, int]  # of a CfC's row in threadgroup memory: times its units, its widest layer


@dataclass(frozen=True, eq=False)  # compared by identity: a key that costs nothing
class Geometry(Pieces):
    """Limits and thresholds of a kind of GPU, and the launches that follow from them.

    A kernel's rows are batch rows that share each load; its parts are threads that share a neuron.
    """

    threads: int = 512  # of a threadgroup, at most
    min_groups: int = 8  # threadgroups that rows are not merged below

    dense_units: int = 64  # up to here all synapses of an LTC stay in registers
    dense_groups: int = 256  # threadgroups of the dense backward, which own a slab of gradients
    held: int = 12  # synapses of a thread in registers, where four stream the rest for one row
    ltc_rows: int = 8  # that share a load, at most: from there on arithmetic is the limit
    lists_forward_parts: int = 4  # threads that share a target whose synapses stay in registers
    lists_forward_per: int = 14  # synapses of a thread in 104 registers, 5 for each
    lists_backward_per: int = 7  # likewise, 9 for each
    lstm_rows: int = 4  # behind an LSTM, where a thread alone sums a neuron's: 8 don't fit
    lstm_backward_per: int = 7  # synapses of a thread in registers, behind an LSTM
    lstm_lists_backward_per: int = 6  # likewise, of lists
    lists_batch: float = 256  # rows from which a wiring's forward streams what fits registers
    lists_rows: int | Literal["root", "groups"] = "root"  # as `_lists_share` says

    cfc_rows: int = 16  # that share a load, at most: halves what 8 stream
    cfc_rows_of_many_sums: int = 8  # four heads or no layer: 16 don't fit 104 registers
    matrix: bool = True  # a CfC of widths in eights sums by simdgroup_matrix, from 8 rows on
    product_weights: int = 2**18  # of a CfC's step, from which MLX's products are faster

    # ---- The LTC --------------------------------------------------------------------------------

    @once
    def neurons(self, units: int, rows: int) -> Launch:
        """A thread per (neuron, row)."""
        return Launch((ceil_div(units, SIMD), ceil_div(rows, 8), 1), (SIMD, 8, 1))

    @once
    def rows(self, rows: int) -> Launch:
        """A SIMD group per row."""
        return Launch((1, ceil_div(rows, 8), 1), (SIMD, 8, 1))

    @once
    def sensory(self, rows: int, units: int) -> Launch:
        """A thread per (target or input, block of rows): 8 rows where 1024 SIMD groups are left,
        else 4.
        """
        share = 8 if rows * units >= 2**18 else 4
        return self.neurons(units, ceil_div(rows, share))._replace(template=(("ROWS", share),))

    @once
    def synapse_backward(self, rows: int, sources: int, units: int) -> Launch:
        """A thread per (synapse, chunk); a SIMD group per (32 targets, source, chunk); z counts
        the chunks.
        """
        chunks, y = gradient_chunks(rows, sources * units), min(8, sources)
        return Launch((ceil_div(units, SIMD), ceil_div(sources, y), chunks), (SIMD, y, 1))

    @once
    def lists_gradient(self, rows: int, synapses: int) -> Launch:
        """A thread per (synapse, chunk of rows); y counts the chunks."""
        return Launch((ceil_div(synapses, 128), gradient_chunks(rows, synapses), 1), (128, 1, 1))

    def dense_fits(self, units: int) -> bool:
        """Whether the kernels with all synapses in registers can run: forward 4, backward 8 threads
        per neuron.
        """
        return units <= self.dense_units and dense_threads(units, 8) <= self.threads

    @once
    def dense_forward(self, batch: int, units: int) -> Launch:
        """A threadgroup per batch row, all synapses in registers."""
        return dense_launch(batch, units, ceil_div(units, 4), 4, round_up(units, 4))

    @once
    def dense_backward(self, batch: int, units: int) -> Launch:
        """Threadgroups that each own a slab of gradients, over several batch rows."""
        groups = min(batch, self.dense_groups)
        return dense_launch(groups, units, ceil_div(units, 8), 8, round_up(units, 8))

    def lists_backward_parts(self, units: int, most: int) -> int:
        """Threads that share a source whose synapses, at most so many, stay in registers: as few as
        keep a core busy, as each repeats what its source does beside them.
        """
        for parts in (2, 4):
            if ceil_div(most, parts) <= self.lstm_lists_backward_per and parts * units >= BUSY:
                return parts
        return 8 if units <= self.dense_units else 4

    def dense_lists_fit(self, units: int, forward_per: int, backward_per: int) -> bool:
        """Whether a sparse wiring's synapses stay in registers, with so many per thread."""
        parts = max(self.lists_forward_parts, self.lists_backward_parts(units, units))
        few = forward_per <= self.lists_forward_per and backward_per <= self.lists_backward_per
        return few and dense_threads(units, parts) <= self.threads

    @once
    def dense_lists_forward(self, batch: int, units: int, per: int, parts: int) -> Launch:
        """As `dense_forward`, with the synapses of a wiring."""
        return dense_launch(batch, units, per, parts, units)

    @once
    def dense_lists_backward(self, batch: int, units: int, per: int, parts: int) -> Launch:
        """As `dense_backward`, with the synapses of a wiring."""
        return dense_launch(min(batch, self.dense_groups), units, per, parts, units)

    @once
    def streamed_forward(self, batch: int, units: int, memory: bool = False) -> Launch:
        """Each row keeps v, double-buffered."""
        return self._streamed(batch, units, 2, memory)

    @once
    def streamed_backward(self, batch: int, units: int, memory: bool = False) -> Launch:
        """Each row keeps dn, dd and dv; with `memory` more of the LSTM."""
        return self._streamed(batch, units, LTC_COPIES[memory], memory)

    def _streamed(self, batch: int, units: int, copies: int, memory: bool) -> Launch:
        padded = round_up(units)
        most = self.lstm_rows if memory and 2 * padded > self.threads else self.ltc_rows
        launch = fitting(self._blocked(batch, units, copies * 4 * padded, most))
        four = launch.argument("ROWS") == 1 and launch.argument("PARTS") == 4 and not memory
        held = min(self.held, units // 4) if four else 0
        return launch._replace(template=(*launch.template, ("UNITS", padded), ("HELD", held)))

    def lists_pay(self, sources: int, units: int, synapses: int) -> bool:
        """Whether lists of the synapses beat the dense kernels: half of them missing."""
        return 0 < 2 * synapses <= sources * units

    def recurrent_lists_pay(self, units: int, synapses: int) -> bool:
        """`lists_pay`, and one row's state fits threadgroup memory."""
        return self.lists_pay(units, units, synapses) and 12 * round_up(units) <= self.memory

    @once
    def lists(self, batch: int, units: int, memory: bool = False) -> Launch:
        """The kernels of streamed lists: threadgroups of SIMDS SIMD groups that each own ROWS batch
        rows; dn, dd and dv of each row in threadgroup memory, with `memory` more of the LSTM.

        SIMD groups share nothing, and join only where 8 cores have several each.
        """
        fits = self.memory // (LTC_COPIES[memory] * 4 * round_up(units))
        most = self.lstm_rows if memory else self.ltc_rows
        rows = power_of_two(max(1, min(most, fits, self._lists_share(batch))))
        simds = max(1, min(4, fits // rows, batch // (64 * rows)))
        template = ("SIMDS", simds), ("ROWS", rows), ("UNITS", round_up(units))
        return Launch((ceil_div(batch, rows * simds), 1, 1), (SIMD * simds, 1, 1), template)

    def _lists_share(self, batch: int) -> int:
        """Rows that share the loads of streamed lists, up to `ltc_rows`: a number, as many as leave
        `min_groups` threadgroups, or the root of a quarter of the batch. Few cores gain by more
        rows, many cores by more SIMD groups; the root loses to neither by more than a factor of 2.
        """
        if self.lists_rows == "groups":
            return batch // self.min_groups
        return math.isqrt(batch // 4) if self.lists_rows == "root" else self.lists_rows

    # ---- The CfC --------------------------------------------------------------------------------

    @once
    def cfc_forward(
        self, batch: int, units: int, widths: tuple[int, ...], heads: int, weights: int
    ) -> Launch:
        """Each row keeps h and the layers' outputs, both double-buffered; with matrices the sums of
        all heads, one of them in the place of h.
        """
        matrix = heads + (not widths), min(len(widths), 2)
        return fitting(self._cfc(batch, units, widths, heads, weights, (2, 2), matrix))

    @once
    def cfc_backward(
        self, batch: int, units: int, widths: tuple[int, ...], heads: int, weights: int
    ) -> Launch:
        """Each row keeps dh, the heads' gradients, and the layers', these double-buffered."""
        kept = 1 + heads, 2
        return fitting(self._cfc(batch, units, widths, heads, weights, kept, kept))

    def _cfc(
        self, batch: int, units: int, widths: tuple[int, ...], heads: int, weights: int, *kept: Kept
    ) -> Launch | None:
        """Weights in threadgroup memory (CHIP of them) if they fit beside one row, else streamed;
        by matrices where their tiles are whole; None where not one row fits.

        kept: what one row keeps there without matrices, and with them.
        """
        width = round_up(max(widths)) if widths else 0
        neurons = max(units, *widths) if widths else units
        tiled = self.matrix and len(kept) > 1 and all(n % TILE == 0 for n in (units, *widths))
        ways = (True, False) if tiled else (False,)
        for chip, matrix in itertools.product((round_up(weights, 1024), 0), ways):
            many = heads == 4 or (heads == 3 and not widths and 4 * units > self.threads)
            most = self.cfc_rows if matrix or not many else self.cfc_rows_of_many_sums
            rows = min(most, 8) if chip else most  # nothing is streamed: rather more groups
            row = 4 * (kept[matrix][0] * round_up(units) + kept[matrix][1] * width)
            launch = self._blocked(batch, neurons, row, rows, 4 * chip, 4 if matrix else 0)
            if launch is not None and not (matrix and launch.argument("ROWS") < TILE):
                sizes = ("UNITS", round_up(units)), ("WIDTH", width), ("CHIP", chip)
                return launch._replace(template=(*launch.template, *sizes), matrix=matrix)
        return None

    @once
    def cfc_takes_products(self, units: int, widths: tuple[int, ...], heads: int) -> bool:
        """Whether a CfC runs step by step on MLX's matrix products: where a threadgroup would
        stream its weights for longer than the products' launches take, or where the backward of one
        row exceeds threadgroup memory.
        """
        edges = [units, *widths, heads * units]
        if sum(n * m for n, m in itertools.pairwise(edges)) >= self.product_weights:
            return True
        return self._cfc(1, units, widths, 4, self.memory, (1 + 4, 2)) is None

    def _blocked(
        self, batch: int, neurons: int, row: int, most_rows: int, shared: int = 0, parts: int = 0
    ) -> Launch | None:
        """Threadgroups of several batch rows, striding over `neurons`; None when not one row fits.

        row, shared: bytes of threadgroup memory of one row, and of all.
        ROWS: a power of two up to `most_rows`, as memory and a batch of at least `min_groups`
        threadgroups allow. PARTS: `parts`, or up to 4 threads per neuron within `threads`.
        """
        if row > self.memory - shared:
            return None
        most = min((self.memory - shared) // row, batch // self.min_groups, most_rows)
        rows = power_of_two(max(1, most))
        if not parts:
            parts = next((p for p in (4, 2) if round_up(p * neurons) <= self.threads), 1)
        threads = min(round_up(parts * neurons), self.threads)
        template = ("ROWS", rows), ("PARTS", parts)
        return Launch((ceil_div(batch, rows), 1, 1), (threads, 1, 1), template)


APPLE = Geometry()

# By the last letter of what Metal calls a chip's architecture ("applegpu_g13s"), as MLX tells them
# apart: p phones, g plain and Pro, s Max, d Ultra. A newer letter is as a plain chip until it is
# known. So many threadgroups that no core of the smallest Max or Ultra idles, and each gets one.
# A SIMD group streams lists for several rows: from more rows on it keeps more cores busy.
CLASSES = {
    "s": replace(APPLE, min_groups=32, lists_batch=512),
    "d": replace(APPLE, min_groups=64, lists_batch=1024),
}


def apple(architecture: str) -> Geometry:
    """The geometry of an Apple GPU of this architecture."""
    return CLASSES.get(architecture[-1:], APPLE)


def apple_here() -> Geometry:
    """That of the Apple GPU of this machine."""
    facts = mx.device_info(mx.gpu) if mx.metal.is_available() else {}
    return apple(str(facts.get("architecture", "")))


CUDA = Geometry(
    min_groups=128,  # about the cores of the chips where merging pays most
    lists_batch=math.inf,
    lists_rows="groups",
    lstm_rows=8,  # 128 registers for each of 512 threads
    lstm_backward_per=8,
    lstm_lists_backward_per=7,
    cfc_rows=8,  # of 16 the compiler takes more registers than 512 threads can have
    matrix=False,  # Metal's
)
