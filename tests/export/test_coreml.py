"""A layer as a Core ML model: what lies in the file computes what the layer does. On a Mac Core ML
runs it; elsewhere the operations of the file are computed in NumPy, one by one.
"""

import math
import platform

import numpy as np
import pytest
from mlx_ncps import CfC, export

from tests.support.cases import assert_close, tolerance
from tests.support.export_cases import LAYERS, built, leaves, run, trial

coremltools = pytest.importorskip("coremltools")

SAME = tolerance("float32", "forward")
B, T = 2, 4


def slice_by_index(x, begin, end, begin_mask, end_mask, **_):
    return x[
        tuple(
            slice(None if free else a, None if open_ else b)
            for a, b, free, open_ in zip(begin, end, begin_mask, end_mask, strict=True)
        )
    ]


OPERATIONS = {  # as the specification of MIL has them
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": lambda x: np.tanh(x),
    "exp": lambda x: np.exp(x),
    "abs": lambda x: np.abs(x),
    "relu": lambda x: np.maximum(x, 0),
    "erf": lambda x: np.vectorize(math.erf, otypes=[np.float32])(x),
    "gelu": lambda x, **_: x * (1 + OPERATIONS["erf"](x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "identity": lambda x: x,
    "linear": lambda x, weight, bias: x @ weight.T + bias,
    "concat": lambda values, axis, **_: np.concatenate(values, axis=axis),
    "gather": lambda x, indices, axis, **_: np.take(x, indices, axis=axis),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(axis=tuple(axes), keepdims=bool(keep_dims)),
    "greater_equal": lambda x, y: x >= y,
    "select": lambda cond, a, b: np.where(cond, a, b),
    "slice_by_index": slice_by_index,
}


def computed(path):
    """A function of arrays by name, of the file."""
    if platform.system() == "Darwin":
        return coremltools.models.MLModel(str(path)).predict
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    main = program.functions["main"]

    def value(part, values):
        if isinstance(part, (list, tuple)):
            return [value(one, values) for one in part]
        return values.get(part.name, part.val)

    def compute(given):
        values = {name: given[name] for name in main.inputs}
        for operation in main.operations:
            if operation.op_type == "const":
                values[operation.outputs[0].name] = operation.outputs[0].val
                continue
            inputs = {k: value(v, values) for k, v in operation.inputs.items() if v is not None}
            with np.errstate(over="ignore"):  # of exp, in a sigmoid that is then 0
                result = OPERATIONS[operation.op_type](**inputs)
            values[operation.outputs[0].name] = np.asarray(result)
        return {one.name: values[one.name] for one in main.outputs}

    return compute


ONE_OF = ("cfc_default_", "cfc_pure_", "cfc_no_gate_", "wired_default_", "wired_pure_")
ONE_OF += ("wired_no_gate_", "ltc_semi_implicit_", "ltc_explicit_", "ltc_runge_kutta_")
KINDS = [
    next(n for n in LAYERS if n.startswith(kind)) for kind in ONE_OF
]  # and the other variants:
KINDS += ["cfc_default_keras_two", "cfc_default_paper_none", "wired_default_keras_ncp"]
FEW = KINDS + [n for n in LAYERS if not n.startswith(ONE_OF)]


@pytest.mark.parametrize("name", FEW)
def test_a_core_ml_model_computes_what_the_layer_does(name, tmp_path):
    layer, path = built(name), tmp_path / "step.mlpackage"
    export.to_coreml(layer, path, batch=B)
    compute = computed(path)
    x, ts, state = trial(layer, B, T)
    wanted, states = run(layer, x, ts, state)
    many = len(leaves(state)) > 1
    names = [one.name for one in spec_of(path).description.input][2:]
    assert many == (len(names) > 1)
    now = [np.array(a, np.float32) for a in leaves(state)]
    for t in range(T):
        given = {"inputs": np.array(x[:, t]), "elapsed": np.array(ts[:, t, None])}
        results = compute(given | dict(zip(names, now, strict=True)))
        assert_close(f"output {t}", results["outputs"], wanted[:, t], SAME)
        now = [results[f"new_{name}"] for name in names]
        for got, part in zip(now, states, strict=True):
            assert_close(f"state {t}", got, part[:, t], SAME)


def spec_of(path):
    return coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()


def test_the_file_says_its_names_and_shapes(tmp_path):
    export.to_coreml(built("wired_mixed"), tmp_path / "step.mlpackage")
    found = spec_of(tmp_path / "step.mlpackage").description
    shapes = {one.name: list(one.type.multiArrayType.shape) for one in found.input}
    assert shapes == {"inputs": [1, 4], "elapsed": [1, 1], "h": [1, 10], "c": [1, 10]}
    assert [one.name for one in found.output] == ["outputs", "new_h", "new_c"]


def test_what_core_ml_cannot_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^\[to_coreml\] bidirectional must be False"):
        export.to_coreml(CfC(3, 4, bidirectional=True), tmp_path / "a.mlpackage")
    with pytest.raises(ValueError, match=r"^\[to_coreml\] path must be a path that ends in"):
        export.to_coreml(CfC(3, 4), tmp_path / "a.onnx")
