"""Steps and sequences as files that a process with MLX alone imports, for every batch."""

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import (
    LTC,
    MMRNN,
    CfC,
    CfCRNN,
    CTGRUCell,
    CTRNNCell,
    LiquidRNN,
    NCPDense,
    ODELSTMCell,
    export,
)
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close, tolerance
from tests.support.export_cases import LAYERS, I, T, built, leaves, run, trial
from tests.support.parts import Adapter

SAME = tolerance("float32", "forward")
BATCHES = (1, 3)  # the files of any batch were traced with 2
STEPS = 4  # of a sequence
IMPORTER = """
import importlib.abc, pathlib, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx_ncps", "ncps"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import mlx.core as mx

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.mlxfn")):
    f = mx.import_function(str(path))
    for given in path.parent.glob(f"{path.stem}.given.*.npz"):
        arrays = mx.load(str(given))
        outputs = f(*[arrays[str(n)] for n in range(len(arrays))])
        name = str(given).replace(".given.", ".got.")
        mx.savez(name, **{str(n): array for n, array in enumerate(outputs)})
assert "mlx_ncps" not in sys.modules
"""


def adapted():
    layer = CfC(I, 6, backbone_units=5)
    layer.rnn_cell.ff1 = Adapter(layer.rnn_cell.ff1)
    return layer


FIXED = {  # what one number of rows is for
    "adapter": adapted,
    "ctrnn": lambda: LiquidRNN(CTRNNCell(I, 6), return_sequences=True, return_state=True),
    "ctgru": lambda: LiquidRNN(CTGRUCell(I, 6), return_sequences=True, return_state=True),
    "ode_lstm": lambda: LiquidRNN(ODELSTMCell(I, 6), return_sequences=True, return_state=True),
    "mmrnn": lambda: MMRNN(CTRNNCell(I, 6), return_sequences=True, return_state=True),
    "stateful": lambda: CfC(I, 6, backbone_units=5, stateful=True),
    "time_first": lambda: LTC(I, AutoNCP(8, 2), batch_first=False, return_sequences=False),
    "stack_last": lambda: CfCRNN(I, 6, 2, backbone_units=5, return_sequences=False),
    "ltc": lambda: LTC(I, AutoNCP(8, 2), mixed_memory=True),
    "cell": lambda: CTRNNCell(I, 6),
}
BOTH_WAYS = {
    "both": lambda: CfC(I, AutoNCP(8, 2), bidirectional=True),
    "both_mixed": lambda: LTC(I, 5, mixed_memory=True, bidirectional=True, merge_mode="sum"),
    "both_stack": lambda: CfCRNN(I, 6, 2, bidirectional=True, backbone_units=5),
    "backwards": lambda: CfC(I, 6, go_backwards=True, backbone_units=5),
}


def save(folder, name, number, arrays):
    arrays = {str(n): mx.array(a) for n, a in enumerate(arrays)}
    mx.savez(str(folder / f"{name}.given.{number}.npz"), **arrays)


def whole(layer, batch):
    """Inputs of a layer that reads both ways, and what it gives."""
    mx.random.seed(3)
    x, ts = mx.random.normal((batch, STEPS, I)), mx.random.uniform(0.1, 2.0, (batch, STEPS))
    states = [layer(x, timespans=ts * n)[1] for n in (1.0, 2.0)]
    mx.eval(states)
    return [x, *leaves(states[0]), ts], leaves(layer(x, states[0], ts))


def of_layers(folder):
    """Files of every layer for any batch -> {(name, batch): what its steps give}."""
    wanted = {}
    for name in LAYERS:
        layer = built(name)
        export.export_step(layer, folder / f"{name}.mlxfn")
        for batch in BATCHES:
            x, ts, state = trial(layer, batch, 1)
            save(folder, name, batch, [x[:, 0], *leaves(state), ts])
            outputs, states = run(layer, x, ts, state)
            wanted[name, batch] = [outputs[:, 0], *(part[:, 0] for part in states)]
    return wanted


def of_sequences(folder):
    wanted = {}
    for name in SEQUENCES:
        layer, key = built(name), f"sequence_{name}"
        export.export_sequence(layer, folder / f"{key}.mlxfn", STEPS)
        for batch in BATCHES:
            x, ts, state = trial(layer, batch, STEPS)
            save(folder, key, batch, [x, *leaves(state), ts])
            outputs, states = run(layer, x, ts, state)
            wanted[key, batch] = [outputs, *(part[:, -1] for part in states)]
    return wanted


def plain_run(layer, x, ts, state):
    """`run` of a layer that keeps its state, which must not be what it starts from."""
    if hasattr(layer, "reset_states"):
        layer.reset_states()
    return run(layer, x, ts, state)


def of_fixed(folder):
    wanted = {}
    for name, make in FIXED.items():
        layer = make()
        mx.eval(layer.parameters())
        x, ts, state = trial(layer, 3, STEPS)
        outputs, states = plain_run(layer, x, ts, state)
        export.export_step(layer, folder / f"step_{name}.mlxfn", batch=3)
        save(folder, f"step_{name}", 3, [x[:, 0], *leaves(state), ts[:, :1]])
        wanted[f"step_{name}", 3] = [outputs[:, 0], *(part[:, 0] for part in states)]
        if name != "cell":
            export.export_sequence(layer, folder / f"all_{name}.mlxfn", STEPS, batch=3)
            save(folder, f"all_{name}", 3, [x, *leaves(state), ts])
            wanted[f"all_{name}", 3] = [outputs, *(part[:, -1] for part in states)]
    for name, make in BOTH_WAYS.items():
        layer = make()
        given, wanted[name, 2] = whole(layer, 2)
        export.export_sequence(layer, folder / f"{name}.mlxfn", STEPS, batch=2)
        save(folder, name, 2, given)
    return wanted


SEQUENCES = [
    *("cfc_default_torch_one", "cfc_pure_keras_none", "cfc_mixed_proj", "wired_default_torch_auto"),
    *("wired_no_gate_paper_ncp", "wired_mixed", "ltc_semi_implicit_affine_auto", "ltc_silent"),
    *("ltc_explicit_linear_random", "cfc_stack_mixed", "ltc_stack", "keras_memory_wired"),
]
CASES = [
    *((name, batch) for name in LAYERS for batch in BATCHES),
    *((f"sequence_{name}", batch) for name in SEQUENCES for batch in BATCHES),
    *((f"step_{name}", 3) for name in FIXED),
    *((f"all_{name}", 3) for name in FIXED if name != "cell"),
    *((name, 2) for name in BOTH_WAYS),
]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """{(name, batch): (what the importing process got, what the layer gives)}."""
    folder = tmp_path_factory.mktemp("mlx")
    wanted = of_layers(folder) | of_sequences(folder) | of_fixed(folder)
    subprocess.run([sys.executable, "-I", "-c", IMPORTER, str(folder)], check=True, timeout=300)
    return {
        (name, batch): (mx.load(str(folder / f"{name}.got.{batch}.npz")), arrays)
        for (name, batch), arrays in wanted.items()
    }


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_a_process_without_this_package_computes_the_same(name, batch, imported):
    got, wanted = imported[name, batch]
    assert len(got) == len(wanted)
    for n, array in enumerate(wanted):
        assert_close(f"output {n}", got[str(n)], array, SAME)


def test_every_case_is_exported(imported):
    assert set(imported) == set(CASES)


@pytest.mark.parametrize("batch", [0, 2, 40])
def test_one_file_serves_every_batch(batch, tmp_path):
    for name in ("cfc_default_torch_one", "wired_mixed", "ltc_semi_implicit_affine_auto"):
        layer, path = built(name), str(tmp_path / "step.mlxfn")
        export.export_step(layer, path)
        x, ts, state = trial(layer, batch, 3)
        outputs = mx.import_function(path)(x[:, 0], *leaves(state), ts[:, :1])
        wanted = run(layer, x[:, :1], ts, state)[0][:, 0]
        assert outputs[0].shape == wanted.shape
        if batch:
            assert_close("output", outputs[0], wanted, SAME)


def test_a_time_that_is_none_gives_nan(tmp_path):
    for name in ("cfc_default_torch_one", "ltc_semi_implicit_affine_auto"):
        layer, path = built(name), str(tmp_path / "step.mlxfn")
        export.export_step(layer, path)
        x, _, state = trial(layer, 2, 1)
        output = mx.import_function(path)(x[:, 0], state, mx.array([[-1.0], [1.0]]))[0]
        assert np.isnan(output[0]).all()
        assert np.isfinite(output[1]).all()


def test_an_export_leaves_the_layer_as_it_was(tmp_path):
    layer = CfC(I, 6, backbone_units=5, stateful=True, return_sequences=False)
    layer(mx.ones((2, T, I)))
    before = np.array(layer._kept["states"][0])
    export.export_sequence(layer, tmp_path / "a.mlxfn", STEPS, batch=2)
    export.export_step(layer, tmp_path / "b.mlxfn")
    assert layer.training
    assert layer.stateful
    assert not layer.return_sequences
    assert np.array_equal(before, layer._kept["states"][0])


def test_what_has_no_step_is_refused(tmp_path):
    path = tmp_path / "a.mlxfn"
    both = CfC(I, 6, bidirectional=True)
    with pytest.raises(ValueError, match=r"^\[export_step\] bidirectional must be False"):
        export.export_step(both, path)
    with pytest.raises(ValueError, match=r"^\[export_step\] layer must read forwards"):
        export.export_step(both, path, batch=2)
    with pytest.raises(ValueError, match=r"^\[export_sequence\] .* With batch=\.\.\. this layer"):
        export.export_sequence(both, path, 3)
    with pytest.raises(ValueError, match=r"^\[export_step\] layer must be a .*export_function"):
        export.export_step(NCPDense(4), path, batch=2)
    with pytest.raises(ValueError, match=r"^\[export_sequence\] layer must be built"):
        export.export_sequence(LTC(None, AutoNCP(8, 2)), path, 3, batch=2)
    with pytest.raises(ValueError, match=r"^\[export_sequence\] steps must be an integer >= 1"):
        export.export_sequence(CfC(I, 6), path, 0)
    assert not path.exists()
