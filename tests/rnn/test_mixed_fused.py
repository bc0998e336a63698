"""Layers with mixed memory in one fused call over the sequence: which ones, and that they equal the
same layers step by step.
"""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, dispatch
from mlx_ncps.backends import cpu
from mlx_ncps.cells import CfCCell
from mlx_ncps.rnn import CfC

from tests.support.cases import assert_all_close, assert_close
from tests.support.rnn_layers import (
    GRADIENT,
    LAYERS,
    SAME,
    B,
    I,
    T,
    assert_trees_close,
    gradients,
    make,
    normal,
    spans,
    states_like,
)

native = pytest.mark.skipif("cpu" not in available_backends(), reason="no native module")


@pytest.fixture(autouse=True)
def seed():
    mx.random.seed(7)


FUSED = ("cfc", "cfc_pure", "ltc", "ltc_wired")


@native
@pytest.mark.parametrize("name", LAYERS)
def test_explain_says_how_it_runs_and_why(name):
    plan = make(name, mixed_memory=True).explain((B, T, I))
    op = name.split("_")[0]
    if name in FUSED:
        assert [call[0] for call in plan.calls] == [f"{op}_mixed_sequence"]
        assert f"\n{op}_mixed_sequence over the whole sequence on " in str(plan)
        assert plan.stepwise == ""
        return
    assert "\nstep program over the whole sequence on cpu: " in str(plan)
    assert "the LSTM in front of the cell reads the state" in plan.program
    assert "WiredCfCCell has no kernel of both" in plan.program


def test_explain_names_the_backend_without_the_memory():
    with dispatch.use_backend("reference"):
        plan = make("ltc", mixed_memory=True).explain((B, T, I))
    assert "\nltc_sequence step by step on reference: " in str(plan)
    assert "its backend has no kernel of both" in plan.stepwise


def stepped(monkeypatch, run):
    """What `run()` gives without the kernels that have the LSTM."""
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "MIXED_MEMORY", ())
        return run()


@native
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True, "merge_mode": "sum"},
        {"go_backwards": True, "return_sequences": False},
        {"proj_size": 2, "stateful": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_fused_layer_equals_the_one_step_by_step(name, options, masked, monkeypatch):
    layer = make(name, mixed_memory=True, **options)
    x, ts = normal(B, T, I), spans(B, T)
    mask = mx.array([[1, 1, 0, 1, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]) if masked else None

    def loss(x, ts):
        if layer.stateful:
            layer.reset_states()
            layer(x, timespans=ts, mask=mask)
        output, state = layer(x, timespans=ts, mask=mask)
        return mx.sum(mx.sin(output)) + sum(mx.sum(mx.cos(s)) for _, s in tree_flatten(state))

    def run():
        return {"loss": loss(x, ts)} | gradients(layer, loss, x, ts)

    assert_all_close(run(), stepped(monkeypatch, run), GRADIENT)


@native
@pytest.mark.parametrize("name", FUSED)
def test_a_step_of_a_stream_is_fused_too(name, monkeypatch):
    layer, x = make(name, mixed_memory=True), normal(B, I)
    hx = states_like(layer)
    got, want = layer.step(x, hx, 0.5), stepped(monkeypatch, lambda: layer.step(x, hx, 0.5))
    assert_trees_close("step", got, want, SAME)


def test_cells_that_change_a_sequence_run_step_by_step():
    class Halved(CfCCell):
        """A cell whose own `sequence` the kernel knows nothing of."""

        def sequence(self, inputs, state, ts):
            return super().sequence(inputs, state, ts) / 2

    layer = CfC(Halved(I, 6, backbone_units=9), mixed_memory=True, return_sequences=True)
    plan = layer.explain((B, T, I))
    assert "Halved has no kernel of both" in plan.program + plan.stepwise
    plain = CfC(CfCCell(I, 6, backbone_units=9), mixed_memory=True, return_sequences=True)
    plain.update(layer.parameters())
    x, hx = normal(B, 1, I), (normal(B, 6), normal(B, 6))
    assert_close("output", layer(x, hx), plain(x, hx) / 2, SAME)


@native
def test_dropout_in_training_is_fused():
    layer = CfC(I, 6, backbone_layers=2, backbone_dropout=0.5, mixed_memory=True)
    assert layer.explain((B, T, I)).stepwise == ""
    assert [op for op, _ in layer.explain((B, T, I)).calls] == ["cfc_mixed_sequence"]
    x = normal(B, T, I)
    assert not mx.array_equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert "dropout" not in layer.explain((B, T, I)).stepwise
    assert mx.array_equal(layer(x)[0], layer(x)[0])
