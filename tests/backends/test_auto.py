"""What `auto` chooses beside a GPU, that `explain` says the same of a layer, and what computes."""

import mlx.core as mx
import pytest
from mlx_ncps import dispatch, use_backend
from mlx_ncps.at_once import _stage
from mlx_ncps.backends import cpu, cuda, metal, reference
from mlx_ncps.backends.gpu import trace
from mlx_ncps.programs import step_program
from mlx_ncps.rnn import LTC, CfC, CfCRNN, LiquidRNN
from mlx_ncps.step_plan import Readout, StepPlan
from mlx_ncps.wirings import AutoNCP

from tests.support import as_mac
from tests.support.cases import assert_close
from tests.support.rnn_layers import GRADIENT, SAME, I, assert_trees_close, gradients, normal
from tests.support.step_layers import ALL, at_once, built, evaluated, randomise

pytestmark = pytest.mark.usefixtures("seeded_and_poisoned")


def counted(name, calls):
    """An operator of a GPU that isn't here: the reference's arithmetic, with an LSTM in front the
    CPU's.
    """

    def run(*arguments, **keywords):
        calls.append(name)
        home = reference if keywords.get("memory") is None else cpu
        return getattr(home, name)(*arguments, **keywords)

    return run


@pytest.fixture
def device(monkeypatch):
    """A function that makes the default device one of cpu, gpu (Apple's) and cuda (NVIDIA's); gives
    the list that counts the calls of the GPU's backend.
    """
    monkeypatch.setattr(dispatch, "_environment", "auto")
    monkeypatch.setattr(dispatch, "_process", [])

    def set_device(name):
        calls = []
        for function in ("default_device", "stream"):
            fake = {"default_device": as_mac._default_device, "stream": as_mac._StreamContext}
            monkeypatch.setattr(mx, function, fake[function])
        monkeypatch.setattr(as_mac, "_default", [mx.cpu if name == "cpu" else mx.gpu])
        monkeypatch.setattr(dispatch, "_has_cuda", lambda: name == "cuda")
        for module, home in ((metal, "gpu"), (cuda, "cuda")):
            here = home == name
            monkeypatch.setattr(module, "available", lambda here=here: (here, "none here"))
            monkeypatch.setattr(module, "unsupported", unsupported)
            run = trace.runner(lambda kernel, call: calls.append(kernel["name"]))  # of programs
            run.name = module.NAME
            monkeypatch.setattr(module, "run", run)
            for op in ("ltc_sequence", "cfc_sequence"):
                monkeypatch.setattr(module, op, counted(op, calls))
        return calls

    return set_device


_UNSUPPORTED = metal.unsupported


def unsupported(op, facts):
    why = _UNSUPPORTED(op, facts)
    return why or (f"{UNFIT} neurons do not fit" if facts.units == UNFIT else "")


class Accumulate:
    """A cell of one's own."""

    state_size = output_size = 5

    def __call__(self, x, h, ts=1.0):
        h = h + x.sum(axis=-1, keepdims=True)
        return h, h


UNFIT = 13  # neurons that the GPUs here can't run
MORE = {
    "cfc_mixed": lambda: CfC(I, 6, mixed_memory=True),
    "ltc_mixed": lambda: LTC(I, AutoNCP(10, 2), mixed_memory=True),
    "wired_mixed": lambda: CfC(I, AutoNCP(10, 2), mixed_memory=True, proj_size=3),
    "both_mixed": lambda: LTC(I, 6, mixed_memory=True, bidirectional=True),
    "both": lambda: CfC(I, 6, bidirectional=True),
    "backwards": lambda: LTC(I, 6, go_backwards=True),
    "time_first": lambda: CfC(I, 6, batch_first=False),
    "large_cfc": lambda: CfC(I, 64, backbone_units=64),
    "large_ltc": lambda: LTC(I, 40),
    "deep": lambda: CfC(I, 5, backbone_units=[6] * (cpu.MAX_LAYERS + 1)),
    "deep_mixed": lambda: CfC(I, 5, backbone_units=[6] * (cpu.MAX_LAYERS + 1), mixed_memory=True),
    "unfit_for_a_gpu": lambda: CfC(I, UNFIT),
    "dropout": lambda: CfC(I, 6, backbone_layers=2, backbone_dropout=0.5),
    "dropout_mixed": lambda: CfC(I, 6, backbone_layers=2, backbone_dropout=0.5, mixed_memory=True),
    "euler": lambda: LTC(I, 5, ode_solver="explicit", ode_unfolds=30),
    "own": lambda: LiquidRNN(Accumulate()),
    "stacked": lambda: CfCRNN(I, 6, num_layers=2),
    "stacked_mixed": lambda: CfCRNN(I, AutoNCP(8, 3), num_layers=2, mixed_memory=True),
}
LAYERS = {name: lambda f=f: f() for name, f in (ALL | MORE).items()}
SHAPES = ((1, 1), (3, 5), (2, 60), (600, 1), (600, 3), (2, 0))  # B, T


def made(name):
    layer = LAYERS[name]()
    if hasattr(layer, "build"):
        layer.build(I)
    if hasattr(layer, "trainable_parameters"):
        randomise(layer)
    return layer


@pytest.mark.parametrize("where", ["cpu", "gpu", "cuda"])
@pytest.mark.parametrize("name", LAYERS)
def test_explain_says_what_runs(native, device, name, where):
    gpu_calls = device(where)
    layer = made(name)
    for B, T in SHAPES:
        shape = (T, B, I) if name == "time_first" else (B, T, I)
        x = evaluated(normal(*shape))
        plan = layer.explain(shape)
        told = f"{name} {where} B{B} T{T}:\n{plan}"
        dispatch.record("none")
        gpu_calls.clear()
        result = layer(x)
        output = result[0] if isinstance(result, tuple) else result
        assert at_once(native, output) == (not any(plan.graph)), told
        mx.eval(result)
        if not any(plan.graph):
            assert (dispatch.last_backend(), gpu_calls) == ("cpu", []), told
        elif T and plan.calls and plan.graph[0]:
            names = {choice.backend for _, choice in plan.calls}
            assert dispatch.last_backend() in names, told
            on_gpu = bool(names & {"metal", "cuda"})
            assert bool(gpu_calls) == on_gpu, told
        elif T and not plan.calls and name != "own":  # which doesn't say its number of inputs
            assert not gpu_calls, told


def test_the_grid_has_each_choice(native, device):
    """So that the test above compares something."""
    seen = set()
    for where in ("cpu", "gpu", "cuda"):
        device(where)
        for name in ("large_cfc", "cfc_mixed", "wired_mixed", "unfit_for_a_gpu", "deep"):
            for B, T in SHAPES:
                plan = made(name).explain((B, T, I))
                seen |= {(where, c.backend, bool(plan.graph[0])) for _, c in plan.calls}
    assert seen >= {
        ("cpu", "cpu", False),
        ("cpu", "cpu", True),
        ("cpu", "reference", True),
        ("gpu", "cpu", False),
        ("gpu", "cpu", True),
        ("gpu", "metal", False),
        ("gpu", "metal", True),
        ("cuda", "cuda", True),
        ("cuda", "reference", True),
    }
    assert not {choice for choice in seen if choice[0] == "cuda" and choice[1] == "cpu"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cfc_mixed", "not metal: it has no kernel of the LSTM in front of the cell"),
        ("unfit_for_a_gpu", "not metal: 13 neurons do not fit"),
    ],
)
def test_reasons_name_what_the_gpu_lacks(native, device, name, reason):
    device("gpu")
    text = str(made(name).explain((2, 60, I)))
    assert f"on cpu: {reason}" in text
    assert text.count("in the memory that the GPU shares") == text.count("on cpu: ")


@pytest.mark.parametrize("name", ["cfc_mixed", "ltc_mixed", "wired_mixed"])
def test_mixed_memory_beside_a_gpu_equals_the_reference(native, device, name):
    layer, x = made(name), normal(3, 70, I)  # lazy, and long

    def loss(x):
        output, (h, c) = layer(x)
        return (output**2).sum() + (h * c).sum()

    with use_backend("reference"):
        want, grads = layer(x), gradients(layer, loss, x)
    gpu_calls = device("gpu")
    assert_trees_close("layer", layer(x), want, SAME)
    assert_trees_close("compiled", mx.compile(lambda x: layer(x))(x), want, SAME)
    got = gradients(layer, loss, x)
    for key in grads:
        assert_close(key, got[key], grads[key], GRADIENT)
    assert {*gpu_calls} == ({"ltc_sequence"} if name == "ltc_mixed" else set())


def test_a_forced_backend_is_obeyed(native, device):
    gpu_calls = device("gpu")
    for name in ("cfc_mixed", "wired_mixed"):
        layer, x = made(name), evaluated(normal(2, 7, I))
        with use_backend("metal"):
            plan = layer.explain(x.shape)
            mx.eval(layer(x))
        assert {choice.backend for _, choice in plan.calls} == {"metal"}
        assert "the backend metal is asked for by use_backend" in str(plan)
        assert len(gpu_calls) == len(plan.calls) == 1  # a step program
        gpu_calls.clear()
    layer, x = made("large_cfc"), evaluated(normal(600, 1, I))
    with use_backend("cpu"):  # then it has no GPU beside it
        assert layer.explain(x.shape).graph == ("",)
        assert at_once(native, layer(x)[0])


# --- computed at once ---------------------------------------------------------------------------


def edges():
    """(B, T, work per row and step, beside a GPU, left to the graph) at every limit."""
    for gpu, limit in ((False, 2**24), (True, 2**21)):
        yield 1, 2, limit // 2, gpu, False
        yield 1, 2, limit // 2 + 1, gpu, True
        yield 2**10, 2**11, limit >> 21, gpu, False
        yield 2**10, 2**11, (limit >> 21) + 1, gpu, True
    for batch, limit in ((512, 2**22), (64, 2**25), (1, 2**27)):
        yield batch, 1, limit // batch + 1, True, True
        if batch > 1:
            yield batch - 1, 1, limit // batch + 1, True, False
        yield batch, 1, limit // batch, True, False
        yield batch, 1, limit, False, False
    yield 1, 1, 2**62, False, False
    yield 2**40, 2**40, 2**40, False, True  # no overflow
    yield 2**40, 1, 2**40, True, True


@pytest.mark.parametrize(("B", "T", "work", "gpu", "left"), list(edges()))
def test_limits_of_what_is_computed_at_once(native, B, T, work, gpu, left):
    assert bool(cpu.left_to_graph(B, T, work, gpu)) == left


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_work_that_explain_counts_is_that_of_the_packed_cell(native, name, mixed):
    layer = built(name, mixed_memory=mixed)
    layer.step(evaluated(normal(1, I)))
    packed, _ = layer.rnn_cell._step_cell.made
    if mixed and hasattr(layer.rnn_cell, "num_layers"):  # no kernel of its own
        assert packed.work == step_program(layer.rnn_cell, layer.lstm).program.work
        return
    stages = tuple(_stage(facts) for _, facts in layer.rnn_cell.calls())
    plan = StepPlan(stages, [], Readout(0, 0), list)
    assert packed.work == plan.work(mixed) == layer.rnn_cell._step_plan(mixed).work(mixed)


@pytest.mark.parametrize("where", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["large_cfc", "large_ltc"])
def test_large_calls_are_left_to_the_gpu(native, device, name, where):
    device(where)
    layer = made(name)
    small, step, sequence = evaluated(normal(3, 2, I), normal(600, I), normal(2, 60, I))
    for _ in range(2):  # before and after the cell is packed
        assert at_once(native, layer.step(step)[0]) == (where == "cpu")
        assert at_once(native, layer(sequence)[0]) == (where == "cpu")
        assert at_once(native, layer(small)[0])
        assert at_once(native, layer(sequence * 1.0)[0]) == (where == "cpu")  # waits for no GPU
        assert at_once(native, layer(small * 1.0)[0]) == (where == "cpu")
        assert at_once(native, layer(small[:, :1])[0], layer.step(small[:, 0] * 1.0)[0])
    with mx.stream(mx.cpu):  # MLX's way to ask for the CPU
        assert at_once(native, layer.step(step)[0], layer(sequence)[0])
    layer.rnn_cell.redraw()
    mx.eval(layer.parameters())
    assert at_once(native, layer.step(step)[0]) == (where == "cpu")


def test_inference_of_the_op_follows_the_same_limits(native, device):
    deep = CfC(I, 64, backbone_units=64).eval()
    x, h = evaluated(normal(2, 60, I), mx.zeros((2, 64)))
    mx.eval(deep.parameters())
    run = deep.rnn_cell.sequence
    device("cpu")
    assert at_once(native, run(x, h, 1.0))
    device("gpu")
    with use_backend("cpu"):
        assert not at_once(native, run(x, h, 1.0))
        assert at_once(native, run(evaluated(x[:, :10] * 1.0), h, 1.0))


def test_the_command_says_what_a_layer_does(device, native):
    from mlx_ncps import plans

    device("gpu")
    assert "computes it at once on the CPU" in plans.explain_cfc(B=4)[1]
    assert "leaves it to a graph: " in plans.explain_cfc(B=600, I=64, H=64)[1]
    assert "a gradient traces it" in plans.explain_ltc(B=4, training=True)[1]
    assert "ltc_sequence runs here on metal" in plans.explain_ltc(B=4, T=100)[0]
    with use_backend("reference"):
        assert "the backend reference is asked for" in plans.explain_ltc(B=4)[1]
