"""Runs a step program in NumPy, float64: what each instruction means."""

from math import erf

import numpy as np

_UNARY = {
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1.0 / np.sqrt(a),
    "square": np.square,
    "sigmoid": lambda a: 0.5 + 0.5 * np.tanh(0.5 * a),
    "tanh": np.tanh,
    "erf": np.vectorize(erf, otypes=[float]),
    "sign": np.sign,
    "not": lambda a: a == 0.0,
}
_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "logaddexp": np.logaddexp,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": lambda a, b: (a != 0.0) & (b != 0.0),
    "or": lambda a, b: (a != 0.0) | (b != 0.0),
}
ELEMENTWISE = {**_UNARY, **_BINARY, "select": lambda c, a, b: np.where(c != 0.0, a, b)}
OPS = {*ELEMENTWISE, "move", "sum", "expand", "softmax", "matmul"}


def run_program(program, steps, states):
    """(new states, outputs) of one step: steps and states are [N, n], in NumPy."""
    count = len(program.sizes)
    values = [None] * count
    given = [*program.captured, *steps, *states]
    rows = len(steps[0] if len(steps) else states[0])
    for number, array in enumerate(given):
        shape = (rows, program.sizes[number]) if program.varying[number] else (-1,)
        values[number] = np.array(array, np.float64).reshape(shape)
    for number, value in program.constants:
        values[number] = np.array([np.float32(value)], np.float64)
    for instruction in program.once:
        assert not program.varying[instruction.out]
        _run(program, values, instruction, 1)
    for instruction in program.step:
        assert program.varying[instruction.out]
        _run(program, values, instruction, rows)
    return [values[n] for n in program.next], [values[n] for n in program.outputs]


def _run(program, values, instruction, rows):
    op, out, ins, ints = instruction
    operands = [np.broadcast_to(values[n], (rows, program.sizes[n])) for n in ins]
    if op == "move":
        if values[out] is None:
            values[out] = np.full((rows, program.sizes[out]), np.nan)
        for at, begin, length, step in np.reshape(ints, (-1, 4)):
            values[out][:, at : at + length] = operands[0][:, begin + step * np.arange(length)]
        return
    if op == "sum":
        result = operands[0].reshape(rows, *ints).sum(axis=2).reshape(rows, -1)
    elif op == "expand":
        outer, mid, inner = ints
        blocks = operands[0].reshape(rows, outer, 1, inner)
        result = np.broadcast_to(blocks, (rows, outer, mid, inner)).reshape(rows, -1)
    elif op == "softmax":
        terms = operands[0].reshape(rows, *ints)
        terms = np.exp(terms - terms.max(axis=-1, keepdims=True))
        result = (terms / terms.sum(axis=-1, keepdims=True)).reshape(rows, -1)
    elif op == "matmul":
        k, n, transposed = ints
        matrix = values[ins[1]].reshape((n, k) if transposed else (k, n))
        result = operands[0] @ (matrix.T if transposed else matrix)
        result = result + (operands[2] if len(ins) == 3 else 0.0)
    else:
        assert all(p.shape[1] in (1, program.sizes[out]) for p in operands)
        result = ELEMENTWISE[op](*operands).astype(np.float64)
        result = np.broadcast_to(result, (rows, program.sizes[out]))
    assert values[out] is None
    assert result.shape == (rows, program.sizes[out])
    values[out] = np.array(result)


def check_form(program):
    """Assert what every program promises."""
    count = len(program.sizes)
    assert len(program.varying) == count
    shapes, given = program.shapes, [*program.steps, *program.states]
    assert [tuple(a.shape) for a in program.captured] == list(shapes)
    known = set(range(len(shapes) + len(given))) | {number for number, _ in program.constants}
    assert program.varying[: len(shapes)] == (False,) * len(shapes)
    assert program.varying[len(shapes) : len(shapes) + len(given)] == (True,) * len(given)
    filled = {}
    for instruction in (*program.once, *program.step):
        op, out, ins, ints = instruction
        assert op in OPS
        assert all(n in known for n in ins), instruction
        assert program.varying[out] or not any(program.varying[n] for n in ins)
        if op == "move":
            places = filled.setdefault(out, set())
            for at, begin, length, step in np.reshape(ints, (-1, 4)).tolist():
                assert length > 0
                assert step in (0, 1)
                assert begin >= 0
                assert begin + step * (length - 1) < program.sizes[ins[0]]
                new = set(range(at, at + length))
                assert not new & places
                places |= new
            assert max(places) < program.sizes[out]
        else:
            assert out not in known
        known.add(out)
    for out, places in filled.items():
        assert places == set(range(program.sizes[out]))
    assert known == set(range(count))
    assert all(program.varying[n] for n in (*program.next, *program.outputs))
    hash(program)
