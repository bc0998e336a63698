"""One case of the fuzz: its arguments from (seed, number), the call, and what became of it."""

from __future__ import annotations

import random
import re
import warnings
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlx_ncps import (
    dispatch,
    get_instruction_set,
    get_num_threads,
    set_instruction_set,
    set_num_threads,
)

from . import native
from .catalogue import targets
from .hostile import lazily, replaced
from .names import public_names

ACCEPTED, CLEAR, SIGNATURE, UNCLEAR, DIFFERS = (
    "accepted",
    "rejected clearly",
    "rejected by the signature",
    "rejected unclearly",
    "lazy arrays are another matter",
)
_CLEAR = re.compile(r"\[[\w. ]+\] .*\b(must|wants?|wanted|needs?|has|can't)\b.*\bgot\b", re.DOTALL)
_SIGNATURE = re.compile(
    r"(unexpected keyword argument|missing \d+ required|takes .* positional|multiple values for|"
    r"keywords must be strings|missing a required|too many positional)"
)
_OURS = (FileNotFoundError, ImportError)  # "[op] ..." too; RuntimeError for a backend or the module


class Outcome(NamedTuple):
    """What became of a case."""

    kind: str
    name: str  # of the callable
    changed: str  # its hostile arguments
    error: str = ""  # type
    message: str = ""


class Case(NamedTuple):
    """A callable with arguments, of which some are hostile."""

    name: str
    function: object
    arguments: dict
    changed: str


def make_case(names: list[str], seed: int, number: int) -> Case:
    """The case of this seed and number, the same whenever it is made."""
    rng = random.Random(f"{seed} {number}")
    mx.random.seed(rng.randrange(2**31))
    np.random.seed(rng.randrange(2**31))
    while True:
        name = rng.choice(names)
        function, arguments = rng.choice(targets(name))()
        if arguments:
            break
    chosen = rng.sample(list(arguments), min(rng.choice((1, 1, 1, 2)), len(arguments)))
    changed = []
    for key in chosen:
        label, arguments[key] = replaced(arguments[key], rng)
        changed.append(f"{key}: {label}")
    return Case(name, function, arguments, ", ".join(changed))


def run_case(names: list[str], seed: int, number: int) -> Outcome:
    """Run a case with evaluated arrays, then with lazy ones: both must have the same fate."""
    first, values = _outcome(make_case(names, seed, number), lambda arguments: arguments)
    if first.kind == UNCLEAR:
        return first
    second, lazy_values = _outcome(make_case(names, seed, number), lazily)
    if second.kind == UNCLEAR:
        return second
    if (first.kind == ACCEPTED) != (second.kind == ACCEPTED):
        rejected = first if first.kind != ACCEPTED else second
        when = "evaluated" if first.kind != ACCEPTED else "lazy"
        return rejected._replace(kind=DIFFERS, message=f"when {when}: {rejected.message}")
    if not _equal(values, lazy_values):
        return first._replace(kind=DIFFERS, message="other values, or other shapes")
    return first


def _equal(first: list, second: list) -> bool:
    """Whether two lists of arrays have the same values, up to the rounding of other kernels."""
    if [a.shape for a in first] != [a.shape for a in second]:
        return False
    return all(
        mx.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True).item()
        for a, b in zip(first, second, strict=True)
        if a.dtype != mx.float64 and mx.issubdtype(a.dtype, mx.floating)
    )


def _outcome(case: Case, prepare) -> tuple[Outcome, list]:
    """What became of a case, and the arrays that it gave."""
    threads, instructions = get_num_threads(), get_instruction_set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = case.function(**prepare(case.arguments))
            arrays = _arrays(made)
            mx.eval(arrays)
    except Exception as error:
        kind = _kind(error, case)
        outcome = Outcome(kind, case.name, case.changed, type(error).__name__, str(error)[:300])
        return outcome, []
    finally:
        dispatch._process.clear()
        set_num_threads(threads)
        set_instruction_set(instructions)
    return Outcome(ACCEPTED, case.name, case.changed), arrays


def _kind(error: Exception, case: Case) -> str:
    message = str(error)
    if isinstance(error, TypeError) and _SIGNATURE.search(message):
        return SIGNATURE
    if message.startswith("[eval]") and "tracer" in case.changed:
        return CLEAR  # MLX's own, where a value is needed
    if case.name.startswith(native.PREFIX):
        return _kind_of_native(error, message)
    if isinstance(error, (ValueError, TypeError)):
        return CLEAR if _CLEAR.match(message) else UNCLEAR
    ours = isinstance(error, _OURS) or (isinstance(error, RuntimeError) and "backend" in message)
    return CLEAR if ours and re.match(r"\[\w+\] ", message) else UNCLEAR


def _kind_of_native(error: Exception, message: str) -> str:
    """What only this package calls need not say what it got."""
    if isinstance(error, TypeError):
        return SIGNATURE if "incompatible function arguments" in message else UNCLEAR
    named = re.match(r"\[[\w. ]+\] ", message)
    return CLEAR if named and isinstance(error, ValueError) else UNCLEAR


def _arrays(made, depth=4) -> list:
    """The arrays in what a call gave."""
    if isinstance(made, mx.array):
        return [made]
    if isinstance(made, dict) and depth:
        made = list(dict.values(made))
    if isinstance(made, tuple | list) and depth:
        return [array for item in made for array in _arrays(item, depth - 1)]
    return []


def check_valid(name: str) -> list[str]:
    """What is wrong with the valid arguments of a name: they must be accepted."""
    problems = []
    for n, target in enumerate(targets(name)):
        function, arguments = target()
        outcome, _ = _outcome(Case(name, function, arguments, f"valid {n}"), lambda given: given)
        if outcome.kind != ACCEPTED:
            problems.append(f"{name} {n}: {outcome.error}: {outcome.message}")
    return problems


def report_cases(only: str, seed: int, number: int, write) -> None:
    """Run a case; `write` gets what it is before, and what became of it after."""
    names = public_names(only)
    case = make_case(names, seed, number)
    write(("begin", number, case.name, case.changed))
    write(("end", number, *run_case(names, seed, number)))


def replay(only: str, seed: int, number: int) -> None:
    """Run a case without catching its error."""
    for prepare in (lambda arguments: arguments, lazily):
        case = make_case(public_names(only), seed, number)
        print(f"{case.name}({case.changed})")
        made = case.function(**prepare(case.arguments))
        mx.eval(_arrays(made))
        print(f"accepted: {type(made).__name__} {made!r:.300}")
