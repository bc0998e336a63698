"""Valid calls of the native module's operators. No user makes them: they get checked arguments, and
check again what their kernels read.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx_ncps import _loader

from .objects import B, H, I, K, T, array

PREFIX = "native."  # of their names
ELSEWHERE = frozenset(["metallib_kernel"])  # only on a Mac


def operators() -> list[str]:
    """The functions of the native module that make arrays on a stream."""
    ours = _loader.native
    names = [name for name in dir(ours) if "stream:" in (getattr(ours, name).__doc__ or "")]
    return [PREFIX + name for name in names if name not in ELSEWHERE]


def call(name: str):
    """The function that the fuzz calls: of a step program, its text and a call of it together."""
    if name == "program_sequence":
        return _run_program
    return _run_guarded if name == "guarded" else getattr(_loader.native, name)


def _run_program(steps, states, captured, resets=None, reset_states=None, **text):
    text = {name.removeprefix("text_"): value for name, value in text.items()}
    program = _loader.native.Program(**text)
    program.work  # noqa: B018 - must hold for any program that is accepted
    return _loader.native.program_sequence(program, steps, states, captured, resets, reset_states)


def _run_guarded(a, arrays, at, of, width):
    rule = _loader.native.Rule(at, of, width, False)
    return _loader.native.guarded(a, arrays, [rule])


def _program():
    """H' = sigmoid(h) (x W + b) + softmax(x), with a sum and a move."""
    return {
        "steps": [array(B, T, H)],
        "states": [array(B, H)],
        "captured": [array(H, H), array(H)],
        "resets": array(B, T) > 0.5,
        "reset_states": [array(B, H)],
    } | {
        "text_captured": [[H, H], [H]],
        "text_steps": [H],
        "text_states": [H],
        "sizes": [H * H, H, H, H, 1, H, H, H, H, H, H, 1, H],
        "varying": [False, False, True, True, False, False, *[True] * 7],
        "constants": [(4, 0.5)],
        "once": [("mul", 5, [1, 4], [])],
        "step": [
            ("matmul", 6, [2, 0, 5], [H, H, 0]),
            ("sigmoid", 7, [3], []),
            ("mul", 8, [6, 7], []),
            ("softmax", 9, [2], [1, H]),
            ("add", 10, [8, 9], []),
            ("sum", 11, [10], [1, H, 1]),
            ("move", 12, [10], [0, 1, H - 1, 1, H - 1, 0, 1, 0]),
        ],
        "next": [12],
        "outputs": [11, 10],
    }


def _short_program():
    """H' = x + repeated h, without what may be missing."""
    return {"steps": [array(B, T, H)], "states": [array(B, 1)], "captured": []} | {
        "text_captured": [],
        "text_steps": [H],
        "text_states": [1],
        "sizes": [H, 1, H, H, 1],
        "varying": [True] * 5,
        "constants": [],
        "once": [],
        "step": [
            ("expand", 2, [1], [1, H, 1]),
            ("add", 3, [0, 2], []),
            ("sum", 4, [3], [1, H, 1]),
        ],
        "next": [4],
        "outputs": [3],
    }


def _fold(**more):
    shapes = [(H,)] * 3 + [(H, H)] * 4 + [(I, H)] * 4
    return {"weights": [array(*shape) for shape in shapes], "implicit": True, "epsilon": 0.1} | more


def _folded():
    return [array(H) for _ in range(3)] + [array(H, H)] * 4 + [array(I, H)] * 4


def _memory():
    return [array(B, H), array(4 * H, I), array(4 * H), array(4 * H, H)]


def _ltc(**more):
    call = {"x": array(B, T, I), "v0": array(B, H), "ts": array(B, T), "folded": _folded()}
    return call | {"unfolds": 6, "solver": "explicit"} | more


def _cfc(**more):
    head = [array(H, K), array(H)]
    call = {"x": array(B, T, I), "h0": array(B, H), "ts": array(B, T)}
    weights = [array(K, I + H), array(K), *head, *head, *head, *head]
    options = {"layers": 1, "mode": "default", "activation": "tanh", "head_activation": "tanh"}
    return call | {"weights": weights} | options | more


def _guarded():
    integers = {"at": np.array([0, 2], np.int32), "of": np.array([1, 3], np.int32)}
    return {"a": array(B), "arrays": [array(2), array(2)], **integers, "width": 1}


CALLS = {
    "program_sequence": [_program, _short_program],
    "dropout_factors": [lambda: {"key": mx.random.key(0), "shape": [B, K], "rate": 0.3}],
    "fold_ltc": [
        _fold,
        lambda: _fold(mask=array(H, H), sensory_mask=array(I, H)),
        lambda: _fold(input_w=array(I), input_b=array(I)),
    ],
    "ltc_sequence": [
        _ltc,
        lambda: _ltc(memory=_memory()),
        lambda: _ltc(resets=[array(B, T), array(B, H)]),
    ],
    "cfc_sequence": [
        _cfc,
        lambda: _cfc(memory=_memory()),
        lambda: _cfc(dropout=array(B, T, K), first_dropped=0),
        lambda: _cfc(resets=[array(B, T), array(B, H)]),
    ],
    "products": [lambda: {"x": [array(B), array(T)], "y": [array(B), array(T)]}],
    "scaled_sums": [lambda: {"x": [array(B)], "y": [array(B)], "factor": 0.5}],
    "guarded": [_guarded],
}
