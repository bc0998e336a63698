"""Traces the GPU operators without running them: every launch of a call, as the launch code makes
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx

from ..activations import first_dropped
from ..types import Facts, LTCFacts
from . import cfc, ltc
from .geometry import APPLE, Geometry
from .runner import Runner

# Of ops.LTCParams and ops.CfCParams, in their order
_LTC = ("gleak", "vleak", "cm", "w", "sigma", "mu", "erev")
_LTC += tuple(f"sensory_{name}" for name in _LTC[3:])
_OPTIONAL = ("mask", "sensory_mask", "input_w", "input_b")
_CFC = ("backbone", "ff1", "ff2", "time_a", "time_b", "w_tau", "A")

MOST_STEPS = 4096  # of a call whose launches are counted


class Launched(NamedTuple):
    """Equal launches of a call: how many, threadgroups, and threads of each."""

    kernel: str
    launches: int
    groups: int
    threads: int


def runner(
    launched: Callable[[dict, dict], Any], geometry: Geometry = APPLE, cuda: bool = False
) -> Runner:
    """A Runner whose kernels answer zeros. `launched(kernel, launch)` hears of every launch:
    `kernel` are the keywords of mx.fast.metal_kernel, `launch` those of its call.  cuda: with
    CUDA's text, as mx.fast.cuda_kernel is given it.
    """

    def register(**kernel):
        def launch(**call):
            launched(kernel, call)
            shapes, dtypes = call["output_shapes"], call["output_dtypes"]
            return [mx.zeros(s, d) for s, d in zip(shapes, dtypes, strict=True)]

        return launch

    return Runner("trace", register, mx.cpu, geometry, cuda=cuda)


def groups_of(call: dict) -> int:
    """Threadgroups of a launch."""
    return math.prod(-(-g // t) for g, t in zip(call["grid"], call["threadgroup"], strict=True))


def launches(
    trace: Callable[..., None], *, geometry: Geometry = APPLE, **facts: Any
) -> list[Launched]:
    """The launches of a traced call, `trace_ltc` or `trace_cfc`, in their order."""
    seen: dict[tuple, int] = {}

    def launched(kernel, call):
        key = kernel["name"], groups_of(call), math.prod(call["threadgroup"])
        seen[key] = seen.get(key, 0) + 1

    trace(runner(launched, geometry), **facts)
    return [Launched(kernel, count, *sizes) for (kernel, *sizes), count in seen.items()]


def launch_count(facts: Facts, geometry: Geometry) -> int | None:
    """How many kernels a call of these facts launches, with `training` for its gradient too; None
    for more steps than MOST_STEPS, which take long to count.
    """
    if facts.steps > MOST_STEPS:
        return None
    if 0 in (facts.batch, facts.steps):
        return 0
    call = {"batch": facts.batch, "steps": facts.steps, "training": facts.training}
    call |= {"inputs": facts.inputs, "units": facts.units}
    if isinstance(facts, LTCFacts):
        call |= {"unfolds": facts.ode_unfolds, "synapses": facts.synapses}
        found = launches(trace_ltc, geometry=geometry, **call)
    else:
        names = ("backbone", "mode", "activation", "variant", "scalar_ts", "dropout")
        call |= {name: getattr(facts, name) for name in names}
        found = launches(trace_cfc, geometry=geometry, **call)
    return sum(one.launches for one in found)


def trace_ltc(
    run: Runner,
    *,
    batch: int,
    steps: int,
    inputs: int,
    units: int,
    unfolds: int,
    training: bool,
    synapses: Any = None,
    implicit: bool = False,
) -> None:
    """The launches of ltc_sequence, and with `training` of its gradient."""
    square, sensory = (units, units), (inputs, units)
    leaves = [(units,)] * 3 + [square] * 4 + [sensory] * 4
    arrays = [(batch, steps, inputs), (batch, units), (batch, steps), *leaves]
    options = {"ode_unfolds": unfolds, "epsilon": 1e-8, "implicit_param_constraints": implicit}
    options |= {"synapses": synapses, "training": training}

    def call(x, v, ts, *leaves):
        params: Any = SimpleNamespace(
            **dict(zip(_LTC, leaves, strict=True)), **dict.fromkeys(_OPTIONAL)
        )
        return ltc.sequence(run, x, v, ts, params, **options)

    _trace(call, arrays, training)


def trace_cfc(
    run: Runner,
    *,
    batch: int,
    steps: int,
    inputs: int,
    units: int,
    backbone: tuple[int, ...],
    mode: str,
    activation: str,
    scalar_ts: bool,
    training: bool,
    variant: str = "torch",
    dropout: bool = False,
    resets: bool = False,
    holds: bool = False,
) -> None:
    """The launches of cfc_sequence, and with `training` of its gradient. dropout: with factors of
    what the layers give.  resets: with states that start anew.  holds: with steps that leave a
    state as it is.
    """
    widths = [inputs + units, *backbone]
    heads = 1 if mode == "pure" else 4
    layers = [((n, m), (n,)) for m, n in zip(widths, backbone, strict=False)]
    layers += [((units, widths[-1]), (units,))] * heads
    tail = [(units,)] * 2 if mode == "pure" else []
    arrays = [(batch, steps, inputs), (batch, units), (batch, steps)]
    arrays += [shape for pair in layers for shape in pair] + tail
    beside: dict[str, Any] = {}
    if dropped := sum(backbone[first_dropped(variant) :]) * dropout:
        beside["dropout"] = mx.zeros((batch, steps, dropped))
    if resets:
        beside["resets"] = [mx.zeros((batch, steps), mx.bool_), mx.zeros((batch, units))]
    if holds:
        beside["held"] = mx.zeros((batch, steps), mx.bool_)

    def call(x, h, ts, *flat):
        flat, last = (flat[:-2], flat[-2:]) if tail else (flat, (None, None))
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        hidden, out = tuple(pairs[: len(backbone)]), pairs[len(backbone) :]
        out += [None] * (4 - len(out))
        params: Any = SimpleNamespace(**dict(zip(_CFC, (hidden, *out, *last), strict=True)))
        spans = 1.0 if scalar_ts else ts
        options: Any = {"mode": mode, "activation": activation, "variant": variant} | beside
        return cfc.sequence(run, x, h, spans, params, training=training, **options)

    _trace(call, arrays, training)


def _trace(call: Callable[..., mx.array], shapes: list[tuple[int, ...]], training: bool) -> None:
    arrays = [mx.zeros(shape) for shape in shapes]
    if not training:
        call(*arrays)
        return
    mx.vjp(call, arrays, [mx.zeros((*shapes[0][:2], shapes[1][1]))])
