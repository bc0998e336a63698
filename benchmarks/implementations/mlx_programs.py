"""Programs, in every mode, of an MLX function `sequence(params, x, v) -> states`."""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from tests.support.cases import make, named_leaves, to_mlx

from ..launches import primitives
from . import Program

LEARNING_RATE = 1e-6  # small: repeated training steps stay near the parameters of the case


def sequence_program(row, sequence, *, compiled: bool) -> Program:
    """The modes fwd, fwd+bwd and train of `sequence(params, x [B, T, I], v [B, H])`."""
    call = to_mlx(make(row.case))
    trained, rebuild = _split(call.params)
    weights = call.cotangents[..., : row.outputs]  # [B, T, O]

    def output(trained, x, v):
        return sequence(rebuild(trained), x, v)[..., : row.outputs]

    def loss(trained, x, v):
        y = output(trained, x, v)
        return (y * weights).sum(), y

    arguments = (trained, call.inputs, call.state)
    if row.mode == "fwd":
        f = mx.compile(output) if compiled else output
        return _program(lambda: _named(f(*arguments)), lambda: f(*arguments))
    gradient = mx.value_and_grad(loss)
    f = mx.compile(gradient) if compiled else gradient

    def check():
        (_, y), gradients = f(*arguments)
        return _named(y, gradients)

    if row.mode == "fwd+bwd":
        return _program(check, lambda: f(*arguments))
    train = _training(gradient, arguments, compiled)

    def run():
        outputs = train()
        mx.eval(outputs)
        return outputs[1]

    return Program(check, run, lambda: len(primitives(train())))


def _program(check, call) -> Program:
    """The program of call() -> arrays that are not evaluated."""
    return Program(check, lambda: mx.eval(call()), lambda: len(primitives(call())))


def _training(gradient, arguments, compiled: bool):
    """The mode train: run() does a step of Adam on all parameters -> (loss, parameters, state of
    the optimiser), not evaluated.
    """
    trained, x, v = arguments
    optimiser = optim.Adam(LEARNING_RATE)
    optimiser.init(trained)
    state = [dict(trained), optimiser.state]

    def step(x, v):
        (loss, _), gradients = gradient(state[0], x, v)
        state[0].update(optimiser.apply_gradients(gradients, state[0]))
        return loss

    f = mx.compile(step, inputs=state, outputs=state) if compiled else step

    return lambda: (f(x, v), *state)


def step_program(row, cell, *, compiled: bool) -> Program:
    """The mode step of `cell(x [1, I], v [1, H]) -> (output, state)`, the state fed back."""
    call = to_mlx(make(row.case))
    x, state = call.inputs[:, 0], call.state
    f = mx.compile(cell) if compiled else cell
    mx.eval(x, state)

    def check():
        output, _ = f(x, call.state)
        return _named(output[:, None])

    def run():
        nonlocal state
        output, state = f(x, state)
        mx.eval(output, state)

    return Program(check, run, lambda: len(primitives(f(x, call.state))))


def _split(params):
    """The trained leaves of the params as a dict, and a function that puts them back in."""
    leaves = params._asdict()
    fixed = {k: v for k, v in leaves.items() if v is None or "mask" in k}
    trained = {k: v for k, v in leaves.items() if k not in fixed}
    return trained, lambda trained: type(params)(**trained, **fixed)


def _named(output, gradients=None) -> dict[str, np.ndarray]:
    """Arrays by the names of truth.want."""
    mx.eval(output, gradients or ())
    named = {"output": output}
    for name, gradient in (gradients or {}).items():
        named |= named_leaves(gradient, f"params.{name}")
    return {name: np.array(array) for name, array in named.items()}
