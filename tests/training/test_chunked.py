"""Long sequences in chunks: gradients of the whole sequence, in the memory of a chunk."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_ncps import (
    LTC,
    CfC,
    CfCRNN,
    available_backends,
    checkpoint,
    chunked_value_and_grad,
    dispatch,
)
from mlx_ncps.ops.dropout import keys_from, next_key
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.rnn_layers import GRADIENT, SAME, assert_trees_close, normal, spans

B, I = 3, 4
LAYERS = {
    "cfc": lambda: CfC(I, 16),
    "cfc_wired": lambda: CfC(I, AutoNCP(16, 4), proj_size=2),
    "ltc": lambda: LTC(I, 16),
    "ltc_mixed_memory": lambda: LTC(I, 6, mixed_memory=True, ode_unfolds=2),
}
all_layers = pytest.mark.parametrize("name", LAYERS)
backends = pytest.mark.parametrize(  # of GPUs the memory of buffers is MLX's affair
    "backend", [name for name in available_backends() if name in ("cpu", "reference")]
)


def make(name, steps):
    mx.random.seed(7)
    layer = LAYERS[name]()
    x, ts = normal(B, steps, I), spans(B, steps)
    mx.eval(layer.parameters(), x, ts)
    return layer, x, ts


def zeros(layer):
    h = mx.zeros((B, layer.state_size))
    return (h, h) if layer.mixed_memory else h


def loss_of(layer, state, x, ts):
    output, state = layer(x, state, ts)
    return mx.sum(mx.square(output - x[..., :1])), state


def pieces(length, *arrays):
    """Chunks [B, length, ...] of arrays [B, T, ...]; the last may be shorter."""
    steps = arrays[0].shape[1]
    return [tuple(a[:, t : t + length] for a in arrays) for t in range(0, steps, length)]


def whole(layer, x, ts, run=None):
    """Loss, gradients and state of the whole sequence, or of its chunks by `run(loss, state)`."""

    def total(layer):
        loss, state = run() if run else loss_of(layer, zeros(layer), x, ts)
        return loss, state

    (loss, state), gradients = nn.value_and_grad(layer, total)(layer)
    return loss, gradients, state


def checkpointed(layer, x, ts, length):
    """The whole sequence in chunks under nn.utils.checkpoint."""
    part = nn.utils.checkpoint(layer, lambda *arguments: loss_of(layer, *arguments))

    def run():
        total, state = 0.0, zeros(layer)
        for chunk in pieces(length, x, ts):
            loss, state = part(state, *chunk)
            total = total + loss
        return total, state

    return whole(layer, x, ts, run)


DROPPED = {
    "torch": lambda **options: CfC(I, 6, backbone_units=9, **options),
    "keras": lambda **options: CfC(I, 6, backbone_units=9, variant="keras", **options),
    "mixed": lambda **options: CfC(I, 6, backbone_units=9, mixed_memory=True, **options),
    "wired": lambda **options: CfC(I, AutoNCP(10, 2), backbone_units=7, **options),
    "wired_mixed": lambda **options: CfC(
        I, AutoNCP(10, 2), backbone_units=7, mixed_memory=True, **options
    ),
    "stacked": lambda **options: CfCRNN(I, 6, 2, backbone_units=9, **options),
}


@backends
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", DROPPED)
def test_checkpoint_drops_the_same_when_it_computes_again(name, compiled, backend):
    if (name, backend) == ("stacked", "reference"):
        compiled = False  # mx.compile of MLX 0.32.4 fails on this graph, also without dropout
    mx.random.seed(7)
    layer = DROPPED[name](backbone_layers=2, backbone_dropout=0.4)
    x, ts = normal(B, 4, I), spans(B, 4)

    def loss_of(state, x, ts):
        output, state = layer(x, state, ts)
        return mx.sum(mx.sin(output)), state

    def remembered(*arguments):
        with keys_from(next_key()):
            return loss_of(*arguments)

    def gradients(part):
        def total(parameters):
            layer.update(parameters)
            loss, state = 0.0, None
            for chunk in pieces(2, x, ts):
                step, state = part(state, *chunk)
                loss = loss + step
            return loss, state

        run = mx.value_and_grad(total)
        if compiled:
            state = mx.random.state
            run = mx.compile(run, inputs=state, outputs=state)
        mx.random.seed(11)
        (loss, state), grads = run(parameters)
        after = mx.random.uniform(shape=(3,))
        layer.update(parameters)
        return {"loss": loss, "after": after} | dict(tree_flatten([state, grads]))

    parameters = layer.trainable_parameters()
    with dispatch.use_backend(backend):
        got, want = gradients(checkpoint(layer, loss_of)), gradients(remembered)
        anew = gradients(nn.utils.checkpoint(layer, loss_of))
    assert_all_close(got, want, GRADIENT)
    with pytest.raises(AssertionError):  # MLX's own drops others
        assert_all_close(anew | {"after": want["after"]}, want, GRADIENT)


def test_checkpoint_of_a_module_alone_and_of_wrong_arguments():
    layer, x = CfC(I, 6), normal(B, 8, I)
    assert_trees_close("call", checkpoint(layer)(x), layer(x), SAME)
    with pytest.raises(ValueError, match=r"\[checkpoint\] module must be an mlx.nn.Module, got"):
        checkpoint(lambda x: x)
    with pytest.raises(ValueError, match=r"\[checkpoint\] fn must be a function or None, got"):
        checkpoint(layer, 3)


def chunked(layer, x, ts, length):
    return chunked_value_and_grad(layer, loss_of)(pieces(length, x, ts), zeros(layer))


def check(got, want):
    assert_close("loss", got[0], want[0], SAME)
    assert_all_close(dict(tree_flatten(got[1])), dict(tree_flatten(want[1])), GRADIENT)
    assert_trees_close("state", got[2], want[2], SAME)


@all_layers
@pytest.mark.parametrize("way", [checkpointed, chunked])
@pytest.mark.parametrize("length", [4, 12, 20])
def test_chunks_give_the_gradients_of_the_whole_sequence(name, way, length):
    layer, x, ts = make(name, 12)
    want = whole(layer, x, ts)
    got = way(layer, x, ts, length)
    check(got, want)
    check(whole(layer, x, ts), want)  # the layer's weights are as they were


@backends
@pytest.mark.parametrize("name", ["cfc", "ltc"])
def test_memory_is_that_of_a_chunk(name, backend):
    layer, x, ts = make(name, 240 if backend == "reference" else 1600)

    def peak(way, *arguments):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(way(layer, x, ts, *arguments))
        return mx.get_peak_memory() - before

    with dispatch.use_backend(backend):
        all_steps, few_steps = peak(whole), peak(chunked, x.shape[1] // 16)
        under_checkpoint = peak(checkpointed, x.shape[1] // 16)
    assert few_steps < all_steps / 5
    if (name, backend) != ("ltc", "reference"):  # MLX's order of evaluation leaves nothing there
        assert under_checkpoint < all_steps / 1.5


def test_dropout_draws_the_same_in_both_passes():
    mx.random.seed(7)
    layer = CfC(I, 6, backbone_units=9, backbone_layers=2, backbone_dropout=0.4)
    x, ts = normal(B, 8, I), spans(B, 8)
    chunks = pieces(3, x, ts)

    def run():
        mx.random.seed(11)
        seeds = mx.random.randint(0, 2**31 - 1, (len(chunks) + 1,)).tolist()
        total, state = 0.0, zeros(layer)
        for seed, chunk in zip(seeds, chunks, strict=False):
            mx.random.seed(seed)
            loss, state = loss_of(layer, state, *chunk)
            total = total + loss
        return total, state

    want = whole(layer, x, ts, run)
    mx.random.seed(11)
    check(chunked(layer, x, ts, 3), want)
    after = mx.random.uniform(shape=(4,))
    again = chunked(layer, x, ts, 3)
    assert abs(again[0].item() - want[0].item()) > 1e-3
    assert np.abs(np.array(after - mx.random.uniform(shape=(4,)))).max() > 1e-3


def test_states_and_gradients_of_half_precision():
    layer, x, ts = make("cfc", 12)
    x = x.astype(mx.bfloat16)
    want = whole(layer, x.astype(mx.float32), ts)
    got = chunked_value_and_grad(layer, loss_of)(pieces(4, x, ts), zeros(layer).astype(x.dtype))
    assert got[2].dtype == mx.bfloat16
    for key, gradient in tree_flatten(got[1]):
        assert gradient.dtype == mx.float32, key
    exact, half = dict(tree_flatten(want[1])), dict(tree_flatten(got[1]))
    assert_all_close(half, exact, tolerance("bfloat16", "gradient"))


def test_frozen_weights_have_no_gradient():
    layer, x, ts = make("cfc", 8)
    layer.rnn_cell.ff1.freeze()
    _, gradients, _ = chunked(layer, x, ts, 4)
    want = whole(layer, x, ts)[1]
    assert set(dict(tree_flatten(gradients))) == set(dict(tree_flatten(want)))
    assert not [key for key, _ in tree_flatten(gradients) if "ff1" in key]


def test_no_chunks_raise():
    layer, _, _ = make("cfc", 1)
    with pytest.raises(ValueError, match=r"chunks must hold at least one, got none"):
        chunked_value_and_grad(layer, loss_of)([], zeros(layer))


def test_an_update_moves_the_weights_as_with_the_whole_sequence():
    layer, x, ts = make("ltc", 12)
    twin, _, _ = make("ltc", 12)
    for model, gradients in ((layer, whole(layer, x, ts)[1]), (twin, chunked(twin, x, ts, 5)[1])):
        model.update(tree_map(lambda w, g: w - 0.01 * g, model.trainable_parameters(), gradients))
    assert_trees_close("weights", twin.parameters(), layer.parameters(), GRADIENT)
