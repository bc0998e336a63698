"""Benchmarks that are interrupted, by Ctrl-C or SIGTERM, at any point: they keep what they have."""

import json
import multiprocessing
import os
import signal
from argparse import Namespace

import pytest

from benchmarks import __main__ as command
from benchmarks import runner, store, table
from benchmarks.implementations import BY_KEY, Implementation
from benchmarks.rows import Row
from tests.support.cases import LtcCase

ROW = Row(LtcCase(batch=2, steps=3, inputs=3, units=5, unfolds=2), "fwd")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
SETTINGS = Namespace(limit=60, budget=1, threads=1, device="cpu", repeats=1, slow_repeats=1)


class Ended(Implementation):
    """Its process is ended as the whole group of the command is."""

    def load(self, row, threads):
        os.kill(os.getpid(), signal.SIGTERM)


class Dying(Implementation):
    """Its process ends by itself, without an answer."""

    def load(self, row, threads):
        os._exit(3)


def cell_without_process(code: int) -> runner.Cell:
    """A cell whose process has closed its end of the pipe and isn't known to have ended."""
    cell = object.__new__(runner.Cell)
    cell._connection, theirs = multiprocessing.Pipe()
    theirs.close()
    cell._process = Namespace(
        is_alive=lambda: True, join=lambda *_: None, kill=lambda: None, exitcode=code
    )
    cell._limit, cell._calls = 1.0, []
    cell.result = {"samples": [0.5], "status": "ready"}
    return cell


def test_a_cell_whose_process_is_gone_is_closed():
    cell = cell_without_process(-signal.SIGTERM)
    cell.close()
    assert cell._connection.closed


@pytest.mark.parametrize("step", ["prepare", "sample", "wait"])
def test_a_cell_whose_process_is_gone_has_no_result(step):
    cell = cell_without_process(-signal.SIGKILL)
    getattr(cell, step)()
    reason = "the process ended with code -9"
    assert cell.finish() == {"samples": [], "status": "error", "reason": reason}


@SIGNALS
@pytest.mark.parametrize("step", ["prepare", "sample", "wait"])
def test_a_signal_to_the_process_is_one_to_the_command(step, number):
    """It may get its signal first; a result that says "error" would never be measured again."""
    with pytest.raises(KeyboardInterrupt):
        getattr(cell_without_process(-number), step)()


def test_measure_ends_all_processes_when_one_is_ended():
    ended = Ended("eager", "ended", "mlx_ops:eager")
    waiting = BY_KEY["by_hand"]
    done = []
    with pytest.raises(KeyboardInterrupt):
        runner.measure(ROW, [ended, waiting], None, SETTINGS, lambda *cell: done.append(cell))
    assert not done
    assert not multiprocessing.active_children()


def test_measure_goes_on_when_a_process_dies():
    dying = Dying("eager", "dying", "mlx_ops:eager")
    results = runner.measure(ROW, [dying], None, SETTINGS)
    assert results["eager"]["reason"] == "the process ended with code 3"


@SIGNALS
def test_interrupted_scaling_prints_keeps_and_draws_and_goes_on(
    number, monkeypatch, tmp_path, capsys
):
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    asked = []

    def measure(row, implementations, want, options, done):
        for i in implementations:
            asked.append((row.name, i.key))
            if len(asked) == 4:
                signal.raise_signal(number)
            done(i.key, {"status": "ready", "samples": [0.125], "peak_bytes": None})

    draw = plots.draw_scaling

    def draw_under_a_second_signal(*arguments):
        signal.raise_signal(number)  # as `timeout` sends it
        return draw(*arguments)

    monkeypatch.setattr(table, "measure", measure)
    monkeypatch.setattr(table.truth, "want", lambda *_: None)
    monkeypatch.setattr(table.machine, "vector_limit", lambda *_: 1e9)
    monkeypatch.setattr(plots, "draw_scaling", draw_under_a_second_signal)
    path, figures = tmp_path / "scaling.json", tmp_path / "figures"
    arguments = ["scaling", "--only", "ltc T", "--column", "fused", "--column", "eager"]
    arguments += ["--json", str(path), "--out", str(figures)]
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert command.main(arguments) == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    cells = {name: list(row["cells"]) for name, row in json.loads(path.read_text())["rows"].items()}
    assert cells == {"ltc T 32": ["fused", "eager"], "ltc T 128": ["fused"]}
    assert "125 ms" in capsys.readouterr().out
    (figures / "scaling_T.png").unlink()  # fails if it was not drawn
    measured = asked[:3]
    asked.clear()
    asked.extend([None] * 4)  # no signal now
    monkeypatch.setattr(plots, "draw_scaling", draw)
    assert command.main([*arguments, "--resume"]) == 0
    assert asked[4] == ("ltc T 128", "eager")
    assert not set(measured) & set(asked)
    assert (figures / "scaling_T.png").exists()


@SIGNALS
def test_interrupted_before_anything_is_measured(number, monkeypatch, capsys):
    monkeypatch.setattr(table.machine, "header", lambda *_: signal.raise_signal(number))
    assert command.main([]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_cell_is_kept_when_its_writing_is_interrupted(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    kept = store.Store(path, "command", {})
    kept.row("row", {})
    replace, calls = os.replace, []

    def interrupted_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(store.os, "replace", interrupted_once)
    with kept.measuring():
        kept.add("row", "fused", {"status": "ready"})
    assert kept.interrupted
    assert json.loads(path.read_text())["rows"]["row"]["cells"] == {"fused": {"status": "ready"}}
