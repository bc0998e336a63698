"""Traces one step of a cell, once, and hands the operations to `lower`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from ..checks import key_words
from ..dispatch import use_backend
from ..values import is_tracer
from .lower import dtype_name, lower
from .memo import Memo
from .modules import Kept, Places, replaceable
from .operations import Operation, Trace
from .program import Decline, Declined, Program

Step = Callable[..., tuple[Sequence[mx.array], Sequence[mx.array]]]

ROWS, OTHER_ROWS = 67, 71  # of the arrays that a step is traced with; widths are seldom primes
_PASSED_OVER = {
    "StopGradient": "a step stops a gradient",
    "Copy": "a step takes a gradient, or reads an array that one is taken of and no module has",
}


def trace(
    step: Step,
    steps: Sequence[int],
    states: Sequence[int],
    modules: Sequence[Any] = (),
    memo: Memo | None = None,
    dtype: mx.Dtype = mx.float32,
) -> Program | Declined:
    """The program of `step(*steps [N, n], *states [N, n]) -> (new states, outputs)`, or why there
    is none.

    steps, states: the widths n. modules: those whose arrays the step reads. Their arrays without a
    value, or traced by a gradient, stand in `captured` as they are, so that gradients reach them;
    one of shape () that has a value becomes a constant. memo: what this step was before, which
    saves most of the time where it is the same. dtype: of inputs, states and results; a program
    computes in float32 what the step does in halves.
    """
    return _trace(step, steps, states, modules, memo, ROWS, dtype)[0]


def _trace(
    step: Step,
    steps: Sequence[int],
    states: Sequence[int],
    modules: Sequence[Any],
    memo: Memo | None,
    rows: int,
    dtype: mx.Dtype,
) -> tuple[Program | Declined, Sequence[mx.array]]:
    """`trace` with so many rows; the arrays that it found captured, in their own dtypes."""
    examples = [mx.zeros((rows, n), dtype) for n in (*steps, *states)]
    state: Any = mx.random.state
    key = state[0]
    try:
        if 0 in (*steps, *states):
            raise Decline("an input or a state has no elements")
        with replaceable(modules) as places:
            record = _record(step, examples, places, states)
        if memo is not None and (known := memo.recall(record, places.arrays)) is not None:
            return known
        program, sources = lower(record, steps, states, places.arrays, rows, dtype)
        if memo is not None:
            memo.keep(record, places.arrays, program, sources)
        return program, sources
    except Decline as error:
        return Declined(str(error)), ()
    except Exception as error:  # of the step, which raises it again where it runs
        return Declined(f"the step can't be traced: {error}"), ()
    finally:
        if state[0] is not key and not is_tracer(key):
            words = key_words("trace", key)
            mx.random.seed(int(words[0]) << 32 | int(words[1]))


def trace_checked(
    step: Step,
    steps: Sequence[int],
    states: Sequence[int],
    modules: Sequence[Any] = (),
    memo: Memo | None = None,
    dtype: mx.Dtype = mx.float32,
) -> Program | Declined:
    """`trace` for a step of a user, which may be no pure function of its rows: it is traced twice,
    with two numbers of rows, and once where the memo knows it. Declined where the programs differ,
    or where tracing changed one of the modules, which is put back.
    """
    kept, memo = Kept(modules), memo or Memo()
    first, arrays = _trace(step, steps, states, modules, memo, ROWS, dtype)
    second, others = first, arrays
    if isinstance(first, Program) and not memo.checked and not kept.changed():
        second, others = _trace(step, steps, states, modules, None, OTHER_ROWS, dtype)
    if kept.changed():
        kept.put_back()
        return Declined("a step changes attributes of its cell")
    if isinstance(first, Declined) or isinstance(second, Declined):
        return first if isinstance(first, Declined) else second
    if first != second or not all(map(_equal, arrays, others)):
        return Declined("a step is another one each time, or reads the batch size")
    memo.checked = True
    return first


def _record(step: Step, examples: list[mx.array], places: Places, states: Sequence[int]) -> Trace:
    """The trace of a step, whose inputs are followed by the arrays of the modules."""
    found: dict[str, list] = {"primitive": []}

    def collect(item: dict[str, Any]) -> None:
        kind = item["type"]
        if kind == "primitive":
            names = item["name"], item["arguments"], item["inputs"], item["outputs"]
            found[kind].append(Operation(*names))
        elif kind in ("inputs", "outputs", "constants"):
            found[kind] = item[kind]

    def run(*args: mx.array) -> list[mx.array]:
        places.put(args[len(examples) :])
        with use_backend("reference"):  # whose operations can be read, where fused ones can't
            new, outputs = step(*args[: len(examples)])
        results = [*new, *outputs]
        _check_results(results, len(new), states, examples[0])
        _check_gradients(results)
        return results

    mx.export_function(collect, run, *examples, *places.arrays)
    inputs, outputs = ([a[0] for a in found[kind]] for kind in ("inputs", "outputs"))
    return Trace(inputs, outputs, found["constants"], found["primitive"])


def _check_gradients(results: list[mx.array]) -> None:
    """Raise Decline where a graph has operations that mx.export_function passes over."""
    text = io.StringIO()
    mx.export_to_dot(text, *results)
    drawn = text.getvalue()
    for name, why in _PASSED_OVER.items():
        if f'"{name}"' in drawn:
            raise Decline(f"{name}: {why}")


def _check_results(results: list[Any], new: int, states: Sequence[int], like: mx.array) -> None:
    if new != len(states):
        raise Decline(f"the step gives {new} states, of {len(states)}")
    for array, width in zip(results, [*states, *[0] * (len(results) - new)], strict=True):
        if not isinstance(array, mx.array) or array.dtype != like.dtype:
            got = getattr(array, "dtype", type(array).__name__)
            raise Decline(f"the step gives {got}, not {dtype_name(like.dtype)}")
        if width and array.shape != (len(like), width):
            raise Decline(f"the step gives a state of another shape than [N, {width}]")


def _equal(a: mx.array, b: mx.array) -> bool:
    """Whether two captured arrays are one: the same, or made anew with the same values."""
    if a is b:
        return True
    if a.shape != b.shape or is_tracer(a) or is_tracer(b):
        return False
    return bool(mx.array_equal(a, b, equal_nan=True))
