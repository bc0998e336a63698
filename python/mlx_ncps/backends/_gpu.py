"""The functions of a GPU backend, the same for metal, metallib and cuda, which differ in how a
kernel is launched: each calls `functions` with its Runner.
"""

from __future__ import annotations

from . import _cfc_kernels, _ltc_kernels
from .types import CfCFacts, Facts

MIXED_MEMORY = False


def unsupported(op: str, facts: Facts) -> str:
    """Sizes whose state exceeds threadgroup memory, and the solvers of an LTC but the default."""
    if isinstance(facts, CfCFacts):
        return _cfc_kernels.unsupported(facts)
    if facts.ode_solver != "semi_implicit":
        return f"the kernels run semi_implicit only, got {facts.ode_solver}"
    return _ltc_kernels.unsupported(facts)


def functions(runner):
    """(ltc_sequence, cfc_sequence) of a backend; `runner()` gives its Runner at the call."""

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
        """LTC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves
        for the gradient.
        """
        return _ltc_kernels.ltc_sequence(
            runner(),
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

    def cfc_sequence(inputs, state, ts, params, *, mode, activation, variant="torch", training):
        """CfC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves
        for the gradient.
        """
        return _cfc_kernels.cfc_sequence(
            runner(),
            inputs,
            state,
            ts,
            params,
            mode=mode,
            activation=activation,
            variant=variant,
            training=training,
        )

    return ltc_sequence, cfc_sequence
