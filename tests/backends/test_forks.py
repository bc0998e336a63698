"""After a fork: an error where MLX would wait for ever, and nothing else in the way."""

import os

import pytest

from tests.support.rnn_layers import LAYERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# `run(call)` gives what a child's call raises, or "" where it raises nothing; `start` and `finish`
# are its halves, for children at the same time.
SCRIPT = """
import os, subprocess, sys, traceback
import mlx.core as mx, mlx_ncps
from mlx_ncps import CfC, LTC, ops
from mlx_ncps.at_once import STEP, attempt
from mlx_ncps.wirings import AutoNCP

# Waits until all other threads wait (on Linux): GCC's address sanitizer leaves its allocator locked
# in a child where one of them was within it.
def rest():
    tasks = "/proc/self/task"
    while os.path.isdir(tasks) and any(
        open(f"{tasks}/{task}/stat").read().rpartition(")")[2].split()[0] == "R"
        for task in os.listdir(tasks)
        if int(task) != os.getpid()
    ):
        pass

def start(call):
    reader, writer = os.pipe()
    rest()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            call()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    return child, reader

def finish(child, reader):
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return text

def run(call):
    return finish(*start(call))

def raises(call, op):
    try:
        call()
    except RuntimeError as error:
        assert str(error).startswith(f"[{op}] ") and '("spawn")' in str(error), error
    else:
        raise AssertionError(f"{op} raised nothing")
"""


@pytest.fixture
def check(run_python):
    def run(body, **variables):
        done = run_python("-c", f"{SCRIPT}\n{body}\nprint('done')", **variables)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    return run


MAKE = {  # as in LAYERS, in a script
    "cfc": "CfC(4, 6, backbone_units=9)",
    "cfc_pure": "CfC(4, 6, mode='pure', backbone_layers=0)",
    "cfc_wired": "CfC(4, AutoNCP(10, 2))",
    "cfc_mixed": "CfC(4, 6, mixed_memory=True)",
    "cfc_both": "CfC(4, 6, bidirectional=True)",
    "ltc": "LTC(4, 6)",
    "ltc_wired": "LTC(4, AutoNCP(10, 2))",
    "ltc_mixed": "LTC(4, AutoNCP(10, 2), mixed_memory=True)",
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_every_layer_raises_in_a_child(backend, check):
    layers = ", ".join(f"{name!r}: {text}" for name, text in MAKE.items())
    check(
        f"""
layers = {{{layers}}}
x, short, long = (mx.random.normal(s) for s in ((3, 4), (3, 1, 4), (3, 40, 4)))
for layer in layers.values():
    mx.eval(layer(long), x, short, layer.parameters(), layer(short))
def child():
    for inputs in (short, long, mx.array(1.0) + long, mx.array(1.0) + short):
        raises(lambda: layer(inputs), layer.op)
        raises(lambda: layer(inputs, mask=mx.ones(inputs.shape[:2])), layer.op)
    raises(lambda: layer.eval()(short), layer.op)
    raises(lambda: mx.eval(mx.grad(lambda x: layer(x)[0].sum())(long)), layer.op)
    cell = layer.rnn_cell
    raises(lambda: cell(x, mx.zeros((3, layer.state_size))), cell.op)
children = {{}}
for name, layer in layers.items():  # one each, together: a first call takes some seconds to be sure
    children[name] = start(child)
texts = {{name: finish(*one) for name, one in children.items()}}
assert not any(texts.values()), texts
for layer in layers.values():  # the parent goes on
    mx.eval(layer(long))
""",
        BACKEND=backend,
    )


def test_every_cell_raises_in_a_child(check):
    check("""
from mlx_ncps import cells
calls = []
for name in dir(cells):
    kind = getattr(cells, name)
    if not isinstance(kind, type) or not issubclass(kind, mlx_ncps.layers.base.NCPLayer):
        continue
    for arguments in ((4, 6), (6,), (AutoNCP(10, 2),)):
        try:
            cell = kind(*arguments)
            cell.build(4)
            state = cell.get_initial_state(batch_size=2)
            mx.eval(cell(mx.ones((2, 4)), state))
        except (TypeError, ValueError, AttributeError, NotImplementedError):
            continue
        calls.append((cell.op, cell, mx.ones((2, 4)), state))
        break
assert len(calls) >= 8, calls
def child():
    for op, cell, x, state in calls:
        raises(lambda: cell(x, state), op)
assert run(child) == ""
""")


def test_child_of_an_unused_mlx_works(check):
    check("""
layer = CfC(4, 6)
def compute():
    y, _ = layer(mx.ones((3, 40, 4)))
    assert not mx.isnan(y).any().item()
    one = mx.array([[1.0] * 4])
    mx.eval(layer.parameters())
    assert attempt(layer.rnn_cell, None, one, None, None, STEP) is not None  # steps at once again
assert run(compute) == ""
assert run(lambda: run(lambda: None)) == ""
""")


def test_grandchild_of_a_child_that_computed_raises(check):
    check("""
layer = CfC(4, 6)
call = lambda: mx.eval(layer(mx.ones((3, 40, 4))))
def child():
    call()
    assert run(lambda: raises(call, "cfc")) == ""
assert run(child) == ""
""")


def test_child_that_computes_nothing_is_left_alone(check):
    check("""
import multiprocessing, threading
layer = CfC(4, 6)
mx.eval(layer(mx.ones((3, 40, 4))))
assert run(lambda: None) == ""
assert run(lambda: CfC(4, AutoNCP(10, 2)).get_config()) == ""
assert run(lambda: subprocess.run([sys.executable, "-c", "1"], check=True)) == ""
subprocess.run([sys.executable, "-c", "import mlx_ncps"], preexec_fn=lambda: None, check=True)
child = os.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(5)"])
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
""")


def test_spawned_processes_compute(check, tmp_path):
    script = tmp_path / "spawned.py"
    script.write_text("""
import multiprocessing
import mlx.core as mx
from mlx_ncps import CfC

def total(n):
    return CfC(4, 6)(mx.full((3, 40, 4), float(n)))[0].shape

if __name__ == "__main__":
    total(1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(total, [1, 2]) == [(3, 40, 6)] * 2
""")
    check(f"assert subprocess.run([sys.executable, {str(script)!r}]).returncode == 0")


def test_the_layers_of_a_child_are_those_of_the_features():
    assert set(LAYERS) - {"cfc_random"} <= set(MAKE)
