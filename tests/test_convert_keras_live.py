"""from_keras with live layers and files of ncps.keras, and of ncps.tf where that is installed.

Needs keras, ncps, h5py and jax, or what KERAS_BACKEND names; or ncps, h5py and tensorflow < 2.16.
"""

import importlib.util
import os
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from cases import assert_close
from keras_cases import CASES, SAME, check, options, weights
from mlx_ncps.convert import from_keras

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
sys.path.insert(0, str(Path(__file__).parent / "golden"))

all_cases = pytest.mark.parametrize("name", sorted(CASES))


def make_model(name, **more):
    """A model with the layer of a case and a Dense layer after it, and its inputs' width."""
    import ncps.wirings

    config = CASES[name]["config"]
    arguments = dict(config["arguments"])
    units = arguments.pop("units", None)
    if config["wiring"]:
        wiring = dict(config["wiring"])
        units = getattr(ncps.wirings, wiring.pop("class"))(**wiring)
    layer = getattr(ncps_keras, config["class"])(units, **arguments, **more)
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
