"""Sizes at their ends: products that no array can have, memory that isn't there, no elements."""

import subprocess
import sys
import textwrap

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import CfC, _loader, ops, rnn
from mlx_ncps.wirings import AutoNCP

from tests.support import ROOT
from tests.support.rnn_layers import LAYERS, I

needs_native = pytest.mark.skipif(_loader.native is None, reason="the native module is not loaded")


def run(script):
    """The output of a script in a process of its own, which may crash."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}\n{done.stderr[-2000:]}"
    return done.stdout


# --- products of sizes ----------------------------------------------------------------------------


def ltc_call(units, unfolds, steps, *, mixed=False, save=True):
    """The native call as a function of x [1, T, 1]: layers take fewer unfolds."""
    vectors, square, sensory = [mx.ones((units,))] * 3, (units, units), (1, units)
    folded = [*vectors, *[mx.ones(square)] * 4, *[mx.ones(sensory)] * 4]
    c, wide = mx.zeros((1, units)), 4 * units
    memory = [c, mx.ones((wide, 1)), mx.ones((wide,)), mx.ones((wide, units))] if mixed else None

    def call(x):
        out = _loader.native.ltc_sequence(
            x, c, mx.ones((1, steps)), folded, unfolds=unfolds, memory=memory, save=save
        )
        return out[0] if mixed else out

    return call


@needs_native
@pytest.mark.parametrize("units", [512, 1024])  # 2**63 and 2**64 bytes
@pytest.mark.parametrize("mixed", [False, True])
def test_saved_values_beyond_63_bits_are_refused(units, mixed):
    call, x = ltc_call(units, 2**30, 2**21, mixed=mixed), mx.zeros((1, 2**21, 1))
    with pytest.raises(ValueError, match=r"\[ltc_sequence\] an array .* less than 2\^63 bytes"):
        call(x)
    with pytest.raises(ValueError, match="fewer unfolds"):
        mx.grad(lambda x: call(x).sum())(x)


@needs_native
def test_gradient_of_inference_beyond_63_bits_is_refused():
    call = ltc_call(512, 2**30, 2**21, save=False)
    with pytest.raises(ValueError, match=r"less than 2\^63 bytes"):
        mx.grad(lambda x: call(x).sum())(mx.zeros((1, 2**21, 1)))


@needs_native
def test_saved_values_without_memory_raise_and_leave_the_process_well():
    output = ltc_call(2, 2**30, 2**21)(mx.zeros((1, 2**21, 1)))  # 2**55 bytes
    with pytest.raises(RuntimeError, match=r"\[ltc_sequence\] no memory for an array .* bytes"):
        mx.eval(output)
    assert mx.isfinite(ltc_call(2, 6, 3)(mx.zeros((1, 3, 1)))).all()


# --- memory ---------------------------------------------------------------------------------------

LIMITED = """
import resource
import mlx.core as mx
from mlx_ncps import rnn, use_backend

def limit(more):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))

def attempt(call):
    try:
        mx.eval(call())
        print("done")
    except (RuntimeError, MemoryError) as error:
        print(type(error).__name__, error)
"""


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_failed_allocation_of_an_output_raises():
    out = run(
        LIMITED
        + """
layer = rnn.LTC(1, 64)
x = mx.zeros((64, 4096, 1))
mx.eval(layer.parameters(), x, layer(x[:, :2])[0])
with use_backend("cpu"):
    limit(400 << 20)
    attempt(lambda: layer(x)[0])
    attempt(lambda: layer(x[:, :16])[0])
"""
    )
    first, second = out.splitlines()
    assert first.startswith("RuntimeError [ltc_sequence] no memory for an array (64,4096,6,2,64)")
    assert second == "done"


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_failed_allocation_in_a_kernel_raises():
    out = run(
        LIMITED
        + """
layer = rnn.LTC(1, 1024, ode_unfolds=1)
x, small = mx.zeros((64, 1, 1)), mx.zeros((1, 1, 1))
gradient = mx.grad(lambda x: layer(x)[0].sum())
mx.eval(layer.parameters(), x, small, gradient(small))
with use_backend("cpu"):
    limit(200 << 20)
    attempt(lambda: gradient(x))
    attempt(lambda: gradient(small))
"""
    )
    first, second = out.splitlines()
    assert first.startswith("RuntimeError"), out
    assert "no memory" in first
    assert second == "done"


@needs_native
def test_result_at_once_beyond_63_bits_is_refused():
    assert "less than 2^63 bytes" in run(
        """
        import mlx.core as mx
        from mlx_ncps import _loader
        x = mx.zeros((2**31 - 1, 0))
        mx.eval(x)
        try:
            _loader.native.linear(x, x, None)
        except ValueError as error:
            print(error)
        """
    )


# --- no elements ----------------------------------------------------------------------------------

EMPTY = {
    **{name: (make, {}) for name, make in LAYERS.items()},
    "both": (LAYERS["cfc"], {"bidirectional": True}),
    "mixed": (LAYERS["ltc"], {"mixed_memory": True}),
    "wired_mixed": (LAYERS["cfc_wired"], {"mixed_memory": True}),
    "proj": (LAYERS["cfc"], {"proj_size": 3}),
    "last": (LAYERS["ltc"], {"return_sequences": False}),
    "stacked": (lambda inputs=I, **o: rnn.CfCRNN(inputs, 6, 2, **o), {}),
}


def empty_gradients():
    """Gradients of every layer at no steps, no rows, and both; run as a script."""
    for make, options in EMPTY.values():
        layer = make(**options)
        mx.eval(layer.parameters())
        for shape in ((0, I), (2, 0, I), (0, 3, I), (0, 0, I)):

            def loss(parameters, x, layer=layer):
                layer.update(parameters)
                return sum(a.sum() for _, a in tree_flatten(layer(x)))

            x = mx.zeros(shape)
            parameters = layer.trainable_parameters()
            grads = mx.grad(loss, argnums=(0, 1))(parameters, x)
            mx.eval(grads)
            assert grads[1].shape == shape
            assert all(not a.size or mx.isfinite(a).all() for _, a in tree_flatten(grads))
            layer.update(parameters)
        if options.get("bidirectional"):
            continue
        for shape in ((0, I), (I,)):
            x = mx.zeros(shape)
            grad = mx.grad(lambda x, step=layer.step: step(x)[0].sum())(x)
            mx.eval(grad)
            assert grad.shape == shape
    print("all finite")


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_of_empty_inputs_are_there(backend):
    script = "from mlx_ncps import use_backend\nfrom tests.package import test_sizes\n"
    script += "with use_backend({!r}): test_sizes.empty_gradients()"
    assert run(script.format(backend)) == "all finite\n"


def test_shapes_of_unbatched_empty_calls():
    for layer in (CfC(I, 6), CfC(I, AutoNCP(10, 2)), rnn.LTC(I, 6)):
        output, state = layer(mx.zeros((0, I)))
        assert output.shape[0] == 0
        assert state.shape == (layer.state_size,)
    assert ops.initial_state(0, 3).shape == (0, 3)
