"""The walk over what a cell is made of ends whatever users hang on it, and a step stays right."""

import subprocess
import sys
import textwrap

import mlx.core as mx
import pytest
from mlx_ncps import CfC, _loader, dispatch

from tests.support.rnn_layers import I
from tests.support.step_layers import ALL, built

pytestmark = pytest.mark.skipif(_loader.native is None, reason="the native module is not loaded")


def owner(layer):
    layer.rnn_cell.owner = layer


def list_in_itself(layer):
    loop = []
    loop.append(loop)
    layer.rnn_cell.loop = loop


def dict_in_itself(layer):
    layer.rnn_cell.table = table = {}
    table["again"] = table


def nested_lists(layer):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    layer.rnn_cell.deep = deep


def nested_tuples(layer):
    deep = ()
    for _ in range(100_000):
        deep = (deep, 1)
    layer.rnn_cell.deep = deep


def nested_dicts(layer):
    deep = {}
    for _ in range(50_000):
        deep = {"inside": deep}
    layer.rnn_cell.deep = deep


def shared_lists(layer):  # 2**60 ways through 60 lists
    shared = []
    for _ in range(60):
        shared = [shared, shared]
    layer.rnn_cell.shared = shared


def long_list(layer):
    layer.rnn_cell.data = list(range(1_000_000))


def wide_dict(layer):
    layer.rnn_cell.table = {n: [n] for n in range(100_000)}


KNOTS = (owner, list_in_itself, dict_in_itself, shared_lists)
TOO_MUCH = (nested_lists, nested_tuples, nested_dicts, long_list, wide_dict)


@pytest.mark.parametrize("hang", KNOTS + TOO_MUCH, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["cfc", "cfc_wired", "ltc"])
def test_step_is_right_whatever_hangs_on_the_cell(hang, name):
    layer = built(name)
    layer.eval()
    x = mx.random.normal((2, I))
    mx.eval(x)
    want = layer.step(x)[0]
    hang(layer)
    for _ in range(2):
        got = layer.step(x)[0]
        assert _loader.native.has_values(got) == (hang in KNOTS)
        assert mx.allclose(got, want, rtol=1e-5, atol=1e-6)
    assert _loader.native.Places(layer.rnn_cell, None).complete == (hang in KNOTS)
    for key in ("owner", "loop", "table", "deep", "shared", "data"):
        layer.rnn_cell.pop(key, None)


@pytest.mark.parametrize("hang", KNOTS, ids=lambda f: f.__name__)
def test_changes_behind_a_knot_are_seen(hang):
    layer = built("cfc")
    layer.eval()
    x = mx.random.normal((2, I))
    mx.eval(x)
    hang(layer)
    before = layer.step(x)[0]
    weight = layer.rnn_cell.ff1.weight
    layer.rnn_cell.ff1.weight = mx.zeros(weight.shape)
    zeros = layer.step(x)[0]
    layer.rnn_cell.ff1.weight = weight
    assert not mx.allclose(zeros, before)
    assert mx.array_equal(layer.step(x)[0], before)
    for key in ("owner", "loop", "table", "shared"):
        layer.rnn_cell.pop(key, None)


def test_every_layer_is_far_below_the_bound():
    for name in ALL:
        layer = built(name)
        assert _loader.native.Places(layer.rnn_cell, layer.get("lstm")).complete
        layer.rnn_cell.more = [0] * 3000
        assert _loader.native.Places(layer.rnn_cell, layer.get("lstm")).complete, name


def test_step_runs_on_the_cpu_with_a_back_reference():
    layer = CfC(I, 6)
    layer.eval()
    owner(layer)
    x = mx.zeros((2, I))
    mx.eval(layer.rnn_cell.ff1.weight, x)
    layer.step(x)
    assert dispatch.last_backend() == "cpu"
    del layer.rnn_cell["owner"]


def test_cell_with_back_reference_is_freed():
    script = """
    import gc, weakref
    import mlx.core as mx
    from mlx_ncps import CfC
    layer = CfC(4, 6)
    layer.eval()
    x = mx.zeros((2, 4))
    mx.eval(x)
    layer.rnn_cell.owner = layer
    layer.step(x)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
