"""The kernels of metal/ on an Apple GPU through mx.fast.metal_kernel, behind the names of a
backend; `dispatch` calls it.
"""

from __future__ import annotations

import mlx.core as mx

from . import _cfc_kernels, _ltc_kernels
from ._kernels import Runner

NAME = "metal"
run = Runner(NAME, mx.fast.metal_kernel, mx.gpu)


def available() -> tuple[bool, str]:
    """Whether MLX has a Metal GPU here."""
    if not mx.metal.is_available():
        return False, "MLX has no Metal GPU here"
    return True, "mx.fast.metal_kernel"


def unsupported(op: str, **facts) -> str:
    """Sizes whose state exceeds threadgroup memory."""
    kernels = _ltc_kernels if op == "ltc_sequence" else _cfc_kernels
    return kernels.unsupported(**facts)


def ltc_sequence(
    inputs,
    state,
    ts,
    params,
    *,
    ode_unfolds,
    epsilon,
    implicit_param_constraints,
    synapses,
    training,
):
    """LTC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for
    the gradient.
    """
    return _ltc_kernels.ltc_sequence(
        run,
        inputs,
        state,
        ts,
        params,
        unfolds=int(ode_unfolds),
        epsilon=epsilon,
        implicit=implicit_param_constraints,
        synapses=synapses,
        training=training,
    )


def cfc_sequence(inputs, state, ts, params, *, mode, activation, training):
    """CfC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves for
    the gradient.
    """
    return _cfc_kernels.cfc_sequence(
        run, inputs, state, ts, params, mode=mode, activation=activation, training=training
    )
