"""Random steps: views of views, broadcasts and products in every order, against MLX."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps.programs import Program, trace, trace_checked

from tests.support.cases import TOLERANCES, assert_close
from tests.support.run_program import check_form, run_program

pytestmark = pytest.mark.usefixtures("native")

WIDTHS = (6, 4)
SHAPES = {4: [(4,), (2, 2), (4, 1), (1, 4)], 6: [(6,), (2, 3), (3, 2), (6, 1), (1, 2, 3)]}
SHAPES |= {12: [(12,), (3, 4), (2, 6), (2, 3, 2)], 8: [(8,), (2, 4), (4, 2), (2, 2, 2)]}


class Draw:
    """A step of 12 random operations; the same for each seed."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.choices = rng.integers(0, 1 << 30, (12, 6)).tolist()
        self.weights = mx.array(rng.uniform(-1.0, 1.0, (400,)).astype(np.float32))
        mx.eval(self.weights)

    def weight(self, shape, choice):
        size = int(np.prod(shape))
        begin = choice % (self.weights.size - size)
        return self.weights[begin : begin + size].reshape(shape)

    def __call__(self, x, h):
        pool = [x, h]
        for choices in self.choices:
            a = pool[choices[0] % len(pool)]
            pool.append(self.one(a, pool, *choices[1:]))
        out = [p.reshape(p.shape[0], -1) for p in pool[2:]]
        return [mx.tanh(h + mx.sum(out[-1], axis=-1, keepdims=True))], out

    def one(self, a, pool, kind, c, d, e, f):
        row, axes = a.shape[1:], list(range(1, a.ndim))
        axis = axes[c % len(axes)]
        unary = (mx.tanh, mx.sigmoid, mx.abs, lambda z: -z, lambda z: z * 0.5, mx.square)
        others = [p for p in pool if p.shape == a.shape]
        forms = [
            lambda: unary[c % len(unary)](a),
            lambda: a + self.weight(row, d),
            lambda: a * self.weight(tuple(1 if e >> n & 1 else m for n, m in enumerate(row)), d),
            lambda: mx.maximum(a, others[d % len(others)]),
            lambda: mx.where(a > self.weight((1,), d), a, others[e % len(others)] * 0.5),
            lambda: a.reshape(a.shape[0], *(found := SHAPES.get(a[0].size, [row]))[d % len(found)]),
            lambda: a.transpose(0, *np.random.default_rng(d).permutation(axes).tolist()),
            lambda: a[(slice(None),) * axis + (slice(None, None, -1),)],
            lambda: a - a.mean(axis=axis, keepdims=True),
            lambda: mx.broadcast_to(a.sum(axis=axis, keepdims=True), a.shape),
            lambda: mx.softmax(a, axis=-1),
            lambda: a.reshape(a.shape[0], -1) @ self.weight((WIDTHS[d % 2], a[0].size), e).T,
            lambda: a.reshape(a.shape[0], -1) @ self.weight((a[0].size, WIDTHS[d % 2]), e),
            lambda: mx.concatenate([a, a * 0.5], axis=axis) if a[0].size <= 6 else a,
            lambda: mx.split(a, 2, axis=axis)[d % 2] if a.shape[axis] % 2 == 0 else a,
            lambda: mx.take(a, mx.array([d % a.shape[axis], e % a.shape[axis]]), axis=axis),
            lambda: a[:, None] * self.weight((2, *(1,) * len(row)), d) if a[0].size <= 6 else a,
        ]
        return forms[kind % len(forms)]()


@pytest.mark.parametrize("seed", range(150))
def test_random_step(seed):
    step = Draw(seed)
    program = trace(step, WIDTHS[:1], WIDTHS[1:])
    assert isinstance(program, Program), program
    check_form(program)
    assert program == trace_checked(step, WIDTHS[:1], WIDTHS[1:])
    rng = np.random.default_rng(seed)
    x, h = (mx.array(rng.uniform(-1, 1, (3, n)).astype(np.float32)) for n in WIDTHS)
    for ours, theirs in zip(run_program(program, [x], [h]), step(x, h), strict=True):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(f"value {number}", a, np.array(b), TOLERANCES["float32"]["forward"])
