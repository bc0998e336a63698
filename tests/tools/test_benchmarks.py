"""The benchmarks: what they compare is right, a wrong result has no time, tables add up."""

import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks import __main__ as command
from benchmarks import (
    launches,
    machine,
    report,
    runner,
    table,
    targets,
    truth,
    worker,
)
from benchmarks.implementations import (
    BY_KEY,
    IMPLEMENTATIONS,
    Implementation,
    Missing,
    Program,
)
from benchmarks.rows import ROWS, Row, quick, select
from tests.support.cases import (
    CfcCase,
    LtcCase,
    assert_all_close,
    tolerance,
    want_gradients,
    want_states,
)

LTC = LtcCase(batch=2, steps=3, inputs=3, units=5, unfolds=2)
CFC = CfcCase(batch=2, steps=3, inputs=3, units=5, backbone_units=4)
NCP = replace(LTC, inputs=4, units=12, wiring=("AutoNCP", 12, 3))
ONE = {"batch": 1, "steps": 1}
ROW = Row(LTC, "fwd")
# Of PyTorch's own compiler.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
COMPARED = [i.key for i in IMPLEMENTATIONS if not i.other_model]
OTHERS = [i.key for i in IMPLEMENTATIONS if i.other_model]


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    """The inductor compiles for half a minute; a run of the benchmark checks what it gives."""
    if BY_KEY["torch_compiled"].missing() == "":
        from benchmarks.implementations import ncps_torch

        monkeypatch.setattr(ncps_torch, "COMPILER", "eager")


def ready(*samples, **more):
    result = {"status": "ready", "samples": list(samples), "peak_bytes": 1000, "errors": {}}
    return result | more


# --- what is compared -----------------------------------------------------------------------------


SMALL_ROWS = [
    *(Row(case, mode) for case in (LTC, NCP, CFC) for mode in ("fwd", "train")),
    Row(replace(LTC, density=0.4), "fwd"),
    *(Row(replace(case, **ONE), "step") for case in (LTC, NCP, CFC)),
]


@pytest.mark.parametrize(
    ("row", "key"),
    [(row, key) for row in SMALL_ROWS for key in COMPARED if BY_KEY[key].runs(row)],
    ids=lambda value: value.name if isinstance(value, Row) else value,
)
def test_implementation_equals_float64_and_runs(row, key):
    result, sample = worker.prepare(row, lambda: BY_KEY[key].load(row, 1), truth.want(row))
    if result["status"] == "missing":
        pytest.skip(result["reason"])
    assert result["status"] == "ready", result["reason"]
    assert set(result["errors"]) == {"forward", *(["gradient"] if row.gradients else [])}
    assert sample()["seconds"] > 0


@pytest.mark.parametrize("key", OTHERS)
@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd", "train", "step"])
def test_another_model_runs_and_is_not_compared(mode, key):
    row = Row(replace(LTC, **ONE) if mode == "step" else LTC, mode)
    result, sample = worker.prepare(row, lambda: BY_KEY[key].load(row, 1), None)
    if result["status"] == "missing":
        pytest.skip(result["reason"])
    assert (result["status"], result["errors"]) == ("ready", {})
    assert result["launches"] > 0
    assert sample()["seconds"] > 0


def test_another_model_that_is_not_finite_is_never_timed():
    got = {"output": np.array([1.0, np.nan])}
    result, sample = worker.prepare(ROW, lambda: Program(lambda: got, never), None)
    assert (result["status"], sample) == ("red", None)


@pytest.mark.parametrize("key", [key for key in COMPARED if not BY_KEY[key].modes])
@pytest.mark.parametrize("case", [LTC, CFC], ids=str)
def test_training_step_changes_every_parameter(case, key):
    try:
        run = BY_KEY[key].load(Row(case, "train"), 1).run
    except Missing as missing:
        pytest.skip(str(missing))
    first, second = ({n: numbers(leaf) for n, leaf in tree_flatten(run())} for _ in range(2))
    assert len(first) == (13 if case is LTC else 10)
    for name in first:
        assert np.any(first[name] != second[name]), name


def numbers(leaf):
    return np.array(leaf.detach().numpy() if hasattr(leaf, "detach") else leaf)


@pytest.mark.parametrize("case", [replace(LTC, batch=17), replace(CFC, batch=17)], ids=str)
def test_want_in_chunks_equals_the_whole_batch(case):
    got = truth.want(Row(case, "fwd+bwd"))
    want = {k: v for k, v in want_gradients(case).items() if k.startswith("params.")}
    want["output"] = want_states(case)
    assert_all_close(got, want, tolerance("float64", "gradient"))


def test_want_reads_out_the_motor_neurons_only():
    got = truth.want(Row(NCP, "fwd+bwd"))
    assert got["output"].shape == (2, 3, 3)
    assert_all_close(got | {"output": 0}, want_of_motor_neurons() | {"output": 0}, 1e-12)


def want_of_motor_neurons():
    from mlx_ncps.ops import numpy as ops

    from tests.support.cases import make, named_leaves

    call = make(NCP)
    cotangents = call.cotangents * (np.arange(12) < 3)
    return named_leaves(ops.ltc_sequence_backward(cotangents, *call.arguments, **call.keywords)[3])


# --- a wrong result has no time -------------------------------------------------------------------


def never():
    raise AssertionError("a wrong result was timed")


@pytest.mark.parametrize("wrong", ["value", "nan", "shape", "absent"])
def test_prepare_never_runs_a_wrong_program(wrong):
    row = Row(LTC, "fwd+bwd")
    want = truth.want(row)
    got = {name: array.copy() for name, array in want.items()}
    if wrong == "absent":
        del got["params.w"]
    elif wrong == "shape":
        got["params.w"] = got["params.w"][:1]
    else:
        got["params.w"][1, 2] += np.nan if wrong == "nan" else 1e-3 * np.abs(want["params.w"]).max()
    result, sample = worker.prepare(row, lambda: Program(lambda: got, never), want)
    assert (result["status"], sample) == ("red", None)
    assert "params.w" in result["reason"]


def test_prepare_passes_a_right_program():
    want = truth.want(ROW)
    calls = []
    program = Program(lambda: want, lambda: calls.append(1))
    result, sample = worker.prepare(ROW, lambda: program, want)
    before = len(calls)
    sample()
    assert result["status"] == "ready"
    assert len(calls) - before == result["calls_per_sample"]


def test_slow_program_runs_as_often_as_it_is_sampled(monkeypatch):
    monkeypatch.setattr(worker, "SLOW", 0.0)
    want = truth.want(ROW)
    calls = []
    result, _ = worker.prepare(ROW, lambda: Program(lambda: want, lambda: calls.append(1)), want)
    assert result["slow"]
    assert len(result["samples"]) == len(calls) == 1


def test_tables_show_no_time_of_a_red_cell():
    red = ready(0.125, 0.125, status="red", reason="output: error 1 > 1e-05", errors={"forward": 1})
    summary = report.summarise(ROW, {"fused": red, "eager": ready(0.5)}, 1e9)
    assert summary["cells"]["fused"]["seconds"] is None
    assert summary["cells"]["fused"]["samples"] == []
    assert summary["ratios"] == {}
    assert summary["share_of_limit"] is None
    text = printed([summary])
    assert "RED" in text
    assert "red: " + ROW.name + ", mlx-ncps: output: error 1 > 1e-05" in text
    assert "125" not in text


def test_measure_in_processes_and_exit_code(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(table, "ROWS", [ROW])
    for name, value in (("DISABLE_NATIVE", "1"), ("REQUIRE_NATIVE", ""), ("BACKEND", "auto")):
        monkeypatch.setenv(f"MLX_NCPS_{name}", value)
    broken = Implementation("compiled", "broken", "mlx_ops:no_such_function")
    chosen = (BY_KEY["fused"], BY_KEY["eager"], broken)
    monkeypatch.setattr(table, "IMPLEMENTATIONS", chosen)
    path = tmp_path / "result.json"
    arguments = ["--repeats", "3", "--threads", "1", "--device", "cpu", "--json", str(path)]
    assert command.main(arguments) == 1
    cells = json.loads(path.read_text())["rows"][ROW.name]["cells"]
    assert {key: cell["status"] for key, cell in cells.items()} == {
        "fused": "missing",
        "eager": "ready",
        "compiled": "error",
    }
    assert len(cells["eager"]["samples"]) == 3
    printed = capsys.readouterr().out
    assert f"missing: {ROW.name}, mlx-ncps: no fused backend" in printed
    assert f"error: {ROW.name}, broken: " in printed
    assert "no_such_function" in printed


def test_measure_names_a_cell_that_takes_too_long():
    options = Namespace(limit=0.0, budget=1, threads=1, device="cpu", repeats=1, slow_repeats=1)
    results = runner.measure(ROW, [BY_KEY["eager"]], truth.want(ROW), options)
    assert results["eager"]["status"] == "timeout"
    assert results["eager"]["samples"] == []


def test_slow_cell_samples_within_its_budget():
    cell = object.__new__(runner.Cell)
    cell._budget, cell.result = 10.0, {"samples": []}
    assert cell.allowed(5) == 5
    for sample, left in ((4.0, 1), (4.0, 0)):
        cell.result["samples"].append(sample)
        assert cell.allowed(5) == left
    cell.result["samples"] = [0.001] * 5
    assert cell.allowed(5) == 0
    cell.result["samples"] = [60.0]  # one sample is always there
    assert cell.allowed(5) == 0


def test_step_keeps_single_calls():
    row = Row(replace(LTC, **ONE), "step")
    want = truth.want(row)
    _, sample = worker.prepare(row, lambda: Program(lambda: want, lambda: None), want)
    calls = sample()["calls"]
    assert len(calls) > 10
    assert min(calls) >= 0
    cell = object.__new__(runner.Cell)
    cell._calls, cell.result, cell.close = list(range(101)), {}, lambda: None
    assert cell.finish()["latency"] == {"p50": 50, "p99": 99, "calls": 101}


# --- counting -------------------------------------------------------------------------------------


def test_primitives_are_counted_without_views():
    x = mx.ones((4, 3))
    mx.eval(x)
    names = launches.primitives([mx.sigmoid(x.T)[None], x @ x.T])
    assert sorted(names) == ["Matmul", "Sigmoid"]


@pytest.mark.parametrize("case", [LTC, CFC], ids=str)
def test_launches_do_not_grow_with_time_when_fused(case):
    def count(key, steps):
        row = Row(replace(case, steps=steps), "fwd+bwd")
        return BY_KEY[key].load(row, 1).launches()

    assert count("eager", 6) > 1.5 * count("eager", 3)
    try:
        assert count("fused", 6) == count("fused", 3) < count("eager", 3)
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("case", "mode", "bound"),
    [
        (LTC, "fwd", 24),
        (LTC, "fwd+bwd", 75),
        (NCP, "fwd", 30),
        (NCP, "fwd+bwd", 83),
        (CFC, "fwd", 5),
        (CFC, "fwd+bwd", 30),
    ],
    ids=str,
)
def test_fused_call_launches_no_more_operations(cpu_device, case, mode, bound):
    """Each costs some microseconds around the kernels, whatever the sizes are."""
    try:
        assert BY_KEY["fused"].load(Row(case, mode), 1).launches() <= bound
    except Missing as missing:
        pytest.skip(str(missing))


def test_header_names_no_place():
    options = command._parser().parse_args(["--device", "cpu", "--threads", "1"])
    head = machine.header(options)
    assert str(Path.home()) not in str(head)
    assert str(Path(command.__file__).parents[1]) not in str(head)
    assert re.search(r"[\d.]+ G FMA/s|copy [\d.]+ GB/s", head["limits"])


# --- arithmetic and text --------------------------------------------------------------------------


def printed(rows):
    """All tables and notes of summarised rows."""
    tables = report.tables(rows, IMPLEMENTATIONS).values()
    return "\n".join([*map(report.align, tables), report.notes(rows, IMPLEMENTATIONS)])


def test_summarise_medians_ratios_and_memory():
    results = {
        "fused": ready(0.1, 0.3, 0.2, peak_bytes=100),
        "eager": ready(4.0, peak_bytes=900),
        "compiled": ready(3.0, 3.0, peak_bytes=800),
        "by_hand": ready(1.0),
        "torch": ready(0.1, peak_bytes=None),
    }
    summary = report.summarise(ROW, results, limit=2 * ROW.work[1] / 0.2)
    assert summary["cells"]["fused"]["seconds"] == 0.2
    assert summary["cells"]["fused"]["spread"] == pytest.approx(0.25)
    want = {"eager": 20, "compiled": 15, "by_hand": 5, "torch": 0.5, "mlx_ops": 15}
    assert summary["ratios"] == pytest.approx(want)
    assert summary["share_of_limit"] == pytest.approx(0.5)
    assert summary["memory_ratio"] == 8
    times = report.time_table([summary], IMPLEMENTATIONS)[1]
    assert {"200 ms ±25%", "4 s ±0% n=1", "50%"} <= set(times)
    assert {"15x", "5x", "0.5x", "8x"} <= set(report.ratio_table([summary], IMPLEMENTATIONS)[1])


def test_missing_baseline_is_named_and_has_no_ratio():
    def load():
        raise Missing("not installed: torch")

    result, sample = worker.prepare(ROW, load, {})
    assert sample is None
    summary = report.summarise(ROW, {"fused": ready(0.1), "torch": result}, None)
    assert "torch" not in summary["ratios"]
    assert f"missing: {ROW.name}, ncps.torch: not installed: torch" in printed([summary])
    assert "missing" in report.time_table([summary], IMPLEMENTATIONS)[1]


@pytest.mark.parametrize(
    ("row", "work"),
    [
        (Row(LTC, "fwd"), ("sigmoid", 2 * 3 * (2 * 25 + 15))),
        (Row(CFC, "fwd"), ("fma", 2 * 3 * (8 * 4 + 3 * 4 * 5))),
        (Row(LTC, "train"), ("sigmoid", 2 * 2 * 3 * (2 * 25 + 15))),
        (Row(CFC, "fwd+bwd"), ("fma", 3 * 2 * 3 * (8 * 4 + 3 * 4 * 5))),
    ],
    ids=lambda value: value.name if isinstance(value, Row) else "",
)
def test_work_counts_what_a_row_needs(row, work):
    assert row.work == work


def test_work_counts_synapses_of_a_wiring():
    from tests.support.cases import build_wiring

    wiring = build_wiring(NCP)
    recurrent, sensory = (
        np.count_nonzero(m) for m in (wiring.adjacency_matrix, wiring.sensory_adjacency_matrix)
    )
    assert Row(NCP, "fwd").work == ("sigmoid", 2 * 3 * (2 * recurrent + sensory))


def test_select_by_part_and_by_pattern():
    assert select(ROWS, None) == ROWS
    assert {row.mode for row in select(ROWS, ["*fwd"])} == {"fwd"}
    assert all(not row.is_ltc for row in select(ROWS, ["cfc"]))
    assert select(ROWS, ["cfc", "ltc"]) == ROWS
    with pytest.raises(ValueError, match="--only"):
        select(ROWS, ["cfc", "gru"])


def test_quick_rows_are_smaller_and_named_by_their_size():
    for row, short in zip(ROWS, quick(ROWS), strict=True):
        assert short.case.steps <= row.case.steps
        assert f"B{short.case.batch}T{short.case.steps}" in short.name


@pytest.mark.skipif(mx.default_device() == mx.gpu, reason="MLX has a GPU here")
def test_device_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--device", "gpu"])
    assert end.value.code == 2
    assert "--device gpu" in capsys.readouterr().err


def test_targets_are_of_rows_that_exist():
    names = {row.name for row in ROWS}
    assert {name for name, _, _ in targets.TARGETS} <= names


def test_targets_table_compares_on_the_right_side():
    (name, kind, _), *_ = targets.TARGETS
    assert (name.split()[1], kind) == ("fwd", "mlx_ops")
    row = {
        "name": f"{targets.SMALL} fwd+bwd",
        "ratios": {"mlx_ops": 74.9, "torch": 16.0},
        "memory_ratio": 147,
        "share_of_limit": None,
        "cells": {},
    }
    small, step = row["name"], f"{targets.STEPS[2]} step"
    late = {"cells": {"fused": {"latency": {"p50": 26e-6}}}}
    late |= {"name": step, "ratios": {}, "memory_ratio": None, "share_of_limit": None}
    lines = targets.table([row, late])
    assert lines[1:] == [
        [small, "at least 75x as fast as MLX ops", "74.9x", "missed"],
        [small, "at least 16x as fast as ncps.torch", "16x", "met"],
        [small, "at most 1/50 of the memory of MLX ops", "1/147", "met"],
        [step, "at most 25 us p50 of a call", "26 us", "missed"],
    ]
