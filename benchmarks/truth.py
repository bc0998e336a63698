"""What a row must give, from mlx_ncps.ops.numpy in float64.

The equations are evaluated on a few sequences at a time, in processes side by side: the same sums
as for the whole batch, in a fraction of the memory.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from mlx_ncps.ops import numpy as truth

from tests.support.cases import make, named_leaves

from .rows import Row

SEQUENCES = 8  # of a chunk
SMALL = 5e7  # sigmoids or products: less work than this is done faster than a process starts


def want(row: Row, processes: int = 1) -> dict[str, np.ndarray]:
    """{"output": [B, T, O]} and for rows with gradients {"params.w": ..., ...}, float64.

    The gradients are those of sum(cotangents * output), cotangents as in tests/support/cases.py.
    """
    starts = range(0, row.case.batch, SEQUENCES)
    if processes == 1 or len(starts) == 1 or row.work[1] < SMALL:
        parts = [_part(row, start) for start in starts]
    else:
        context = multiprocessing.get_context("spawn")
        quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        with ProcessPoolExecutor(
            processes, context, **quiet
        ) as pool:  # the command handles Ctrl-C and ends this process
            parts = list(pool.map(_part, [row] * len(starts), starts))
    whole = {name: sum(part[name] for part in parts) for name in parts[0] if name != "output"}
    return {"output": np.concatenate([part["output"] for part in parts]), **whole}


def _part(row: Row, start: int) -> dict[str, np.ndarray]:
    """The same for the sequences from `start`, gradients of their own summands."""
    call = make(row.case)
    chunk = slice(start, start + SEQUENCES)
    forward = truth.ltc_sequence if row.is_ltc else truth.cfc_sequence
    arguments = (call.inputs[chunk], call.state[chunk], call.ts, call.params)
    states = forward(*arguments, **call.keywords)
    result = {"output": states[..., : row.outputs]}
    if row.gradients:
        cotangents = call.cotangents[chunk].copy()
        cotangents[..., row.outputs :] = 0.0
        backward = truth.ltc_sequence_backward if row.is_ltc else truth.cfc_sequence_backward
        dparams = backward(cotangents, *arguments, **call.keywords)[3]
        result |= named_leaves(dparams)
    return result
