"""from_keras with live layers and files of ncps.keras, and of ncps.tf where that is installed.

Needs keras, ncps, h5py and jax, or what KERAS_BACKEND names; or ncps, h5py and tensorflow < 2.16.
"""

import importlib.util
import os

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.convert import from_keras

from tests.support.cases import assert_close
from tests.support.keras_cases import CASES, SAME, check, options, weights

pytest.importorskip("h5py")
pytest.importorskip("ncps")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
if importlib.util.find_spec("tensorflow"):
    import tensorflow

    keras, ncps_keras = tensorflow.keras, pytest.importorskip("ncps.tf")
else:
    if os.environ.setdefault("KERAS_BACKEND", "jax") == "jax":
        pytest.importorskip("jax")
    keras = pytest.importorskip("keras")
    ncps_keras = pytest.importorskip("ncps.keras")
IS_TF = ncps_keras.__name__ == "ncps.tf"

all_cases = pytest.mark.parametrize("name", sorted(CASES))


def make_layer(name, **more):
    """The layer of a case, not built."""
    import ncps.wirings

    config = CASES[name]["config"]
    arguments = dict(config["arguments"])
    units = arguments.pop("units", None)
    if config["wiring"]:
        wiring = dict(config["wiring"])
        units = getattr(ncps.wirings, wiring.pop("class"))(**wiring)
    return getattr(ncps_keras, config["class"])(units, **arguments, **more)


def make_model(name, **more):
    """A model with the layer of a case and a Dense layer after it, and that layer."""
    layer = make_layer(name, **more)
    first = keras.layers.InputLayer(input_shape=(None, 3))
    model = keras.Sequential([first, layer, keras.layers.Dense(2)])
    try:
        model(np.zeros((2, 4, 3), np.float32))
    except TypeError:
        pytest.skip("this Keras backend can't run mixed memory")
    layer.set_weights(list(weights(CASES[name]).values()))
    return model, layer


def told(name, *also):
    """What neither weights nor files tell."""
    keys = ("mode", *also)
    return {k: v for k, v in options(CASES[name]).items() if k in keys}


@all_cases
def test_a_live_layer_and_its_model_tell_everything(name):
    model, layer = make_model(name, return_sequences=True)
    x = CASES[name]["inputs"]
    for source in (layer, model):
        ours = from_keras(source, **told(name))
        ours.eval()
        got = ours(mx.array(x))
        assert_close("outputs", got, np.array(layer(x)), SAME)
    check(CASES[name], from_keras(layer, return_state=True, **told(name)))


@all_cases
def test_a_weights_file_gives_the_outputs(name, tmp_path):
    model, _ = make_model(name)
    path = tmp_path / ("model.h5" if IS_TF else "model.weights.h5")
    model.save_weights(str(path))
    ours = from_keras(path, return_sequences=True, return_state=True, **options(CASES[name]))
    check(CASES[name], ours)
    layer = from_keras(list(weights(CASES[name]).values()), **options(CASES[name]))
    from_keras(path, layer)


@all_cases
def test_a_model_file_tells_its_options(name, tmp_path):
    model, _ = make_model(name, return_sequences=True)
    path = tmp_path / ("model.h5" if IS_TF else "model.keras")
    try:
        model.save(str(path))
    except (NotImplementedError, TypeError, AttributeError):
        pytest.skip("this Keras can't save this model")
    also = ("activation", "wiring", "ode_unfolds", "input_mapping", "output_mapping")
    more = told(name, *also) if IS_TF else told(name)
    ours = from_keras(path, return_state=True, return_sequences=True, **more)
    check(CASES[name], ours)


def test_a_layer_of_several_is_named(tmp_path):
    layers = [ncps_keras.CfC(4, return_sequences=True, name=name) for name in ("first", "second")]
    model = keras.Sequential([keras.layers.InputLayer(input_shape=(None, 3)), *layers])
    model(np.zeros((2, 4, 3), np.float32))
    path = tmp_path / ("model.h5" if IS_TF else "model.weights.h5")
    model.save_weights(str(path))
    for source in (model, path):
        with pytest.raises(ValueError, match=r"name= must .*'first', 'second'"):
            from_keras(source)
        ours = from_keras(source, name="second", return_sequences=True)
        x = np.ones((2, 4, 4), np.float32)
        assert_close("outputs", ours(mx.array(x)), np.array(layers[1](x)), SAME)


# --- layers in wrappers and in models inside a model ---------------------------------------------

MERGED = pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave"])


def bidirectional_model(name, merge_mode="concat", **more):
    """A model with a Bidirectional of a case, whose halves have other weights, and that layer."""
    layer = make_layer(name, **more)
    try:
        both = keras.layers.Bidirectional(layer, merge_mode=merge_mode, name="both")
        model = keras.Sequential([keras.layers.InputLayer(input_shape=(6, 3)), both])
        model(np.zeros((2, 6, 3), np.float32))
    except (TypeError, NotImplementedError, AttributeError):
        pytest.skip("this Keras can't make or run this layer")
    return model, both


def sequence(seed=3, width=3):
    return np.random.default_rng(seed).normal(size=(5, 6, width)).astype(np.float32)


def check_both(ours, theirs, x, name):
    ours.eval()
    assert ours.bidirectional
    assert_close(name, ours(mx.array(x)), np.array(theirs(x)), SAME)


@all_cases
@pytest.mark.parametrize("sequences", [True, False])
def test_a_bidirectional_layer_gives_the_outputs(name, sequences, tmp_path):
    x = sequence()
    model, both = bidirectional_model(name, return_sequences=sequences)
    for source in (both, model):
        check_both(from_keras(source, **told(name)), both, x, name)
    path = tmp_path / ("model.h5" if IS_TF else "model.weights.h5")
    model.save_weights(str(path))
    ours = from_keras(path, return_sequences=sequences, **options(CASES[name]))
    check_both(ours, both, x, name)
    twin = from_keras(model, **told(name))
    twin.redraw(mx.random.key(1))
    check_both(from_keras(path, twin), both, x, name)
    if not IS_TF:
        path = tmp_path / "model.keras"
        model.save(str(path))
        check_both(from_keras(path, **told(name)), both, x, name)


@MERGED
@pytest.mark.parametrize("backwards", [False, True])
def test_a_bidirectional_layer_tells_how_it_merges(merge_mode, backwards, tmp_path):
    x = sequence()
    more = {"return_sequences": True, "go_backwards": backwards}
    layer = make_layer("ltc_wired", **more)
    other = make_layer("ltc_wired", **more | {"go_backwards": not backwards})
    both = keras.layers.Bidirectional(layer, merge_mode=merge_mode, backward_layer=other)
    model = keras.Sequential([keras.layers.InputLayer(input_shape=(6, 3)), both])
    path = tmp_path / "model.keras"
    model.save(str(path))
    for source in (both, model) if IS_TF else (both, model, path):
        ours = from_keras(source)
        assert (ours.merge_mode, ours.go_backwards) == (merge_mode, backwards)
        check_both(ours, both, x, merge_mode)


def test_unmerged_outputs_and_states_are_a_pair():
    x = sequence()
    model, both = bidirectional_model("cfc", None, return_sequences=True, return_state=True)
    output, states = from_keras(model)(mx.array(x))
    theirs = [np.array(array) for array in both(x)]
    for n, array in enumerate((*output, *states)):
        assert_close(str(n), array, theirs[n], SAME)


def test_directions_of_other_wirings_are_converted(tmp_path):
    import ncps.wirings

    layers = [
        ncps_keras.LTC(ncps.wirings.AutoNCP(9, 3, seed=seed), go_backwards=seed > 1)
        for seed in (1, 2)
    ]
    both = keras.layers.Bidirectional(layers[0], backward_layer=layers[1])
    model = keras.Sequential([keras.layers.InputLayer(input_shape=(6, 3)), both])
    path = tmp_path / "model.keras"
    model.save(str(path))
    for source in (both,) if IS_TF else (both, path):
        ours = from_keras(source)
        check_both(ours, both, sequence(), "two wirings")
        again = type(ours).from_config(ours.get_config())
        again.update(ours.parameters())
        check_both(again, both, sequence(), "two wirings, from a configuration")


def nested_model():
    """An encoder inside a model, with a layer of the same name as one of the model's own."""
    K = keras.layers
    inner = keras.Sequential(
        [K.InputLayer(input_shape=(6, 3)), ncps_keras.CfC(4, return_sequences=True, name="rnn")],
        name="encoder",
    )
    first = keras.Input((6, 3))
    last = ncps_keras.CfC(5, name="rnn", return_sequences=True)(K.Dense(2)(inner(first)))
    last = K.Bidirectional(ncps_keras.CfC(6, return_sequences=True), name="both")(last)
    return inner, keras.Model(first, K.LSTM(3, name="lstm")(last))


def test_name_finds_nested_layers(tmp_path):
    inner, model = nested_model()
    path = tmp_path / "model.keras"
    model.save(str(path))
    weights_path = tmp_path / "model.weights.h5"
    model.save_weights(str(weights_path))
    both = next(layer for layer in model.layers if layer.name == "both")
    half = both.backward_layer.name
    names = rf"{half}.*both.*encoder/rnn.*"
    for source in (model,) if IS_TF else (model, path, weights_path):
        more = {} if source is not weights_path else {"return_sequences": True}
        with pytest.raises(ValueError, match=r"name= must tell .*'both', 'encoder/rnn', 'rnn'"):
            from_keras(source)
        with pytest.raises(ValueError, match=f"name must be one of .*{names}"):
            from_keras(source, name="nothing")
        x = sequence()
        got = from_keras(source, name="encoder/rnn", **more)(mx.array(x))
        assert_close("encoder/rnn", got, np.array(inner.layers[-1](x)), SAME)
        x = sequence(width=5)
        check_both(from_keras(source, name="both", **more), both, x, "both")
        got = from_keras(source, name=half, go_backwards=True, **more)(mx.array(x))
        assert_close(half, got, np.array(both.backward_layer(x)), SAME)


def test_layers_inside_wrappers_and_layers_are_found():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.memory = ncps_keras.CfC(4, return_sequences=True)

        def call(self, x):
            return self.memory(x)

    x = sequence()
    for wrapper in (Block(), keras.layers.TimeDistributed(ncps_keras.CfC(4))):
        model = keras.Sequential([keras.Sequential([wrapper])])
        timed = isinstance(wrapper, keras.layers.TimeDistributed)
        theirs = np.array(model(x[:, None] if timed else x))
        got = from_keras(model)(mx.array(x))
        assert_close("wrapped", got, theirs[:, 0] if timed else theirs, SAME)
