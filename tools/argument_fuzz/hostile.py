"""Values that no caller should give, and some that look almost right."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_ncps import CfC
from mlx_ncps.wirings import FullyConnected

PLAIN = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "3": lambda: 3,
    "-1": lambda: -1,
    "2**31": lambda: 2**31,
    "10**12": lambda: 10**12,
    "10**400": lambda: 10**400,
    "-10**400": lambda: -(10**400),
    "0.5": lambda: 0.5,
    "-1.0": lambda: -1.0,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1e300": lambda: 1e300,
    "1j": lambda: 1j,
    "''": lambda: "",
    "'x'": lambda: "x",
    "b'x'": lambda: b"x",
    "[]": list,
    "[1, 2]": lambda: [1, 2],
    "[1.5, -2]": lambda: [1.5, -2],
    "ragged": lambda: [[1.0], [2.0, 3.0]],
    "['a']": lambda: ["a"],
    "[None]": lambda: [None],
    "()": lambda: (),
    "(1,)": lambda: (1,),
    "(None, None, None)": lambda: (None, None, None),
    "(3, 'x')": lambda: (3, "x"),
    "{}": dict,
    "{'a': 1}": lambda: {"a": 1},
    "{1: 2}": lambda: {1: 2},
    "{3}": lambda: {3},
    "generator": lambda: (n for n in (1, 2)),
    "range": lambda: range(3),
    "object": object,
    "int": lambda: int,
    "function": lambda: lambda *_: None,
    "np.float64": lambda: np.float64(0.5),
    "np.int64": lambda: np.int64(2),
    "np.bool": lambda: np.bool_(True),
    "np.str": lambda: np.str_("x"),
    "np objects": lambda: np.array([None, "x"], object),
    "np empty": lambda: np.zeros((0,)),
    "np strings": lambda: np.array(["a", "b"]),
    "np structured": lambda: np.zeros(2, [("a", "f4")]),
    "np dates": lambda: np.array(["2026-01-01"], "datetime64[D]"),
    "mx 0-d": lambda: mx.array(0.5),
    "mx int 0-d": lambda: mx.array(2),
    "mx (5, 2, 1)": lambda: mx.zeros((5, 2, 1)),
    "mx empty": lambda: mx.zeros((0,)),
    "mx uninitialised": lambda: mx.array.__new__(mx.array),
    "mx other stream": lambda: mx.add(mx.ones(3), 1, stream=mx.new_stream(mx.cpu)),
    "key": lambda: mx.random.key(0),
    "mx.float32": lambda: mx.float32,
    "mx.float64": lambda: mx.float64,
    "mx.int32": lambda: mx.int32,
    "np.float32": lambda: np.float32,
    "Path": lambda: Path("nowhere.npz"),
    "wiring": lambda: FullyConnected(4, 2),
    "built wiring": lambda: FullyConnected(4, 2, input_dim=7),
    "layer": lambda: CfC(3, 4, backbone_units=5),
    "module": lambda: nn.Linear(3, 4),
}


def _other_shape(x, rng):
    shape = list(x.shape)
    n = rng.randrange(len(shape)) if shape else 0
    kind = rng.choice(["lower", "higher", "wider", "empty", "single"])
    if kind == "higher" or not shape:
        shape.insert(n, 1)
    elif kind == "lower":
        del shape[n]
    else:
        shape[n] = {"wider": shape[n] + 1, "empty": 0, "single": 1}[kind]
    return shape


def _of_shape(x, shape):
    return (mx if isinstance(x, mx.array) else np).ones(shape)


def leaked_tracer(x):
    """An array of mx.compile that its function has let out: it never gets a value."""
    leaked = []

    def function(a):
        leaked.append(a)
        return a

    mx.compile(function)(x)
    return leaked[0]


ARRAYS = {  # what is made of an array or of its NumPy twin
    "another shape": lambda x, rng: _of_shape(x, _other_shape(x, rng)),
    "transposed": lambda x, rng: x.T,
    "numpy float64": lambda x, rng: np.array(x, np.float64),
    "numpy int": lambda x, rng: np.array(x).astype(np.int64),
    "numpy complex": lambda x, rng: np.array(x).astype(np.complex128),
    "numpy object": lambda x, rng: np.array(x).astype(object),
    "list": lambda x, rng: np.array(x).tolist(),
    "int32": lambda x, rng: mx.array(x).astype(mx.int32),
    "bool": lambda x, rng: mx.array(x) > 0,
    "complex64": lambda x, rng: mx.array(x).astype(mx.complex64),
    "float16": lambda x, rng: mx.array(x).astype(mx.float16),
    "float64": lambda x, rng: mx.array(x).astype(mx.float64, stream=mx.cpu),
    "negative": lambda x, rng: -1 - mx.array(x).astype(mx.float32),
    "tracer": lambda x, rng: leaked_tracer(mx.array(x)),
    "NaN": lambda x, rng: mx.array(x).astype(mx.float32) * float("nan"),
}


def replaced(value, rng: random.Random):
    """(what it is, something in place of `value` or of one of its items)."""
    if isinstance(value, dict) and value and rng.random() < 0.5:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            other = rng.choice([1, None, "x", ("a",)])
            return f"key {other!r}", {other if k == key else k: v for k, v in value.items()}
        label, item = replaced(value[key], rng)
        return f"[{key!r}] {label}", {**value, key: item}
    if isinstance(value, tuple | list) and value and rng.random() < 0.75:
        n = rng.randrange(len(value))
        label, item = replaced(value[n], rng)
        items = [*value[:n], item, *value[n + 1 :]]
        kind = type(value)
        return f"[{n}] {label}", kind(*items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, mx.array | np.ndarray) and rng.random() < 0.6:
        label = rng.choice(list(ARRAYS))
        return label, ARRAYS[label](value, rng)
    label = rng.choice(list(PLAIN))
    return label, PLAIN[label]()


def lazily(value):
    """The same arguments with floating arrays that nothing has evaluated."""
    if isinstance(value, mx.array):
        try:
            floating = mx.issubdtype(value.dtype, mx.floating) and value.dtype != mx.float64
        except TypeError:  # never initialised
            return value
        return value * 1 if floating else value
    if type(value) is dict:
        return {key: lazily(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [lazily(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
