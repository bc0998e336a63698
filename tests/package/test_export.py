"""Exported layers compute the same in a process that has MLX alone, whatever the layer and however
its arrays lay in memory.
"""

import subprocess
import sys
import textwrap

import mlx.core as mx
import mlx.nn as nn
import mlx_ncps
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_ncps import (
    LTC,
    LTCRNN,
    MMRNN,
    CfC,
    CfCRNN,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidRNN,
    LTCCell,
    NCPDense,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
    WiredCfCCell,
    use_backend,
)
from mlx_ncps.wirings import AutoNCP, Random

from tests.support.cases import assert_close, tolerance

B, T, I, H = 2, 4, 3, 6
SAME = tolerance("float32", "forward")
HINT = (
    r"^\[export_function\] Unable to serialize primitive of\smlx_ncps's\sfused\skernels:\scall\s"
    r"mlx_ncps.export_function\sin\splace\sof\smx.export_function,\swith\sthe\ssame\sarguments.$"
)


def ncp():
    return AutoNCP(9, 2)


LAYERS = {
    **{
        f"cfc_{mode}_{variant}": lambda mode=mode, variant=variant: CfC(
            I, H, mode=mode, variant=variant, backbone_units=5
        )
        for mode in ("default", "pure", "no_gate")
        for variant in ("torch", "keras", "paper")
    },
    **{
        f"wired_{mode}_{variant}": lambda mode=mode, variant=variant: CfC(
            I, ncp(), mode=mode, variant=variant
        )
        for mode in ("default", "pure", "no_gate")
        for variant in ("torch", "keras", "paper")
    },
    "wired_own": lambda: CfC(WiredCfCCell(I, ncp(), fully_recurrent=False)),
    "wired_backbone": lambda: CfC(I, ncp(), backbone_units=5),
    "wired_mixed": lambda: CfC(I, ncp(), mixed_memory=True),
    "cfc_no_backbone": lambda: CfC(I, H, backbone_layers=0),
    "cfc_mixed": lambda: CfC(I, H, mixed_memory=True),
    "cfc_proj": lambda: CfC(I, H, proj_size=3),
    "cfc_both": lambda: CfC(I, ncp(), bidirectional=True),
    "ltc_dense": lambda: LTC(I, H),
    "ltc_lists": lambda: LTC(I, ncp()),
    "ltc_implicit": lambda: LTC(I, ncp(), implicit_param_constraints=True),
    "ltc_explicit": lambda: LTC(I, ncp(), ode_solver="explicit", ode_unfolds=12),
    "ltc_runge_kutta": lambda: LTC(I, ncp(), ode_solver="runge_kutta"),
    "ltc_backbone": lambda: LTC(LTCCell(ncp(), I, backbone_units=[5])),
    "ltc_mixed": lambda: LTC(I, ncp(), mixed_memory=True),
    "ltc_proj": lambda: LTC(I, ncp(), proj_size=3),
    "ltc_both": lambda: LTC(I, ncp(), bidirectional=True),
    "stacked_cfc": lambda: CfCRNN(I, H, num_layers=2),
    "stacked_ltc": lambda: LTCRNN(I, H, num_layers=2),
    "ctrnn": lambda: LiquidRNN(CTRNNCell(I, H)),
    "ctgru": lambda: LiquidRNN(CTGRUCell(I, H)),
    "neural_ode": lambda: LiquidRNN(NeuralODECell(I, H)),
    "ode_rnn": lambda: LiquidRNN(ODERNNCell(I, H)),
    "ode_lstm": lambda: LiquidRNN(ODELSTMCell(I, H)),
    "eltc": lambda: LiquidRNN(ELTCCell(Random(H, 2, 0.4), I)),
    "mmrnn": lambda: MMRNN(CTRNNCell(I, H)),
    "dense": lambda: NCPDense(wiring=Random(H, 2, 0.4)),
}
FUSED = [n for n in LAYERS if n.startswith(("cfc", "wired", "ltc", "stacked"))]

WIRED = [n for n in LAYERS if n.startswith(("wired", "ltc", "eltc")) or n == "cfc_both"]
CASES = [
    *((name, change) for name in LAYERS for change in ("built", "strided")),
    *((name, "edited") for name in WIRED),
]

IMPORTER = """
import importlib.abc, pathlib, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx_ncps", "ncps"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import mlx.core as mx

folder = pathlib.Path(sys.argv[1])
given = mx.load(str(folder / "given.npz"))
for path in sorted(folder.glob("*.mlxfn")):
    outputs = mx.import_function(str(path))(given["x"], given["ts"])
    mx.savez(str(path.with_suffix(".npz")), **{str(n): a for n, a in enumerate(outputs)})
assert "mlx_ncps" not in sys.modules
"""


def made(name):
    mx.random.seed(5)
    layer = LAYERS[name]()
    layer(mx.zeros((1, 1, I)))
    mx.eval(layer.parameters())
    return layer.eval()


def function_of(layer):
    if isinstance(layer, NCPDense):
        return lambda x, ts: layer(x) + 0.0 * ts[..., None]
    return lambda x, ts: [a for _, a in tree_flatten(layer(x, timespans=ts))]


def given():
    mx.random.seed(6)
    x, ts = mx.random.normal((B, T, I)), mx.random.uniform(0.1, 2.0, (B, T))
    mx.eval(x, ts)
    return x, ts


def strided(array):
    """The same values, lying the other way round or with gaps."""
    axes = tuple(range(array.ndim))[::-1]
    view = mx.contiguous(array.transpose(axes)).transpose(axes)
    if array.ndim == 1:
        view = mx.repeat(array, 2)[::2]
    mx.eval(view)
    return view


def plain(array):
    mx.eval(array)
    return memoryview(array).c_contiguous


def make_strided(layer):
    layer.update(tree_map(strided, layer.parameters()))


def run_importer(folder):
    x, ts = given()
    mx.savez(str(folder / "given.npz"), x=x, ts=ts)
    code = textwrap.dedent(IMPORTER)
    subprocess.run([sys.executable, "-I", "-c", code, str(folder)], check=True, timeout=300)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """name -> (outputs where it was imported, of the layer here)."""
    folder = tmp_path_factory.mktemp("exported")
    wanted = {}
    for name, change in CASES:
        layer = made(name)
        if change == "strided":
            make_strided(layer)
        if change == "edited":
            wiring = layer.rnn_cell.wiring
            wiring.prune(np.eye(wiring.input_dim, wiring.units, dtype=bool), sensory=True)
        function, path = function_of(layer), folder / f"{name}-{change}.mlxfn"
        mlx_ncps.export_function(str(path), function, *given())
        outputs = function(*given())
        wanted[path.stem] = outputs if isinstance(outputs, list) else [outputs]
    run_importer(folder)
    return {
        name: (mx.load(str(folder / f"{name}.npz")), outputs) for name, outputs in wanted.items()
    }


@pytest.mark.parametrize(("name", "change"), CASES)
def test_an_exported_layer_computes_the_same_without_this_package(name, change, imported):
    got, want = imported[f"{name}-{change}"]
    assert len(got) == len(want)
    for number, array in enumerate(want):
        assert_close(f"output {number}", got[str(number)], array, SAME)


@pytest.mark.parametrize("name", LAYERS)
def test_the_reference_under_mlxs_export_writes_strided_arrays_right(name, tmp_path):
    layer = made(name)
    want = function_of(layer)(*given())
    make_strided(layer)
    path = str(tmp_path / "layer.mlxfn")
    with use_backend("reference"):
        mx.export_function(path, function_of(layer), *given())
    got = mx.import_function(path)(*given())
    for n, array in enumerate(want if isinstance(want, list) else [want]):
        assert_close(f"output {n}", got[n], array, SAME)


@pytest.mark.parametrize("name", ["wired_default_keras", "ltc_mixed", "ode_lstm"])
def test_derived_inputs_and_gradients_are_exported_right(name, tmp_path):
    """Where the array that a layer reads is not the traced one, but made of it."""
    layer, (x, _) = made(name), given()

    def loss(x):
        return sum(mx.sum(a**2) for _, a in tree_flatten(layer(2.0 * x + 1.0)))

    path = str(tmp_path / "layer.mlxfn")
    want = [loss(x), mx.grad(loss)(x)]
    make_strided(layer)
    with use_backend("reference"):
        mx.export_function(path, lambda x: [loss(x), mx.grad(loss)(x)], x)
    for n, array in enumerate(mx.import_function(path)(x)):
        assert_close(f"output {n}", array, want[n], tolerance("float32", "gradient"))


@pytest.mark.parametrize("name", FUSED)
def test_mlxs_export_of_a_fused_layer_says_what_to_do(name, tmp_path):
    layer = made(name)
    with use_backend("cpu"), pytest.raises(ValueError, match=HINT):
        mx.export_function(str(tmp_path / "layer.mlxfn"), function_of(layer), *given())


def test_mlxs_export_of_a_constant_input_says_so_too(tmp_path):
    layer, (x, ts) = made("ltc_lists"), given()
    with use_backend("cpu"), pytest.raises(ValueError, match=HINT):
        mx.export_function(str(tmp_path / "f.mlxfn"), lambda ts: layer(x, timespans=ts)[0], ts)


@pytest.mark.parametrize("name", LAYERS)
def test_every_array_that_a_layer_keeps_is_row_contiguous(name, tmp_path):
    layer = made(name)

    def crooked():
        return [key for key, array in tree_flatten(layer.parameters()) if not plain(array)]

    assert crooked() == []
    turned = [(key, strided(array)) for key, array in tree_flatten(layer.parameters())]
    layer.load_weights(turned)
    assert crooked() == []
    layer.update(tree_unflatten(turned))
    mx.compile(function_of(layer))(*given())  # where it matters: in what traces the layer
    assert crooked() == []


def test_gradients_and_vmap_pass_the_hint():
    layer, (x, ts) = made("ltc_lists"), given()

    def loss(x):
        return mx.sum(layer(x, timespans=ts)[0] ** 2)

    with use_backend("reference"):
        want = mx.grad(loss)(x)
    with use_backend("cpu"):
        for grad in (mx.grad(loss), mx.compile(mx.grad(loss))):
            assert_close("gradient", grad(x), want, tolerance("float32", "gradient"))
        stack = mx.stack([x, 2 * x])
        mapped = mx.vmap(lambda x: layer(x)[0])(stack)
        assert_close("mapped", mapped[1], layer(2 * x)[0], SAME)


def test_export_function_refuses_a_strided_array_of_the_users(tmp_path):
    layer, (x, _) = made("cfc_no_backbone"), given()
    weight, path = strided(mx.random.normal((H, 2))), str(tmp_path / "f.mlxfn")
    with pytest.raises(ValueError, match=r"^\[export_function\] captured arrays must"):
        mlx_ncps.export_function(path, lambda x: layer(x)[0] @ weight, x)
    weight = mx.contiguous(weight)
    mx.eval(weight)
    mlx_ncps.export_function(path, lambda x: layer(x)[0] @ weight, x)
    assert_close("output", mx.import_function(path)(x)[0], layer(x)[0] @ weight, SAME)


def test_export_function_takes_keywords_models_and_growing_batches(tmp_path):
    x, _ = given()
    model = nn.Sequential(nn.Linear(I, I), LTC(I, ncp(), return_state=False), nn.Linear(2, 1))
    path = str(tmp_path / "model.mlxfn")
    mlx_ncps.export_function(path, lambda *, x: model(x), x=x)
    assert_close("output", mx.import_function(path)(x=x)[0], model(x), SAME)
    layer = made("cfc_no_backbone")
    layer.set_dtype(mx.bfloat16)
    half = x.astype(mx.bfloat16)
    mlx_ncps.export_function(path, lambda x: layer(x)[0], half)
    with use_backend("reference"):
        assert mx.array_equal(mx.import_function(path)(half)[0], layer(half)[0])
