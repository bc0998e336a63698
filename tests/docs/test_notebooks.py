"""The notebooks of docs/notebooks: every cell runs, in order, and prints what the stored outputs
say. `make notebooks` stores them.
"""

import json
import re

import pytest

from tests.support import ROOT
from tests.support.quick import QUICK

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
RUN = NOTEBOOKS if QUICK else NOTEBOOKS[:1]  # they train networks


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def printed_by(cell):
    """What a stored cell printed; pictures aside."""
    streams = [out for out in cell["outputs"] if out["output_type"] == "stream"]
    return "".join("".join(out["text"]) for out in streams)


def without_numbers(text):
    """A text whose fractions, which differ from processor to processor, are all the same."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", text)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_every_cell_runs_and_prints_what_is_stored(path, tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("networkx")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    with matplotlib.rc_context():
        for number, cell in enumerate(code_cells(path)):
            source = "".join(cell["source"]).replace("plt.show()", 'plt.close("all")')
            exec(compile(source, f"{path.name}, cell {number}", "exec"), names)
            lines = capsys.readouterr().out.splitlines()
            stored = printed_by(cell).splitlines()
            if "sort" not in source:  # an order may hang on the last digits
                assert [*map(without_numbers, lines)] == [*map(without_numbers, stored)]
    pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_there_whole_and_small(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        shows = "plt.show()" in "".join(cell["source"])
        kinds = {out["output_type"] for out in cell["outputs"]}
        assert "error" not in kinds
        assert shows == ("display_data" in kinds)
        assert ("print(" in "".join(cell["source"])) == ("stream" in kinds)
    assert path.stat().st_size < 120_000
