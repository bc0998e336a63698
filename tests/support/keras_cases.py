"""The cases of golden/keras.npz: their weights, the options that these don't tell, our outputs."""

import mlx.core as mx
import numpy as np
from mlx_ncps import wirings
from mlx_ncps.convert import KerasMemoryCell, from_keras

from tests.support.cases import assert_close, tolerance
from tests.support.golden_arrays import load_golden

SAME = tolerance("float32", "forward")
CASES = load_golden("keras")
TOLD = ("units", "backbone_units", "backbone_layers", "mixed_memory")


def weights(case):
    """The arrays of `layer.get_weights()` by path, in their order."""
    shapes = dict(case["config"]["weights"])
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    flat = np.split(case["weights"], ends)
    return {path: a.reshape(s) for (path, s), a in zip(shapes.items(), flat, strict=True)}


def options(case):
    """The options of from_keras that the weights don't tell."""
    arguments, wiring = case["config"]["arguments"], case["config"]["wiring"]
    told = {name: v for name, v in arguments.items() if name not in TOLD and name != "mode"}
    if arguments.get("mode") == "no_gate":
        told["mode"] = "no_gate"
    if wiring:
        wiring = dict(wiring)
        told["wiring"] = getattr(wirings, wiring.pop("class"))(**wiring)
    if case["config"]["class"] == "LTC":  # 4 neurons, 3 inputs: the weights leave both open
        told.setdefault("input_mapping", "affine")
        told.setdefault("output_mapping", "affine")
    return told


def convert(case, source=None, **more):
    """Our layer, which returns sequences and states."""
    source = weights(case) if source is None else source
    return from_keras(source, return_sequences=True, return_state=True, **options(case), **more)


def check(case, layer):
    """The outputs and last states of Keras."""
    layer.eval()
    inputs, h = mx.array(case["inputs"]), mx.array(case["h"])
    if "c" in case:
        assert isinstance(layer.rnn_cell, KerasMemoryCell)
        output, (c, h) = layer(inputs, (mx.array(case["c"]), h))
        assert_close("last_c", c, case["last_c"], SAME)
    else:
        output, h = layer(inputs, h, mx.array(case["timespans"]))
    assert_close("outputs", output, case["outputs"], SAME)
    assert_close("last_h", h, case["last_h"], SAME)
