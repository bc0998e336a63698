"""Steps of users: what is no pure function of its rows is declined, and left as it was."""

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps.programs import Declined, Memo, Program, trace, trace_checked
from mlx_ncps.programs.modules import Kept
from mlx_ncps.programs.trace import ROWS

from tests.support.run_program import run_program

pytestmark = pytest.mark.usefixtures("native")

X, H = 3, ROWS


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(X + H, H)
        self.scale = mx.array(0.5)
        self.calls = 0
        self.log, self.last = [], None
        mx.eval(self.parameters())

    def plain(self, x, h):
        return self.scale * mx.tanh(self.map(mx.concatenate([x, h], axis=-1)))

    def plain_and_one(self, x, h):
        return self.plain(x, h) + 1.0

    def counts(self, x, h):
        self.calls += 1
        return self.plain(x, h)

    def logs(self, x, h):
        self.log.append(1)
        return self.plain(x, h)

    def keeps(self, x, h):
        self.last = self.plain(x, h)
        return self.last

    def counts_in_map(self, x, h):
        self.map.seen = h
        return self.plain(x, h)

    def alternates(self, x, h):
        OUTSIDE.append(1)
        return self.plain(x, h) * (1.0 if len(OUTSIDE) % 2 else 0.9)

    def grows(self, x, h):
        OUTSIDE.append(1)
        return mx.tanh(self.plain(x, h)) if len(OUTSIDE) % 2 else self.plain(x, h)

    def draws(self, x, h):
        return self.plain(x, h) * float(np.random.default_rng().uniform())

    def draws_array(self, x, h):
        return self.plain(x, h) * mx.array(np.random.default_rng().uniform(size=H), mx.float32)

    def reads_rows(self, x, h):
        return self.plain(x, h) / x.shape[0]

    def square_rows(self, x, h):
        return self.plain(x, h) * WEIGHTS

    def raises(self, x, h):
        raise RuntimeError("no such thing")


OUTSIDE = []
WEIGHTS = mx.ones((ROWS, ROWS))
mx.eval(WEIGHTS)


def step_of(cell, method):
    def step(x, h):
        h = getattr(cell, method)(x, h)
        return [h], [h]

    return step


def test_plain_step_is_a_program():
    cell = Cell()
    step = step_of(cell, "plain")
    program = trace_checked(step, [X], [H], [cell])
    assert isinstance(program, Program)
    assert program == trace(step, [X], [H], [cell])
    x, h = (mx.random.normal((4, n)) for n in (X, H))
    (got,), _ = run_program(program, [x], [h])
    np.testing.assert_allclose(got, np.array(cell.plain(x, h)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "reason"),
    {
        "counts": "changes attributes",
        "logs": "changes attributes",
        "keeps": "changes attributes",
        "counts_in_map": "changes attributes",
        "alternates": "another one each time",
        "grows": "another one each time",
        "draws": "another one each time",
        "draws_array": "another one each time",
        "reads_rows": "reads the batch size",
        "square_rows": "one value for each row",
        "raises": "no such thing",
    }.items(),
)
def test_impure_step_is_declined_and_undone(method, reason):
    cell = Cell()
    before = dict(cell), dict(cell.__dict__), dict(cell.map), list(cell.log)
    found = trace_checked(step_of(cell, method), [X], [H], [cell])
    assert isinstance(found, Declined)
    assert reason in found.reason
    after = dict(cell), dict(cell.__dict__), dict(cell.map), list(cell.log)
    for old, new in zip(before[:3], after[:3], strict=True):
        assert list(old) == list(new)
        assert all(old[key] is new[key] or key == "log" for key in old)
    assert before[3] == after[3] == []


def test_modules_have_their_arrays_again():
    cell = Cell()
    cell.update({"map": {"weight": cell.map.weight * 2.0}, "scale": cell.scale + 1.0})
    weights = cell.map.weight, cell.map.bias, cell.scale
    for method in ("plain", "raises"):
        trace(step_of(cell, method), [X], [H], [cell])
        for now, then in zip((cell.map.weight, cell.map.bias, cell.scale), weights, strict=True):
            assert now is then
    program = trace(step_of(cell, "plain"), [X], [H], [cell])
    assert [a.shape for a in program.captured] == [(), (H, X + H), (H,)] or len(
        program.captured
    ) == 3
    assert all(any(a is b for b in weights) for a in program.captured[:1])


def test_arrays_in_lists_tuples_and_dicts_are_found():
    model = nn.Module()
    model.parts = [{"w": mx.ones((H,)) * 2.0}, [mx.ones((H,)) * 3.0]]

    def step(x, h):
        return [h * model.parts[0]["w"] + model.parts[1][0]], []

    def loss(parameters):
        model.update(parameters)
        program = trace(step, [X], [H], [model])
        return sum(a.sum() for a in program.captured)

    kept = Kept([model])
    gradients = mx.grad(loss)(model.parameters())
    kept.put_back()
    assert mx.all(gradients["parts"][0]["w"] == 1.0).item()
    assert mx.all(gradients["parts"][1][0] == 1.0).item()


def test_a_weight_from_outside_the_modules_is_declined_in_a_gradient():
    weight, found = mx.ones((H,)), []

    def loss(weight):
        found.append(trace(lambda x, h: ([h * weight], []), [X], [H]))
        return weight.sum()

    mx.grad(loss)(weight)
    assert "Copy" in found[0].reason
    mx.compile(loss)(weight)
    assert isinstance(found[1], Program)


def test_scalar_parameter_is_captured_where_it_is_traced():
    cell, found = Cell(), []

    def loss(parameters):
        cell.update(parameters)
        found.append(trace(step_of(cell, "plain"), [X], [H], [cell]))
        return sum(a.sum() for a in found[-1].captured)

    kept = Kept([cell])
    gradients = mx.grad(loss)(cell.trainable_parameters())
    kept.put_back()
    assert gradients["scale"].item() == 1.0
    assert () in found[0].shapes
    assert () not in trace(step_of(cell, "plain"), [X], [H], [cell]).shapes


def test_random_state_goes_on_as_if_nothing_was_traced():
    mx.random.seed(5)
    want = mx.random.uniform(shape=(3,))
    mx.random.seed(5)
    found = trace(lambda x, h: ([nn.Dropout(0.5)(h)], []), [X], [H])
    assert "RandomBits" in found.reason
    assert mx.array_equal(mx.random.uniform(shape=(3,)), want).item()


def test_threads_trace_and_run_the_same_cell():
    cell = Cell()
    step, faults = step_of(cell, "plain"), []
    known = trace(step, [X], [H], [cell])
    x, h = mx.ones((2, X)), mx.ones((2, H))
    want = np.array(cell.plain(x, h))

    def work():
        try:
            for _ in range(50):
                assert trace(step, [X], [H], [cell]) == known
                with mx.stream(mx.new_stream(mx.cpu)):
                    np.testing.assert_array_equal(np.array(cell.plain(x, h)), want)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def same(a, b):
    """Whether two programs are equal, with equal captured arrays."""
    pairs = zip(a.captured, b.captured, strict=True)
    return a == b and all(mx.array_equal(x, y).item() for x, y in pairs)


def test_a_memo_changes_nothing():
    cell, memo = Cell(), Memo()
    step = step_of(cell, "plain")
    for change in ("none", "weights", "lazy", "half", "scalar", "method"):
        if change == "weights":
            cell.map.weight = cell.map.weight * 2.0
            mx.eval(cell.parameters())
        elif change == "lazy":
            cell.map.bias = cell.map.bias + 1.0
        elif change == "half":
            cell.map.set_dtype(mx.bfloat16)
        elif change == "scalar":
            cell.scale = mx.array(0.25)
        elif change == "method":
            step = step_of(cell, "plain_and_one")
        for _ in range(3):
            for find in (trace, trace_checked):
                assert same(find(step, [X], [H], [cell], memo), trace(step, [X], [H], [cell])), (
                    change
                )


def test_a_memo_knows_constants_by_their_values():
    memo, chosen = Memo(), [mx.array([0, 1]), mx.array([2, 0])]
    for index in (*chosen, *chosen):

        def step(x, h, index=index):
            return [h + x[:, index].sum(-1, keepdims=True) * mx.array([3.0, 4.0])[0]], []

        assert trace(step, [X], [H], (), memo) == trace(step, [X], [H])
    assert trace(step, [X], [H], (), memo) != trace(lambda x, h: step(x, h, chosen[0]), [X], [H])


def test_a_memo_is_of_the_arrays_of_each_call():
    cell, memo, gradients = Cell(), Memo(), []
    step = step_of(cell, "plain")

    def loss(parameters):
        cell.update(parameters)
        program = trace_checked(step, [X], [H], [cell], memo)
        return sum(a.astype(mx.float32).sum() for a in program.captured)

    kept = Kept([cell])
    for _ in range(2):
        gradients.append(mx.grad(loss)(cell.trainable_parameters()))
        kept.put_back()
    for found in gradients:
        assert mx.all(found["map"]["weight"] == 1.0).item()
        assert found["scale"].item() == 1.0


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_weights_are_converted_and_get_gradients(dtype):
    cell = Cell()
    cell.map.set_dtype(dtype)
    step = step_of(cell, "plain")
    program = trace_checked(step, [X], [H], [cell])
    assert all(a.dtype == mx.float32 for a in program.captured)

    def loss(parameters):
        cell.update(parameters)
        return sum(a.sum() for a in trace_checked(step, [X], [H], [cell]).captured)

    kept = Kept([cell])
    gradient = mx.grad(loss)(cell.trainable_parameters())["map"]["weight"]
    kept.put_back()
    assert gradient.dtype == dtype
    assert mx.all(gradient == 1.0).item()


def test_impure_step_is_declined_with_a_memo_too():
    for method in ("draws", "draws_array", "counts", "reads_rows"):
        cell, memo = Cell(), Memo()
        for _ in range(3):  # the memo knows the program, and must not think it checked
            found = trace_checked(step_of(cell, method), [X], [H], [cell], memo)
            assert isinstance(found, Declined)
