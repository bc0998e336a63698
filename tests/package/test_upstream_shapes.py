"""The shapes that the torch tests of ncps promise, for every layout, and what wirings then tell;
tools/upstream_tests.py runs those tests themselves.
"""

import mlx.core as mx
import pytest
from mlx_ncps import LTC, CfC, LTCCell
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected

from tests.support import ROOT

I, FIRST, SECOND = 8, 5, 3
HIDDEN = 32


def ncp():
    return NCP(10, 10, 8, 6, 6, 4, 6)


LAYERS = {  # name: (layer, neurons, outputs)
    "cfc": (lambda **o: CfC(I, HIDDEN, **o), HIDDEN, HIDDEN),
    "cfc_projected": (lambda **o: CfC(I, HIDDEN, proj_size=10, **o), HIDDEN, 10),
    "cfc_ncp": (lambda **o: CfC(I, ncp(), **o), 28, 8),
    "cfc_auto": (lambda **o: CfC(I, AutoNCP(28, 10), **o), 28, 10),
    "ltc": (lambda **o: LTC(I, HIDDEN, **o), HIDDEN, HIDDEN),
    "ltc_ncp": (lambda **o: LTC(I, ncp(), **o), 28, 8),
    "ltc_auto": (lambda **o: LTC(I, AutoNCP(16, 4), **o), 16, 4),
}
all_layers = pytest.mark.parametrize("name", LAYERS)


@all_layers
@pytest.mark.parametrize("batch_first", [True, False])
def test_batches_give_the_sequence_and_the_state_of_each_sample(name, batch_first):
    make, units, outputs = LAYERS[name]
    output, state = make(batch_first=batch_first)(mx.random.normal((FIRST, SECOND, I)))
    assert output.shape == (FIRST, SECOND, outputs)
    assert state.shape == (FIRST if batch_first else SECOND, units)
    assert mx.all(mx.isfinite(output)).item()


@all_layers
@pytest.mark.parametrize("batch_first", [True, False])
def test_one_sequence_needs_no_batch(name, batch_first):
    make, units, outputs = LAYERS[name]
    output, state = make(batch_first=batch_first)(mx.random.normal((SECOND, I)))
    assert (output.shape, state.shape) == ((SECOND, outputs), (units,))


def test_a_cell_takes_a_wiring_and_then_its_inputs():
    wiring = FullyConnected(8, 4)
    output, state = LTCCell(wiring, I)(mx.random.normal((SECOND, I)), mx.zeros((SECOND, 8)))
    assert (output.shape, state.shape) == ((SECOND, 4), (SECOND, wiring.units))


@pytest.mark.parametrize("layer", [LTC, CfC])
def test_the_wiring_that_a_layer_was_given_tells_its_synapses(layer):
    wiring = ncp()
    made = layer(I, wiring)
    assert wiring.synapse_count == made.rnn_cell.wiring.synapse_count == 112
    assert wiring.sensory_synapse_count == made.rnn_cell.wiring.sensory_synapse_count == 48


TOOL = ROOT / "tools" / "upstream_tests.py"
TEXT = """import torch
from ncps.torch import CfC, LTCCell, LTC
import ncps


def test_state():
    wiring = ncps.wirings.AutoNCP(16, 4)
    output, hx = LTC(8, wiring)(torch.randn(5, 3, 8))
    assert output.size() == (5, 3, 4)
    assert hx.size() == (5, 16) and torch.zeros(5).size() == (5,)
"""


@pytest.mark.parametrize(("text", "status"), [(TEXT, 0), (TEXT.replace("(5, 16)", "(5, 7)"), 1)])
def test_the_tool_changes_three_imports_and_tells_failures(text, status, run_python, tmp_path):
    (tmp_path / "ncps/tests").mkdir(parents=True)
    (tmp_path / "ncps/tests/test_torch.py").write_text(text)
    result = run_python(str(TOOL), str(tmp_path))
    assert result.returncode == status, result.stdout + result.stderr
    assert result.stdout.count("\n+ ") == 3 - result.stdout.startswith("+ ")
    assert f"1 {'failed' if status else 'passed'}" in result.stdout


def test_the_tool_refuses_other_tests(run_python, tmp_path):
    (tmp_path / "test_other.py").write_text("import torch\n")
    result = run_python(str(TOOL), str(tmp_path / "test_other.py"))
    assert result.returncode != 0
    assert "3 imports must change" in result.stderr
