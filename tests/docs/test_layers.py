"""The blocks of docs/layers.md run, one after the other, and give the shapes that they name."""

import re

from tests.support import ROOT

DOCUMENT = ROOT / "docs" / "layers.md"


def test_blocks_of_the_document_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names, shapes = {}, {}
    for n, block in enumerate(blocks):
        exec(compile(block, f"{DOCUMENT.name}, block {n}", "exec"), names)
        shapes[block] = getattr(names.get("output"), "shape", None)

    def shape_after(text):
        (block,) = (block for block in blocks if text in block)
        return shapes[block]

    assert shape_after("LTC(I, AutoNCP(16, 4))(x, timespans=ts)") == (8, 20, 4)
    assert names["last"].shape == (8, 16)
    assert shape_after('variant="keras"') == (8, 20, 16)
    assert shape_after("initialization_ranges=") == (8, 20, 16)
    assert shape_after("bidirectional=True, merge_mode=") == (8, 20, 32)
    assert shape_after("mask = mx.arange") == (8, 20, 16)
    assert shape_after("carry_forward(x,") == (8, 20, 16)
    assert shape_after("CfCRNN(I, 16") == (8, 20, 4)
    assert shape_after("class Leaky") == (8, 8)
    assert shape_after("CTRNNCell(I, 16") == (8, 20, 16)
    assert shape_after("layer.step(mx.array(sample)") == (4,)
    assert names["action"].shape == (4,)
    printed = capsys.readouterr().out
    assert "the LSTM in front of the cell" in printed
    assert "the dropout of the backbone" in printed
