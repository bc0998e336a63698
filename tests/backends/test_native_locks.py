"""Nothing of ours that MLX frees on its own threads needs Python's lock: every way to wait for MLX,
for every kind of primitive, ends. Each runs in a process of its own, as a fault is a hang or an
abort at the end; the time limits only end a hang.
"""

import os
import threading

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import CfC
from mlx_ncps.at_once import STEP, attempt

# The calls of one kind: a function f(x) -> arrays that have not been evaluated.
KINDS = {
    "ltc_dense": "layer = LTC(4, 6); f = plain",
    "ltc_lists": "layer = LTC(4, AutoNCP(16, 2)); f = plain",
    "cfc": "layer = CfC(4, 8); f = plain",
    "cfc_pure": "layer = CfC(4, 8, mode='pure'); f = plain",
    "cfc_wired": "layer = CfC(4, AutoNCP(16, 2)); f = plain",
    "mixed_cfc": "layer = CfC(4, 8, mixed_memory=True); f = plain",
    "mixed_ltc_lists": "layer = LTC(4, AutoNCP(16, 2), mixed_memory=True); f = plain",
    "bidirectional": "layer = LTC(4, AutoNCP(16, 2), bidirectional=True); f = plain",
    "without_saving": "layer = LTC(4, AutoNCP(16, 2)).eval(); f = plain",
    "gradient_lists": "layer = LTC(4, AutoNCP(16, 2)); f = gradient",
    "gradient_dense": "layer = LTC(4, 6); f = gradient",
    "gradient_cfc": "layer = CfC(4, 8); f = gradient",
    "gradient_mixed": "layer = LTC(4, AutoNCP(16, 2), mixed_memory=True); f = gradient",
    "vmap": "layer = LTC(4, AutoNCP(16, 2)); f = mx.vmap(lambda x: layer(x)[0]); X = X[None]",
    "vmap_of_gradient": "layer = LTC(4, AutoNCP(16, 2)); "
    "f = mx.vmap(mx.grad(lambda x: layer(x)[0].sum())); X = X[None]",
    "compiled": "layer = LTC(4, AutoNCP(16, 2)); f = mx.compile(plain)",
    "compiled_gradient": "layer = LTC(4, AutoNCP(16, 2)); f = mx.compile(gradient)",
    "steps": "layer = LTC(4, AutoNCP(16, 2)); f = steps",
    "steps_cfc": "layer = CfC(4, AutoNCP(16, 2)); f = steps",
    "other_stream": "layer = LTC(4, AutoNCP(16, 2)); f = on_stream",
}

# What may wait for MLX, or end while it works: `y()` gives new arrays, `a` is the first of them.
# Threads come first: the cache of mx.compile of a thread that has ended asks for the lock, which
# aborts a process that is about to end (MLX 0.32.4).
WAYS = """
threads(lambda: mx.eval(y()))
mx.eval(y())
mx.save(f"{tmp}/a.npy", first())
mx.savez(f"{tmp}/a.npz", a=first())
mx.savez_compressed(f"{tmp}/b.npz", a=first())
mx.save_safetensors(f"{tmp}/a.safetensors", {"a": first()})
mx.save_gguf(f"{tmp}/a.gguf", {"a": first()})
mx.async_eval(y()); mx.clear_cache()
mx.async_eval(y()); mx.synchronize()
mx.async_eval(y()); gc.collect()
a = first(); mx.async_eval(a); del a; mx.clear_cache()
a = first(); mx.async_eval(a); mx.save(f"{tmp}/b.npy", a + 1)
first().sum().item()
first().tolist()
np.array(first())
memoryview(first())
repr(first())
bool(mx.array_equal(first(), first()))
pickle.dumps(first())
copy.copy(first()).sum().item()
mx.eval(y()); mx.set_cache_limit(0); mx.set_cache_limit(1 << 30)
mx.reset_peak_memory(); mx.eval(y()); mx.get_peak_memory()
export()
"""

SCRIPT = """
import copy, faulthandler, gc, pickle, sys, tempfile, threading
import mlx.core as mx, numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import CfC, LTC
from mlx_ncps.wirings import AutoNCP

faulthandler.dump_traceback_later(100, exit=True)
X = mx.random.normal((32, 60, 4))  # enough rows for the kernel with lists
plain = lambda x: layer(x)
gradient = lambda x: mx.grad(lambda x: mx.concatenate(flat(layer(x)[0])).sum())(x)
steps = lambda x: [layer(x[:, t:t + 1] + 0) for t in range(3)] + [layer(x[:, :1])]
def on_stream(x):
    with mx.stream(mx.new_stream(mx.cpu)):
        return layer(x)
flat = lambda tree: [a for _, a in tree_flatten([tree])]
y = lambda: flat(f(X + 0))
first = lambda: y()[0]
def export():
    try:
        mx.export_function(tmp + "/f.mlxfn", plain, X)
    except (ValueError, RuntimeError):
        pass  # whether it can be is another test's matter
def threads(call):
    def run():
        with mx.stream(mx.new_stream(mx.cpu)):
            call()
    all = [threading.Thread(target=run) for _ in range(3)]
    [t.start() for t in all], [t.join() for t in all]
tmp = tempfile.mkdtemp()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_wait_ends(kind, native, run_python):
    calls = "".join(f"for _ in range(3): {way}\n" for way in WAYS.strip().splitlines())
    done = run_python("-c", f"{SCRIPT}\n{KINDS[kind]}\n{calls}\nprint('done')\nmx.async_eval(y())")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# The end of the process while tasks wait or run, and after the objects behind them are gone.
ENDS = {
    "async": "mx.async_eval([y() for _ in range(5)])",
    "unevaluated": "kept = y()",
    "layer_gone": "a = y(); mx.async_eval(a); del layer",
    "exit": "mx.async_eval(y()); sys.exit(0)",
    "exit_now": "mx.async_eval(y()); import os; os._exit(0)",
    "raised": "mx.async_eval(y()); sys.excepthook = lambda *_: None; raise SystemExit(0)",
    "at_exit": "import atexit; atexit.register(lambda: mx.eval(y()))",
}


@pytest.mark.parametrize("end", ENDS)
def test_process_ends_while_tasks_run(end, native, run_python):
    body = f"{SCRIPT}\n{KINDS['ltc_lists']}\n{ENDS[end]}"
    done = run_python("-c", body)
    assert (done.returncode, done.stderr) == (0, "")


def test_lock_guard_sees_a_request(native, run_python):
    if "MLX_NCPS_LOCK_GUARD" not in os.environ:
        pytest.skip("only `make sanitize-python` builds the guard")
    ask = "import mlx.core, mlx_ncps; mlx_ncps._loader.native.ask_for_lock({})"
    assert run_python("-c", ask.format(False)).returncode == 0
    done = run_python("-c", ask.format(True))
    assert done.returncode != 0
    assert "asks for Python's lock" in done.stderr


def test_native_functions_refuse_objects_without_an_array(native, run_python):
    """`__new__` alone makes an object that holds nothing: an error or None, and no crash."""
    script = """
import mlx.core as mx, gc
from mlx_ncps import CfC, LTC, _loader
from mlx_ncps.at_once import EVERY, STEP, attempt
from mlx_ncps.wirings import AutoNCP
native, X = _loader.native, mx.array([[[1.0] * 4]] * 2)
empty = mx.array.__new__(mx.array)
assert not native.has_values(empty)
for layer in (CfC(4, 8), LTC(4, AutoNCP(16, 2)), CfC(4, 8, mixed_memory=True)):
    mx.eval(layer.parameters())
    layer(X)
    cell, lstm = layer.rnn_cell, getattr(layer, "lstm", None)
    H = layer.state_size
    calls = [(empty, None, None), (X[:, 0], empty, None), (X[:, 0], None, empty),
             (X[:, 0], (mx.zeros((2, H)), empty), None), (X[:, 0], (empty, empty), None)]
    for x, state, ts in calls:
        assert attempt(cell, lstm, x, state, ts, STEP) is None
for more in ((empty, None, False), (None, (empty, empty), True), (empty, (empty, 1), True)):
    assert attempt(cell, lstm, empty, None, None, STEP, more) is None
    assert attempt(cell, lstm, X, None, None, EVERY, more) is None
assert not native.may_be_read(empty)
assert native.linear(empty, X[0], None) is None
assert native.linear(X, empty, None) is None
assert native.linear(X, X[0], empty) is None
weights = [mx.zeros((8, 12)), mx.zeros((8,))] * 4
stage = native.CfcStage(weights, inputs=4, layers=0, mode="default", activation="tanh",
                        head_activation="tanh")
mx.eval(weights)
for args in ((empty, X, 1.0), (X, empty, 1.0), (X, X[:, 0], empty)):
    assert native.cfc_at_once(*args, stage, True) is None
names = ("StepCell", "Places", "Readout", "CfcStage", "SynapseLists")
blanks = [getattr(native, n).__new__(getattr(native, n)) for n in names]
packed = layer.rnn_cell._step_cell.made[0]
bad = [lambda: packed.made_from([empty]), lambda: packed.watch(blanks[1]),
       lambda: native.reshaped(empty, [4]), lambda: native.is_tracer(empty),
       lambda: native.cfc_at_once(X, X[:, 0], None, blanks[3], True),
       lambda: blanks[0](None, None, X, None, None, 0), lambda: blanks[0].made_from([]),
       lambda: native.ltc_kernel(2, 4, 8, 6, blanks[4]),
       lambda: native.StepCell.cfc([blanks[3]], [], blanks[2], []),
       lambda: native.fold_ltc([empty] * 11, implicit=False, epsilon=0.0),
       lambda: native.ltc_sequence(empty, empty, empty, [empty] * 11, unfolds=1),
       lambda: native.cfc_sequence(X, empty, None, [], layers=0, mode="pure", activation="tanh")]
for n, call in enumerate(bad):
    try:
        result = call()
    except TypeError:
        continue
    assert result is False, n
del blanks; gc.collect()
print("done")
"""
    done = run_python("-W", "ignore", "-c", script)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.usefixtures("cpu_device")
def test_step_without_the_lock_reads_what_it_was_given(native):
    """Another thread may put other values into the arrays of a call that runs."""
    layer = CfC(8, 64).eval()
    mx.eval(layer.parameters())
    rows = 3000  # more than some 30 us: the lock is let go of
    original, other = mx.random.normal((rows, 8)), mx.full((rows, 8), 7.0)
    x, h = original + 0, mx.zeros((rows, 64))
    mx.eval(original, other, x, h)
    want = np.array(attempt(layer.rnn_cell, None, x, h, 1.0, STEP)[1])
    ending = threading.Event()

    def overwrite():
        while not ending.is_set():
            x[...], h[...] = other, mx.ones_like(h)  # the old memory is free for others then
            mx.eval(x, h)
            junk = [mx.full((rows, 8), 9.0) for _ in range(4)]
            mx.eval(junk)
            x[...], h[...] = original, mx.zeros_like(h)
            mx.eval(x, h)

    mx.synchronize()
    writer = threading.Thread(target=lambda: _on_own_stream(overwrite))
    writer.start()
    try:
        for _ in range(200):
            a, b = mx.array(original), mx.zeros((rows, 64))
            mx.eval(a, b)
            done = attempt(layer.rnn_cell, None, a, b, 1.0, STEP)
            np.testing.assert_array_equal(np.array(done[1]), want)
            attempt(layer.rnn_cell, None, x, h, 1.0, STEP)  # any mix of values, but living memory
    finally:
        ending.set()
        writer.join()


def _on_own_stream(run):
    with mx.stream(mx.new_stream(mx.cpu)):
        run()
