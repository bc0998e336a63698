"""`layer.explain` counts the kernels that a call launches; what a Runner keeps of calls."""

import gc
import re
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_ncps import LTC, CfC, CfCRNN, use_backend
from mlx_ncps.backends import metal
from mlx_ncps.backends.gpu import runner, trace
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.trace import MOST_STEPS
from mlx_ncps.wirings import AutoNCP

LAYERS = {
    "cfc": lambda: CfC(3, 8),
    "cfc_wired": lambda: CfC(3, AutoNCP(12, 2)),
    "cfc_products": lambda: CfC(3, 600),
    "cfc_stacked": lambda: CfCRNN(3, 8, num_layers=2),
    "ltc": lambda: LTC(3, 8),
    "ltc_wired": lambda: LTC(3, AutoNCP(12, 2)),
    "ltc_streamed": lambda: LTC(3, 100, bidirectional=True),
    "ltc_mixed": lambda: LTC(3, 8, mixed_memory=True),
    "ltc_wired_mixed": lambda: LTC(3, AutoNCP(12, 2), mixed_memory=True),
    "ltc_streamed_mixed": lambda: LTC(3, 100, mixed_memory=True),
}


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that the backend metal launches; their results are zeros."""
    names = []
    run = trace.runner(lambda kernel, call: names.append(kernel["name"]))
    monkeypatch.setattr(metal, "run", run)
    monkeypatch.setattr(metal, "available", lambda: (True, "traced"))
    with use_backend("metal"):
        yield names


def check_count(layer, launched, training, **more):
    """`explain` counts what a call launches; the call has `more`."""
    x = mx.zeros((2, 5, 3))
    layer.train(training)

    def loss():
        result = layer(x, **more)
        return (result[0] if isinstance(result, tuple) else result).sum()

    plan = layer.explain(x.shape, resets="resets" in more)
    nn.value_and_grad(layer, loss)() if training else loss()
    assert launched
    assert sum(plan.launches) == len(launched)
    assert str(plan).count("kernels launched: ") == len(plan.calls)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_explain_counts_the_launches_of_a_call(launched, name, training):
    check_count(LAYERS[name](), launched, training)


@pytest.mark.parametrize("beside", ["resets", "mask", "both"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("ltc")])
def test_an_ltc_with_resets_or_masks_launches_what_a_plain_one_does(launched, name, beside):
    layer, more = LAYERS[name](), {}
    if beside != "mask":
        more["resets"] = mx.array([[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]])
    if beside != "resets":
        more["mask"] = mx.array([[1, 1, 0, 1, 1], [0, 1, 0, 0, 1]])
    layer.train()
    plain = layer.explain((2, 5, 3))
    assert plain.stepwise == layer.explain((2, 5, 3), resets=True).stepwise == ""
    check_count(layer, launched, True, **more)
    recurrences = [n for n in launched if re.match("ncps_ltc_(dense|streamed|lists)_forward", n)]
    assert len(recurrences) == (2 if layer.bidirectional else 1)  # one for each direction


def test_explain_counts_no_launches_of_a_very_long_sequence(launched):
    plan = CfC(3, 600).explain((1, MOST_STEPS + 1, 3))
    assert plan.launches == (None,)
    assert "launched" not in str(plan)


def test_explain_counts_no_launches_on_a_cpu():
    with use_backend("reference"):
        assert CfC(3, 8).explain((2, 5, 3)).launches == (None,)


def test_explain_counts_no_launches_of_a_call_that_a_forced_backend_cannot_run(launched):
    plan = LTC(3, 8, ode_solver="explicit").explain((2, 5, 3))
    assert "can't run this call" in str(plan)
    assert plan.launches == (None,)


def test_explain_counts_the_launches_of_the_geometry_that_runs(launched, monkeypatch):
    layer = CfC(3, 100)
    assert layer.explain((2, 5, 3)).launches != (10,)
    products = replace(APPLE, product_weights=1)
    monkeypatch.setattr(metal, "run", metal.run.but(geometry=products))
    layer.eval()
    assert layer.explain((2, 5, 3)).launches == (5,)  # one for each step


def test_a_runner_keeps_a_bounded_number_of_launches(launched, monkeypatch):
    monkeypatch.setattr(runner, "MOST_LAUNCHES", 4)
    layer = LTC(3, 8).eval()
    for length in range(20, 400, 20):
        layer(mx.zeros((2, length, 3)))
        assert 0 < len(metal.run._launches) <= 4


@pytest.mark.parametrize("name", ["ltc_wired", "ltc_streamed"])
def test_a_runner_keeps_nothing_of_a_wiring_that_is_gone(launched, name):
    layer = LAYERS[name]()
    layer(mx.zeros((2, 5, 3)))
    kept = len(metal.run.wired)
    assert kept == (name == "ltc_wired")
    del layer
    gc.collect()
    assert len(metal.run.wired) == 0
