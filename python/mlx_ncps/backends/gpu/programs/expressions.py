"""The elementwise instructions of step programs as expressions of Metal and CUDA; the functions are
those of metal/program.h and the headers before it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import numpy as np

# Of the operands a, b, c.
VALUES = {
    "copy": "{a}",
    "neg": "-{a}",
    "abs": "ncps_abs({a})",
    "exp": "ncps_exp({a})",
    "log": "ncps_log({a})",
    "log1p": "ncps_log1p({a})",
    "sqrt": "ncps_sqrt({a})",
    "rsqrt": "1.0f / ncps_sqrt({a})",
    "square": "{a} * {a}",
    "sigmoid": "ncps_sigmoid({a})",
    "tanh": "ncps_tanh({a})",
    "erf": "ncps_erf({a})",
    "sign": "ncps_sign({a})",
    "not": "ncps_truth({a} == 0.0f)",
    "add": "{a} + {b}",
    "sub": "{a} - {b}",
    "mul": "{a} * {b}",
    "div": "{a} / {b}",
    "max": "ncps_larger({a}, {b})",
    "min": "ncps_smaller({a}, {b})",
    "logaddexp": "ncps_logaddexp({a}, {b})",
    "gt": "ncps_truth({a} > {b})",
    "ge": "ncps_truth({a} >= {b})",
    "lt": "ncps_truth({a} < {b})",
    "le": "ncps_truth({a} <= {b})",
    "eq": "ncps_truth({a} == {b})",
    "ne": "ncps_truth({a} != {b})",
    "and": "ncps_truth({a} != 0.0f && {b} != 0.0f)",
    "or": "ncps_truth({a} != 0.0f || {b} != 0.0f)",
    "select": "{a} != 0.0f ? {b} : {c}",
}

# dL/d(operand) of each operand, of the operands, the value y and dL/dy, d; "" where none passes. As
# MLX has them where no slope exists. What isn't here passes none.
SLOPES: dict[str, tuple[str, ...]] = {
    "copy": ("{d}",),
    "neg": ("-{d}",),
    "abs": ("{a} > 0.0f ? {d} : {a} < 0.0f ? -{d} : 0.0f",),
    "exp": ("{d} * {y}",),
    "log": ("{d} / {a}",),
    "log1p": ("{d} / ({a} + 1.0f)",),
    "sqrt": ("{d} * 0.5f / {y}",),
    "rsqrt": ("{d} * {y} / {a} * -0.5f",),
    "square": ("{d} * {a} * 2.0f",),
    "sigmoid": ("{d} * {y} * (1.0f - {y})",),
    "tanh": ("{d} * (1.0f - {y} * {y})",),
    "erf": ("{d} * 1.12837917f * ncps_exp(-{a} * {a})",),
    "add": ("{d}", "{d}"),
    "sub": ("{d}", "-{d}"),
    "mul": ("{d} * {b}", "{d} * {a}"),
    "div": ("{d} / {b}", "-{d} * {y} / {b}"),
    "max": ("{a} > {b} ? {d} : 0.0f", "{a} <= {b} ? {d} : 0.0f"),
    "min": ("{a} < {b} ? {d} : 0.0f", "{a} >= {b} ? {d} : 0.0f"),
    "logaddexp": ("{d} * ncps_sigmoid({a} - {b})", "{d} * ncps_sigmoid({b} - {a})"),
    "select": ("", "{a} != 0.0f ? {d} : 0.0f", "{a} != 0.0f ? 0.0f : {d}"),
}

# Those that cost no more than reading what they give.
CHEAP = {"copy", "neg", "abs", "square", "sign", "not", "add", "sub", "mul", "max", "min"}
CHEAP |= {"gt", "ge", "lt", "le", "eq", "ne", "and", "or", "select"}


def slopes_need(op: str, ins: Sequence[int], out: int, numbers: Container[int]) -> set[int]:
    """Ids that the gradients of an instruction's operands name; `numbers` have no gradient."""
    named = dict(zip("abc", ins, strict=False)) | {"y": out}
    texts = [text for text, ref in zip(SLOPES.get(op, ()), ins, strict=False) if ref not in numbers]
    return {ref for name, ref in named.items() for text in texts if f"{{{name}}}" in text}


def value(op: str, operands: list[str]) -> str:
    """The expression of an instruction."""
    return VALUES[op].format(**dict(zip("abc", operands, strict=False)))


def slopes(op: str, operands: list[str], y: str, d: str) -> list[str]:
    """For each operand the expression of its gradient, or ""."""
    named = dict(zip("abc", operands, strict=False)) | {"y": y, "d": d}
    return [one.format(**named) for one in SLOPES.get(op, ("",) * len(operands))]


def number(value: float) -> str:
    """A finite constant."""
    assert math.isfinite(value)
    text = f"{float(np.float32(value))!r}f"
    return f"({text})" if text.startswith("-") else text
