"""One step of a `Model` in the operations of any runtime: MATHS 1 to 4, written once for MLX, ONNX
and Core ML. The number of rows B is never read, so that one graph serves every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from .description import CfCStage, LayerStep, LTCStage, Map, Memory, Model, Synapses

Value = Any  # of the runtime


class Ops(Protocol):
    """What a runtime must have. Elementwise operations broadcast; constants are NumPy arrays."""

    def constant(self, array: np.ndarray) -> Value:
        """A constant."""
        ...

    def binary(self, name: str, a: Value, b: Value) -> Value:
        """`name` is add, subtract, multiply or divide."""
        ...

    def unary(self, name: str, a: Value) -> Value:
        """`name` is sigmoid, tanh, exp, abs, relu or erf."""
        ...

    def linear(self, z: Value, weight: np.ndarray, bias: np.ndarray | None) -> Value:
        """Z [B, K] -> z W^T + b, [B, N]."""
        ...

    def concatenate(self, parts: Sequence[Value]) -> Value:
        """[B, N], [B, M], ... -> [B, N + M + ...]."""
        ...

    def columns(self, a: Value, first: int, count: int) -> Value:
        """[B, N] -> [B, count]."""
        ...

    def gather(self, v: Value, index: np.ndarray) -> Value:
        """V [B, S], index [H, F] -> [B, H, F]."""
        ...

    def sum_last(self, a: Value) -> Value:
        """[B, H, F] -> [B, H]."""
        ...

    def elapsed(self, ts: Value) -> Value:
        """Ts [B, 1], NaN where it is negative (7.1)."""
        ...


class Formula:
    """Formulas over an `Ops`, with numbers and NumPy arrays as operands."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops

    def _value(self, a: Value) -> Value:
        if isinstance(a, (int, float)):
            a = np.array(a, np.float32)
        return self.ops.constant(a) if isinstance(a, np.ndarray) else a

    def __getattr__(self, name: str) -> Callable[..., Value]:
        """`add(a, b)`, `tanh(a)`, ...: the operations of a runtime by name."""
        if name in ("add", "subtract", "multiply", "divide"):
            return lambda a, b: self.ops.binary(name, self._value(a), self._value(b))
        return lambda a: self.ops.unary(name, a)

    def activation(self, name: str, z: Value) -> Value:
        """One of MATHS 9, or identity."""
        if name == "identity":
            return z
        if name == "lecun_tanh":
            return self.multiply(1.7159, self.tanh(self.multiply(0.666, z)))
        if name == "silu":
            return self.multiply(z, self.sigmoid(z))
        if name == "gelu":
            phi = self.add(1.0, self.erf(self.multiply(z, 0.5**0.5)))
            return self.multiply(self.multiply(0.5, z), phi)
        return self.ops.unary(name, z)

    def map(self, part: Map, z: Value) -> Value:
        """A linear map."""
        return self.ops.linear(z, part.weight, part.bias)

    def backbone(self, stage: CfCStage | LTCStage, z: Value) -> Value:
        """The hidden layers."""
        for part in stage.backbone:
            z = self.activation(stage.activation, self.map(part, z))
        return z


def step(
    ops: Ops, model: Model, x: Value, states: Sequence[Value], ts: Value
) -> tuple[Value, list[Value]]:
    """X [B, I], the states [B, H] of `model.states`, ts [B, 1] -> (output [B, O], new states)."""
    formula, new, ts, states = Formula(ops), [], ops.elapsed(ts), list(states)
    for layer in model.layers:
        own = {name: states.pop(0) for name in layer.states}
        x, own = _layer(formula, layer, x, own, ts)
        new += [own[name] for name in layer.states]
    return x, new


def _layer(
    f: Formula, layer: LayerStep, x: Value, own: dict[str, Value], ts: Value
) -> tuple[Value, dict[str, Value]]:
    h, new = own["h"], {}
    if layer.memory is not None:
        out, new["c"] = _memory(f, layer.memory, x, h, own["c"])
        if layer.memory.feeds_inputs:
            x = out
        else:
            h = out
    parts, first = [], 0
    for stage in layer.stages:
        alone = len(layer.stages) == 1
        part = h if alone else f.ops.columns(h, first, stage.units)
        run: Any = _cfc if isinstance(stage, CfCStage) else _ltc
        x = run(f, stage, x, part, ts)
        parts.append(x)
        first += stage.units
    new["h"] = parts[0] if len(parts) == 1 else f.ops.concatenate(parts)
    return _readout(f, layer, new["h"]), new


def _readout(f: Formula, layer: LayerStep, h: Value) -> Value:
    readout = layer.readout
    whole = (readout.first, readout.width) == (0, layer.units)
    y = h if whole else f.ops.columns(h, readout.first, readout.width)
    if readout.scale is not None:
        y = f.multiply(y, readout.scale)
    if readout.shift is not None:
        y = f.add(y, readout.shift)
    return y if readout.projection is None else f.map(readout.projection, y)


def _memory(f: Formula, memory: Memory, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
    drive = f.ops.linear(x, memory.input_weight, memory.bias)
    z = f.add(drive, f.ops.linear(h, memory.recurrent_weight, None))
    H = len(memory.bias) // 4
    i, ig, fg, og = (f.ops.columns(z, n * H, H) for n in range(4))
    kept = f.multiply(c, f.sigmoid(f.add(fg, 1.0)))
    c = f.add(kept, f.multiply(f.tanh(i), f.sigmoid(ig)))
    return f.multiply(f.tanh(c), f.sigmoid(og)), c


def _cfc(f: Formula, stage: CfCStage, x: Value, h: Value, ts: Value) -> Value:
    z = f.backbone(stage, f.ops.concatenate([x, h]))
    if stage.mode == "pure":
        f1 = f.map(stage.ff1, z)
        assert stage.w_tau is not None
        rate = f.add(np.abs(stage.w_tau), f.abs(f1))
        decay = f.exp(f.multiply(f.multiply(ts, -1.0), rate))
        return f.subtract(stage.A, f.multiply(f.multiply(stage.A, decay), f1))
    f1, f2 = (
        f.activation(stage.head_activation, f.map(part, z))
        for part in (stage.ff1, stage.ff2)
        if part is not None
    )
    a, b = (f.map(part, z) for part in (stage.time_a, stage.time_b) if part is not None)
    gate = f.sigmoid(f.add(f.multiply(a, ts), b))
    if stage.mode == "default":
        f1 = f.multiply(f1, f.subtract(1.0, gate))
    return f.add(f1, f.multiply(f2, gate))


# --- LTC ---


def _padded(synapses: Synapses) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sources [H, F], and slope, offset, conductance and current likewise: a row for each target,
    filled up with synapses of conductance 0.
    """
    counts = np.diff(synapses.first)
    shape = len(counts), int(counts.max(initial=0))
    filled = np.arange(shape[1]) < counts[:, None]
    index, arrays = np.zeros(shape, np.int64), []
    index[filled] = synapses.source
    for values in synapses[2:]:
        array = np.zeros(shape, np.float32)
        array[filled] = values
        arrays.append(array)
    return index, arrays


def _sums(f: Formula, synapses: Synapses, v: Value, n: Value, d: Value) -> tuple[Value, Value]:
    """N and d [H] or [B, H], and the sums over the synapses added to them."""
    index, (slope, offset, conductance, current) = _padded(synapses)
    if index.size == 0:
        return n, d
    gate = f.sigmoid(f.add(f.multiply(f.ops.gather(v, index), slope), offset))
    n = f.add(f.ops.sum_last(f.multiply(gate, current)), n)
    return n, f.add(f.ops.sum_last(f.multiply(gate, conductance)), d)


def _ltc(f: Formula, stage: LTCStage, x: Value, v: Value, ts: Value) -> Value:
    z = f.backbone(stage, x)
    n0, d0 = _sums(f, stage.sensory, z, stage.leak_current, stage.leak)
    k = f.multiply(ts, 1.0 / stage.unfolds)

    def slope(v: Value) -> Value:
        n, d = _sums(f, stage.recurrent, v, n0, d0)
        return f.divide(f.subtract(n, f.multiply(d, v)), stage.cm)

    for _ in range(stage.unfolds):
        if stage.solver == "explicit":
            v = f.add(v, f.multiply(k, slope(v)))
        elif stage.solver == "runge_kutta":
            v = _runge_kutta(f, slope, v, k)
        else:
            n, d = _sums(f, stage.recurrent, v, n0, d0)
            d = f.add(d, stage.epsilon)
            change = f.multiply(k, f.subtract(n, f.multiply(d, v)))
            v = f.add(v, f.divide(change, f.add(stage.cm, f.multiply(k, d))))
    return v


def _runge_kutta(f: Formula, slope: Callable[[Value], Value], v: Value, k: Value) -> Value:
    half = f.multiply(k, 0.5)
    f1 = slope(v)
    f2 = slope(f.add(v, f.multiply(half, f1)))
    f3 = slope(f.add(v, f.multiply(half, f2)))
    f4 = slope(f.add(v, f.multiply(k, f3)))
    total = f.add(f.add(f1, f.multiply(f.add(f2, f3), 2.0)), f4)
    return f.add(v, f.multiply(f.multiply(k, total), 1.0 / 6.0))
