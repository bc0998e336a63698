"""`CfC(wiring=w)` and `CfC(w)`, the idiom of earlier MLX ports: built at the first call, the output
of the whole sequence alone.
"""

import json

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, CfCCell, LTCCell
from mlx_ncps.wirings import AutoNCP, FullyConnected, Random

from tests.support.cases import assert_close
from tests.support.rnn_layers import SAME, B, I, T, normal

WIRINGS = {
    "auto": lambda: AutoNCP(12, 2),
    "random": lambda: Random(8, 3, 0.4),
    "full": lambda: FullyConnected(5, 2),
}
layers = pytest.mark.parametrize("layer", [CfC, LTC])
spellings = pytest.mark.parametrize("first", [False, True])


def made(layer, wiring, first, **options):
    return layer(wiring, **options) if first else layer(wiring=wiring, **options)


@layers
@spellings
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("built", [False, True])
def test_a_wiring_alone_is_built_at_the_first_call_and_gives_the_sequence(
    layer, first, wiring, built
):
    wiring = WIRINGS[wiring]()
    if built:
        wiring.build(I)
    new = made(layer, wiring, first)
    assert new.rnn_cell.built == built
    x = normal(B, T, I)
    output = new(x)
    assert output.shape == (B, T, wiring.output_dim)
    twin = layer(I, wiring)
    twin.update(new.parameters())
    assert_close("output", output, twin(x)[0], SAME)
    assert np.array_equal(new.rnn_cell.wiring.adjacency, twin.rnn_cell.wiring.adjacency)


@layers
@spellings
def test_options_override_what_a_call_returns(layer, first):
    x, wiring = normal(B, T, I), AutoNCP(8, 2)
    output, state = made(layer, wiring, first, return_state=True)(x, initial_states=[normal(B, 8)])
    assert (output.shape, state.shape) == ((B, T, 2), (B, 8))
    assert made(layer, wiring, first, return_sequences=False)(x).shape == (B, 2)
    both = made(layer, wiring, first, bidirectional=True, merge_mode="sum")
    assert both(x, time_delta=mx.ones((B, T))).shape == (B, T, 2)
    assert both.compute_output_shape((None, T, I)) == (None, T, 2)


@layers
def test_a_number_of_inputs_beside_the_wiring_builds_at_once(layer):
    new = layer(input_size=I, wiring=AutoNCP(8, 2))
    assert new.rnn_cell.built
    assert new(normal(B, T, I)).shape == (B, T, 2)


@layers
@spellings
def test_the_layer_trains_after_its_first_call_and_says_so_before(layer, first):
    model = made(layer, AutoNCP(8, 2), first)
    x, y = normal(B, T, I), normal(B, T, 2)

    def loss(x, y):
        return mx.mean((model(x) - y) ** 2)

    with pytest.raises(ValueError, match="call it once before"):
        nn.value_and_grad(model, loss)(x, y)
    model(x)
    step, optimizer = nn.value_and_grad(model, loss), optim.Adam(0.01, bias_correction=True)
    losses = []
    for _ in range(20):
        value, grads = step(x, y)
        optimizer.update(model, grads)
        losses.append(value.item())
    assert losses[-1] < losses[0]


@layers
@spellings
def test_a_configuration_keeps_the_spelling(layer, first):
    model = made(layer, AutoNCP(8, 2), first, return_state=True)
    x = normal(B, T, I)
    want = model(x)
    twin = layer.from_config(json.loads(json.dumps(model.get_config())))
    twin.update(model.parameters())
    for got, one in zip(twin(x), want, strict=True):
        assert_close("twin", got, one, SAME)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CfC(3, 4, wiring=AutoNCP(8, 2)), "one of units, wiring must be given"),
        (lambda: LTC(AutoNCP(8, 2), 4), "input_size must be a number of inputs beside units"),
        (lambda: CfC(AutoNCP(8, 2), wiring=AutoNCP(8, 2)), "one of input_size, wiring must be"),
        (lambda: CfC(wiring=3), r"\[cfc\] wiring must be a Wiring, got 3"),
        (lambda: CfC(CfCCell(3, 4), wiring=AutoNCP(8, 2)), "wiring must be left out with a cell"),
        (lambda: LTC(LTCCell(4, 3), 4), "units must be left out with a cell"),
        (lambda: CfC(LTCCell(4, 3)), "must be a CfCCell or a WiredCfCCell, got LTCCell"),
        (lambda: LTC(cell=CfCCell(3, 4)), "cell must be an LTCCell, got CfCCell"),
        (lambda: CfC(), "units must be a number of neurons >= 1 or a Wiring, got None"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
