"""Ctrl-C during a long fused call. The calls would take minutes; none of their results could be
finished when they are given up, however slow the machine is.
"""

import os
import platform

import pytest

pytestmark = pytest.mark.skipif(platform.system() == "Windows", reason="MLX is not for Windows")

# Waits until the process has computed for a while in the call, then presses Ctrl-C.
SCRIPT = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
import mlx.core as mx
from mlx_ncps import CfC, LTC
from mlx_ncps.at_once import STEP, attempt
from mlx_ncps.wirings import AutoNCP

def press(times=1):
    start = time.process_time()
    def run():
        for n in range(times):
            while time.process_time() - start < 1.0 + n:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run, daemon=True).start()

LAYERS = {
    "cfc": lambda: CfC(8, 16, backbone_units=1024, backbone_layers=3),
    "cfc_mixed": lambda: CfC(8, 16, backbone_units=1024, backbone_layers=3, mixed_memory=True),
    "cfc_wired": lambda: CfC(8, AutoNCP(512, 4), mode="pure"),
    "ltc_dense": lambda: LTC(8, 256, ode_unfolds=40),
    "ltc_lists": lambda: LTC(8, AutoNCP(400, 4, sparsity_level=0.2), ode_unfolds=40),
    "ltc_mixed": lambda: LTC(8, 256, ode_unfolds=40, mixed_memory=True),
}
def make(kind, steps):
    layer = LAYERS[kind]().eval()
    x = mx.random.normal((32, steps, 8))
    mx.eval(x, layer.parameters())
    return layer, x
def all_nan(*arrays):
    return all(mx.isnan(a).all().item() for a in arrays)
def usable(layer):
    y = layer(mx.ones((3, 4, 8)) + 0)[0]
    return not mx.isnan(y).any().item()
"""
SLOW = {"ISA": "baseline", "NUM_THREADS": "2"}  # minutes of work in little memory


@pytest.fixture
def check(native, run_python):
    slow = SLOW if "baseline" in native.isas() else {"NUM_THREADS": "2"}

    def run(body):
        done = run_python("-c", f"{SCRIPT}\n{body}", **slow)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    return run


KINDS = ("cfc", "cfc_mixed", "cfc_wired", "ltc_dense", "ltc_lists", "ltc_mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_a_forward(kind, check):
    check(f"""
layer, x = make({kind!r}, 30000)
y = layer(x)[0]
press()
try:
    mx.eval(y)
except KeyboardInterrupt:
    assert all_nan(y) and usable(layer)
    print("done")
""")


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_a_gradient(kind, check):
    # Few steps: what is kept for the gradient must fit into memory.
    check(f"""
layer, x = make({kind!r}, 1500 if {kind!r}.startswith("cfc") else 200)
layer.train()
dx = mx.grad(lambda x: sum(layer(x)[0].sum() for _ in range(20)))(x)
press()
try:
    mx.eval(dx)
except KeyboardInterrupt:
    del dx
    assert usable(layer)
    print("done")
""")


def test_backward_of_an_interrupted_forward_is_nan(check):
    check("""
layer, x = make("cfc", 3000)
layer.train()
kept = []
def loss(x):
    kept.append(layer(x)[0])
    return kept[-1].sum()
dx = mx.grad(loss)(x)
native = sys.modules["mlx_ncps"]._loader.native
press()
try:
    mx.eval(dx)
except KeyboardInterrupt:
    assert all_nan(dx), "a gradient of numbers that were never computed"
    print("done")
""")


def test_ctrl_c_ends_a_step_that_waits_for_its_input(check):
    check("""
layer, x = make("cfc", 30000)
y = layer(x)[0][:, -1, :8]
press()
state = None
try:
    state = layer.step(y)
except KeyboardInterrupt:
    assert state is None and usable(layer)
    print("done")
""")


def test_ctrl_c_ends_many_calls_of_one_evaluation(check):
    check("""
layer, x = make("cfc", 500)
y = [layer(x + n)[0] for n in range(100)]
press()
try:
    mx.eval(y)
except KeyboardInterrupt:
    assert usable(layer)
    print("done")
""")


def test_ctrl_c_ends_one_step_of_many_rows(check):
    check("""
layer = CfC(8, 16, backbone_units=1024, backbone_layers=3).eval()
x = mx.random.normal((400000, 8))
mx.eval(x, layer.parameters())
press()
try:
    attempt(layer.rnn_cell, None, x, None, 1.0, STEP)
except KeyboardInterrupt:
    assert usable(layer)
    print("done")
""")


@pytest.mark.parametrize(
    "wait",
    ["y.tolist()", "float(y.sum())", "mx.async_eval(y); mx.synchronize()", "memoryview(y)"],
)
def test_ctrl_c_ends_other_ways_to_wait(wait, check):
    check(f"""
layer, x = make("cfc", 30000)
y = layer(x)[0]
press()
try:
    {wait}
except KeyboardInterrupt:
    assert usable(layer)
    print("done")
""")


def test_users_handler_runs_after_the_call(check):
    """A handler that asks a training loop to stop must not cost it the step that runs."""
    check("""
layer, x = make("cfc", 100)
want = layer(x)[0]
mx.eval(want)
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
y = [layer(x)[0] + 0 for _ in range(8)]
press()
mx.eval(y)
while not pressed:  # where the call was over before
    time.sleep(0.01)
assert all(bool(mx.array_equal(a, want)) for a in y)
assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
print("done")
""")


def test_handler_set_between_building_and_evaluating_counts(check):
    check("""
layer, x = make("cfc", 100)
f = mx.compile(lambda x: layer(x)[0])
want = f(x)
mx.eval(want)
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
y = f(x)
press()
mx.eval([y] + [f(x + 0) for _ in range(8)])
assert bool(mx.array_equal(y, want))
print("done")
""")


def test_ctrl_c_between_calls_costs_later_calls_nothing(check):
    check("""
layer, x = make("cfc", 20)
want = layer(x)[0]
mx.eval(want)
for _ in range(5):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    except KeyboardInterrupt:
        mx.eval(y := layer(x)[0])
    assert bool(mx.array_equal(y, want))
time.sleep(1)  # longer than a call is given to end
assert bool(mx.array_equal(layer(x)[0], want))
print("done")
""")


def test_worker_threads_are_left_alone(check):
    """Python raises in its main thread alone."""
    check("""
layer, x = make("cfc", 200)
want = layer(x)[0]
mx.eval(want)
result = []
def work():
    with mx.stream(mx.new_stream(mx.cpu)):
        mx.eval([y := layer(x)[0] for _ in range(8)])
        result.append(y)
worker = threading.Thread(target=work)
press()
worker.start()
try:
    time.sleep(100)
except KeyboardInterrupt:
    pass
worker.join()
assert bool(mx.array_equal(result[0], want))
print("done")
""")


def test_interrupts_leave_pythons_handlers(check):
    check("""
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
layer, x = make("cfc", 20)
mx.eval(layer(x))
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
signal.signal(signal.SIGINT, signal.SIG_IGN)
mx.eval(layer(x + 0))
os.kill(os.getpid(), signal.SIGINT)  # ignored
mx.eval(layer(x + 0))
signal.signal(signal.SIGINT, signal.default_int_handler)
mx.eval(layer(x + 0))
child = os.fork()
if child == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT
print("done")
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_ctrl_c_in_a_forked_child_is_its_own(check):
    check("""
layer, x = make("cfc", 20)
mx.eval(layer(x))
child = os.fork()
if child == 0:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
mx.eval(layer(x + 0))
print("done")
""")
