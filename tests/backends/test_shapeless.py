"""mx.compile(shapeless=True): the right rows for every batch and length, or a ValueError."""

import subprocess
import sys
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, _loader, use_backend
from mlx_ncps.backends import shapeless

from tests.support import ROOT
from tests.support.cases import assert_close, tolerance
from tests.support.rnn_layers import I

GROUPS = (
    ("cfc", "cfc_pure", "cfc_no_gate", "cfc_keras"),
    ("cfc_wired", "cfc_random", "cfc_ncp", "cfc_stacked"),
    ("ltc", "ltc_wide", "ltc_backbone", "ltc_explicit"),
    ("ltc_wired", "ltc_stacked", "ctrnn", "neural_ode", "eltc", "ctgru", "ode_rnn", "ode_lstm"),
)
# What must not only refuse: calls on the CPU's kernels that follow every shape.
FOLLOWS = {"plain", "number", "spans", "common", "half", "unbatched", "state", "step", "cell"}
REFUSES = {"both", "backwards"}
STEPWISE = ("cfc_wired", "cfc_random", "cfc_ncp")  # with mixed memory


def sweep(backend, names):
    """The lines of shapeless_sweep.py in a process of its own, which a crash would end."""
    command = [sys.executable, "-m", "tests.support.shapeless_sweep", backend, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-2000:]}"
    return [line.split(" ", 3) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_layers_give_right_rows_or_refuse(backend, names):
    if backend == "cpu" and _loader.native is None:
        pytest.skip("the native module is not loaded")
    lines = sweep(backend, names)
    assert len(lines) > (1000 if backend == "cpu" else 150)
    wrong = [" ".join(line) for line in lines if line[0] not in ("right", "refused")]
    assert not wrong, "\n".join(wrong[:20])
    if backend == "reference":  # step by step in slices, which MLX refuses too
        return
    for word, name, call, rest in lines:
        layer, _, option = name.partition(".")
        fused = layer.startswith(("cfc", "ltc")) and layer != "ltc_explicit"
        one_pass = not (option == "mixed" and layer in STEPWISE) or call == "cell"
        refusable = option in REFUSES or (call == "half" and "-> (0," in rest)
        if fused and one_pass and call in FOLLOWS and not refusable:
            assert word == "right", f"{word} {name} {call} {rest}"
    assert Counter(line[0] for line in lines)["right"] > 300


def test_shapeless_trace_is_told_apart_without_native_module(monkeypatch):
    seen = []

    def f(x):
        seen.append(shapeless.tracing())
        return x + 1

    def run():
        seen.clear()
        for transform in (
            lambda f: f,
            mx.compile,
            mx.vmap,
            lambda f: mx.grad(lambda x: f(x).sum()),
            lambda f: mx.compile(lambda x: f(x) * 2, shapeless=True),
            lambda f: mx.compile(mx.grad(lambda x: f(x).sum()), shapeless=True),
        ):
            transform(f)(mx.zeros(3))
        return list(seen)

    want = [False] * 4 + [True] * 2
    assert run() == want
    monkeypatch.setattr(_loader, "native", None)
    assert run() == want


def test_gradient_is_refused():
    if _loader.native is None:
        pytest.skip("the native module is not loaded")
    layer = CfC(I, 6)
    mx.eval(layer.parameters())
    compiled = mx.compile(mx.grad(lambda x: layer(x)[0].sum()), shapeless=True)
    with use_backend("cpu"), pytest.raises(ValueError, match="gradients want"):
        compiled(mx.zeros((2, 5, I)))


@pytest.mark.parametrize("make", [lambda: CfC(1, 6), lambda: LTC(1, 6), lambda: LTC(1, 1)])
def test_single_input_follows_every_shape(make):
    """Reductions over axes of size 1 alone crash MLX; none must be left."""
    if _loader.native is None:
        pytest.skip("the native module is not loaded")
    layer = make()
    mx.eval(layer.parameters())
    compiled = mx.compile(lambda x, ts: layer(x, None, ts), shapeless=True)
    with use_backend("cpu"):
        for shape in ((1, 1), (2, 5), (1, 1), (7, 1), (1, 9)):
            x, ts = mx.random.normal((*shape, 1)), mx.random.uniform(0.1, 1.0, shape)
            for got, want in zip(compiled(x, ts), layer(x, None, ts), strict=True):
                assert_close(f"{shape}", got, want, tolerance("float32", "forward"))


def test_state_of_another_batch_is_refused_when_replayed():
    if _loader.native is None:
        pytest.skip("the native module is not loaded")
    layer = CfC(I, 6)
    mx.eval(layer.parameters())
    hx = mx.zeros((2, 6))
    compiled = mx.compile(lambda x: layer(x, hx)[0], shapeless=True)
    with use_backend("cpu"):
        mx.eval(compiled(mx.zeros((2, 5, I))))
        with pytest.raises(ValueError, match=r"h0 must be \[B, H\] = \(3,6\), got \(2,6\)"):
            compiled(mx.zeros((3, 5, I)))


def test_vmap_within_shapeless_trace_is_refused():
    if _loader.native is None:
        pytest.skip("the native module is not loaded")
    layer = CfC(I, 6)
    mx.eval(layer.parameters())
    compiled = mx.compile(mx.vmap(lambda x: layer(x)[0]), shapeless=True)
    with use_backend("cpu"), pytest.raises(ValueError, match=r"mx\.vmap keeps the sizes"):
        compiled(mx.zeros((2, 3, 5, I)))


def test_empty_trace_is_refused():
    layer = CfC(I, 6)
    mx.eval(layer.parameters())
    for shape in ((2, 0, I), (0, 5, I)):
        compiled = mx.compile(lambda x: layer(x)[0], shapeless=True)
        with pytest.raises(ValueError, match=r"\[cfc.*\] an empty .* keeps the sizes"):
            compiled(mx.zeros(shape))


def test_columns_and_last_step_are_slices():
    a = mx.random.normal((3, 4, 6))
    before = mx.zeros((3, 6))
    for f, want in (
        (lambda a: shapeless.columns(a, 2, 3), np.array(a)[..., 2:5]),
        (lambda a: shapeless.columns(a[:, 0], 0, 6), np.array(a)[:, 0]),
        (lambda a: shapeless.last_step(a, before), np.array(a)[:, -1]),
    ):
        assert np.array_equal(np.array(f(a)), want)
        if want.ndim == 3 or want.shape == (3, 6):
            assert np.array_equal(np.array(mx.compile(f)(a)), want)


def test_timespans_fill_batch_and_length():
    inputs = mx.zeros((2, 3, I))
    for ts, want in ((0.5, np.full((2, 3), 0.5)), (mx.arange(3.0), [[0.0, 1.0, 2.0]] * 2)):
        assert np.array_equal(np.array(shapeless.timespans(ts, inputs)), want)
