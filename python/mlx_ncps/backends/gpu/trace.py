"""Traces the GPU operators without running them: every launch of a call, as the launch code makes
it. plans prints launches, build_backend/metallib_source.py turns them into functions.
"""

from __future__ import annotations

import mlx.core as mx

from ..backends import _cfc_kernels, _kernels, _ltc_kernels
from ..ops import CfCParams, LTCParams


def runner(launched, backend: str = "metal") -> _kernels.Runner:
    """A Runner whose kernels answer zeros, with the geometry of a backend. `launched(kernel,
    launch)` hears of every launch: `kernel` are the keywords of mx.fast.metal_kernel, `launch`
    those of its call.
    """

    def register(**kernel):
        def launch(**call):
            launched(kernel, call)
            shapes, dtypes = call["output_shapes"], call["output_dtypes"]
            return [mx.zeros(s, d) for s, d in zip(shapes, dtypes, strict=True)]

        return launch

    return _kernels.Runner(backend, register, mx.cpu)


def trace_ltc(run, *, batch, steps, inputs, units, unfolds, training, synapses=None) -> None:
    """The launches of ltc_sequence, and with `training` of its gradient."""
    square, sensory = (units, units), (inputs, units)
    leaves = [(units,)] * 3 + [square] * 4 + [sensory] * 4
    arrays = [(batch, steps, inputs), (batch, units), (batch, steps), *leaves]
    options = {"unfolds": unfolds, "epsilon": 1e-8, "implicit": False, "synapses": synapses}

    def call(x, v, ts, *leaves):
        params = LTCParams(*leaves)
        return _ltc_kernels.ltc_sequence(run, x, v, ts, params, training=training, **options)

    _trace(call, arrays, training)


def trace_cfc(
    run,
    *,
    batch,
    steps,
    inputs,
    units,
    backbone,
    mode,
    activation,
    scalar_ts,
    training,
    variant="torch",
) -> None:
    """The launches of cfc_sequence, and with `training` of its gradient."""
    widths = [inputs + units, *backbone]
    heads = 1 if mode == "pure" else 4
    layers = [((n, m), (n,)) for m, n in zip(widths, backbone, strict=False)]
    layers += [((units, widths[-1]), (units,))] * heads
    tail = [(units,)] * 2 if mode == "pure" else []
    arrays = [(batch, steps, inputs), (batch, units), (batch, steps)]
    arrays += [shape for pair in layers for shape in pair] + tail

    def call(x, h, ts, *flat):
        flat, last = (flat[:-2], flat[-2:]) if tail else (flat, (None, None))
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        hidden, out = tuple(pairs[: len(backbone)]), pairs[len(backbone) :]
        out += [None] * (4 - len(out))
        params = CfCParams(hidden, *out, *last)
        spans = 1.0 if scalar_ts else ts
        options = {"mode": mode, "activation": activation, "variant": variant}
        return _cfc_kernels.cfc_sequence(run, x, h, spans, params, training=training, **options)

    _trace(call, arrays, training)


def _trace(call, shapes, training) -> None:
    arrays = [mx.zeros(shape) for shape in shapes]
    if not training:
        call(*arrays)
        return
    mx.vjp(call, arrays, [mx.zeros((*shapes[0][:2], shapes[1][1]))])
