"""The LTC operators with their parameters (MATHS 3): check, bring to one form, dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import dispatch
from ..backends import LTCFacts
from ..checks import flag
from . import shapeless
from .calls import Call
from .checks import check_array, check_ltc, check_ltc_options
from .params import LTCParams
from .resets import checked_resets
from .synapses import SynapseLists
from .timespans import normalise_step_timespans, normalise_timespans

if TYPE_CHECKING:
    from .._types import TimespansLike


def ltc_sequence(
    inputs: mx.array,
    state: mx.array,
    ts: TimespansLike,
    params: LTCParams,
    *,
    ode_unfolds: int = 6,
    epsilon: float = 1e-8,
    implicit_param_constraints: bool = False,
    ode_solver: str = "semi_implicit",
    synapses: SynapseLists | None = None,
    resets: mx.array | None = None,
    reset_state: mx.array | None = None,
    training: bool = True,
) -> mx.array:
    """LTC over a sequence -> states [B, T, H], the membrane potentials after each step.

    Args:
        inputs: [B, T, I], float32, float16 or bfloat16; the result has this dtype, everything
            inside is float32.
        state: [B, H], potentials before the first step.
        ts: elapsed time per step, in the unit of the model's time: None (1.0), a number >= 0, or an
            array of shape [], [T], [B, T] or [B, T, 1], in which negative elements give NaN from
            there on. ts = 0 keeps the state.
        params: LTCParams.
        ode_unfolds: solver steps per time step, >= 1, each of length ts / ode_unfolds.
        epsilon: added to the denominator of semi_implicit, >= 0.
        implicit_param_constraints: w, sensory_w, cm and gleak go through softplus.
        ode_solver: "semi_implicit" (order 1, stable for any step), "explicit" (Euler's method,
            order 1) or "runge_kutta" (the classical one, order 4). The latter two need cm > 0, and
            diverge where a step is long against cm over the sum of a neuron's conductances; they
            are fused on the CPU, and on GPUs the reference backend runs them.
        synapses: SynapseLists of the masks, lets fused backends skip the zeros; None: dense. It
            never replaces a mask.
        resets: [B, T], not 0 where the state starts anew before a step; None: nowhere.
        reset_state: from which it does, as `state`, and None for the same. On a backend whose
            kernels don't (`RESETS`) such a call runs step by step.
        training: save what the gradient needs; False saves memory, and a gradient still comes out
            the same.

    Raises ValueError for wrong shapes, dtypes or options; RuntimeError when a forced backend can't
    run.
    Source: Hasani et al. 2021, "Liquid Time-constant Networks"; semi_implicit equals ncps.torch.

    Example:
        >>> params = LTCCell(4, 3).params()  # 4 neurons, 3 inputs
        >>> ops.ltc_sequence(mx.ones((2, 5, 3)), mx.zeros((2, 4)), 0.5, params).shape
        (2, 5, 4)
    """
    options = check_ltc_options(
        ode_unfolds=ode_unfolds,
        epsilon=epsilon,
        implicit_param_constraints=implicit_param_constraints,
        ode_solver=ode_solver,
    )
    anew = resets, reset_state
    return prepare_ltc(inputs, state, ts, params, options, synapses, training, *anew).run()


def prepare_ltc(
    inputs: mx.array,
    state: mx.array,
    ts: TimespansLike,
    params: Any,
    options: dict,
    synapses: SynapseLists | None,
    training: bool,
    resets: Any = None,
    reset_state: Any = None,
    op: str = "ltc_sequence",
) -> Call:
    """The checked call of `ltc_sequence` with its backend; `options`: all of LTC_OPTIONS, checked;
    `op`: what the backend is chosen for.
    """
    B, T, I, H = check_ltc(inputs, state, params, synapses)
    if type(ts) is not float or not ts >= 0:  # what a layer has normalised is
        ts = normalise_timespans("ltc", ts, B, T, inputs)
    facts = LTCFacts(
        batch=B,
        steps=T,
        inputs=I,
        units=H,
        dtype=inputs.dtype,
        scalar_ts=getattr(ts, "ndim", 0) == 0,
        training=training,
        ode_unfolds=options["ode_unfolds"],
        ode_solver=options["ode_solver"],
        synapses=synapses,
    )
    backend = dispatch.choose(op, facts)
    training = training if type(training) is bool else flag("ltc", "training", training)
    keywords = options | {"synapses": synapses, "training": training}
    if options["ode_solver"] == "semi_implicit":
        del keywords["ode_solver"]
    keywords |= checked_resets("ltc", resets, reset_state, state, B, T)
    arrays: Any = [p if p is None else p.astype(mx.float32) for p in params]
    params = LTCParams(*arrays)
    state = state.astype(mx.float32)
    return Call("ltc_sequence", backend, inputs, state, ts, params, keywords)


def ltc_step(
    inputs: mx.array, state: mx.array, ts: TimespansLike, params: LTCParams, **keywords: Any
) -> mx.array:
    """One step: inputs [B, I], state [B, H] -> state [B, H], in the dtype of the inputs.

    `ts`: None (1.0), a number >= 0, or an array of shape [], [B] or [B, 1].
    The rest, and the keywords, are those of `ltc_sequence`.

    Example:
        >>> params = LTCCell(4, 3).params()
        >>> ops.ltc_step(mx.ones((2, 3)), mx.zeros((2, 4)), 0.5, params).shape
        (2, 4)
    """
    check_array("ltc", "inputs", inputs, "[B, I]", (None, None))
    ts = normalise_step_timespans("ltc", ts, inputs.shape[:1])
    with shapeless.one_step():
        return ltc_sequence(inputs[:, None], state, ts, params, **keywords)[:, 0]
