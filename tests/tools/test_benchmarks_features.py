"""The benchmarks of features, streaming steps and training steps, and the command of all."""

import json
from dataclasses import replace

import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks import __main__ as command
from benchmarks import (
    arithmetic,
    features,
    full,
    page,
    streaming,
    training,
    truth,
    worker,
)
from benchmarks.layer_rows import cases
from benchmarks.rows import Row
from tests.support.cases import CfcCase, LtcCase

LTC = LtcCase(batch=2, steps=3, inputs=4, units=12, unfolds=2)
ROWS = [
    Row(case, "train")
    for case in (
        LTC,
        replace(LTC, wiring=("AutoNCP", 12, 3)),
        CfcCase(batch=2, steps=3, inputs=4, units=5, backbone_units=6),
    )
]
CASES = {case.name: case for case in cases(batch=2, steps=3)}


@pytest.fixture(autouse=True)
def no_pinning(monkeypatch):
    """The commands keep their process on some CPUs; that of the tests has others to run."""
    monkeypatch.setattr(worker, "pin", lambda threads: None)


def run(name, *more):
    return command.main([name, "--quick", "--device", "cpu", "--threads", "2", *more])


def listed(name, capsys):
    assert run(name, "--list") == 0
    return capsys.readouterr().out.splitlines()


def rows_of(path):
    return json.loads(path.read_text())["rows"]


# --- the rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "streaming", "training"])
def test_every_row_has_a_name_of_its_own(name, capsys):
    names = listed(name, capsys)
    assert len(set(names)) == len(names) >= 36


def test_every_cell_has_every_feature_and_the_plain_layers_every_pair():
    for name in ("CfC", "LTC"):
        alone = {c.features[0].name for c in CASES.values() if c.name.startswith(f"{name} + ")}
        assert len(alone) >= 11
        for first in alone:
            for second in alone - {first, "stacked"}:
                if not ("mask" in first and "mask" in second):
                    names = {f"{name} + {first} + {second}", f"{name} + {second} + {first}"}
                    assert names & set(CASES), (first, second)
    assert {c.kind.name for c in CASES.values() if len(c.features) == 1} == {
        c.kind.name for c in CASES.values() if not c.features
    }


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("CfC", 1.0),
        ("CfC + bidirectional", 2.0),
        ("CfC dropout torch", 1.0),
        ("LTC", 1.0),
        ("LTC explicit", 1.0),
        ("LTC Runge-Kutta", (4 * 6 * 64 + 16) / (6 * 64 + 16)),
        ("CT-RNN", (16 + 6 * 64) / (16 + 64 + 4 * 64)),
    ],
)
def test_arithmetic_of_a_layer(name, want):
    assert features.arithmetic(CASES[name]) == pytest.approx(want)
    assert arithmetic.multiply_adds(CASES[name].make()) > 0


@pytest.mark.parametrize(("seconds", "work", "beyond"), [(2.9, 1, 0), (3.1, 1, 1), (3.1, 2, 0)])
def test_a_row_is_beyond_its_limit_unless_it_computes_more(seconds, work, beyond):
    cells = {"plain": {"samples": [1.0]}, "ours": {"samples": [seconds]}}
    row = {"row": {"limit": 3.0, "arithmetic": work}, "cells": cells}
    assert features.is_beyond(row) == beyond
    cells = {"plain": {"latency": {"p50": 1.0}}, "ours": {"latency": {"p50": seconds}}}
    assert streaming.is_beyond(row | {"cells": cells}) == beyond


# --- the commands ---------------------------------------------------------------------------------

SOME = ("=CfC", "=CfC + mask", "=CfC dropout torch", "=LTC + float16", "=CT-RNN + mixed memory")
STEPS = ("=CfC: step [I]", "=LTC: float16", "=CT-RNN: lazy input", "=ODE-LSTM: mixed memory")


def only(names):
    return [word for name in names for word in ("--only", name)]


@pytest.mark.parametrize("name", ["CT-RNN", "CfC wired + mixed memory"])
def test_a_path_names_step_programs(native, name):
    case = replace(CASES[name], steps=5)
    assert features.path(case) == "sequence: step program"


def test_features_compares_measures_and_resumes(tmp_path, capsys, monkeypatch):
    path = tmp_path / "features.json"
    assert run("features", "--json", str(path), *only(SOME)) == 0
    rows = rows_of(path)
    assert list(rows) == [f"{name[1:]} {mode}" for name in SOME for mode in features.MODES]
    for row in rows.values():
        assert {cell["status"] for cell in row["cells"].values()} == {"ready"}
        assert all(cell["samples"] for cell in row["cells"].values())
        assert set(row["cells"]["ours"]["errors"]) >= {"forward"}
    assert rows["CfC fwd"]["row"]["path"] == "sequence: cpu"
    assert "rows beyond their limit" in capsys.readouterr().out
    monkeypatch.setattr(features, "interleave", None)  # nothing is measured again
    assert run("features", "--json", str(path), "--resume", *only(SOME)) == 0


def test_streaming_compares_measures_and_names_what_is_refused(tmp_path, capsys):
    path = tmp_path / "streaming.json"
    assert run("streaming", "--json", str(path), *only(STEPS)) == 0
    rows = rows_of(path)
    assert list(rows) == [name[1:] for name in STEPS]
    refused = rows.pop("ODE-LSTM: mixed memory")["cells"]["ours"]
    assert refused["status"] == "refused"
    for row in rows.values():
        assert {cell["status"] for cell in row["cells"].values()} == {"ready"}
        assert row["cells"]["ours"]["latency"]["p50"] > 0
    assert "refused: ODE-LSTM: mixed memory: [rnn] mixed_memory" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "name"), [(features, "=CfC"), (streaming, "=CfC: cell")])
def test_a_wrong_result_is_red(module, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "relative_error", lambda got, want: 0.5)
    path = tmp_path / "red.json"
    assert run(module.__name__.split(".")[1], "--only", name, "--json", str(path)) == 1
    assert "RED" in capsys.readouterr().out
    cell = next(iter(rows_of(path).values()))["cells"]["ours"]
    assert cell["status"] == "red"
    assert not cell.get("samples")
    assert "latency" not in cell


@pytest.mark.parametrize("name", ["features", "streaming"])
def test_a_pattern_that_names_nothing_and_a_column_are_refused(name):
    for arguments in (("--only", "=cobol"), ("--column", "fused")):
        with pytest.raises(SystemExit):
            run(name, *arguments)


def test_training_measures_layers_in_processes(tmp_path, capsys):
    path = tmp_path / "training.json"
    columns = ("--column", "layer", "--column", "layer_compiled")
    assert run("training", "--only", "cfc-B1T4I16H16", "--json", str(path), *columns) == 0
    cells = next(iter(rows_of(path).values()))["cells"]
    assert {cell["status"] for cell in cells.values()} == {"ready"}
    assert all(cell["errors"]["gradient"] < 1e-5 for cell in cells.values())
    assert "Time of a training step" in capsys.readouterr().out


@pytest.mark.parametrize("column", [*training.OURS, training.ADAM], ids=lambda column: column.key)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_layer_equals_float64_and_its_step_changes_every_parameter(row, column):
    program = column.load(row, 1)
    result, _ = worker.prepare(row, lambda: program, truth.want(row))
    assert result["status"] == "ready", result.get("reason")
    # Copies: a compiled step may write into the arrays that it has replaced.
    first, second = ({n: np.array(a) for n, a in tree_flatten(program.run())} for _ in range(2))
    fixed = {name for name in first if name.endswith(("mask", "matrix"))}  # of a wiring
    assert {name for name in first if np.array_equal(first[name], second[name])} <= fixed


def test_training_names_where_ours_is_behind():
    def cell(seconds):
        return {"status": "ready", "samples": [seconds], "seconds": seconds}

    cells = {"layer": cell(2.0), "layer_compiled": cell(1.0), "jax": cell(1.5)}
    head, line = training.ratio_table([{"name": "row", "cells": cells}])
    assert line[head.index("JAX scan")] == "0.75x, 1.5x"
    assert line[-1] == "**mlx-ncps to JAX scan**"


def test_page_of_features_has_what_was_measured(tmp_path, capsys):
    results = tmp_path / "results"
    run("features", "--only", "=CfC", "--json", str(results / "features.json"))
    run("streaming", "--only", "=CfC: cell", "--json", str(results / "streaming.json"))
    assert run("page", "--results", str(results), "--out", str(tmp_path / "page.md")) == 0
    text = (tmp_path / page.FEATURES).read_text()
    assert "| CfC | sequence: cpu | 1x |" in text
    assert "| CfC: cell | 1x |" in text
    assert text.count("**Not measured yet.** `make bench-full`") == 1


# --- all of them ----------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """The commands that `full` starts; one of them has another code."""
    commands = []

    def start(arguments):
        commands.append(arguments)
        return start.codes.get(arguments[0], 0)

    start.codes, start.commands = {}, commands
    monkeypatch.setattr(full, "start", start)
    return start


def test_full_runs_everything_also_after_a_failure(started, tmp_path):
    started.codes = {"scaling": 1}
    results = tmp_path / "docs" / "results"
    assert run("full", "--results", str(results), "--repeats", "3") == 1
    assert [c[0] for c in started.commands] == [c[0] for c in full.PARTS.values()] + ["page"]
    for arguments in started.commands[:-1]:
        assert "--quick" in arguments
        assert "--resume" not in arguments
        assert arguments[arguments.index("--repeats") + 1] == "3"
    assert not list(results.iterdir())  # no trace of the run itself


def test_interrupted_full_goes_on_where_it_was(started, tmp_path):
    started.codes = {"memory": 130}
    assert run("full", "--results", str(tmp_path)) == 130
    assert [c[0] for c in started.commands] == ["table", "scaling", "memory"]
    started.codes.clear()
    started.commands.clear()
    assert run("full", "--results", str(tmp_path), "--resume") == 0
    names = [c[0] for c in started.commands]
    assert names == ["memory", "features", "streaming", "training", "page"]
    assert ["--resume" in c for c in started.commands] == [True, False, False, False, False]


def test_full_keeps_older_results_that_it_has_not_begun_to_replace(started, tmp_path):
    """Interrupted before the first cell, a part has nothing of its own to go on with."""
    (tmp_path / "cpu.json").write_text("{}")
    started.codes = {"table": 130}
    assert run("full", "--results", str(tmp_path)) == 130
    assert run("full", "--results", str(tmp_path), "--resume") == 130
    assert "--resume" not in started.commands[-1]
    (tmp_path / "cpu.new.json").write_text("{}")
    assert run("full", "--results", str(tmp_path), "--resume") == 130
    assert "--resume" in started.commands[-1]


def test_full_starts_a_command_in_a_process():
    assert full.start(["training", "--list", "--device", "cpu"]) == 0
    assert full.start(["table", "--only", "cobol", "--device", "cpu"]) == 2
