"""Every kind of layer under mx.compile(shapeless=True), traced with one shape and called with
others; test_shapeless.py runs it in a process of its own and reads a line for each call:
"<right|refused|WRONG> <layer> <call> <shape of the trace> -> <shape> <message>".
"""

import sys
from functools import partial

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import CfC, cells, rnn, use_backend
from mlx_ncps.wirings import NCP, AutoNCP

from tests.support.cases import relative_error, tolerance
from tests.support.rnn_layers import LAYERS, I

OPTIONS = {
    "": {},
    ".mixed": {"mixed_memory": True},
    ".proj": {"proj_size": 3},
    ".last": {"return_sequences": False},
    ".time_first": {"batch_first": False},
    ".backwards": {"go_backwards": True},
    ".both": {"bidirectional": True},
}
MORE = {
    "cfc_no_gate": lambda: CfC(I, 6, mode="no_gate", backbone_units=[7, 9]),
    "cfc_keras": lambda: CfC(I, 6, variant="keras"),
    "cfc_ncp": lambda: CfC(I, NCP(7, 5, 3, 3, 2, 3, 2), backbone_units=5),
    "ltc_wide": lambda: rnn.LTC(I, 33),
    "ltc_backbone": lambda: rnn.LTC(cells.LTCCell(6, I, backbone_units=5), return_sequences=True),
    "ltc_explicit": lambda: rnn.LTC(I, 6, ode_solver="explicit"),
    "cfc_stacked": lambda: rnn.CfCRNN(I, 6, num_layers=2),
    "ltc_stacked": lambda: rnn.LTCRNN(I, 6, num_layers=2),
    "ctrnn": lambda: rnn.LiquidRNN(cells.CTRNNCell(I, 6)),
    "neural_ode": lambda: rnn.LiquidRNN(cells.NeuralODECell(I, 6)),
    "eltc": lambda: rnn.LiquidRNN(cells.ELTCCell(AutoNCP(10, 2), I)),
    "ctgru": lambda: rnn.LiquidRNN(cells.CTGRUCell(I, 6)),
    "ode_rnn": lambda: rnn.LiquidRNN(cells.ODERNNCell(I, 6)),
    "ode_lstm": lambda: rnn.LiquidRNN(cells.ODELSTMCell(I, 6)),
}
TRACES = ((2, 5), (1, 1), (40, 2))  # of 40 rows the LTC's kernel is another
SHAPES = ((2, 5), (7, 5), (1, 5), (2, 1), (3, 9), (40, 3), (2, 0), (0, 5))


def layers():
    for name, make in LAYERS.items():
        for suffix, options in OPTIONS.items():
            yield name + suffix, partial(make, **options)
    yield from MORE.items()


def states(layer, batch):
    sizes = layer._state_sizes
    if isinstance(sizes, dict):
        return tuple(mx.random.normal((batch, size)) for size in sizes.values())
    return mx.random.normal((batch, sizes))


def calls(layer):
    """Name -> (function of arrays, arrays of B and T)."""
    first = getattr(layer, "batch_first", True)

    def inputs(B, T):
        return mx.random.normal((B, T, I) if first else (T, B, I))

    def common(T):
        return mx.random.uniform(0.1, 2.0, (T,))

    def spans(B, T):
        return mx.random.uniform(0.1, 2.0, (B, T) if first else (T, B))

    yield "plain", layer, lambda B, T: (inputs(B, T),)
    yield "number", lambda x: layer(x, timespans=0.7), lambda B, T: (inputs(B, T),)
    yield "spans", lambda x, ts: layer(x, None, ts), lambda B, T: (inputs(B, T), spans(B, T))
    yield (
        "common",
        lambda x, ts: layer(x, None, ts),
        lambda B, T: (inputs(B, T), mx.random.uniform(0.1, 2.0, (T,))),
    )
    yield "half", layer, lambda B, T: (inputs(B, T).astype(mx.float16),)
    yield "unbatched", layer, lambda B, T: (inputs(1, T).reshape(T, I),)
    yield "mask", lambda x, m: layer(x, mask=m), lambda B, T: (inputs(B, T), spans(B, T) > 1.0)
    yield "gradient", gradient(layer), lambda B, T: (inputs(B, T),)
    if not hasattr(layer, "layers") and not (layer.bidirectional or layer.go_backwards):
        yield "state", layer, lambda B, T: (inputs(B, T), states(layer, B))
        yield "step", layer.step, lambda B, T: (inputs(B, 1).reshape(B, I),)
        yield "cell", layer.rnn_cell, lambda B, T: cell_arrays(layer.rnn_cell, B)


def cell_arrays(cell, B):
    x = mx.random.normal((B, I))
    return x, cell.get_initial_state(x), mx.random.uniform(0.1, 2.0, (B,))


def gradient(layer):
    def loss(x):
        output = layer(x)
        return mx.sin(output[0] if isinstance(output, tuple) else output).sum()

    return mx.grad(loss)


def outcome(compiled, f, arrays, limit):
    """What a call of the compiled function gives, as a word and a message."""
    try:
        got = compiled(*arrays)
        mx.eval(got)
    except ValueError as error:
        return "refused", str(error).splitlines()[0]
    except Exception as error:
        return "WRONG", f"{type(error).__name__}: {error}"
    for (name, a), (_, b) in zip(tree_flatten(got), tree_flatten(f(*arrays)), strict=True):
        if a.shape != b.shape:
            return "WRONG", f"{name} has the shape {a.shape}, want {b.shape}"
        if not a.size:
            continue
        error = relative_error(np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32)))
        if not error <= limit:
            return "WRONG", f"{name} has the relative error {error}"
    return "right", ""


def main(backend, names):
    mx.random.seed(0)
    for name, make in layers():
        if (names and name.split(".")[0] not in names) or (backend, name) == (
            "cpu",
            "ltc_explicit",
        ):
            continue
        layer = make()
        layer.eval()
        mx.eval(layer.parameters())
        for call, f, arrays_of in calls(layer):
            limit = tolerance("float16" if call == "half" else "float32", "gradient")
            few = backend == "reference"  # it refuses when it is traced
            for trace in TRACES[: 2 if few else None]:
                compiled = mx.compile(f, shapeless=True)
                for shape in (trace, *SHAPES[: 2 if few else None]):
                    arrays = arrays_of(*shape)
                    mx.eval(arrays)
                    with use_backend(backend):
                        word, message = outcome(compiled, f, arrays, limit)
                    print(word, name, call, trace, "->", shape, message, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
