"""The blocks of docs/layers.md run, one after the other, and give the shapes that they name."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "layers.md"


def test_blocks_of_the_document_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 13
    names, shapes = {}, []
    for n, block in enumerate(blocks):
        exec(compile(block, f"{DOCUMENT.name}, block {n}", "exec"), names)
        shapes.append(getattr(names.get("output"), "shape", None))
    assert shapes[1] == (8, 20, 4)
    assert names["last"].shape == (8, 16)
    assert shapes[2] == (8, 20, 16)
    assert shapes[4] == (8, 20, 32)
    assert shapes[6:9] == [(8, 20, 16), (8, 20, 16), (8, 20, 4)]
    assert shapes[9] == (8, 8)
    assert shapes[10] == (8, 20, 16)
    assert shapes[12] == (4,)
    printed = capsys.readouterr().out
    assert "the LSTM in front of the cell" in printed
    assert "the dropout of the backbone" in printed
