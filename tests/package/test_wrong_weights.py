"""A weight of a wrong shape or dtype gives one ValueError on every path: a step, a cell call, a
short and a long sequence, computed at once or by a graph; and the native code checks what it reads.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_ncps import CfC, _loader, rnn

from tests.support.rnn_layers import LAYERS, I
from tests.support.step_layers import MORE

OPTIONS = {"": {}, ".mixed": {"mixed_memory": True}, ".proj": {"proj_size": 3}}
NAMES = [name + suffix for name in LAYERS for suffix in OPTIONS] + list(MORE)
B = 2


def make(name):
    name, _, suffix = name.partition(".")
    layer = (LAYERS | MORE)[name](**OPTIONS["." + suffix if suffix else ""])
    layer.eval()
    mx.eval(layer.parameters())
    return layer


def wrong(a):
    """Arrays in place of `a`, each wrong in one way."""
    yield "row more", mx.zeros((a.shape[0] + 1, *a.shape[1:]))
    yield "row less", mx.zeros((a.shape[0] - 1, *a.shape[1:]))
    yield "one row", mx.zeros((1, *a.shape[1:]))
    yield "axis more", mx.zeros((*a.shape, 1))
    yield "no axis", mx.zeros(())
    yield "empty", mx.zeros((0,) * a.ndim)
    if a.ndim == 2:
        yield "column less", mx.zeros((a.shape[0], a.shape[1] - 1))
        yield "transposed", mx.zeros(a.shape[::-1])
        yield "flat", mx.zeros((a.size,))
    yield "uint32", mx.zeros(a.shape, mx.uint32)
    yield "complex", mx.zeros(a.shape, mx.complex64)


def paths(layer):
    """Every way to call a layer, with evaluated arrays: those that can be computed at once are."""
    x, short, long = (mx.random.normal(shape) for shape in ((B, I), (B, 4, I), (B, 40_000, I)))
    mx.eval(x, short, long)
    yield "step", lambda: layer.step(x)
    yield "short", lambda: layer(short)
    yield "long", lambda: layer(long)
    yield "lazy step", lambda: layer.step(x + 0)
    if not layer.mixed_memory:
        h = mx.zeros((B, layer.state_size))
        mx.eval(h)
        yield "cell", lambda: layer.rnn_cell(x, h)


@pytest.mark.parametrize("name", NAMES)
def test_layer_refuses_wrong_weight_the_same_on_every_path(name):
    layer = make(name)
    before = dict(tree_flatten(layer.parameters()))
    ways = dict(paths(layer))
    ways["step"]()  # packed once with right weights
    cases = 0
    for key, right in before.items():
        if ".wiring." in key:
            with pytest.raises(ValueError, match="must be"):  # refused when it is set
                layer.update(tree_unflatten([(key, right[1:])]), strict=False)
            continue
        for kind, bad in wrong(right):
            if key.endswith("sparsity_mask"):
                if bad.shape != right.shape:
                    with pytest.raises(ValueError, match="sparsity_mask must be"):
                        layer.update(tree_unflatten([(key, bad)]), strict=False)
                continue
            if "mask" in key and (bad.shape == right.shape or bad.size == right.size):
                continue  # a mask may have any dtype
            if bad.shape == right.shape and bad.dtype == right.dtype:
                continue
            layer.update(tree_unflatten([(key, bad)]), strict=False)
            mx.eval(bad)
            messages = {}
            for way, call in ways.items():
                if way == "cell" and key.startswith("fc"):
                    continue
                with pytest.raises(ValueError, match=r"^\[(cfc|ltc|lstm)\] .* must be .*got") as e:
                    mx.eval(call())
                messages[way] = str(e.value)
            assert len(set(messages.values())) == 1, f"{key}, {kind}: {messages}"
            cases += 1
        layer.update(tree_unflatten([(key, right)]), strict=False)
    mx.eval(ways["step"]())
    assert cases > 20


def native_stage(weights, inputs=I, layers=0):
    return _loader.native.CfcStage(
        weights, inputs=inputs, layers=layers, mode="default", activation="tanh",
        head_activation="tanh",
    )  # fmt: skip


def heads(units=6, fan_in=I + 6):
    arrays = [mx.zeros(shape) for _ in range(4) for shape in ((units, fan_in), (units,))]
    mx.eval(arrays)
    return arrays


@pytest.fixture
def native():
    if _loader.native is None:
        pytest.skip("the native module is not loaded")
    return _loader.native


def test_native_step_cell_refuses_every_wrong_array(native):
    good, readout, cases = heads(), native.Readout(0, 6), 0
    native.StepCell.cfc([native_stage(good)], [], readout, [])
    for n, right in enumerate(good):
        for _kind, bad in wrong(right):
            if bad.shape == right.shape and bad.dtype == right.dtype:
                continue
            mx.eval(bad)
            stage = native_stage([*good[:n], bad, *good[n + 1 :]])
            with pytest.raises(ValueError, match="must be"):
                native.StepCell.cfc([stage], [], readout, [])
            cases += 1
    for stage in (native_stage(good[:-1]), native_stage(good, layers=-1), native_stage(good, -1)):
        with pytest.raises(ValueError, match=r"must|wants"):
            native.StepCell.cfc([stage], [], readout, [])
    assert cases >= 70


def test_native_step_cell_refuses_chain_of_unequal_widths(native):
    chain = [native_stage(heads()), native_stage(heads(6, 11), inputs=5)]
    with pytest.raises(ValueError, match="must read the state of the one before, of 6 neurons"):
        native.StepCell.cfc(chain, [], native.Readout(6, 6), [])
    with pytest.raises(ValueError, match="must have a stage"):
        native.StepCell.cfc([], [], native.Readout(0, 0), [])


@pytest.mark.parametrize("readout", [(-1, 2), (0, -1), (0, 7), (5, 2), (2**31 - 1, 2**31 - 1)])
def test_native_readout_outside_the_state_is_refused(native, readout):
    with pytest.raises(ValueError, match="within the state"):
        native.StepCell.cfc([native_stage(heads())], [], native.Readout(*readout), [])


def ltc_arrays():
    shapes = [(6,)] * 3 + [(6, 6)] * 4 + [(I, 6)] * 4
    arrays = [mx.ones(shape) for shape in shapes]
    mx.eval(arrays)
    return arrays


def test_native_ltc_cell_refuses_every_wrong_array(native):
    good, readout = ltc_arrays(), native.Readout(0, 6)
    native.StepCell.ltc(good, 6, None, [], readout, [])
    for n, right in enumerate(good):
        for _kind, bad in wrong(right):
            if bad.shape != right.shape or bad.dtype != right.dtype:
                mx.eval(bad)
                with pytest.raises(ValueError, match=r"must be|wants"):
                    native.StepCell.ltc([*good[:n], bad, *good[n + 1 :]], 6, None, [], readout, [])
    with pytest.raises(ValueError, match="unfolds must be at least 1"):
        native.StepCell.ltc(good, 0, None, [], readout, [])
    index = np.zeros(1, np.int32)
    lists = native.SynapseLists(index, index, index, index, inputs=I, units=7)
    with pytest.raises(ValueError, match="synapses must be of"):
        native.StepCell.ltc(good, 6, lists, [], readout, [])


def test_native_memory_weights_are_checked(native):
    good = [mx.zeros(shape) for shape in ((24, I), (24,), (24, 6))]
    mx.eval(good)
    stage, readout = native_stage(heads()), native.Readout(0, 6)
    native.StepCell.cfc([stage], good, readout, [])
    for n, right in enumerate(good):
        for _kind, bad in wrong(right):
            if bad.shape != right.shape or bad.dtype != right.dtype:
                mx.eval(bad)
                memory = [*good[:n], bad, *good[n + 1 :]]
                with pytest.raises(ValueError, match="must be"):
                    native.StepCell.cfc([stage], memory, readout, [])


def test_native_readout_reads_evaluated_arrays_alone(native):
    for lazy in (mx.ones(6) + 1, mx.ones(6).astype(mx.float16), mx.ones((6, 1))):
        for mapping in ((lazy, None), (None, lazy)):
            readout = native.Readout(0, 6, *mapping)
            with pytest.raises(ValueError, match=r"must be"):
                native.StepCell.cfc([native_stage(heads())], [], readout, [])


def sequence_arguments():
    """(native function, arrays, how to call it) of an LTC and of a CfC behind an LSTM."""
    x, h, ts = mx.zeros((B, 3, I)), mx.zeros((B, 6)), mx.ones((B, 3))
    memory = [mx.zeros((B, 6)), mx.zeros((24, I)), mx.zeros((24,)), mx.zeros((24, 6))]

    def ltc(*arrays):
        return _loader.native.ltc_sequence(
            *arrays[:3], list(arrays[3:14]), unfolds=2, memory=list(arrays[14:])
        )

    def cfc(*arrays):
        return _loader.native.cfc_sequence(
            *arrays[:3], list(arrays[3:-4]), layers=1, mode="default", activation="tanh",
            memory=list(arrays[-4:]),
        )  # fmt: skip

    backbone = [mx.zeros((9, I + 6)), mx.zeros((9,))]
    return (
        (ltc, [x, h, ts, *ltc_arrays(), *memory]),
        (cfc, [x, h, ts, *backbone, *heads(fan_in=9), *memory]),
    )


def test_native_sequences_refuse_every_wrong_array(native):
    cases = 0
    for call, good in sequence_arguments():
        mx.eval(call(*good))
        for n, right in enumerate(good):
            for _kind, bad in wrong(right):
                if bad.shape == right.shape and bad.dtype == right.dtype:
                    continue
                with pytest.raises(ValueError, match=r"^\[(ltc|cfc)_sequence\] .* must be .* got"):
                    call(*good[:n], bad, *good[n + 1 :])
                cases += 1
    assert cases > 250


def test_step_after_quantize_is_refused_or_right():
    layer = CfC(64, 64)
    layer.eval()
    x = mx.random.normal((2, 64))
    mx.eval(layer.parameters(), x)
    want = layer.step(x)[0]
    weight = layer.rnn_cell.ff1.weight
    packed, _, _ = mx.quantize(mx.random.normal((64, 128)), 64, 4)
    layer.rnn_cell.ff1.weight = packed
    for call in (lambda: layer.step(x), lambda: layer(x[:, None]), lambda: layer.rnn_cell(x, x)):
        with pytest.raises(ValueError, match="must be"):
            mx.eval(call())
    layer.rnn_cell.ff1.weight = weight
    assert mx.array_equal(layer.step(x)[0], want)


def test_loaded_weights_of_a_larger_model_are_checked(tmp_path):
    model = {"rnn": rnn.LTC(I, 6)}
    layer = model["rnn"]
    layer.eval()
    x = mx.random.normal((B, I))
    layer.step(x)
    layer.update({"rnn_cell": {"w": mx.zeros((6, 5))}})
    mx.eval(layer.parameters(), x)
    with pytest.raises(ValueError, match=r"^\[ltc\] params.w must be \[H, H\] = \(6, 6\)"):
        layer.step(x)
