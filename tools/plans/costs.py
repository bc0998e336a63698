"""Counts what one threadgroup of each kernel of metal/ does, from the sizes and template of its
launch; one function per file of metal/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .chips import Cost

BACKWARD = 12  # operations of a gate's gradient, beside its exp2 and reciprocal


class Facts(NamedTuple):
    """A launch: its sizes and template as the kernel reads them."""

    sizes: list
    template: dict
    threads: tuple  # of a threadgroup, x y z
    groups: int
    entries: int = 0  # of synapse lists, 32 neurons side by side
    matrix: bool = False  # sums by simdgroup_matrix


def _up(n: int, by: int) -> int:
    return -(-n // by)


def _passes(f: Facts, columns: int, depth: int) -> int:
    """Turns of every thread over the terms of its columns, where PARTS threads share a column."""
    parts = f.template["PARTS"]
    return _up(columns, f.threads[0] // parts) * _up(depth, parts)


GATHER = 4  # cycles of a load whose lanes read 32 scattered words; twice that for four rows each


def _shared_loads(threads: int, terms: float, rows: int = 1) -> float:
    """Loads of SIMD groups; up to four rows that lie side by side are one."""
    return threads // 32 * terms * _up(rows, 4)


def _ltc_dense_forward(f):
    (T, U, _), n, per = f.sizes, f.threads[0], f.template["PER"]
    terms = T * U * per
    loads = _shared_loads(n, terms) * (GATHER if f.entries else 1)
    return Cost(n * terms, 3 * n * terms, loads, rounds=T * U)


def _ltc_dense_backward(f):
    B, T, U, _, groups = f.sizes
    n, rounds = f.threads[0], _up(B, groups) * T * U
    terms = rounds * f.template["PER"]
    loads = _shared_loads(n, 2 * terms) * (GATHER if f.entries else 1)
    return Cost(n * terms, BACKWARD * n * terms, loads, rounds=rounds)


def _ltc_streamed(f, operations, loads, **more):
    _, T, U, H = f.sizes
    n, rows, rounds = f.threads[0], f.template["ROWS"], T * U
    terms = rounds * _passes(f, H, H)
    gates = n * terms * rows
    held = 16 * H * (H - f.template["HELD"] * f.template["PARTS"])
    streamed = held * rounds
    shared = _shared_loads(n, loads * terms, rows)
    return Cost(gates, operations * gates, shared, streamed, held, rounds, **more)


def _ltc_streamed_forward(f):
    return _ltc_streamed(f, 3, 1)


def _ltc_streamed_backward(f):
    rounds = f.sizes[1] * f.sizes[2]
    cost = _ltc_streamed(f, BACKWARD - 4, 2, memory_rounds=2 * rounds)
    return cost._replace(rounds=2 * rounds)


def _ltc_lists(f, operations, loads):
    _, T, U, _, _ = f.sizes
    simds, rows, rounds = f.threads[0] // 32, f.template["ROWS"], T * U
    gates = 32 * simds * rows * rounds * f.entries
    streamed = 32 * 20 * simds * rounds * f.entries
    shared = (
        _shared_loads(32 * simds, loads * rounds * f.entries, rows)
        * GATHER
        * (2 if rows > 1 else 1)
    )
    return Cost(gates, operations * gates, shared, streamed, 640 * f.entries, rounds)


def _ltc_lists_forward(f):
    return _ltc_lists(f, 4, 1)


def _ltc_lists_backward(f):
    rounds = f.sizes[1] * f.sizes[2]
    return _ltc_lists(f, BACKWARD - 3, 2)._replace(rounds=2 * rounds, memory_rounds=2 * rounds)


def _sensory(f, terms):
    x, y, _ = f.threads
    rows = f.template["ROWS"]
    gates = x * y * terms * rows
    return Cost(gates, 4 * gates, streamed=16 * x * y * terms, working_set=16 * x * terms)


def _ltc_sensory_forward(f):
    return _sensory(f, f.sizes[1])


def _ltc_lists_sensory(f):
    slices = max(1, f.sizes[3])
    return _sensory(f, f.entries / slices)


def _ltc_synapse_backward(f):
    rows, chunks = f.sizes[0], f.sizes[3]
    gates = f.threads[0] * f.threads[1] * _up(rows, chunks)
    return Cost(gates, BACKWARD * gates, streamed=8 * gates / f.threads[1])


def _ltc_lists_gradient(f):
    rows, chunks = f.sizes[0], f.sizes[4]
    gates = f.threads[0] * _up(rows, chunks)
    return Cost(gates, BACKWARD * gates, streamed=12 * gates)


def _per_neuron(f):
    U = f.sizes[2] if len(f.sizes) > 2 else 1
    threads = f.threads[0] * f.threads[1]
    return Cost(threads * U / 2, 12 * threads * U)


def cfc_stages(f: Facts, backward: bool) -> list[tuple[int, int, int]]:
    """(columns, depth, heads side by side) of each stage of a CfC's step, in its order."""
    _, _, H, _, _, *widths = f.sizes
    edges = [H, *widths]
    stages = [(columns, depth, 1) for depth, columns in zip(edges, widths, strict=False)]
    stages.append((H, edges[-1], f.template["HEADS"]))
    if not backward:
        return stages
    return [(depth, columns * width, 1) for columns, depth, width in reversed(stages)]


def _cfc(f, backward):
    _, T, H, _, _, *widths = f.sizes
    rows, n = f.template["ROWS"], f.threads[0]
    products = loads = 0
    for columns, depth, width in cfc_stages(f, backward):
        terms = T * _passes(f, columns, depth)
        products += n * terms * rows * width
        if f.matrix:  # 64 elements of a SIMD group: two words of a lane
            loads += n // 32 * terms / 2 * 2 * (rows // 8 + (width if f.template["CHIP"] else 0))
            continue
        loads += _shared_loads(n, terms, rows)
        loads += _shared_loads(n, terms * width) if f.template["CHIP"] else 0
    values = sum(widths) + 3 * H
    bytes_once = 4 * f.sizes[4]
    rounds = T * (len(widths) + 1 + backward)
    gates = 0 if backward else 2 * T * values * rows
    if f.template["CHIP"]:
        return Cost(gates, products, loads, bytes_once, bytes_once, rounds)
    cost = Cost(gates, products, loads, T * bytes_once, bytes_once, rounds)
    return cost._replace(memory_rounds=T) if backward else cost


def _cfc_forward(f):
    return _cfc(f, backward=False)


def _cfc_backward(f):
    return _cfc(f, backward=True)._replace(memory_rounds=f.sizes[1])


def _ltc_fold(f):
    I, H = f.sizes
    rows = H + I + 1  # a thread of each target forward, a SIMD group for all of them backward
    threads = f.threads[0] * f.threads[1]
    each = _up(rows, f.threads[1]) * _up(H, f.threads[0]) / f.groups
    return Cost(0, 20 * threads * each)


def _cfc_update(f):
    return _per_neuron(f._replace(sizes=[0, 0, 6]))


_KERNELS: dict[str, Callable[[Facts], Cost]] = {
    "ltc_fold_forward": _ltc_fold,
    "ltc_fold_backward": _ltc_fold,
    "ltc_sensory_forward": _ltc_sensory_forward,
    "ltc_dense_forward": _ltc_dense_forward,
    "ltc_dense_backward": _ltc_dense_backward,
    "ltc_streamed_forward": _ltc_streamed_forward,
    "ltc_streamed_backward": _ltc_streamed_backward,
    "ltc_lists_forward": _ltc_lists_forward,
    "ltc_lists_backward": _ltc_lists_backward,
    "ltc_lists_sensory_forward": _ltc_lists_sensory,
    "ltc_lists_sensory_backward": _ltc_lists_sensory,
    "ltc_lists_gradient": _ltc_lists_gradient,
    "ltc_synapse_backward": _ltc_synapse_backward,
    "ltc_neuron_backward": _per_neuron,
    "ltc_replay": _per_neuron,
    "cfc_forward": _cfc_forward,
    "cfc_backward": _cfc_backward,
    "cfc_update_forward": _cfc_update,
    "cfc_update_backward": _cfc_update,
}


def stem(kernel: str) -> str:
    """The file of metal/ of a kernel's name, whose tail may name its flags."""
    name = kernel.removeprefix("ncps_")
    return max((s for s in _KERNELS if name.startswith(s)), key=len)


def _lstm(name: str, f: Facts) -> Cost:
    """What an LSTM adds to a recurrence: a round of products with streamed weights in each step,
    backward two.
    """
    batch, steps, units = 1, f.sizes[0], f.sizes[2]
    if name != "ltc_dense_forward":
        batch, steps, units = f.sizes[0], f.sizes[1], f.sizes[3]
    if name == "ltc_dense_backward":
        steps *= _up(batch, f.sizes[4])
    backward, groups = name.endswith("backward"), f.template.get("SIMDS", 1)
    rows = f.template.get("ROWS", 1)
    products = 4 * units * units * rows * groups * steps
    loads = products / 32 / min(rows, 4) / (1 if backward else 4)
    held, rounds = 16 * units * units, steps * (1 + backward)
    return Cost(0, products, loads, held * groups * steps, held, rounds, rounds * backward)


def of(kernel: str, facts: Facts) -> Cost:
    """What a threadgroup of this launch does. Raises ValueError for a kernel without a count."""
    name = stem(kernel)
    cost = _KERNELS[name](facts)
    if "_memory" not in kernel or name == "ltc_replay":
        return cost
    return Cost(*(a + b for a, b in zip(cost, _lstm(name, facts), strict=True)))
