"""What compare_results.py computes of layers and cells: every kind in every way to call it, with
outputs, last states and gradients, and the weights that `redraw` draws.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_ncps import (
    LTC,
    LTCRNN,
    MMRNN,
    CfC,
    CfCCell,
    CfCRNN,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidRNN,
    LSTMCell,
    LTCCell,
    NCPDense,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
    StreamingSession,
    WiredCfCCell,
    carry_forward,
    chunked_value_and_grad,
    dispatch,
)
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

from tools.result_operators import Entry, numbers

B, T, I = 3, 5, 4
PLAIN = {  # name: layer of these options
    "cfc": lambda inputs=I, **o: CfC(inputs, 6, backbone_units=9, **o),
    "cfc_pure": lambda inputs=I, **o: CfC(inputs, 6, mode="pure", backbone_layers=0, **o),
    "cfc_wired": lambda inputs=I, **o: CfC(inputs, AutoNCP(10, 2), **o),
    "ltc": lambda inputs=I, **o: LTC(inputs, 6, ode_unfolds=3, **o),
    "ltc_wired": lambda inputs=I, **o: LTC(inputs, AutoNCP(10, 2), ode_unfolds=3, **o),
}
OPTIONS = {
    "mixed": {"mixed_memory": True},
    "concat": {"bidirectional": True},
    "sum_mixed": {"bidirectional": True, "merge_mode": "sum", "mixed_memory": True},
    "pair_last": {"bidirectional": True, "merge_mode": None, "return_sequences": False},
    "backwards": {"go_backwards": True},
    "proj": {"proj_size": 3},
    "last": {"return_sequences": False, "return_state": False},
    "stateful": {"stateful": True},
    "stateful_mixed": {"stateful": True, "mixed_memory": True, "proj_size": 2},
}
KINDS = {
    **{
        f"cfc_{a}": lambda a=a: CfC(I, 17, activation=a, backbone_layers=2, backbone_units=19)
        for a in ("tanh", "relu", "gelu", "silu")
    },
    "cfc_no_gate": lambda: CfC(I, 33, mode="no_gate", backbone_units=[7, 9]),
    "cfc_no_backbone": lambda: CfC(I, 20, backbone_layers=0),
    "cfc_keras": lambda: CfC(I, 6, backbone_units=9, variant="keras"),
    "cfc_paper": lambda: CfC(I, 20, backbone_layers=0, variant="paper"),
    "cfc_large": lambda: CfC(I, 140),
    "cfc_dropout": lambda: CfC(I, 6, backbone_layers=2, backbone_units=9, backbone_dropout=0.3),
    "cfc_random": lambda: CfC(I, Random(8, 3, 0.4)),
    "cfc_ncp": lambda: CfC(I, NCP(7, 5, 3, 3, 2, 3, 2), mode="no_gate"),
    "cfc_wired_backbone": lambda: CfC(I, AutoNCP(10, 2), backbone_units=7),
    "cfc_wired_keras": lambda: CfC(I, AutoNCP(10, 2), variant="keras", mode="pure"),
    "cfc_wired_dropout": lambda: CfC(
        I, AutoNCP(10, 2), backbone_layers=2, backbone_units=7, backbone_dropout=0.3
    ),
    "cfc_wired_synapses": lambda: CfC(I, AutoNCP(12, 3), fully_recurrent=False),
    "cfc_cell": lambda: CfC(CfCCell(I, 9, backbone_units=5)),
    "ltc_large": lambda: LTC(I, 70),
    "ltc_ncp": lambda: LTC(I, NCP(7, 5, 3, 3, 2, 3, 2)),
    "ltc_lists": lambda: LTC(I, AutoNCP(64, 8)),
    "ltc_unmapped": lambda: LTC(I, 20, input_mapping=None, output_mapping=None),
    "ltc_linear": lambda: LTC(I, Random(9, 4, 0.5), output_mapping="linear"),
    "ltc_constraints": lambda: LTC(I, AutoNCP(40, 5), implicit_param_constraints=False),
    "ltc_full": lambda: LTC(I, FullyConnected(8, 4)),
    "ltc_explicit": lambda: LTC(I, 6, ode_solver="explicit", ode_unfolds=40),
    "ltc_runge_kutta": lambda: LTC(I, AutoNCP(10, 2), ode_solver="runge_kutta"),
    "ltc_backbone": lambda: LTC(LTCCell(AutoNCP(10, 2), I, backbone_units=[7, 6])),
    "ltc_backbone_mixed": lambda: LTC(LTCCell(6, I, backbone_units=[7]), mixed_memory=True),
    "cfc_stack": lambda: CfCRNN(I, 6, 2, proj_size=5),
    "cfc_stack_both": lambda: CfCRNN(I, 6, 2, bidirectional=True, proj_size=5),
    "ltc_stack": lambda: LTCRNN(I, AutoNCP(10, 2), 2, mixed_memory=True),
    "liquid_cfc": lambda: LiquidRNN(CfCCell(I, 6)),
    "liquid_wired": lambda: LiquidRNN(WiredCfCCell(I, AutoNCP(10, 2))),
    "liquid_ltc": lambda: LiquidRNN(LTCCell(6, I), return_sequences=True, return_state=True),
    "ct_rnn": lambda: LiquidRNN(CTRNNCell(I, 6, learn_tau=True), return_sequences=True),
    "neural_ode": lambda: LiquidRNN(NeuralODECell(I, 6)),
    "ct_gru": lambda: LiquidRNN(CTGRUCell(I, 6)),
    "ode_rnn": lambda: LiquidRNN(ODERNNCell(I, 6)),
    "ode_lstm": lambda: LiquidRNN(ODELSTMCell(I, 6), return_sequences=True, return_state=True),
    "eltc": lambda: LiquidRNN(ELTCCell(AutoNCP(10, 2), I), bidirectional=True),
    "memory_ct_rnn": lambda: MMRNN(CTRNNCell(I, 6), return_state=True),
    "memory_cfc": lambda: MMRNN(CfCCell(I, 6), return_state=True),
}
RANGES = {  # of parameters that are no weights of a linear map
    "w": (0.01, 1.0), "sigma": (3.0, 8.0), "mu": (0.3, 0.8), "gleak": (0.01, 1.0),
    "vleak": (-0.2, 0.2), "cm": (0.4, 0.6), "input_w": (0.5, 1.5), "output_w": (0.5, 1.5),
    "A": (0.5, 1.5), "erev": (-1.5, 1.5),
}  # fmt: skip


def settled(layer: nn.Module, name: str) -> nn.Module:
    """The layer with parameters drawn from its name."""
    rng, drawn = numbers(name), []
    trainable = dict(tree_flatten(layer.trainable_parameters()))
    for key in sorted(trainable):
        shape = trainable[key].shape
        bound = np.sqrt(6.0 / sum(shape)) if len(shape) == 2 else 0.3
        last = key.rpartition(".")[2].removeprefix("sensory_")
        low, high = RANGES.get(last, (-bound, bound))
        drawn.append((key, mx.array(rng.uniform(low, high, shape).astype(np.float32))))
    layer.update(tree_unflatten(drawn))
    mx.eval(layer.parameters())
    return layer


def data(name: str, width: int = I, batch: int = B, steps: int = T) -> dict[str, mx.array]:
    """Evaluated inputs [B, T, I], time spans [B, T] and a mask [B, T] from a name."""
    rng = numbers("data " + name)
    arrays = {
        "x": mx.array(rng.normal(size=(batch, steps, width)).astype(np.float32)),
        "ts": mx.array(rng.uniform(0.1, 2.0, (batch, steps)).astype(np.float32)),
        "mask": mx.array(rng.uniform(size=(batch, steps)) < 0.7),
        "features": mx.array(rng.uniform(size=(batch, steps, width)) < 0.6),
    }
    mx.eval(arrays)
    return arrays


def layers() -> Iterator[tuple[str, Entry]]:
    """Every kind of layer in each way to call it, and a few of them in every option."""
    for name, make in {**PLAIN, **KINDS}.items():
        for form, call in FORMS.items():
            yield f"{name}-{form}", functools.partial(_called, name, make, call)
        yield f"draw-{name}", functools.partial(_redrawn, make)
    for name, make in PLAIN.items():
        for label, options in OPTIONS.items():
            for form in ("at_once", "graph", "mask", "steps", "gradient"):
                made = functools.partial(make, **options)
                whole = f"{name}-{label}-{form}"
                yield whole, functools.partial(_called, f"{name}-{label}", made, FORMS[form])
        for label, call in OTHERS.items():
            yield f"{name}-{label}", functools.partial(_called, name, make, call)
    yield from _small_parts()


def _called(name, make, call):
    mx.random.seed(3)
    return call(settled(make(), name), **data(name))


def _redrawn(make) -> dict:
    layer = make()
    layer.redraw(mx.random.key(5))
    return layer.parameters()


def _in_a_graph(call):
    """`call` with nothing computed at once, which evaluates lazy inputs too."""

    def run(*arrays, **named):
        ask, dispatch.runs_steps_on_cpu = dispatch.runs_steps_on_cpu, lambda: False
        try:
            return call(*arrays, **named)
        finally:
            dispatch.runs_steps_on_cpu = ask

    return run


def _loss(outputs) -> mx.array:
    return sum(mx.square(leaf).sum() for _, leaf in tree_flatten(outputs))


def _gradient(layer, x, ts, **others):
    """Loss and gradients for parameters, inputs and time spans."""

    def loss(parameters, x, ts):
        layer.update(parameters)
        return _loss(layer(x, timespans=ts, **others))

    return mx.value_and_grad(loss, (0, 1, 2))(layer.trainable_parameters(), x, ts)


def _steps(layer, x, ts, **_):
    state, results = None, []
    for t in range(3):
        output, state = layer.step(x[:, t], state, ts[:, t] if t == 2 else None)
        results.append((output, state))
        mx.eval(output, state)
    return results


def _evaluated_steps(layer, x, ts, **_):
    rows = [mx.contiguous(x[:, t]) for t in range(3)]
    spans = mx.contiguous(ts[:, 2])
    mx.eval(rows, spans)
    state, results = None, []
    for t, row in enumerate(rows):
        output, state = layer.step(row, state, spans if t == 2 else None)
        results.append((output, state))
    return results


def _in_half(dtype):
    def call(layer, x, ts, **_):
        layer.set_dtype(dtype)
        x = x.astype(dtype)
        return layer(x, timespans=ts), _gradient(layer, x, ts)

    return call


def _evaluation(layer, x, ts, **_):
    layer.eval()
    return layer(x, timespans=ts)


FORMS = {
    "at_once": lambda layer, x, **_: layer(x),
    "at_once_spans": lambda layer, x, ts, **_: layer(x, timespans=ts),
    "graph": _in_a_graph(lambda layer, x, ts, **_: layer(x, timespans=ts)),
    "scalar": _in_a_graph(lambda layer, x, **_: layer(x, timespans=0.625)),
    "mask": _in_a_graph(lambda layer, x, ts, mask, **_: layer(x, timespans=ts, mask=mask)),
    "eval": _evaluation,
    "steps": _in_a_graph(_steps),
    "evaluated_steps": _evaluated_steps,
    "gradient": lambda layer, x, ts, **_: _gradient(layer, x, ts),
    "float16": _in_a_graph(_in_half(mx.float16)),
    "bfloat16": _in_a_graph(_in_half(mx.bfloat16)),
}


def _compiled(layer, x, ts, **_):
    function = mx.compile(lambda x, ts: layer(x, timespans=ts), inputs=layer.state)
    return function(x, ts)


def _vmapped(layer, x, ts, **_):
    pair = mx.stack([x, 0.5 * x])
    return mx.vmap(lambda x: layer(x, timespans=ts))(pair)


def _masked_gradient(layer, x, ts, mask, **_):
    return _gradient(layer, x, ts, mask=mask)


def _twice(layer, x, ts, **_):
    _, state = layer(x, timespans=ts)
    return _in_a_graph(layer)(x, state, ts), layer(x, state, 0.5)


def _cell_alone(layer, x, ts, **_):
    cell, state = layer.rnn_cell, mx.zeros((x.shape[0], layer.state_size))
    row = mx.contiguous(x[:, 0])
    mx.eval(row, state)
    graph = _in_a_graph(cell)
    return cell(row, state, 0.5), graph(row, state, 0.5), graph(row, state, ts[:, :1])


def _session(layer, x, **_):
    session = StreamingSession(layer)
    return [mx.array(session(row, 0.1)) for row in np.array(x[0])]


def _chunked(layer, x, ts, **_):
    def loss(layer, state, x, ts):
        output, state = layer(x, state, ts)
        return mx.square(output).sum(), state

    state = mx.zeros((x.shape[0], layer.state_size))
    return chunked_value_and_grad(layer, loss)(
        [(x[:, :2], ts[:, :2]), (x[:, 2:], ts[:, 2:])], state
    )


OTHERS = {
    "compiled": _compiled,
    "vmap": _vmapped,
    "mask_gradient": _masked_gradient,
    "twice": _twice,
    "cell": _cell_alone,
    "session": _session,
    "chunked": _in_a_graph(_chunked),
    "empty": lambda layer, x, **_: (layer(x[:, :0]), layer(x[:0])),
    "one": lambda layer, x, **_: layer(x[0]),
}


def _small_parts() -> Iterator[tuple[str, Entry]]:
    """Cells and functions that no layer above reaches."""

    def lstm():
        cell = settled(LSTMCell(I, 6), "lstm")
        x, state = data("lstm")["x"][:, 0], mx.zeros((B, 6))
        return cell(x, (state, state))

    def features(width):
        layer = settled(CfC(width, 6), f"features {width}")
        d = data("features", 4)
        return _in_a_graph(layer)(d["x"], timespans=d["ts"], mask=d["features"])

    def forward():
        d = data("carry")
        return carry_forward(d["x"], d["features"], d["ts"])

    def dense():
        layer = NCPDense(wiring=Random(6, 2, 0.5))
        layer.build(I)
        layer = settled(layer, "dense")
        return layer(data("dense")["x"])

    yield "lstm_cell", lstm
    yield "features-8", functools.partial(features, 8)
    yield "features-12", functools.partial(features, 12)
    yield "carry_forward", forward
    yield "ncp_dense", dense
