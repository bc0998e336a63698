"""The command `python -m benchmarks features`: every cell and feature of a layer, alone and in
pairs, against the plain fused layer of the same sizes and against the reference.

All programs of a row run in this process, their samples in turn. What a layer computes is compared
with the reference, in plain MLX operations and float32, before anything is timed.
"""

from __future__ import annotations

import gc
import statistics
import sys
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import dispatch

from tests.support.cases import relative_error, tolerance

from . import report
from .arithmetic import multiply_adds
from .layer_command import refusal, run_rows
from .layer_rows import SEED, I, LayerCase, cases
from .rounds import interleave

MODES = ("fwd", "fwd+bwd")
KEYS = ("plain", "ours", "reference")
QUICK = {"batch": 2, "steps": 4}


class LayerProgram(NamedTuple):
    """A call of a layer."""

    layer: Any
    inputs: mx.array
    arguments: dict
    backward: bool
    backend: str | None

    def run(self) -> Any:
        """The output, and with `backward` the gradients by name; evaluated."""
        if self.backend is None:
            result = self._graph()
        else:
            with dispatch.use_backend(self.backend):
                result = self._graph()
        mx.eval(result)
        return result

    def _graph(self) -> Any:
        if not self.backward:
            return self.layer(self.inputs, **self.arguments)
        return nn.value_and_grad(self.layer, self._loss)(self.inputs)

    def _loss(self, x: mx.array) -> Any:
        y = self.layer(x, **self.arguments)
        return (y * y).sum(), y

    def check(self) -> dict[str, np.ndarray]:
        """{"output": ..., gradient by name: ...} of the first call, with the dropout of a key."""
        if self.layer.get("stateful"):
            self.layer.reset_states()
        mx.random.seed(SEED)
        result = self.run()
        named = {"output": result[0][1], **dict(tree_flatten(result[1]))} if self.backward else {}
        named = named or {"output": result}
        return {name: np.array(a.astype(mx.float32)) for name, a in named.items()}


def run(options) -> int:
    """Measure and print. 1 when a result was wrong or a row failed, 130 when interrupted."""
    every = cases(**QUICK if options.quick else {})
    return run_rows(options, "features", every, run_modes, table, is_beyond)


def run_modes(case: LayerCase, options, store) -> None:
    """Measure both rows of a case."""
    for mode in MODES:
        run_row(case, mode, options, store)


def run_row(case: LayerCase, mode: str, options, store) -> None:
    """Compare and measure a row that the store has not."""
    name = f"{case.name} {mode}"
    if name in store.rows and set(store.rows[name]["cells"]) >= set(KEYS):
        return
    print(f"{name} ...", file=sys.stderr, flush=True)
    facts = {"name": case.name, "mode": mode, "limit": case.kind.limit}
    results: dict[str, dict] = {key: {"samples": [], "errors": {}} for key in KEYS}
    try:
        programs = {key: program(case, mode, key) for key in KEYS}
        facts |= {"path": path(case), "arithmetic": arithmetic(case)}
        results["ours"] |= compare(truth(case, mode), programs["ours"], case.dtype)
        if results["ours"].get("status") == "red":  # a wrong one is never timed
            del programs["ours"]
        samples = interleave({key: p.run for key, p in programs.items()}, options)
        for key in programs:
            results[key] |= {"status": "ready", "samples": samples[key]}
    except Exception as error:
        for result in results.values():
            result |= refusal(error) | {"samples": []}
    store.row(name, facts)
    for key, result in results.items():
        store.add(name, key, result)
    gc.collect()
    mx.clear_cache()


def program(case: LayerCase, mode: str, key: str) -> LayerProgram:
    """The plain layer's, ours or the reference's."""
    backend = "reference" if key == "reference" else None
    return LayerProgram(*case.run(plain=key == "plain"), mode == "fwd+bwd", backend)


def truth(case: LayerCase, mode: str) -> LayerProgram:
    """The reference's in float32, of the same numbers."""
    layer, inputs, arguments = case.run()
    layer.set_dtype(mx.float32)
    inputs = inputs.astype(mx.float32)
    return LayerProgram(layer, inputs, arguments, mode == "fwd+bwd", "reference")


def compare(reference: LayerProgram, ours: LayerProgram, dtype: str) -> dict:
    """{"errors": {...}} of ours against the reference; "status": "red" where one is too large."""
    want, got = reference.check(), ours.check()
    errors: dict[str, float] = {}
    result: dict[str, Any] = {"errors": errors}
    for name in want:
        kind = "forward" if name == "output" else "gradient"
        error = relative_error(got[name], want[name])
        errors[kind] = max(error, errors.get(kind, 0.0))
        if not error <= 2 * tolerance(dtype, kind):  # of float64, which both may miss
            result |= {"status": "red", "reason": f"{name}: error {error:.3g}"}
    return result


def path(case: LayerCase) -> str:
    """What the layer's `explain` says that the call runs, in a few words."""
    layer, inputs, arguments = case.run()
    shape = (case.batch, case.steps, I)  # also of a mask over features, which are read with it
    scalar = "timespans" not in arguments
    options = {"scalar_timespans": scalar, "resets": "resets" in arguments}
    plan = layer.explain(shape, dtype=inputs.dtype, **options)
    if plan.program:
        return "sequence: step program"
    backends = dict.fromkeys(choice.backend for _, choice in plan.calls)
    how = "step by step" if plan.stepwise else "sequence"
    return f"{how}: {', '.join(backends) or 'MLX operations'}"


def arithmetic(case: LayerCase) -> float:
    """Multiply-adds of a step over those of the plain layer."""
    layers = [case.make(plain) for plain in (False, True)]
    for layer, plain in zip(layers, (False, True), strict=True):
        inputs, arguments = case.call(plain)
        mx.eval(layer(inputs[:1, :1], **{k: v[:1, :1] for k, v in arguments.items()}))
    return multiply_adds(layers[0]) / multiply_adds(layers[1])


# --- what is said of it ---------------------------------------------------------------------------


def seconds(row: dict, key: str) -> float | None:
    """The median of a cell, None where it was not timed."""
    samples = row["cells"].get(key, {}).get("samples")
    return statistics.median(samples) if samples else None


def ratio(row: dict, over: str = "plain", of: str = "ours") -> float | None:
    """The time of a cell over that of another."""
    top, bottom = seconds(row, of), seconds(row, over)
    return top / bottom if top and bottom else None


def allowed(row: dict) -> float:
    """How many times the plain layer's time a row may take: its limit, more where it computes
    more.
    """
    return row["row"]["limit"] * max(1.0, row["row"].get("arithmetic", 1.0))


def is_beyond(row: dict) -> bool:
    """Whether the row takes more than that."""
    return (ratio(row) or 0.0) > allowed(row)


def table(document) -> list:
    """A line for each case: path, arithmetic, ratios and errors of both modes."""
    head = ["layer", "runs", "arithmetic"]
    for mode in MODES:
        head += [mode, "of plain", "of the reference", "error"]
    lines = [[*head, "beyond"]]
    by_case: dict[str, dict] = {}
    for row in document["rows"].values():
        by_case.setdefault(row["row"]["name"], {})[row["row"]["mode"]] = row
    for name, rows in by_case.items():
        facts = next(iter(rows.values()))["row"]
        line = [name, facts.get("path", "-"), f"{facts.get('arithmetic', 1):.2g}x"]
        for mode in MODES:
            line += cells(rows[mode]) if mode in rows else ["-"] * 4
        beyond = [mode for mode, row in rows.items() if is_beyond(row)]
        lines.append([*line, ", ".join(beyond) and f"**{', '.join(beyond)}**"])
    return lines


def cells(row: dict) -> list[str]:
    """Time, ratio to the plain layer, ratio to the reference, error."""
    ours = row["cells"]["ours"]
    time = seconds(row, "ours")
    errors = max(ours["errors"].values(), default=None)
    return [
        report.seconds_text(time) if time else report.status_text(ours),
        report.ratio_text(ratio(row)),
        report.ratio_text(ratio(row, "reference")),
        "-" if errors is None else f"{errors:.1e}",
    ]
