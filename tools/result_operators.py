"""What compare_results.py computes of the operators: every case of the tests' table, its states and
its gradients.

Everything random is drawn by NumPy from a name, so that no number depends on the order of the code.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
from mlx_ncps import ops

from tests.support.case_arrays import named_leaves, round_to, to_mlx
from tests.support.cases import (
    CFC_CASES,
    CFC_EMPTY_CASES,
    LTC_CASES,
    LTC_EMPTY_CASES,
    LTC_SOLVER_CASES,
    LTC_WIRED_CASES,
    CfcCase,
    LtcCase,
    make,
    random_cfc_cases,
    random_ltc_cases,
)
from tests.support.running import _rebuild, problem

Entry = Callable[[], object]  # -> a tree of arrays


def numbers(name: str) -> np.random.Generator:
    """The generator of NumPy that belongs to a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


EDGES = [  # of the kernels of GPUs: row blocks, streamed weights, products of matrices
    LtcCase(batch=17, steps=2, inputs=2, units=128, unfolds=1, density=0.3),
    LtcCase(batch=33, steps=2, units=65, unfolds=2, timespans="per_batch"),
    LtcCase(batch=2, steps=1, units=200, unfolds=2, timespans="per_batch"),
    LtcCase(batch=5, steps=3, inputs=8, units=64, wiring=("AutoNCP", 64, 8), implicit=True),
    CfcCase(batch=64, steps=2, units=65, backbone_units=64, timespans="per_batch"),
    CfcCase(batch=130, steps=1, units=9, backbone_units=33, timespans="scalar"),
    CfcCase(batch=1, steps=2, units=200, layers=0),
    CfcCase(batch=3, steps=2, units=100, backbone_units=128, mode="pure", timespans="scalar"),
]


def table() -> list:
    """Every case of the table, with some random ones, but for those of other solvers."""
    curated = [*LTC_CASES, *LTC_WIRED_CASES, *LTC_EMPTY_CASES, *CFC_CASES, *CFC_EMPTY_CASES]
    return curated + random_ltc_cases(20) + random_cfc_cases(20)


def with_solvers() -> list:
    """The same with the other solvers' cases, which the reference alone runs."""
    return [*EDGES, *table(), *LTC_SOLVER_CASES]


def operators(cases: list, *, mixed: bool = False) -> Iterator[tuple[str, Entry]]:
    """The sequence operators: states, and states with every gradient; also behind an LSTM."""
    for case in cases:
        is_ltc = isinstance(case, LtcCase)
        other = is_ltc and case.solver
        has_lists = is_ltc and not other and (case.wiring or case.density < 1)
        for lists in (False, True)[: 1 + bool(has_lists)]:
            options = {"synapses": True} if lists else {}
            name = f"{case}{'-lists' if lists else ''}"
            yield name, functools.partial(_differentiated, problem, case, options)
            if mixed:
                yield (
                    f"mixed-{name}",
                    functools.partial(_differentiated, mixed_problem, case, options),
                )


def _differentiated(problem, case, options) -> dict:
    f, leaves, cotangents = problem(case, **options)
    arrays = list(leaves.values())
    cotangents = cotangents if isinstance(cotangents, list) else [cotangents]
    outputs, gradients = mx.vjp(f, arrays, cotangents)
    return {
        "states": f(*arrays),
        "saved": outputs,
        "gradient": dict(zip(leaves, gradients, strict=True)),
    }


def mixed_problem(case, **keywords):
    """As `problem`, behind an LSTM: f gives [h, c]."""
    rng, H = numbers(f"memory {case}"), case.units
    call = to_mlx(make(case), case.dtype)

    def draw(*shape):
        scale = 1.0 / np.sqrt(shape[-1] + 1)
        return mx.array(round_to(rng.normal(0.0, scale, shape), case.dtype)).astype(
            call.inputs.dtype
        )

    memory = ops.LSTMParams(draw(4 * H, case.inputs), draw(4 * H), draw(4 * H, H))
    _, leaves, cotangents = problem(case, **keywords)
    leaves |= {"c": draw(case.batch, H), **named_leaves(memory, "memory")}
    op = ops.ltc_mixed_sequence if isinstance(case, LtcCase) else ops.cfc_mixed_sequence
    masks = make(case).params
    if keywords.pop("synapses", False):
        keywords["synapses"] = ops.SynapseLists(masks.mask, masks.sensory_mask)

    def f(*arrays):
        values = dict(zip(leaves, arrays, strict=True))
        params = _rebuild(call.params, values)
        lstm = _rebuild(memory, values, "memory")
        state = values["state"], values["c"]
        inputs, ts = values["inputs"], values.get("ts")
        return list(op(inputs, state, ts, lstm, params, **call.keywords, **keywords))

    return f, leaves, [cotangents, draw(case.batch, case.steps, H)]
