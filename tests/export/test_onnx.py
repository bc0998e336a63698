"""A layer as an ONNX model: ONNX Runtime computes what the layer does, for any batch and length."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps import CfC, LiquidRNN, export
from mlx_ncps.cells import CTRNNCell

from tests.support.cases import assert_close, tolerance
from tests.support.export_cases import LAYERS, I, T, built, leaves, run, trial

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SAME = tolerance("float32", "forward")


def session(layer, path, **options):
    export.to_onnx(layer, path, **options)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def feed(made, x, ts, state):
    """The inputs of a model by name."""
    names = [one.name for one in made.get_inputs()]
    arrays = [np.array(a, np.float32) for a in (x, ts, *leaves(state))]
    return dict(zip(names, arrays, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_in_onnx_runtime_is_the_layers(name, tmp_path):
    layer = built(name)
    made = session(layer, tmp_path / "step.onnx")
    x, ts, state = trial(layer)
    wanted, states = run(layer, x, ts, state)
    now = [np.array(a) for a in leaves(state)]
    for t in range(T):
        output, *now = made.run(None, feed(made, x[:, t], ts[:, t, None], now))
        assert_close(f"output {t}", output, wanted[:, t], SAME)
        for got, part in zip(now, states, strict=True):
            assert_close(f"state {t}", got, part[:, t], SAME)


@pytest.mark.parametrize("name", LAYERS)
def test_a_sequence_in_onnx_runtime_is_the_layers(name, tmp_path):
    layer = built(name)
    made = session(layer, tmp_path / "sequence.onnx", sequence=True)
    for batch, steps in ((3, T), (1, 1), (2, 5)):
        x, ts, state = trial(layer, batch, max(steps, 3))
        x, ts = x[:, :steps], ts[:, :steps]
        wanted, states = run(layer, x, ts, state)
        output, *last = made.run(None, feed(made, x, ts, state))
        assert_close("outputs", output, wanted, SAME)
        for got, part in zip(last, states, strict=True):
            assert_close("state", got, part[:, -1], SAME)


def test_names_and_shapes_are_those_of_the_page(tmp_path):
    made = session(built("cfc_stack_mixed"), tmp_path / "step.onnx")
    names = ["h0", "c0", "h1", "c1", "h2", "c2"]
    assert [one.name for one in made.get_inputs()] == ["inputs", "elapsed", *names]
    assert [one.name for one in made.get_outputs()] == ["outputs", *(f"new_{n}" for n in names)]
    made = session(built("wired_mixed"), tmp_path / "sequence.onnx", sequence=True)
    shapes = {one.name: one.shape for one in (*made.get_inputs(), *made.get_outputs())}
    assert shapes["inputs"] == ["batch", "time", I]
    assert shapes["elapsed"] == ["batch", "time"]
    assert shapes["h"] == shapes["new_c"] == ["batch", 10]
    assert shapes["outputs"] == ["batch", "time", 2]


@pytest.mark.parametrize("name", ["cfc_default_torch_one", "ltc_semi_implicit_affine_auto"])
def test_a_time_that_is_none_gives_nan(name, tmp_path):
    layer = built(name)
    made = session(layer, tmp_path / "step.onnx")
    x, _, state = trial(layer, 2, 3)
    output = made.run(None, feed(made, x[:, 0], mx.array([[-1.0], [1.0]]), state))[0]
    assert np.isnan(output[0]).all()
    assert np.isfinite(output[1]).all()


def test_only_old_operators_are_used(tmp_path):
    for name in ("cfc_gelu", "wired_mixed_proj", "ltc_runge_kutta_affine_auto"):
        for sequence in (False, True):
            export.to_onnx(built(name), tmp_path / "a.onnx", sequence=sequence)
            made = onnx.load(tmp_path / "a.onnx")
            assert [(one.domain, one.version) for one in made.opset_import] == [("", 17)]
            assert made.ir_version == 8


def test_what_onnx_cannot_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^\[to_onnx\] bidirectional must be False"):
        export.to_onnx(CfC(3, 4, bidirectional=True), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"^\[to_onnx\] layer must be a CfC or LTC"):
        export.to_onnx(LiquidRNN(CTRNNCell(3, 4)), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="got Sequential: give the layer within it"):
        export.to_onnx(nn.Sequential(CfC(3, 4)), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
