"""from_keras with golden weights of ncps.keras: outputs, what is told, what is refused."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CfCCell, LiquidRNN, LSTMCell, LTCCell
from mlx_ncps.convert import KerasMemoryCell, from_keras
from mlx_ncps.wirings import AutoNCP, FullyConnected

from tests.support.cases import assert_all_close, assert_close
from tests.support.keras_cases import CASES, SAME, check, convert, options, weights

all_cases = pytest.mark.parametrize("name", sorted(CASES))


def parameters(layer):
    return {name: np.array(array) for name, array in tree_flatten(layer.parameters())}


@all_cases
def test_weights_by_path_give_the_outputs_of_keras(name):
    check(CASES[name], convert(CASES[name]))


@all_cases
def test_a_list_as_of_get_weights_does_too(name):
    case = CASES[name]
    check(case, convert(case, list(weights(case).values())))
    check(case, convert(case, [mx.array(array) for array in weights(case).values()]))


@all_cases
def test_loads_into_a_given_layer(name):
    case = CASES[name]
    layer = convert(case)
    want = parameters(layer)
    layer.apply(lambda a: a + 1.0, filter_fn=type(layer).trainable_parameter_filter)
    assert from_keras(weights(case), layer) is layer
    assert_all_close(parameters(layer), want, 0.0)
    check(case, layer)


def test_loads_into_a_cell():
    for name in ("cfc", "cfc_wired_mixed"):
        case = CASES[name]
        layer = convert(case)
        cell, want = layer.rnn_cell, parameters(layer)
        cell.apply(lambda a: a + 1.0, filter_fn=type(cell).trainable_parameter_filter)
        assert from_keras(list(weights(case).values()), cell) is cell
        assert_all_close(parameters(layer), want, 0.0)


def test_calls_return_what_keras_returns():
    x = mx.zeros((2, 3, 3))
    layer = from_keras(weights(CASES["cfc"]))
    assert layer(x).shape == (2, 4)
    assert layer.rnn_cell.variant == "keras"
    layer = from_keras(weights(CASES["cfc_mixed"]), return_state=True)
    assert isinstance(layer, LiquidRNN)
    output, (c, h) = layer(x)
    assert output.shape == c.shape == h.shape == (2, 4)


def test_wiring_of_an_ltc_is_inferred_from_erev():
    case = CASES["ltc_wired"]
    told = {k: v for k, v in options(case).items() if k != "wiring"}
    layer = from_keras(weights(case), return_sequences=True, return_state=True, **told)
    check(case, layer)
    wiring = options(case)["wiring"]
    wiring.build(3)
    assert_close("adjacency", layer.rnn_cell.wiring.adjacency, wiring.adjacency, 0.0)
    assert layer.rnn_cell.synapses is not None


@pytest.mark.parametrize("bias", [0.0, 2.5])
def test_another_forget_gate_bias_moves_into_the_bias(bias):
    class MixedMemoryRNN:
        forget_gate_bias = bias
        rnn_cell = type("CfCCell", (), {"_backbone_dropout": 0.0, "_activation": "tanh"})()

    class Layer:
        cell = MixedMemoryRNN()

        def get_weights(self):
            return list(weights(CASES["cfc_mixed"]).values())

    got = from_keras(Layer()).rnn_cell.lstm.input_map.bias
    want = next(a for p, a in weights(CASES["cfc_mixed"]).items() if p.endswith("memory_rnn/bias"))
    shift = np.zeros(16, np.float32)
    shift[8:12] = bias - 1.0
    assert_close("bias", got, want + shift, SAME)


# --- the cell of mixed memory ------------------------------------------------------------------


def test_memory_cell_is_an_lstm_whose_output_the_cell_reads():
    cell = KerasMemoryCell(LTCCell(FullyConnected(4, 2), 4), 3)
    x, c, h = (mx.random.normal((2, n)) for n in (3, 4, 4))
    output, (c_new, h_new) = cell(x, (c, h), 0.7)
    u, (_, want_c) = cell.lstm(x, (h, c))
    want, want_h = cell.cell(u, h, 0.7)
    for name, got, wanted in (("y", output, want), ("c", c_new, want_c), ("h", h_new, want_h)):
        assert_close(name, got, wanted, 0.0)
    assert (cell.state_size, cell.output_size, cell.sensory_size) == ((4, 4), 2, 3)
    assert cell.compute_output_shape((None, 3)) == (None, 2)
    assert isinstance(cell.lstm, LSTMCell)


def test_memory_cell_builds_on_first_use_and_round_trips():
    layer = LiquidRNN(KerasMemoryCell(CfCCell(4, 4, variant="keras")), return_sequences=True)
    output = layer(mx.ones((2, 5, 3)))
    assert output.shape == (2, 5, 4)
    twin = LiquidRNN.from_config(layer.get_config())
    twin.build(3)
    twin.load_weights(list(tree_flatten(layer.parameters())))
    assert_close("output", twin(mx.ones((2, 5, 3))), output, 0.0)
    before = parameters(layer)
    layer.rnn_cell.redraw(mx.random.key(1))
    after = parameters(layer)
    for part in ("lstm.input_map.weight", "cell.ff1.weight"):
        assert not np.array_equal(before[f"rnn_cell.{part}"], after[f"rnn_cell.{part}"])


def test_memory_cell_wants_a_cell_of_as_many_inputs_as_neurons():
    with pytest.raises(ValueError, match=r"inputs must have 3 features, got 4"):
        KerasMemoryCell(CfCCell(3, 4))
    with pytest.raises(ValueError, match="cell must be a LiquidCell, got int"):
        KerasMemoryCell(4)


# --- errors ------------------------------------------------------------------------------------


def refused(name, source, message, layer=None):
    """Loading raises, and leaves the layer as it was."""
    layer = convert(CASES[name]) if layer is None else layer
    before = parameters(layer)
    with pytest.raises(ValueError, match=r"\[from_keras\] .*" + message):
        from_keras(source, layer)
    assert_all_close(parameters(layer), before, 0.0)


@all_cases
def test_wrong_shapes_missing_and_extra_arrays_are_refused(name):
    case = CASES[name]
    arrays, layer = list(weights(case).values()), convert(case)
    for n, array in enumerate(arrays):
        wrong = [*arrays[:n], np.zeros((*array.shape, 2)), *arrays[n + 1 :]]
        refused(name, wrong, "", layer)
        refused(name, [*arrays[:n], *arrays[n + 1 :]], "", layer)
        refused(name, [*arrays[:n], np.zeros((0,)), *arrays[n + 1 :]], "", layer)
    refused(name, [*arrays, np.zeros(77)], "", layer)
    refused(name, [], "source must be the weights of a CfC or LTC", layer)


@pytest.mark.parametrize("name", ["cfc", "cfc_wired", "cfc_wired_pure"])
def test_another_variant_is_refused_with_the_reason(name):
    wiring, pure = options(CASES[name]).get("wiring"), "pure" in name
    layer = CfC(3, wiring or 4, mode="pure" if pure else "default")
    if wiring is None:
        layer = CfC(3, 4, backbone_units=5)
    refused(
        name,
        weights(CASES[name]),
        r"variant='keras', got 'torch': .* no tanh .* opposite sign of time .* signed synapses",
        layer,
    )


def test_a_dense_pure_cfc_is_the_same_in_both_variants():
    case = CASES["cfc_pure"]
    layer = CfC(3, 4, mode="pure", backbone_units=5)
    check(case, from_keras(weights(case), layer))


def test_another_wiring_of_an_ltc_is_refused():
    case = CASES["ltc_wired"]
    told = {k: v for k, v in options(case).items() if k != "wiring"}
    for wiring in (AutoNCP(8, 2, seed=3), FullyConnected(8, 2)):
        layer = LTC(3, wiring, implicit_param_constraints=False, **told)
        refused("ltc_wired", weights(case), "a synapse where erev isn't 0", layer)
    with pytest.raises(ValueError, match="a synapse where erev isn't 0, 8 in all, got another"):
        from_keras(weights(case), wiring=AutoNCP(8, 2, seed=3), **told)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        (
            "cfc",
            lambda: LTC(3, 4),
            "must have a CfCCell without mixed memory, got a LTC of LTCCell",
        ),
        ("cfc_mixed", lambda: CfC(3, 4, variant="keras"), "CfCCell in a KerasMemoryCell"),
        ("cfc", lambda: CfC(3, 4, mixed_memory=True, variant="keras"), "without mixed memory"),
        ("cfc_mixed", lambda: CfC(3, 4, mixed_memory=True, variant="keras"), "KerasMemoryCell"),
        ("cfc", lambda: CfC(3, AutoNCP(8, 2), variant="keras"), ""),
        ("cfc", lambda: CfC(None, AutoNCP(8, 2), variant="keras"), "must be the weights of a CfC"),
        ("ltc", lambda: LTC(None, AutoNCP(8, 2)), "that is built, got LTC"),
        ("cfc", lambda: CfC(3, 5, backbone_units=5, variant="keras"), r"must be \(.*\), got"),
    ],
)
def test_layers_of_another_kind_are_refused(name, layer, message):
    layer = layer()
    with pytest.raises(ValueError, match=r"\[from_keras\] .*" + message):
        from_keras(weights(CASES[name]), layer)


ltc_arrays = list(weights(CASES["ltc"]).values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_keras(3), "must be a Keras layer, a list of arrays or a path, got int"),
        (lambda: from_keras(["a"]), "weight 0 must be a tensor or an array of numbers, got str"),
        (lambda: from_keras("model.bin"), r"source must end in \.weights\.h5.*, got 'model.bin'"),
        (
            lambda: from_keras(weights(CASES["cfc"]), CfC(3, 4), mode="pure"),
            "own options, got mode",
        ),
        (lambda: from_keras(ltc_arrays[:-2]), "input_mapping= and output_mapping= must .* 3 fit"),
        (
            lambda: from_keras(weights(CASES["cfc_wired"])),
            r"wired CfC need wiring=\), got 24 arrays",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=r"\[from_keras\] .*" + message):
        call()


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(FileNotFoundError, match=r"no-such\.weights\.h5 must exist"):
        from_keras("no-such.weights.h5")


def test_files_without_h5py_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "model.weights.h5").write_bytes(b"")
    with pytest.raises(ImportError, match=r"model\.weights\.h5 needs h5py to be read"):
        from_keras(tmp_path / "model.weights.h5")
