"""Choosing a backend: automatically, by call, by block, by environment; what is said then."""

import inspect
import threading
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx_ncps import dispatch, ops
from mlx_ncps.backends import Backend
from mlx_ncps.dispatch import CfCFacts, LTCFacts, use_backend

from tests.support.cases import LtcCase, make, to_mlx

CFC, LTC = CfCFacts(1, 1), LTCFacts(1, 1)


def fake(name, *, available=True, unsupported=""):
    return SimpleNamespace(
        NAME=name,
        available=lambda: (available, "it runs" if available else f"no {name} here"),
        unsupported=lambda op, facts: unsupported,
        MIXED_MEMORY=(),
        RESETS=(),
        MASKS=(),
    )


def on(monkeypatch, device):
    monkeypatch.setattr(dispatch.mx, "default_device", lambda: SimpleNamespace(type=device))


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """Sets the modules that can run, the others can't; by default all of them, beside a CPU."""
    monkeypatch.setattr(dispatch, "_environment", "auto")
    monkeypatch.setattr(dispatch, "_process", [])
    on(monkeypatch, mx.cpu)

    def set_table(*modules):
        known = {name: fake(name, available=False) for name in dispatch.HOMES}
        known |= {module.NAME: module for module in modules}
        monkeypatch.setattr(dispatch, "backend", known.__getitem__)

    set_table(*map(fake, dispatch.HOMES))
    return set_table


def chosen():
    return dispatch.choose("ltc_sequence", LTC).NAME


def on_gpu(monkeypatch):
    on(monkeypatch, mx.gpu)


def test_auto_takes_the_backend_of_the_default_device(monkeypatch, table):
    assert chosen() == "cpu"
    on_gpu(monkeypatch)
    assert chosen() == "metal"
    table(fake("metal", available=False), *map(fake, ("cuda", "cpu", "reference")))
    assert chosen() == "cuda"
    table(fake("metal", available=False), *map(fake, ("cpu", "reference")))
    assert chosen() == "reference"


def test_auto_beside_an_apple_gpu_takes_the_cpu_where_it_does_better(monkeypatch, table):
    on_gpu(monkeypatch)
    cpu, small = fake("cpu"), fake("metal", unsupported="300 units")
    cpu.MIXED_MEMORY = ("cfc_sequence",)
    table(fake("metal"), cpu, fake("reference"))
    mixed, step = dispatch.explain("cfc_mixed_sequence", CFC), dispatch.explain("cfc_sequence", CFC)
    assert (mixed.backend, step.backend) == ("cpu", "metal")
    assert "not metal: it has no kernel of the LSTM" in mixed.reason
    assert dispatch.explain("cfc_sequence", CFC, stepwise=True).backend == "cpu"
    assert dispatch.explain(None).backend == "metal"
    table(small, cpu, fake("reference"))
    passed = "not metal: 300 units; not metallib: no metallib here; not cuda: no cuda here"
    assert str(dispatch.explain("cfc_sequence", CFC)).startswith(f"cpu: {passed}; the CPU's")
    for unfit in (fake("cpu", available=False), fake("cpu", unsupported="3 layers")):
        table(fake("metal"), unfit, fake("reference"))
        assert (
            dispatch.explain("cfc_mixed_sequence", CFC).backend == "metal"
        )  # its own, step by step
        table(small, unfit, fake("reference"))
        assert dispatch.explain("cfc_mixed_sequence", CFC).backend == "reference"
    table(fake("metal", available=False), fake("cuda"), cpu, fake("reference"))
    assert dispatch.explain("cfc_mixed_sequence", CFC).backend == "cuda"  # whose memory is its own


def test_auto_falls_back_and_says_why(table):
    table(fake("cpu", available=False), fake("reference"))
    choice = dispatch.explain("ltc_sequence", LTC)
    assert (choice.backend, choice.error) == ("reference", "")
    assert "not cpu: no cpu here" in choice.reason
    table(fake("cpu", unsupported="300 units"), fake("reference"))
    assert chosen() == "reference"
    assert "not cpu: 300 units" in str(dispatch.explain("ltc_sequence", LTC))
    assert dispatch.explain(None).backend == "cpu"


def test_unsupported_gets_the_facts_of_the_call(table):
    seen = []
    module = fake("cpu")
    module.unsupported = lambda *call: seen.append(call) or "for the test"
    table(module, fake("reference"))
    facts = LTCFacts(2, 7)
    dispatch.explain("ltc_sequence", facts)
    assert seen == [("ltc_sequence", facts)]


def test_forced_backend_that_is_not_there_raises_with_the_reason(table):
    table(fake("cpu", available=False), fake("reference"))
    with pytest.raises(
        RuntimeError, match=r"\[use_backend\] the backend cpu can't run here: no cpu here"
    ):
        use_backend("cpu")
    with pytest.raises(
        RuntimeError, match=r"\[use_backend\] the backend metal can't run here: no metal here"
    ):
        use_backend("metal")
    assert dispatch.selected_backend() == "auto"
    assert chosen() == "reference"


def test_forced_backend_that_can_not_run_this_call_raises_with_reason_and_cure(table):
    table(fake("cpu", unsupported="300 units"), fake("reference"))
    with use_backend("cpu"):
        assert "300 units" in str(dispatch.explain("ltc_sequence", LTC))
        message = (
            r"\[ltc_sequence\] .* cpu can't run this call: 300 units .*use_backend\(\"auto\"\)"
        )
        with pytest.raises(RuntimeError, match=message):
            chosen()


def test_forced_backend_is_used_on_any_device(monkeypatch):
    on_gpu(monkeypatch)
    with use_backend("cpu"):
        assert chosen() == "cpu"


@pytest.mark.parametrize("name", ["fast", "", None, 3, "CPU"])
def test_unknown_name_is_refused_with_the_known(name):
    with pytest.raises(ValueError, match="one of auto, metal, metallib, cuda, cpu, reference, got"):
        use_backend(name)


def test_use_backend_as_a_function_holds_in_every_thread():
    use_backend("reference")
    assert chosen() == "reference"
    assert in_thread(chosen) == "reference"
    use_backend("auto")
    assert chosen() == "cpu"


def test_use_backend_as_a_block_holds_in_its_thread_alone():
    use_backend("reference")
    with use_backend("cuda") as outer:
        assert (chosen(), in_thread(chosen)) == ("cuda", "reference")
        with use_backend("auto"):
            assert chosen() == "cpu"
            with outer:
                assert chosen() == "cuda"
            assert chosen() == "cpu"
        assert chosen() == "cuda"
    assert chosen() == "reference"


def test_use_backend_ends_with_the_block_also_after_an_error():
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert chosen() == "cpu"


def test_blocks_that_overlap_in_threads_leave_no_trace():
    first, second = use_backend("cuda"), use_backend("reference")  # two threads, both before `with`
    with first:
        pass
    with second:
        pass
    assert dispatch._process == []
    assert chosen() == "cpu"


def test_environment_names_the_default(monkeypatch):
    monkeypatch.setattr(dispatch, "_environment", "reference")
    assert chosen() == "reference"
    with use_backend("cpu"):
        assert chosen() == "cpu"


def test_environment_with_an_unknown_or_absent_backend_is_an_error_at_first_use(monkeypatch, table):
    monkeypatch.setattr(dispatch, "_environment", "fast")
    with pytest.raises(
        ValueError, match=r"\[MLX_NCPS_BACKEND\] the backend must be one of auto.*'fast'"
    ):
        chosen()
    monkeypatch.setattr(dispatch, "_environment", "metal")
    table(fake("reference"))
    with pytest.raises(RuntimeError, match=r"metal can't run here.*unset MLX_NCPS_BACKEND"):
        chosen()


def test_environment_is_read_at_import(run_python):
    code = "from mlx_ncps import dispatch; print(dispatch.selected_backend())"
    assert run_python("-c", code, BACKEND="reference").stdout.split() == ["reference"]
    assert run_python("-c", code).stdout.split() == ["auto"]
    assert "[MLX_NCPS_BACKEND]" in run_python("-c", code, BACKEND="fast").stderr


def test_describe_lists_every_backend(table):
    table(fake("cpu", available=False), fake("reference"))
    rows = {row.name: tuple(row[1:]) for row in dispatch.describe()}
    assert rows["cpu"] == (False, "no cpu here", False)
    assert rows["reference"] == (True, "it runs", True)
    assert rows["metal"] == (False, "no metal here", False)
    assert list(rows) == ["metal", "metallib", "cuda", "cpu", "reference"]
    assert dispatch.available_backends() == ["reference"]


def test_last_backend_is_what_ran_in_this_thread(monkeypatch):
    monkeypatch.undo()
    call = to_mlx(make(LtcCase()))
    with use_backend("reference"):
        ops.ltc_sequence(*call.arguments, **call.keywords)
    assert dispatch.last_backend() == "reference"
    assert in_thread(dispatch.last_backend) is None
    dispatch.explain("ltc_sequence", LTC)
    assert dispatch.last_backend() == "reference"


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("name", list(dispatch.HOMES))
def test_every_backend_has_all_that_the_protocol_lists(monkeypatch, name):
    monkeypatch.undo()
    module = dispatch.backend(name)
    assert name == module.NAME
    listed = [name for name in Backend.__dict__ if not name.startswith("_")]
    listed += [name for name in Backend.__annotations__ if name not in listed]
    assert sorted(listed) == [
        "MASKS",
        "MIXED_MEMORY",
        "NAME",
        "RESETS",
        "available",
        "cfc_sequence",
        "ltc_sequence",
        "unsupported",
    ]
    for member in listed:
        assert hasattr(module, member), member
    for member in ("available", "unsupported", "cfc_sequence", "ltc_sequence"):
        wanted = list(inspect.signature(getattr(Backend, member)).parameters)[1:]
        found = inspect.signature(getattr(module, member)).parameters
        assert list(found)[: len(wanted)] == wanted, member
        assert all(
            found[more].default is not inspect.Parameter.empty for more in set(found) - set(wanted)
        )
