"""The one table of shapes, dtypes and tolerances: tests, simulator and benchmarks read it.

A case is a frozen dataclass. ``make(case)`` gives its arrays (NumPy, the same on every machine),
``want_states(case)`` and ``want_gradients(case)`` what mlx_ncps.ops.numpy computes from them in
float64; ``assert_close`` compares.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.numpy.arrays import as_float64

from tests.support.case_arrays import (
    build_wiring,
    make_cfc,
    make_ltc,
    named_leaves,
    round_to,
    to_mlx,
)

__all__ = [
    "ACTIVATIONS",
    "BATCHES",
    "CFC_CASES",
    "CFC_DROPOUT_CASES",
    "CFC_EMPTY_CASES",
    "FLOOR",
    "INPUTS",
    "LTC_CASES",
    "LTC_EMPTY_CASES",
    "LTC_SOLVER_CASES",
    "LTC_WIRED_CASES",
    "MODES",
    "SOLVERS",
    "TIMESPANS",
    "TOLERANCES",
    "ULPS",
    "UNFOLDS",
    "UNITS",
    "VARIANTS",
    "CfcCase",
    "LtcCase",
    "assert_all_close",
    "assert_close",
    "build_wiring",
    "make",
    "make_cfc",
    "make_ltc",
    "named_leaves",
    "random_cfc_cases",
    "random_ltc_cases",
    "relative_error",
    "round_to",
    "to_mlx",
    "tolerance",
    "want_gradients",
    "want_states",
]

# Bounds on relative_error by dtype and kind. "forward" and "gradient": a backend against float64.
# float32: a unit rounding is 6e-8; the bounds leave room for some hundred roundings in a row.
# float16, bfloat16: the arithmetic is float32 inside, so a result is rounded once (2**-11, 2**-8),
# a gradient at most twice (of an array that is read in two places); the inputs cost nothing.
# float64: golden arrays of another float64 implementation; "difference": central differences.
TOLERANCES = {
    "float32": {"forward": 1e-5, "gradient": 2e-5},
    "float16": {"forward": 2**-11 + 1e-5, "gradient": 2**-10 + 2e-5},
    "bfloat16": {"forward": 2**-8 + 1e-5, "gradient": 2**-7 + 2e-5},
    "float64": {"forward": 1e-12, "gradient": 1e-10, "difference": 1e-6},
}

# Bounds on the error of the maths of metal/activations.h against float64, in units in the last
# place. "value": of the value itself, or of 2**-126 where it is smaller; "slope" (and gelu, a
# difference of numbers of the input's size): of numbers from 0.5 to 1, or of the input where that
# is larger. The error of exp(z) grows with |z|, as z / ln 2 is rounded: sigmoid, silu and logistic
# per max(1, |z|).
ULPS = {
    "lecun_tanh": {"value": 6, "slope": 14},
    "tanh": {"value": 6, "slope": 12},
    "relu": {"value": 0, "slope": 0},
    "gelu": {"value": 4, "slope": 3},
    "silu": {"value": 4, "slope": 2},
    "sigmoid": {"value": 3, "slope": 2},
    "exp2": {"value": 3},
    "logistic": {"value": 3},
    "erf": {"value": 6},
}

# A tensor whose largest element is below FLOOR is measured against FLOOR. What a state or gradient
# is summed from is of size 0.1 to 1, up to some thousand terms of both signs (a scalar ts has one
# number from B*T*H of them), so a small result is mostly a cancellation, its error that of the
# terms: FLOOR * 1e-5 is 16 float32 roundings of a 1. Plain float32 NumPy then stays below half of
# each bound.
FLOOR = 0.1

UNITS = (1, 2, 3, 17, 31, 32, 33, 63, 64, 65, 100, 200)
UNFOLDS = tuple(range(1, 12))
BATCHES = (1, 3, 5, 17)
INPUTS = (1, 3, 33)
TIMESPANS = ("none", "scalar", "per_step", "per_batch", "zero")
MODES = ("default", "no_gate", "pure")
SOLVERS = ("explicit", "runge_kutta")  # beside semi_implicit
VARIANTS = ("torch", "keras", "paper")
VARIED = [(m, v) for m in MODES[:2] for v in VARIANTS[1:]] + [("pure", "keras")]
ACTIVATIONS = tuple(name for name, bounds in ULPS.items() if "slope" in bounds)
LETTERS = {"batch": "B", "steps": "T", "inputs": "I", "units": "H"}  # in the names of cases


@dataclass(frozen=True)
class LtcCase:
    """One call of ltc_sequence.

    ``wiring`` is a class of mlx_ncps.wirings with its arguments; without one, ``density`` is the
    share of synapses that exist (1.0: no masks at all).
    """

    batch: int = 3
    steps: int = 3
    inputs: int = 3
    units: int = 8
    unfolds: int = 6
    density: float = 1.0
    wiring: tuple = ()
    timespans: str = "none"
    implicit: bool = False
    mapped: bool = True  # with input_w and input_b
    solver: str = ""  # semi_implicit; the others run on the CPU and the reference
    dtype: str = "float32"
    seed: int = 0

    def __str__(self):
        return _name("ltc", self, LETTERS | {"unfolds": "U"})


@dataclass(frozen=True)
class CfcCase:
    """One call of cfc_sequence; a mask leaves the share ``density`` of ff1's and ff2's weights."""

    batch: int = 3
    steps: int = 4
    inputs: int = 3
    units: int = 8
    backbone_units: int = 9
    layers: int = 1
    mode: str = "default"
    activation: str = "lecun_tanh"
    variant: str = "torch"
    density: float = 1.0
    timespans: str = "none"
    dtype: str = "float32"
    seed: int = 0
    dropout: float = field(default=0.0, repr=False)  # other arrays don't depend on it

    def __str__(self):
        return _name("cfc", self, LETTERS | {"backbone_units": "K", "layers": "L"})


def _name(op, case, letters):
    """Sizes, then everything that is not the default: the id of the case in a test report."""
    parts = [op, "".join(f"{letter}{getattr(case, key)}" for key, letter in letters.items())]
    for key, default in vars(type(case)()).items():
        value = getattr(case, key)
        if key not in letters and value != default:
            if isinstance(value, bool):
                parts.append(key if value else f"not_{key}")
            elif isinstance(value, tuple):
                parts.append("_".join(map(str, value)))
            else:
                parts.append(value if isinstance(value, str) else f"{key}{value}")
    return "-".join(parts)


# --- the curated lists

LTC_CASES = [
    *(LtcCase(units=h, unfolds=3, steps=2, density=(1.0, 0.3)[i % 2]) for i, h in enumerate(UNITS)),
    *(LtcCase(units=h, unfolds=2, steps=2, density=(0.3, 1.0)[i % 2]) for i, h in enumerate(UNITS)),
    *(LtcCase(units=5, unfolds=u, timespans="per_batch") for u in UNFOLDS),
    *(LtcCase(batch=b, units=17, density=d) for b in BATCHES for d in (1.0, 0.5)),
    *(LtcCase(inputs=i, units=33, unfolds=2, mapped=m) for i in INPUTS for m in (True, False)),
    *(LtcCase(timespans=t, implicit=i) for t in TIMESPANS for i in (True, False)),
    *(LtcCase(units=17, density=0.2, timespans=t, implicit=True) for t in TIMESPANS),
    LtcCase(density=0.0),
    LtcCase(batch=1, steps=1, inputs=1, units=1, unfolds=1),
    LtcCase(batch=2, steps=33, timespans="per_step"),
    LtcCase(batch=17, steps=5, inputs=33, units=33, timespans="per_batch", implicit=True),
    *(LtcCase(units=33, dtype=t, timespans="per_batch") for t in ("float16", "bfloat16")),
]
LTC_WIRED_CASES = [
    LtcCase(inputs=8, units=16, wiring=("AutoNCP", 16, 4), implicit=True),
    LtcCase(inputs=20, units=28, wiring=("AutoNCP", 28, 4), timespans="per_batch"),
    LtcCase(inputs=3, units=8, wiring=("FullyConnected", 8, 4)),
]
LTC_SOLVER_CASES = [  # of the CPU and the reference
    *(LtcCase(solver=s, unfolds=u, units=5) for s in SOLVERS for u in (1, 6, 11)),
    *(LtcCase(solver=s, density=0.5, timespans=t) for s in SOLVERS for t in TIMESPANS),
    *(LtcCase(solver=s, implicit=True, mapped=False, density=0.2) for s in SOLVERS),
    *(LtcCase(solver=s, units=17, density=0.2, dtype="bfloat16") for s in SOLVERS),
    *(
        LtcCase(solver=s, batch=b, units=h, unfolds=12, density=d, timespans="scalar")
        for s in SOLVERS
        for b, h in ((1, 33), (5, 17), (17, 5), (35, 20))
        for d in (1.0, 0.3)
    ),
]
LTC_EMPTY_CASES = [LtcCase(steps=0), LtcCase(batch=0), LtcCase(batch=0, steps=0, density=0.5)]

CFC_CASES = [
    *(CfcCase(units=h, backbone_units=k) for h, k in zip(UNITS, reversed(UNITS), strict=True)),
    *(CfcCase(units=h, backbone_units=h, timespans="per_batch", steps=2) for h in UNITS),
    *(CfcCase(units=h, layers=0, steps=2, density=0.5) for h in UNITS),
    *(CfcCase(layers=n, mode=m, timespans="per_batch") for n in (0, 2, 3) for m in MODES),
    *(CfcCase(activation=a, layers=2, mode=m) for a in ACTIVATIONS for m in MODES),
    *(CfcCase(timespans=t, mode=m) for t in TIMESPANS for m in MODES),
    *(CfcCase(batch=b, units=17, backbone_units=33) for b in BATCHES),
    *(CfcCase(inputs=i, units=33, layers=n) for i in INPUTS for n in (0, 1)),
    *(CfcCase(timespans=t, mode=m, variant=v) for t in TIMESPANS for m, v in VARIED),
    *(CfcCase(units=33, layers=n, mode=m, variant=v) for n in (0, 2) for m, v in VARIED),
    CfcCase(batch=1, steps=1, inputs=1, units=1, backbone_units=1),
    CfcCase(batch=2, steps=65, timespans="per_step"),
    *(CfcCase(units=33, dtype=t, mode=m) for t in ("float16", "bfloat16") for m in MODES),
]
CFC_DROPOUT_CASES = [
    *(
        CfcCase(activation=a, layers=n, mode=m, variant=v, timespans="per_batch", dropout=0.4)
        for a in ACTIVATIONS
        for n in (1, 2, 3)
        for m, v in [*VARIED, *((m, "torch") for m in MODES)]
        if n > 1 or v != "torch"  # whose first layer drops nothing
    ),
    *(CfcCase(units=h, backbone_units=h, layers=2, variant="keras", dropout=0.4) for h in UNITS),
    *(
        CfcCase(batch=b, steps=2, units=17, backbone_units=33, layers=3, dropout=0.95)
        for b in BATCHES
    ),
    *(CfcCase(timespans=t, mode=m, layers=2, dropout=0.5) for t in TIMESPANS for m in MODES),
    CfcCase(batch=2, steps=65, layers=2, timespans="per_step", dropout=0.2),
    CfcCase(batch=35, steps=30, units=5, backbone_units=7, layers=3, dropout=0.2),
    *(CfcCase(units=33, layers=2, dtype=t, dropout=0.3) for t in ("float16", "bfloat16")),
]
CFC_EMPTY_CASES = [CfcCase(steps=0), CfcCase(batch=0), CfcCase(batch=0, steps=0, mode="pure")]


def random_ltc_cases(count, seed=0):
    """``count`` LtcCases drawn from the table's ranges, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [
        LtcCase(
            batch=int(rng.integers(1, 20)),
            steps=int(rng.integers(1, 6)),
            inputs=int(rng.integers(1, 36)),
            units=int(rng.integers(1, 70)),
            unfolds=int(rng.integers(1, 8)),
            density=float(rng.choice([1.0, 1.0, 0.5, 0.2])),
            timespans=str(rng.choice(TIMESPANS)),
            implicit=bool(rng.integers(2)),
            mapped=bool(rng.integers(2)),
            seed=1000 + i,
        )
        for i in range(count)
    ]


def random_cfc_cases(count, seed=0):
    """``count`` CfcCases drawn from the table's ranges, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [
        CfcCase(
            batch=int(rng.integers(1, 20)),
            steps=int(rng.integers(1, 8)),
            inputs=int(rng.integers(1, 36)),
            units=int(rng.integers(1, 140)),
            backbone_units=int(rng.integers(1, 140)),
            layers=int(rng.integers(0, 4)),
            mode=str(rng.choice(MODES)),
            activation=str(rng.choice(ACTIVATIONS)),
            variant=str(rng.choice(VARIANTS)),
            density=float(rng.choice([1.0, 0.5])),
            timespans=str(rng.choice(TIMESPANS)),
            seed=1000 + i,
        )
        for i in range(count)
    ]


# --- what they must give


def make(case):
    """The case_arrays.Call of an LtcCase or a CfcCase."""
    return make_ltc(case) if isinstance(case, LtcCase) else make_cfc(case)


@lru_cache(maxsize=512)
def want_states(case):
    """The states [B, T, H] of the case in float64."""
    call = make(case)
    op = truth.ltc_sequence if isinstance(case, LtcCase) else truth.cfc_sequence
    return op(*call.arguments, **call.keywords)


@lru_cache(maxsize=512)
def want_gradients(case):
    """The gradients of sum(cotangents * states) in float64: {"inputs", "state", "ts", "params.w",
    ...}.

    "ts" only when the case has timespans; masks have none.
    """
    call = make(case)
    ltc = isinstance(case, LtcCase)
    op = truth.ltc_sequence_backward if ltc else truth.cfc_sequence_backward
    dinputs, dstate, dts, dparams = op(call.cotangents, *call.arguments, **call.keywords)
    return {"inputs": dinputs, "state": dstate, **named_leaves(dts, "ts"), **named_leaves(dparams)}


def tolerance(dtype, kind):
    """The bound on relative_error for a dtype ("float32") and a kind ("forward", "gradient",
    "difference")."""
    return TOLERANCES[dtype][kind]


def relative_error(got, want):
    """max |got - want| / max(max |want|, FLOOR), over the whole tensor; inf where only one of them
    is not finite.

    Relative to the largest element, not to each: a small element beside large ones is a difference
    of numbers of their size and can't be better than their rounding.
    """
    return float(np.max(_errors(got, want), initial=0.0))


def _errors(got, want):
    got, want = as_float64(got), as_float64(want)
    finite = np.isfinite(want)
    scale = max(np.max(np.abs(want[finite]), initial=0.0), FLOOR)
    with np.errstate(invalid="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        errors = np.where(same, 0.0, np.abs(got - want) / scale)
    return np.where(np.isnan(errors) | (~finite & ~same), np.inf, errors)


def assert_close(name, got, want, tol):
    """Fails unless the shapes are equal and relative_error <= tol; names tensor and worst index."""
    assert np.shape(got) == np.shape(want), f"{name}: shape {np.shape(got)}, want {np.shape(want)}"
    errors = _errors(got, want)
    error = np.max(errors, initial=0.0)
    if not error <= tol:
        at = tuple(int(i) for i in np.unravel_index(np.argmax(errors), errors.shape))
        got, want = as_float64(got)[at], as_float64(want)[at]
        where = f"at {at}: got {got:.9g}, want {want:.9g}"
        raise AssertionError(f"{name}: error {error:.3g} > {tol:.3g} {where}")


def assert_all_close(got, want, tol):
    """`assert_close` for every tensor of two dicts with the same keys."""
    assert set(got) == set(want), f"tensors {sorted(got)}, want {sorted(want)}"
    for name in want:
        assert_close(name, got[name], want[name], tol)
