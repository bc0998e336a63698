"""The blocks of docs/wirings_and_layers.md run, one after the other, in a process of their own, and
give the shapes that their comments name.
"""

import re

import pytest

from tests.support import ROOT

DOCUMENT = ROOT / "docs" / "wirings_and_layers.md"
CHECKS = [  # after the block with this text: what holds
    ("get_synapses(target=0)", "wiring.get_neurons_of_type('command') == [4, 5, 6, 7]"),
    ("get_synapses(target=0)", "all(s.target == 0 for s in wiring.get_synapses(target=0))"),
    ("class Chain", "output.shape == (8, 20, 2) and state.shape == (8, 17)"),
    ("remove_synapse", "removed > 0 and layer.synapse_count == wiring.synapse_count"),
    ("remove_synapse", "int(mx.sum(cell.sparsity_mask != 0)) == layer.synapse_count"),
    ("backbone_units=[64, 32]", "output.shape == (8, 4)"),
    ("class Leaky", "output.shape == (8, 20, 32)"),
    ("class Scale", "output.shape == (8, 20, 12) and dense.mask.shape == (12, 3)"),
    ("class Scale", "dense.compute_output_shape((None, 20, 3)) == (None, 20, 12)"),
    ("redraw", "abs(same - mx.array(weight).tolist()).max() < 1e-6"),
    ("from_config", "mx.array_equal(model(x), output) and output.shape == (8, 20, 4)"),
    (
        "import mlx_ncps.alias",
        "output.shape == (8, 20, 4) and CfC.__module__ == 'mlx_ncps.rnn.cfc'",
    ),
]


def test_blocks_of_the_document_run(run_python, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("networkx")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    code = [f"import os\nos.chdir({str(tmp_path)!r})"]
    for block in blocks:
        code += [block, *(f"assert {check}, {check!r}" for text, check in CHECKS if text in block)]
    assert len(code) == 1 + len(blocks) + len(CHECKS)
    done = run_python("-W", "error", "-c", "\n".join(code))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("AutoNCP(units=16, output_dim=4, input_dim=3, synapses=")
