"""The blocks of docs/training.md run, one after the other, and give what the text says."""

import re

import mlx.core as mx
from mlx.utils import tree_flatten

from tests.support import ROOT
from tests.support.cases import assert_all_close, assert_close, tolerance

DOCUMENT = ROOT / "docs" / "training.md"
SAME, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")


def test_blocks_of_the_document_run():
    mx.random.seed(0)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 9
    names = {}
    for n, block in enumerate(blocks):
        exec(compile(block, f"{DOCUMENT.name}, block {n}", "exec"), names)
    assert names["norm"].item() > 0
    halves = mx.concatenate([names["first"], names["second"]], axis=1)
    assert_close("halves", halves, names["both"], SAME)
    assert names["group"].size() == 1
    want = dict(tree_flatten(names["whole_gradients"]))
    assert names["last"].shape == (8, 16)
    for way in ("checkpointed_loss", "loss"):
        assert_close(way, names[way], names["whole_loss"], SAME)
    for way in ("gradients", "checkpointed_gradients"):
        assert_all_close(dict(tree_flatten(names[way])), want, GRADIENT)
    assert names["last_loss"].item() > 0
    assert set(dict(tree_flatten(names["low_rank_gradients"]))) == {
        "rnn_cell.ff1.a",
        "rnn_cell.ff1.b",
    }
    plan = str(names["adapted"].explain((8, 40, 3)))
    assert plan == "step by step: ff1 is LowRank, no nn.Linear: each step calls it"
    difference = abs(names["after"] - names["before"]).max().item()
    assert 0 < difference < abs(names["before"]).max().item()
    cell = names["quantized"].layers[0].rnn_cell
    assert "scales" not in cell.backbone[0]
    assert "scales" in cell.ff1
