"""The command `python -m benchmarks streaming`: one step of a stream, of every cell in every form,
against the step of the plain layer of the same sizes.

All programs of a row run in this process, their calls in turn; the figure is the p50 of single
calls. The first steps are compared with the reference's before anything is timed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_ncps import StreamingSession, dispatch

from tests.support.cases import relative_error, tolerance

from . import report, worker
from .features import arithmetic
from .layer_command import refusal, run_rows
from .layer_rows import FEATURES_OF_LAYERS, KINDS, SEED, Feature, I, LayerCase

KEYS = ("plain", "ours")
COMPARED = 3  # steps
CALLS = 200  # of a sample
OWN_CELL = "own cell"
SLOW = 1e-3  # seconds; of slower calls a sample has a tenth


class Stream:
    """Steps of a layer, each from the state of the one before.

    take: (layer, x, state) -> (output, state).
    """

    def __init__(self, layer: Any, take: Callable, inputs: mx.array) -> None:
        self.layer, self.take, self.inputs = layer, take, inputs
        self.state: Any = None

    def __call__(self) -> Any:
        """One step; its output."""
        output, self.state = self.take(self.layer, self.inputs, self.state)
        mx.eval(output, self.state)
        return output


@dataclass(frozen=True)
class Form:
    """One way to run a step.

    take: as in `Stream`.  shape: of the inputs.  plain: the way of the plain layer; None: its
    `layer.step` of [I].  feature: of the layer.
    """

    name: str
    take: Callable
    shape: tuple[int, ...] = (I,)
    plain: Callable | None = None
    feature: str = ""
    options: tuple = ()  # pairs


def _step(layer, x, state):
    return layer.step(x, state)


def _lazy(layer, x, state):
    return layer.step(x + 1.0, state)


def _evaluated(layer, x, state):
    x = x + 1.0
    mx.eval(x)
    return layer.step(x, state)


def _call(layer, x, state):
    return layer(x, state)


def _masked(layer, x, state):
    return layer(x, state, mask=_ONE)


def _kept(layer, x, state):
    return layer(x), None


def _cell(layer, x, state):
    cell = layer.rnn_cell
    if state is None:
        state = tree_map(lambda size: mx.zeros((1, size)), cell.state_size)
    return cell(x, state)


def _session(layer, x, state):
    state = state or (StreamingSession(layer),)
    return state[0](x), state


_ONE = mx.array([[True]])
_PAIR = (("return_state", True),)
FORMS = (
    Form("step [I]", _step),
    Form("step [B, I]", _step, (1, I)),
    Form("time span", lambda layer, x, state: layer.step(x, state, 0.1)),
    Form("resets", lambda layer, x, state: layer.step(x, state, resets=False)),
    Form("session", _session),
    Form("cell", _cell, (1, I)),
    Form("call, T = 1", _call, (1, 1, I), options=_PAIR),
    Form("mask, T = 1", _masked, (1, 1, I), options=_PAIR),
    Form("stateful [T, I]", _kept, (1, I), feature="stateful"),
    Form("lazy input", _lazy, plain=_evaluated),
    Form("mixed memory", _step, feature="mixed memory"),
    Form("projection", _step, feature="projection"),
    Form("float16", _step, feature="float16"),
)


@dataclass(frozen=True)
class StepCase:
    """A cell and a form."""

    case: LayerCase
    form: Form

    @property
    def name(self) -> str:
        """Like "CfC: lazy input"."""
        return f"{self.case.kind.name}: {self.form.name}"

    def stream(self, plain: bool = False) -> Stream:
        """The plain layer's steps, or those of the row."""
        rng = np.random.default_rng(SEED)
        if plain:
            layer, take, shape, dtype = self.case.make(True), self.form.plain, (I,), "float32"
        else:
            layer = self.case.make(**dict(self.form.options))
            take, shape, dtype = self.form.take, self.form.shape, self.case.dtype
        inputs = mx.array(rng.standard_normal(shape).astype(np.float32)).astype(getattr(mx, dtype))
        mx.eval(inputs)
        return Stream(layer.eval(), take or _step, inputs)


def cases() -> list[StepCase]:
    """Every cell in every form; the cells that differ in training only are left out, and the call
    of a user's own cell, which nothing of ours takes part in.
    """
    features: dict[str, Feature] = {feature.name: feature for feature in FEATURES_OF_LAYERS}
    found = []
    for kind in KINDS:
        for form in FORMS if not kind.training else ():
            if kind.name == OWN_CELL and form.name == "cell":
                continue
            asked = (features[form.feature],) if form.feature else ()
            found.append(StepCase(LayerCase(kind, asked, 1, 1), form))
    return found


def run(options) -> int:
    """Measure and print. 1 when a result was wrong or a row failed, 130 when interrupted."""
    return run_rows(options, "streaming", cases(), run_row, table, is_beyond)


def run_row(case: StepCase, options, store) -> None:
    """Compare and measure a row that the store has not."""
    if set(store.rows.get(case.name, {"cells": ()})["cells"]) >= set(KEYS):
        return
    print(f"{case.name} ...", file=sys.stderr, flush=True)
    facts = {"name": case.name, "limit": 3.0}
    results: dict[str, dict] = {key: {"samples": [], "errors": {}} for key in KEYS}
    try:
        facts["arithmetic"] = arithmetic(case.case)
        results["ours"] |= compare(case)
        streams = {"plain": case.stream(plain=True), "ours": case.stream()}
        if results["ours"].get("status") == "red":  # a wrong one is never timed
            del streams["ours"]
        for key, calls in sample(streams, options).items():
            p50, p99 = np.percentile(calls, (50, 99))
            latency = {"p50": float(p50), "p99": float(p99), "calls": len(calls)}
            results[key] |= {"status": "ready", "latency": latency}
    except Exception as error:
        for result in results.values():
            result |= refusal(error)
    store.row(case.name, facts)
    for key, result in results.items():
        store.add(case.name, key, result)


def compare(case: StepCase) -> dict:
    """{"errors": ...} of the first steps against the reference; "status": "red" for too large."""
    got = outputs(case.stream())
    with dispatch.use_backend("reference"):
        want = outputs(case.stream())
    error = relative_error(got, want)
    result: dict[str, Any] = {"errors": {"forward": error}}
    if not error <= 2 * tolerance(case.case.dtype, "forward"):  # as in features
        result |= {"status": "red", "reason": f"output: error {error:.3g}"}
    return result


def outputs(stream: Stream) -> np.ndarray:
    """The outputs of the first steps."""
    steps = [stream() for _ in range(COMPARED)]
    return np.stack([np.array(mx.array(each).astype(mx.float32)) for each in steps])


def sample(streams: dict[str, Stream], options) -> dict[str, list[float]]:
    """Seconds of single calls, taken in turn."""
    calls: dict[str, list[float]] = {key: [] for key in streams}
    count = {}
    for key, stream in streams.items():
        first = statistics.median(worker.measure(stream, 5, keep=True)["calls"])
        count[key] = 2 if options.quick else CALLS // (10 if first > SLOW else 1)
    for _ in range(options.repeats):
        for key, stream in streams.items():
            calls[key] += worker.measure(stream, count[key], keep=True)["calls"]
    return calls


# --- what is said of it ---------------------------------------------------------------------------


def ratio(row: dict) -> float | None:
    """Our p50 over that of the plain layer."""
    ours, plain = (row["cells"][key].get("latency", {}).get("p50") for key in ("ours", "plain"))
    return ours / plain if ours and plain else None


def is_beyond(row: dict) -> bool:
    """Whether a step takes more than its limit, which is larger where it computes more."""
    return (ratio(row) or 0.0) > row["row"]["limit"] * max(1.0, row["row"].get("arithmetic", 1.0))


def table(document) -> list:
    """A line for each row."""
    lines = [["step", "arithmetic", "p50", "p99", "plain p50", "of plain", "error", "beyond"]]
    for row in document["rows"].values():
        ours, plain = (row["cells"][key] for key in ("ours", "plain"))
        latency, facts = ours.get("latency"), row["row"]
        times = [report.status_text(ours), "-", "-"]
        if latency:
            of_plain = plain["latency"]["p50"]
            times = [report.seconds_text(s) for s in (latency["p50"], latency["p99"], of_plain)]
        error = ours["errors"].get("forward")
        lines.append(
            [
                facts["name"],
                f"{facts.get('arithmetic', 1):.2g}x",
                *times,
                report.ratio_text(ratio(row)),
                "-" if error is None else f"{error:.1e}",
                "**yes**" if is_beyond(row) else "",
            ]
        )
    return lines
