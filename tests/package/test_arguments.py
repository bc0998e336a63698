"""What public calls refuse, and how they say it: the fuzz of tools/fuzz_arguments.py in short, the
checks that everything shares, and the cases that the fuzz can't reach.
"""

import os
import re
import subprocess
import sys
import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CTRNNCell, LiquidRNN, StreamingSession, checks, convert, ops

from tests.support import ROOT


def fuzz(*arguments, **environ):
    """The fuzz in a process of its own: (status, what it printed)."""
    paths = [*environ.pop("paths", []), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "tools.fuzz_arguments", *arguments],
        env=os.environ | environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_hostile_arguments_are_accepted_or_refused_clearly(native):
    status, printed = fuzz("--cases", "800", "--seed", "7")
    assert status == 0, printed
    rejected = int(re.search(r"\d+ of (\d+) rejections are unclear", printed)[1])
    assert rejected > 500, printed  # the values are hostile indeed


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("raise KeyError('units')", "rejected unclearly: KeyError"),
        ("os.abort()", "crashed: status -6"),
        ("return 'neuron'", "0 of 0 rejections"),
    ],
)
def test_the_fuzz_sees_a_fault(native, tmp_path, fault, wanted):
    """A package whose `get_type_of_neuron` has a fault for all but integers."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from mlx_ncps.wirings import AutoNCP\n"
        "plain = AutoNCP.get_type_of_neuron\n"
        "def spoiled(self, neuron_id):\n"
        "    if type(neuron_id) is int:\n"
        "        return plain(self, abs(neuron_id) % 9)\n"
        f"    {fault}\n"
        "AutoNCP.get_type_of_neuron = spoiled\n"
    )
    only = ("--only", "AutoNCP.get_type_of_neuron")
    status, printed = fuzz("--cases", "20", *only, paths=[str(tmp_path)])
    assert wanted in printed
    assert status == int("rejections" not in wanted), printed


def test_the_fuzz_wants_arguments_for_every_public_name(native, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import mlx_ncps\n"
        "mlx_ncps.forgotten = lambda size: size\n"
        "mlx_ncps.__all__.append('forgotten')\n"
    )
    status, printed = fuzz("--cases", "1", "--only", "forgotten", paths=[str(tmp_path)])
    assert (status, printed) == (1, "no arguments known for forgotten\n")


# --- shared checks --------------------------------------------------------------------------------

UNINITIALISED = mx.array.__new__(mx.array)


def says(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize(
    "wrong", [True, 1.0, "1", None, np.array([1]), mx.array(1), 10**400, 2**31]
)
def test_integer_refuses_what_is_none(wrong):
    wanted = r"^\[op\] n must be (an integer >=|at most) \d+, got .{1,110}$"
    with pytest.raises(ValueError, match=wanted):
        checks.integer("op", "n", wrong, 1)


@pytest.mark.filterwarnings("ignore:nanobind")
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a], lambda a: [[0.0], (a,)]])
def test_arrays_without_a_value_are_refused_in_lists_too(wrap):
    empty = wrap(mx.array.__new__(mx.array))
    with pytest.raises(ValueError, match=r"^\[op\] x must be an array of numbers, got "):
        checks.host_numbers("op", "x", empty)
    with pytest.raises(ValueError, match=r"^\[numpy\] .* must be a number or an array"):
        ops.numpy.sigmoid(empty)


def test_integer_takes_what_counts_as_one():
    for given in (1, np.int64(1), np.uint8(1)):
        assert checks.integer("op", "n", given, 1) == 1
        assert type(checks.integer("op", "n", given, 1)) is int
    with says("[op] n must be an integer in [0, 3), got 3."):
        checks.integer("op", "n", 3, 0, 3)


def test_real_refuses_what_is_no_finite_number():
    for wrong in (True, "1", None, float("nan"), float("inf"), 10**400, 1j, mx.array(1.0)):
        with pytest.raises(ValueError, match=r"^\[op\] x must be a number, got"):
            checks.real("op", "x", wrong, "a number")
    assert checks.real("op", "x", np.float32(0.5), "a number") == 0.5


def test_flag_and_choice_refuse_other_kinds():
    for wrong in (None, "yes", 2, 0.0, [], mx.array(True)):
        with pytest.raises(ValueError, match=r"^\[op\] f must be True or False, got"):
            checks.flag("op", "f", wrong)
    assert checks.flag("op", "f", np.bool_(True)) is True
    for wrong in (None, 1, [], {}, np.array(["a"]), "c"):
        with pytest.raises(ValueError, match=r"^\[op\] c must be one of a, b, got"):
            checks.choice("op", "c", wrong, ("a", "b"))


@pytest.mark.filterwarnings("ignore:nanobind")
def test_an_array_that_was_never_initialised_is_none():
    assert not checks.is_array(UNINITIALISED)
    assert checks.brief(UNINITIALISED) == "an array without a value"
    layer = LTC(3, 4)
    x = mx.zeros((2, 3))
    mx.eval(x, layer.parameters())
    for call in (
        lambda: layer(UNINITIALISED),
        lambda: layer.step(UNINITIALISED),
        lambda: layer.step(x, UNINITIALISED),
        lambda: layer.step(x, None, UNINITIALISED),
        lambda: ops.numpy.tanh(UNINITIALISED),
        lambda: ops.SynapseLists(UNINITIALISED, UNINITIALISED),
        lambda: layer.load_weights([("lstm", UNINITIALISED)]),
    ):
        with pytest.raises(ValueError, match=r"^\[\w+\] .* must be .*, got"):
            call()


# --- one rule for arrays that are evaluated and for lazy ones -------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (1, 3), (1, 3, 1), (1,), (4,)])
@pytest.mark.parametrize("kind", [CfC, LTC])
def test_timespans_of_one_sequence_follow_one_rule(kind, shape):
    """Inputs [T, I] have no batch: timespans [], [T] or [T, 1]."""
    layer = kind(2, 4)
    x, ts = mx.ones((3, 2)), mx.full(shape, 0.5)
    mx.eval(x, ts, layer.parameters())
    if shape in ((), (3,), (3, 1)):
        wanted = layer(x, None, 0.5)[0]
        for given in (ts, ts * 1, np.array(ts)):
            assert mx.allclose(layer(x, None, given)[0], wanted, rtol=0, atol=1e-6)
        return
    for given in (ts, ts * 1, np.array(ts)):
        with pytest.raises(ValueError, match=r"\] timespans must be \[T\] = \(3,\), got \("):
            layer(x, None, given)


@pytest.mark.parametrize("wrong", [int, 3, "x", (1,), {}, mx.zeros(4), None])
def test_states_in_parts_name_what_came(wrong):
    layer = CfC(2, 4, mixed_memory=True)
    x = mx.ones((1, 3, 2))
    if wrong is None:
        layer(x, wrong)  # zeros
        return
    with pytest.raises(ValueError, match=r"^\[cfc\] hx must be \(h, c\), got \w+"):
        layer(x, wrong)


def test_constraints_are_checked_where_softplus_keeps_them():
    for implicit in (False, True):
        layer = LTC(2, 4, implicit_param_constraints=implicit)
        for wrong in (3, {"w": 1}, {"w": (2.0, 1.0)}, {"v": (0.0, 1.0)}, {1: (0.0, 1.0)}):
            with pytest.raises(ValueError, match=r"^\[ltc\] ranges.* must .*, got"):
                layer.apply_weight_constraints(wrong)
        before = mx.array(layer.rnn_cell.w)
        layer.apply_weight_constraints({"w": (0.95, None)})
        assert mx.array_equal(before, layer.rnn_cell.w) == implicit


# --- weights --------------------------------------------------------------------------------------


def test_load_weights_takes_a_dict_as_mx_load_gives(tmp_path):
    first, second = LTC(2, 4), LTC(2, 4)
    first.save_weights(tmp_path / "weights.npz")
    second.load_weights(mx.load(str(tmp_path / "weights.npz")))
    x = mx.ones((1, 3, 2))
    assert mx.array_equal(first(x)[0], second(x)[0])


@pytest.mark.parametrize("wrong", [None, 3, [1], [("a",)], [(1, mx.ones(1))], {1: mx.ones(1)}, "x"])
def test_load_weights_names_what_it_takes(wrong):
    layer = LTC(2, 4)
    before = dict(tree_flatten(layer.parameters()))
    with pytest.raises(ValueError, match=r"^\[load_weights\] .* must .*, got"):
        layer.load_weights(wrong)
    assert all(value is before[name] for name, value in tree_flatten(layer.parameters()))


def test_from_torch_refuses_names_that_are_no_strings():
    arrays = convert.to_torch(CfC(2, 3), numpy=True) | {1: np.ones(1)}
    with says("[from_torch] each name in source must be a string, got 1."):
        convert.from_torch(arrays)


# --- threads --------------------------------------------------------------------------------------


def in_thread(function):
    """What `function` gives, or raises, in a thread of its own."""
    result = []

    def run():
        try:
            result.append(function())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: CfC(2, 4),
        lambda: LTC(2, 4, ode_solver="explicit"),
        lambda: LiquidRNN(CTRNNCell(2, 4)),
        lambda: LTC(None, 4),
    ],
    ids=["cfc", "explicit", "any_cell", "unbuilt"],
)
def test_a_session_runs_in_another_thread(make, cpu_device):
    mx.random.seed(1)
    session = StreamingSession(make())
    sample = np.ones(2, np.float32)
    outputs = [in_thread(lambda: session(sample)) for _ in range(2)]
    session.reset()
    here = [session(sample) for _ in range(2)]
    np.testing.assert_array_equal(outputs, here)


def test_a_session_says_what_another_thread_needs():
    layer = LiquidRNN(CTRNNCell(2, 4))
    session = StreamingSession(layer)
    layer.apply(lambda weight: weight * 2)  # not evaluated
    error = in_thread(lambda: session(np.ones(2, np.float32)))
    assert isinstance(error, ValueError), error
    assert str(error).startswith("[streaming_session] weights, sample and state must be evaluated")
    assert session.state is None
    mx.eval(layer.parameters())
    assert in_thread(lambda: session(np.ones(2, np.float32))).shape == (4,)


# --- a layer among MLX's --------------------------------------------------------------------------


def test_a_layer_in_a_sequential_model():
    """The pair (output, state) is nothing for the next layer; `return_state=False` gives one."""
    model = nn.Sequential(CfC(2, 4, return_state=False), nn.Linear(4, 1))
    assert model(mx.ones((2, 3, 2))).shape == (2, 3, 1)
