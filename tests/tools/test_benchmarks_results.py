"""What the benchmarks keep: interrupted runs, scaling, memory, plots and the results page."""

import json
from argparse import Namespace

import pytest
from mlx_ncps import dispatch

from benchmarks import __main__ as command
from benchmarks import memory, page, scaling, series, store, table
from benchmarks.implementations import BY_KEY, chunked
from benchmarks.rows import Row
from tests.support.cases import CfcCase, LtcCase, assert_all_close, tolerance

LTC = LtcCase(batch=2, steps=3, inputs=3, units=5, unfolds=2)
CFC = CfcCase(batch=2, steps=3, inputs=3, units=5, backbone_units=4)
ROW = Row(LTC, "fwd")


def ready(*samples, **more):
    result = {"status": "ready", "samples": list(samples), "peak_bytes": 1000, "errors": {}}
    return result | more


# --- what is kept ---------------------------------------------------------------------------------


def options(*more):
    parsed = command._parser().parse_args([*more, "--device", "cpu", "--threads", "1"])
    parsed.typed = " ".join(more)
    return parsed


@pytest.fixture
def measured(monkeypatch):
    """Makes the table's measuring instant: what `takes` says, and a list of what was measured."""
    asked = []

    def measure(row, implementations, want, options, done):
        for i in implementations:
            asked.append((row.name, i.key))
            if len(asked) == measure.stop:
                raise KeyboardInterrupt
            done(i.key, ready(0.123456, 0.2, 0.3, launches=7))

    measure.stop, measure.asked = None, asked
    monkeypatch.setattr(table, "measure", measure)
    monkeypatch.setattr(table.truth, "want", lambda *_: None)
    monkeypatch.setattr(table.machine, "vector_limit", lambda *_: 1e9)
    monkeypatch.setattr(table, "ROWS", [ROW, Row(CFC, "fwd")])
    return measure


def test_interrupted_run_keeps_and_prints_what_it_has_and_resumes(measured, tmp_path, capsys):
    path = tmp_path / "deep" / "result.json"
    columns = ("--column", "fused", "--column", "eager", "--json", str(path))
    measured.stop = 4
    assert table.run(options(*columns)) == 130
    assert "123 ms" not in capsys.readouterr().out.replace("200 ms", "")
    rows = json.loads(path.read_text())["rows"]
    assert {name: list(row["cells"]) for name, row in rows.items()} == {
        ROW.name: ["fused", "eager"],
        str(CFC) + " fwd": ["fused"],
    }
    assert rows[ROW.name]["cells"]["fused"]["samples"] == [0.1235, 0.2, 0.3]
    measured.stop = None
    measured.asked.clear()
    assert table.run(options(*columns, "--resume")) == 0
    assert measured.asked == [(str(CFC) + " fwd", "eager")]
    assert table.run(options(*columns, "--resume")) == 0  # nothing left
    assert len(measured.asked) == 1


def test_resume_refuses_another_machine(measured, tmp_path):
    path = tmp_path / "result.json"
    assert table.run(options("--json", str(path))) == 0
    document = json.loads(path.read_text())
    document["header"]["machine"] = "abacus"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"the same machine.*abacus"):
        table.run(options("--json", str(path), "--resume"))
    path.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        table.run(options("--json", str(path), "--resume"))


def test_unknown_column_is_named():
    with pytest.raises(ValueError, match=r"--column.*'cobol'"):
        table.run(options("--column", "cobol"))


def test_minutes_long_rows_need_full(capsys):
    assert table.run(options("--list")) == 0
    few = capsys.readouterr().out.splitlines()
    assert table.run(options("--list", "--full")) == 0
    assert set(few) < set(capsys.readouterr().out.splitlines())


# --- scaling, memory and the page -----------------------------------------------------------------


def test_every_series_has_valid_rows_and_known_columns():
    for one in series.SERIES:
        assert set(one.columns) <= set(BY_KEY)
        for value, row in one.rows():
            if one.fields:
                assert getattr(row.case, one.fields[0]) == value


def scaled(measured, tmp_path, *more):
    path = tmp_path / "scaling.json"
    arguments = ("scaling", "--json", str(path), *more)
    assert scaling.run(options(*arguments)) == 0
    return json.loads(path.read_text())


def test_scaling_leaves_out_what_would_take_too_long(measured, tmp_path):
    more = ("--only", "ltc T", "--column", "fused", "--column", "eager", "--budget", "0.3")
    rows = scaled(measured, tmp_path, *more)["rows"]
    assert rows["ltc T 32"]["cells"]["eager"]["status"] == "ready"
    slower = {"status": "skipped", "reason": "would take about 1.98 s"}  # 0.1235 s at T = 32
    assert rows["ltc T 512"]["cells"]["eager"] == slower


@pytest.mark.parametrize("status", ["red", "error"])
@pytest.mark.parametrize("module", [scaling, memory], ids=lambda module: module.__name__)
def test_failure_of_a_cell_is_that_of_the_command(measured, monkeypatch, module, status):
    def measure(row, implementations, want, options, done):
        for i in implementations:
            done(i.key, ready(status=status, reason="wrong"))

    monkeypatch.setattr(table, "measure", measure)
    name = module.__name__.split(".")[1]
    assert module.run(options(name, "--quick", "--only", "cfc-B" if module is memory else "T")) == 1


def test_one_series_completes_a_file_which_names_all_its_commands(measured, tmp_path):
    measured.stop = 3
    columns = ("--column", "fused", "--column", "torch")
    first = ("scaling", "--json", str(tmp_path / "scaling.json"), *columns, "--only", "cross")
    assert scaling.run(options(*first)) == 130
    measured.stop = None
    for _ in range(2):  # the second has nothing to do
        document = scaled(measured, tmp_path, *columns, "--only", "cross", "--resume")
    later = f"{' '.join(('scaling', *first[1:3], *columns))} --only cross --resume"
    assert document["command"] == (
        f"python -m benchmarks {' '.join(first)}; python -m benchmarks {later}"
    )
    assert {row["row"]["series"] for row in document["rows"].values()} == {
        "cfc cross-over",
        "cfc cross-over, fwd+bwd",
    }
    assert not series.unfinished(document, "cfc cross-over, fwd+bwd")


def test_half_a_cross_over_is_not_drawn(measured, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    only = ("--only", "cross", "--column", "fused", "--column", "torch")
    document = scaled(measured, tmp_path, *only)
    del document["rows"]["cfc cross-over, fwd+bwd 256"]
    del document["rows"]["cfc cross-over, fwd+bwd 512"]["cells"]["torch"]
    folder = tmp_path / "figures"
    assert plots.draw_scaling(document, folder) == []
    assert not list(folder.iterdir())
    reason = "cross_over.png is not drawn: cfc cross-over, fwd+bwd lacks 256, 512\n"
    assert capsys.readouterr().err.endswith(reason)
    for name in list(document["rows"]):
        if "fwd+bwd" in name:
            del document["rows"][name]
    assert plots.draw_scaling(document, folder) == []
    assert "fwd+bwd lacks 32, 64, 128, 256, 512" in capsys.readouterr().err


def test_plots_are_small_files(measured, tmp_path):
    pytest.importorskip("matplotlib")
    only = ("--only", "ltc T", "--only", "threads", "--only", "cross", "--column", "fused")
    document = scaled(measured, tmp_path, *only, "--column", "torch")
    from benchmarks import plots

    paths = plots.draw_scaling(document, tmp_path / "figures")
    assert [path.stem for path in paths] == ["scaling_T", "cross_over", "threads"]
    assert set(page.CAPTIONS) == {"cross_over", "threads", *plots.SCALING}
    for path in paths:
        assert 5_000 < path.stat().st_size < 60_000, path


@pytest.mark.skipif(dispatch.explain(None).backend != "cpu", reason="of the CPU kernels")
def test_memory_formula_is_what_the_fused_kernels_keep():
    """Peaks of the two lengths differ by what is kept, the states, inputs and their gradients."""
    import mlx.core as mx

    for op in ("ltc", "cfc"):
        peaks = {}
        for steps in (64, 192):
            row = Row(memory.sequence(op, 4, steps), "fwd+bwd")
            program = chunked.whole(row, 1)
            program.run()
            mx.clear_cache()
            mx.reset_peak_memory()
            program.run()
            peaks[steps] = mx.get_peak_memory(), memory.saved_bytes(row.case), row.case
        (short, saved, _), (long, more, case) = peaks[64], peaks[192]
        state = 4 * case.batch * 128 * case.units
        assert more - saved <= long - short <= more - saved + 8 * state, op


@pytest.mark.parametrize("op", ["ltc", "cfc"])
def test_chunked_programs_give_the_gradients_of_the_whole(op):
    row = Row(memory.sequence(op, 2, 20), "fwd+bwd")
    want = chunked.whole(row, 1).check()
    for way in (chunked.checkpointed, chunked.chunked):
        assert_all_close(way(row, 1).check(), want, tolerance("float32", "gradient"))


def test_memory_command_measures_in_processes(tmp_path, capsys):
    path = tmp_path / "memory.json"
    arguments = ("memory", "--quick", "--only", "cfc-B1", "--json", str(path))
    assert memory.run(options(*arguments)) == 0
    cells = next(iter(json.loads(path.read_text())["rows"].values()))["cells"]
    assert {cell["status"] for cell in cells.values()} == {"ready"}
    assert all(cell["peak_bytes"] > 0 for cell in cells.values())
    assert "MiB" in capsys.readouterr().out


def test_memory_measures_the_asked_columns_alone(measured, tmp_path):
    path = tmp_path / "memory.json"
    arguments = ("memory", "--quick", "--json", str(path), "--column")
    assert memory.run(options(*arguments, "checkpoint", "--column", "by_hand")) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {tuple(row["cells"]) for row in rows.values()} == {
        ("by_hand", "checkpoint"),
        ("checkpoint",),  # the long sequence
    }
    assert memory.run(options(*arguments, "eager")) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {tuple(row["cells"]) for row in rows.values()} == {("eager",)}
    with pytest.raises(ValueError, match="--column must be one of fused, eager, by_hand, checkp"):
        memory.run(options(*arguments, "torch"))


@pytest.mark.parametrize("name", ["table", "scaling", "memory"])
def test_results_are_there_until_new_ones_are(measured, tmp_path, name):
    module = {"table": table, "scaling": scaling, "memory": memory}[name]
    path = tmp_path / "result.json"
    arguments = (name, "--quick", "--column", "fused", "--json", str(path))
    assert module.run(options(*arguments)) == 0
    before = path.read_text()
    measured.stop = len(measured.asked) + 1  # before the first cell
    assert module.run(options(*arguments)) == 130
    assert path.read_text() == before
    measured.stop = len(measured.asked) + 2
    assert module.run(options(*arguments)) == 130
    assert path.read_text() == before
    rows = json.loads(store.unfinished(path).read_text())["rows"].values()
    assert [list(row["cells"]) for row in rows if row["cells"]] == [["fused"]]
    measured.stop, known = None, len(measured.asked)
    assert module.run(options(*arguments, "--resume")) == 0
    names = [row["row"]["name"] for row in json.loads(path.read_text())["rows"].values()]
    assert len(measured.asked) - known == len(names) - 1  # all but the one that was there
    assert not store.unfinished(path).exists()


def test_memory_leaves_out_what_does_not_fit():
    before = [(100, {"eager": ready(0.01, seconds=0.01, peak_bytes=2**30)})]
    assert "GiB" in memory._too_much(before, 10**9, "eager", Namespace(budget=1e9))
    assert "would take about 10 s" in memory._too_much(before, 10**5, "eager", Namespace(budget=1))
    assert memory._too_much(before, 101, "eager", Namespace(budget=1)) == ""


def test_page_shows_what_was_measured_and_what_was_not(measured, tmp_path):
    results = tmp_path / "results"
    assert table.run(options("--json", str(results / "cpu.json"))) == 0
    target = tmp_path / "page.md"
    assert page.run(options("page", "--results", str(results), "--out", str(target))) == 0
    text = target.read_text()
    assert f"| {ROW.name} | 200 ms ±" in text
    assert f"command: `python -m benchmarks --json {results / 'cpu.json'}`" in text
    for command_ in ("make bench-apple", "make bench-nvidia", "make bench-full"):
        assert f"**Not measured yet.** `{command_}`" in text
    widths = {
        line.count("|")
        for line in text.split("### Time of a call")[1].split("###")[0].split("\n")
        if "|" in line
    }
    assert len(widths) == 1


def test_page_is_up_to_date():
    if not page.PAGE.exists():
        pytest.skip("no results yet")
    fresh = page.page(command.RESULTS, page.FIGURES, page.PAGE.parent)
    assert fresh == page.PAGE.read_text(encoding="utf-8"), "run `python -m benchmarks page`"
    beside = page.PAGE.with_name(page.FEATURES).read_text(encoding="utf-8")
    assert page.features(command.RESULTS) == beside, "run `python -m benchmarks page`"


def test_markdown_escapes_bars():
    assert page.markdown([["a", "b"], ["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"
