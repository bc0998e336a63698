"""Every operation that a step program can do, and the forms of its operands, against MLX."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_ncps.programs import Declined, Program, trace
from mlx_ncps.programs.trace import ROWS

from tests.support.cases import TOLERANCES, assert_close
from tests.support.generators import generator
from tests.support.run_program import OPS, check_form, run_program

pytestmark = pytest.mark.usefixtures("native")

N, X, H = 5, 4, 6
rng = generator(3)


def array(*shape, low=-1.5, high=1.5):
    return mx.array(rng.uniform(low, high, shape).astype(np.float32))


W, V, SQUARE, VECTOR, SCALAR = array(H, X), array(X, H), array(X, X), array(X), array(1)
BIAS, CUBE = array(H), array(2, X, H)
CHOSEN = mx.array([True, False, True, True])
ORDER = mx.array([2, 0, 3, 3])
TABLE = mx.array([3, 1, -2, 5])
HALF = array(H, X).astype(mx.bfloat16)
linear, norm, rms = nn.Linear(X, H), nn.LayerNorm(X), nn.RMSNorm(X)
gru, quantized = nn.GRU(X, H), nn.QuantizedLinear(16 * X, 6)
mx.eval(quantized.parameters(), linear.parameters(), gru.parameters(), HALF)


def positive(x):
    return mx.abs(x) + 0.1


def updated(x, index, value):
    x = x * 2.0
    x[index] = value
    return x


# Of x [N, 4], y [N, 1], h [N, 6]
FORMS = {
    "neg": lambda x, y, h: -x,
    "abs": lambda x, y, h: mx.abs(x),
    "exp": lambda x, y, h: mx.exp(x),
    "log": lambda x, y, h: mx.log(positive(x)),
    "log2": lambda x, y, h: mx.log2(positive(x)),
    "log10": lambda x, y, h: mx.log10(positive(x)),
    "log1p": lambda x, y, h: mx.log1p(positive(x)),
    "sqrt": lambda x, y, h: mx.sqrt(positive(x)),
    "rsqrt": lambda x, y, h: mx.rsqrt(positive(x)),
    "square": lambda x, y, h: mx.square(x),
    "sigmoid": lambda x, y, h: mx.sigmoid(x),
    "tanh": lambda x, y, h: mx.tanh(x),
    "erf": lambda x, y, h: mx.erf(x),
    "sign": lambda x, y, h: mx.sign(x),
    "reciprocal": lambda x, y, h: mx.reciprocal(positive(x)),
    "logaddexp": lambda x, y, h: mx.logaddexp(x, y),
    "minimum": lambda x, y, h: mx.minimum(x, y),
    "clip": lambda x, y, h: mx.clip(x, -0.5, 0.5),
    "powers": lambda x, y, h: x**2 + x**3 + x**4 + x**1 + x**-1,
    "roots": lambda x, y, h: positive(x) ** 0.5 + positive(x) ** -0.5,
    "compare": lambda x, y, h: sum(
        k * (c.astype(mx.float32))
        for k, c in enumerate([x > y, x >= y, x < y, x <= y, x == y, x != y, x == x], 1)
    ),
    "logic": lambda x, y, h: mx.where(((x > 0) & (x < 1)) | ~(y == 2) ^ (x >= y), x, y),
    "logical": lambda x, y, h: mx.where(
        mx.logical_or(mx.logical_and(x > 0, y > 0), mx.logical_not(x < y)), x, 2.0
    ),
    "all_any": lambda x, y, h: (
        mx.where(mx.all(x > -1, axis=-1, keepdims=True), x, 3.0)
        + mx.any(x > 1, axis=-1, keepdims=True)
    ),
    "to_bool": lambda x, y, h: mx.where((x - x).astype(mx.bool_), x, y),
    "bool_times": lambda x, y, h: (x > y) * x,
    "bool_as_int": lambda x, y, h: (x > y).astype(mx.int32).astype(mx.float32) * x,
    "neutral": lambda x, y, h: (x * 1.0 / 1.0 - 0.0) * 1.0 + 0.0,
    "numbers": lambda x, y, h: 2.0 * x / 3 + 1,
    "ints": lambda x, y, h: x * mx.array(2) + TABLE,
    "row_scalar": lambda x, y, h: x * y + y[:, 0:1],
    "vector": lambda x, y, h: x * VECTOR + VECTOR,
    "size_one": lambda x, y, h: x * SCALAR,
    "one_element": lambda x, y, h: x * VECTOR[2] + x[:, 3:],
    "matrix_rows": lambda x, y, h: mx.sum(x[:, None, :] * W, axis=-1),
    "matrix_columns": lambda x, y, h: mx.sum(x[:, :, None] * V, axis=1),
    "turned": lambda x, y, h: (x[:, None, :] * V.T).reshape(-1, H * X),
    "outer": lambda x, y, h: (x[:, :, None] * h[:, None, :]).reshape(x.shape[0], -1),
    "zeros": lambda x, y, h: mx.zeros((x.shape[0], 3)) + x[:, :3] + mx.ones((3,)),
    "full": lambda x, y, h: mx.concatenate([x, mx.full((x.shape[0], 2), 0.5)], axis=-1),
    "like": lambda x, y, h: mx.zeros_like(x) - mx.ones_like(x) * x,
    "constant": lambda x, y, h: mx.ones((x.shape[0], 3)) * 0.25,
    "captured": lambda x, y, h: mx.broadcast_to(BIAS, (x.shape[0], H)),
    "identity": lambda x, y, h: [x, h, x],
    "vector_out": lambda x, y, h: x[:, 1],
    "slice": lambda x, y, h: x[:, 1:3] * x[:, ::2],
    "negative_slice": lambda x, y, h: h[:, -4:-1] + h[:, :-3],
    "flip": lambda x, y, h: x[:, ::-1] * x,
    "flip_by_two": lambda x, y, h: h[:, ::-2],
    "split": lambda x, y, h: mx.split(h, 3, axis=-1),
    "split_at": lambda x, y, h: mx.split(h, [1, 4], axis=-1),
    "concatenate": lambda x, y, h: mx.concatenate([x, y, h, x], axis=-1),
    "concatenate_inner": lambda x, y, h: mx.concatenate(
        [h.reshape(-1, 2, 3), x[:, None, :3]], axis=1
    ).reshape(-1, 9),
    "concatenate_last": lambda x, y, h: mx.concatenate(
        [h.reshape(-1, 3, 2), h.reshape(-1, 3, 2)], axis=2
    ).reshape(-1, 12),
    "concatenate_fixed": lambda x, y, h: x @ mx.concatenate([V, SQUARE], axis=1),
    "concatenate_fixed_rows": lambda x, y, h: (
        mx.concatenate([h, x], axis=-1) @ mx.concatenate([W, SQUARE], axis=0)
    ),
    "stack": lambda x, y, h: mx.stack([x, x * x], axis=2).reshape(-1, 2 * X),
    "pad": lambda x, y, h: mx.pad(x, ((0, 0), (1, 2)), constant_values=0.5),
    "pad_inner": lambda x, y, h: mx.pad(x[:, None], ((0, 0), (1, 0), (0, 1))).reshape(-1, 10),
    "repeat": lambda x, y, h: mx.repeat(x, 2, axis=-1) + mx.tile(x, (1, 2)),
    "transpose": lambda x, y, h: h.reshape(-1, 2, 3).swapaxes(1, 2).reshape(-1, 6),
    "transpose_rows": lambda x, y, h: (x.T * 2.0 + VECTOR[:, None]).T,
    "moveaxis": lambda x, y, h: mx.moveaxis(h.reshape(-1, 1, 2, 3), 3, 1).reshape(-1, 6),
    "expand": lambda x, y, h: (x[None] * x[None, :, :])[0],
    "squeeze": lambda x, y, h: y.squeeze(1) * x[:, 0],
    "set_column": lambda x, y, h: updated(x, (slice(None), 1), 3.0),
    "set_slice": lambda x, y, h: updated(h, (slice(None), slice(1, 6, 2)), x[:, :3]),
    "set_reversed": lambda x, y, h: updated(h, (slice(None), slice(4, None, -1)), h[:, :5]),
    "take": lambda x, y, h: x[:, ORDER],
    "take_axis": lambda x, y, h: mx.take(x, ORDER, axis=1),
    "take_list": lambda x, y, h: x[:, mx.array([0, -1, 1])],
    "take_fixed": lambda x, y, h: x * VECTOR[ORDER] + mx.take(W, ORDER, axis=0)[:, 1],
    "take_inner": lambda x, y, h: mx.take(h.reshape(-1, 2, 3), mx.array([1, 0]), axis=1)[:, :, 0],
    "diagonal": lambda x, y, h: mx.diagonal(x[:, None, :] * SQUARE, axis1=-2, axis2=-1),
    "arange": lambda x, y, h: x * mx.arange(4) + mx.arange(0.0, 2.0, 0.5),
    "bool_captured": lambda x, y, h: mx.where(CHOSEN, x, y) + CHOSEN * x,
    "sum": lambda x, y, h: h.sum(axis=-1),
    "sum_keep": lambda x, y, h: h - h.mean(axis=-1, keepdims=True),
    "sum_inner": lambda x, y, h: h.reshape(-1, 2, 3).sum(axis=1),
    "sum_two": lambda x, y, h: h.reshape(-1, 3, 2).sum(axis=(1, 2)),
    "sum_apart": lambda x, y, h: (h.reshape(-1, 3, 2)[:, :, None] * CUBE[:, :, :1].T).sum(
        axis=(1, 3)
    ),
    "sum_one": lambda x, y, h: y.sum(axis=-1) + x[:, None].sum(axis=1)[:, 0],
    "sum_fixed": lambda x, y, h: (
        x * mx.mean(W) + W.sum(axis=0) + mx.ones((x.shape[0], 3)).sum(-1, True)
    ),
    "softmax": lambda x, y, h: mx.softmax(x, axis=-1),
    "softmax_inner": lambda x, y, h: mx.softmax(h.reshape(-1, 3, 2), axis=-1, precise=True).reshape(
        -1, 6
    ),
    "softmax_fixed": lambda x, y, h: x @ mx.softmax(V, axis=-1),
    "std": lambda x, y, h: x / mx.std(x, axis=-1, keepdims=True),
    "matmul": lambda x, y, h: x @ V,
    "matmul_turned": lambda x, y, h: x @ W.T + BIAS,
    "matmul_bias_first": lambda x, y, h: BIAS + x @ W.T,
    "matmul_used_twice": lambda x, y, h: [x @ V + BIAS, (z := x @ V), z + BIAS],
    "matmul_and_scalar": lambda x, y, h: x @ V + SCALAR + 1.0,
    "matmul_of_slice": lambda x, y, h: h[:, 1:5] @ V[:, ::2] + x @ V.T[1:4].T,
    "matmul_inner": lambda x, y, h: (x[:, None, :] @ V)[:, 0],
    "matmul_computed": lambda x, y, h: x @ (W * W).T + x @ (V * 2.0),
    "matmul_front": lambda x, y, h: (W @ x.T).T,
    "matmul_front_inner": lambda x, y, h: (W @ x[:, :, None])[:, :, 0],
    "matmul_front_turned": lambda x, y, h: (V.T @ x[:, :, None])[..., 0],
    "matmul_column": lambda x, y, h: x @ W[:1].T + x @ V[:, :1],
    "matmul_one": lambda x, y, h: y @ V[:1],
    "matmul_vector": lambda x, y, h: x @ VECTOR,
    "addmm": lambda x, y, h: mx.addmm(BIAS, x, W.T) + mx.addmm(h, x, V),
    "einsum": lambda x, y, h: mx.einsum("ni,oi->no", x, W),
    "einsum_outer": lambda x, y, h: (
        mx.einsum("ni,io->no", x, V) * mx.tensordot(x, W, axes=[[1], [1]])
    ),
    "inner": lambda x, y, h: mx.inner(x, W),
    "vmap": lambda x, y, h: mx.vmap(lambda row: W @ row + BIAS)(x),
    "half_captured": lambda x, y, h: x @ HALF.T,
    "linear": lambda x, y, h: linear(x),
    "layer_norm": lambda x, y, h: norm(x * 3.0),
    "rms_norm": lambda x, y, h: rms(x * 3.0),
    "gru": lambda x, y, h: gru(x[:, None], h)[:, 0],
    "silu": lambda x, y, h: nn.silu(x),
    "gelu": lambda x, y, h: nn.gelu(x) + nn.gelu_approx(x) + nn.gelu_fast_approx(x),
    "softplus": lambda x, y, h: nn.softplus(x) + nn.mish(x),
    "relu": lambda x, y, h: nn.relu(x) + nn.relu6(x) + nn.leaky_relu(x),
    "elu": lambda x, y, h: nn.elu(x) + nn.selu(x) + nn.celu(x),
    "glu": lambda x, y, h: nn.glu(h),
    "hardswish": lambda x, y, h: nn.hardswish(x) + nn.softsign(x) + nn.log_sigmoid(x),
    "scan": lambda x, y, h: sum((x[:, k : k + 1] for k in range(X)), 0.0) * x,
}


def inputs(rows=N):
    return [array(rows, n) for n in (X, 1, H)]


def listed(outputs):
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def traced(function):
    return trace(lambda x, y, h: ([h], listed(function(x, y, h))), [X, 1], [H])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, N, ROWS])
def test_program_equals_function(form, rows):
    program = traced(FORMS[form])
    assert isinstance(program, Program), program
    check_form(program)
    given = inputs(rows)
    want = listed(FORMS[form](*given))
    states, got = run_program(program, given[:2], given[2:])
    np.testing.assert_array_equal(states[0], np.array(given[2]))
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        want_b = np.array(b.astype(mx.float32)).reshape(rows, -1)
        assert_close(f"{form}[{number}]", a, want_b, TOLERANCES["float32"]["forward"])


def test_sweep_uses_every_instruction():
    programs = [traced(function) for function in FORMS.values()]
    assert {i.op for p in programs for i in (*p.once, *p.step)} == OPS


def test_bias_and_transpose_are_part_of_the_product():
    (instruction,) = traced(FORMS["matmul_turned"]).step
    assert instruction.op == "matmul"
    assert len(instruction.ins) == 3
    assert instruction.ints == (X, H, 1)


def test_what_changes_nothing_is_left_out():
    program = traced(lambda x, y, h: mx.tanh(x * 1.0 / 1.0 - 0.0) * 1.0)
    assert [i.op for i in program.step] == ["tanh"]


def test_weights_are_prepared_once():
    program = traced(lambda x, y, h: x @ mx.exp(V * 2.0))
    assert [i.op for i in program.once] == ["mul", "exp"]
    assert [i.op for i in program.step] == ["matmul"]


def test_dead_code_is_dropped():
    program = traced(lambda x, y, h: (mx.split(mx.tanh(h), 2, axis=-1)[0], mx.exp(x))[1])
    assert [i.op for i in program.step] == ["exp"]
    assert program.shapes == ()


def test_captured_arrays_keep_their_order_and_identity():
    program = traced(lambda x, y, h: x @ V * BIAS)
    assert program.shapes == ((X, H), (H,))
    assert all(mx.array_equal(a, b) for a, b in zip(program.captured, (V, BIAS), strict=True))


def test_runs_are_merged():
    program = traced(lambda x, y, h: mx.concatenate([h[:, :2], h[:, 2:5], h[:, 5:]], axis=-1) * 1.5)
    moves = [i for i in program.step if i.op == "move"]
    assert [i.ints for i in moves] == [(0, 0, 2, 1), (2, 2, 3, 1), (5, 5, 1, 1)]
    (move, *_) = traced(
        lambda x, y, h: (h.reshape(-1, 2, 3).swapaxes(1, 2) * 2.0).reshape(-1, 6)
    ).step
    assert move.ints == (0, 0, 1, 1, 1, 3, 1, 1, 2, 1, 1, 1, 3, 4, 1, 1, 4, 2, 1, 1, 5, 5, 1, 1)
    (move, *_) = traced(
        lambda x, y, h: (x[:, :, None] * mx.ones((1, 1, 3)) * 2.0).reshape(-1, 12)
    ).step
    assert (move.op, move.ints) == ("expand", (4, 3, 1))


def test_equal_steps_have_equal_programs():
    one, two = traced(lambda x, y, h: x @ V), traced(lambda x, y, h: x @ (V + 1.0))
    assert one == traced(lambda x, y, h: x @ array(X, H))
    assert hash(one) == hash(traced(lambda x, y, h: x @ array(X, H)))
    assert one != two


def test_nan_is_equal_to_itself():
    one, two = (traced(lambda x, y, h: mx.where(x > 0, x, float("nan"))) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)


# What is declined, and a word of the reason
REFUSED = {
    "matmul_fixed": (lambda x, y, h: (VECTOR @ V) * h, "Matmul: multiplies two fixed arrays"),
    "random": (lambda x, y, h: x + mx.random.normal(x.shape), "RandomBits"),
    "dropout": (lambda x, y, h: nn.Dropout(0.5)(x), "RandomBits"),
    "batch_norm": (lambda x, y, h: x - x.mean(axis=0), "Reduce: reduces over the rows"),
    "attention": (lambda x, y, h: mx.softmax(x @ x.T, axis=-1) @ x, "Matmul: multiplies two"),
    "attention_inner": (
        lambda x, y, h: x[:, :, None] @ h[:, None, :],
        "Matmul: multiplies two",
    ),
    "softmax_rows": (lambda x, y, h: mx.softmax(x, axis=0), "StopGradient"),
    "softmax_of_rows": (lambda x, y, h: mx.softmax(x[:, 0]), "Softmax: reduces over the rows"),
    "half": (
        lambda x, y, h: mx.tanh(x.astype(mx.float16)).astype(mx.float32),
        "AsType: computes in float16",
    ),
    "half_weights": (lambda x, y, h: x * (HALF * 2)[0].astype(mx.float32), "bfloat16"),
    "cumsum": (lambda x, y, h: mx.cumsum(x, axis=-1), "Scan"),
    "sort": (lambda x, y, h: mx.sort(x, axis=-1), "Sort"),
    "cos": (lambda x, y, h: mx.cos(x), "Cos"),
    "max_axis": (lambda x, y, h: mx.max(x, axis=-1), "Reduce: no instruction does a maximum"),
    "min_axis": (lambda x, y, h: mx.min(x, axis=-1), "Reduce: no instruction does a minimum"),
    "logsumexp": (lambda x, y, h: mx.logsumexp(x, axis=-1), "LogSumExp"),
    "power": (lambda x, y, h: positive(x) ** 1.7, "Power: no instruction does it"),
    "power_of": (lambda x, y, h: positive(x) ** y, "Power: no instruction does it"),
    "first_row": (lambda x, y, h: x - x[:1], "Slice: takes some of the rows"),
    "flipped_rows": (lambda x, y, h: x[::-1], "Slice: takes some of the rows"),
    "shifted_rows": (lambda x, y, h: mx.roll(x, 1, axis=0), "rows"),
    "split_rows": (lambda x, y, h: mx.split(x, [3], axis=0)[0], "Split: takes some of the rows"),
    "all_rows": (
        lambda x, y, h: mx.concatenate([x, x], axis=0)[:ROWS],
        "Concatenate: mixes the rows",
    ),
    "rows_in_rows": (
        lambda x, y, h: (x[:, None] * x[None]).sum(axis=1),
        "Multiply: mixes the rows",
    ),
    "gathered_rows": (
        lambda x, y, h: x[mx.array([1, 0, *range(2, ROWS)])],
        "Gather: mixes the rows",
    ),
    "merged_rows": (lambda x, y, h: h.reshape(-1, 2)[:ROWS], "Reshape: mixes the rows"),
    "padded_rows": (lambda x, y, h: mx.pad(x, ((0, 1), (0, 0)))[:ROWS], "Pad: adds rows"),
    "set_row": (lambda x, y, h: updated(x, 0, 1.0), "SliceUpdate: takes some of the rows"),
    "row_array": (lambda x, y, h: x * array(ROWS, 1), "one value for each row"),
    "counted_rows": (lambda x, y, h: x * mx.ones((ROWS, 1)).sum(axis=0), "over the rows"),
    "index_of_state": (lambda x, y, h: VECTOR[x.astype(mx.int32)], "AsType: computes in int32"),
    "argmax": (lambda x, y, h: mx.argmax(x, axis=-1).astype(mx.float32), "computes in uint32"),
    "inner_matrix": (lambda x, y, h: (h.reshape(-1, 2, 3) @ mx.ones((3, 2))).sum(-1), "Flatten"),
    "scaled_addmm": (lambda x, y, h: mx.addmm(h, x, V, alpha=2.0), "AddMM: scales"),
    "quantized": (lambda x, y, h: quantized(mx.tile(x, (1, 16))), "QuantizedMatmul"),
    "conv": (lambda x, y, h: mx.conv1d(x[:, :, None], array(1, 2, 1))[:, :, 0], "Convolution"),
    "read": (lambda x, y, h: x * x.sum().item(), "can't be traced"),
    "branch": (lambda x, y, h: x if x[0, 0] > 0 else -x, "can't be traced"),
    "to_numpy": (lambda x, y, h: x + mx.array(np.array(x)), "can't be traced"),
    "stop_gradient": (lambda x, y, h: mx.stop_gradient(mx.tanh(x)) * x, "StopGradient"),
    "checkpoint": (
        lambda x, y, h: mx.checkpoint(lambda z: mx.tanh(z) * 2)(x),
        "StopGradient|CustomTransforms",
    ),
    "gradient": (lambda x, y, h: mx.grad(lambda z: mx.sigmoid(z).sum())(x), "Copy"),
    "wrong": (lambda x, y, h: x @ x, "can't be traced"),
    "ints_out": (lambda x, y, h: x > 0, "the step gives mlx.core.bool, not float32"),
    "no_rows": (lambda x, y, h: VECTOR * 2.0, "a result has no rows"),
    "rows_behind": (lambda x, y, h: x.T * 2.0, "a result has no rows in front"),
    "compiled": (lambda x, y, h: x * nn.gelu(VECTOR), "Compiled"),
    "no_elements": (lambda x, y, h: x[:, :0], "no elements"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_declined(form):
    function, reason = REFUSED[form]
    found = traced(function)
    assert isinstance(found, Declined), found
    assert any(part in found.reason for part in reason.split("|")), found.reason


def test_declines_wrong_states():
    def program(step, states):
        return trace(step, [X], states)

    assert "2 states, of 1" in program(lambda x, h: ([h, h], []), [H]).reason
    assert "another shape" in program(lambda x, h: ([x], []), [H]).reason
    assert "float16" in program(lambda x, h: ([h.astype(mx.float16)], []), [H]).reason
    assert "no elements" in program(lambda x, h: ([h], []), [0]).reason
