"""`CTRNN`, `CTGRU`, `ELTC` and `NODE` with the arguments of earlier MLX ports."""

import json

import pytest
from mlx_ncps import CTGRUCell, CTRNNCell, ELTCCell, LiquidRNN, NeuralODECell, config, ports
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close
from tests.support.rnn_layers import SAME, B, I, T, normal, spans

LAYERS = {
    "CTRNN": (lambda **o: ports.CTRNN(I, 6, "tanh", **o), lambda: CTRNNCell(I, 6), 6),
    "CTGRU": (lambda **o: ports.CTGRU(I, 6, **o), lambda: CTGRUCell(I, 6), 6),
    "NODE": (lambda **o: ports.NODE(I, 6, **o), lambda: NeuralODECell(I, 6), 6),
    "ELTC": (
        lambda **o: ports.ELTC(I, AutoNCP(8, 2), **o),
        lambda: ELTCCell(AutoNCP(8, 2), I),
        2,
    ),
}
every = pytest.mark.parametrize("name", LAYERS)


@every
def test_a_layer_gives_the_sequence_of_its_cell(name):
    make, cell, outputs = LAYERS[name]
    layer, twin = make(), LiquidRNN(cell(), return_sequences=True)
    twin.update(layer.parameters())
    x, ts = normal(B, T, I), spans(B, T)
    output = layer(x, timespans=ts)
    assert output.shape == (B, T, outputs)
    assert_close("output", output, twin(x, timespans=ts), SAME)


@every
def test_options_say_what_comes_back(name):
    make, _, outputs = LAYERS[name]
    x = normal(T, B, I)
    output, state = make(return_state=True, return_sequences=False, batch_first=False)(x)
    assert (output.shape, state.shape[0]) == ((B, outputs), B)
    assert make(bidirectional=True)(normal(B, T, I)).shape == (B, T, 2 * outputs)


@every
def test_a_layer_is_built_at_its_first_call_and_comes_back_from_its_configuration(name):
    kind = getattr(ports, name)
    layer = kind(None, AutoNCP(8, 2)) if name == "ELTC" else kind(units=6)
    x = normal(B, T, I)
    output = layer(x)
    twin = config.from_config(json.loads(json.dumps(config.to_config(layer))))
    assert type(twin) is kind
    twin.update(layer.parameters())
    assert_close("twin", twin(x), output, SAME)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ports.CTRNN(3), r"\[ctrnn\] units must be a number of neurons, got None"),
        (lambda: ports.CTRNN(3, 4, "relu"), r"\[ctrnn\] activation must be one of tanh, got 'relu"),
        (lambda: ports.CTGRU(3, 4, cell_clip=1.0), r"\[ctgru\] cell_clip must be None"),
        (lambda: ports.ELTC(3), r"\[eltc\] wiring must be a Wiring or a number of neurons"),
        (
            lambda: ports.ELTC(3, 4, solver="semi_implicit"),
            r"\[eltc\] solver must be one of rk4, e",
        ),
        (lambda: ports.NODE(3), r"\[neural_ode\] units must be"),
    ],
)
def test_what_does_not_map_to_ours_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_alias_has_the_names_of_the_ports(run_python):
    done = run_python(
        "-c",
        "import mlx_ncps.alias\n"
        "from ncps.mlx import CTRNN, CTGRU, ELTC, NODE, CfC\n"
        "from ncps.neurons import CTRNN as same, LTC\n"
        "import ncps_mlx\n"
        "import mlx_ncps\n"
        "assert same is CTRNN is mlx_ncps.ports.CTRNN and ncps_mlx is mlx_ncps\n",
    )
    assert done.returncode == 0, done.stderr
