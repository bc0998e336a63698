"""What a backend is, and what it is told of a call before it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import mlx.core as mx

if TYPE_CHECKING:
    from ..ops.params import CfCParams, LTCParams
    from ..ops.synapses import SynapseLists


class LTCFacts(NamedTuple):
    """What is known of a call of `ltc_sequence` without its arrays: first what the cell tells, then
    what the call does. A cell alone leaves the latter at one step of one row.
    """

    inputs: int
    units: int
    ode_unfolds: int = 6
    ode_solver: str = "semi_implicit"
    synapses: SynapseLists | None = None  # None: dense
    training: bool = False  # saves what the gradient needs
    batch: int = 1
    steps: int = 1
    dtype: mx.Dtype = mx.float32  # of the inputs
    scalar_ts: bool = True  # the time spans are one number, or an array []


class CfCFacts(NamedTuple):
    """The same of a call of `cfc_sequence`."""

    inputs: int
    units: int
    backbone: tuple[int, ...] = ()  # the widths of its layers
    mode: str = "default"
    activation: str = "lecun_tanh"
    variant: str = "torch"
    training: bool = False
    batch: int = 1
    steps: int = 1
    dtype: mx.Dtype = mx.float32
    scalar_ts: bool = True
    dropout: bool = False  # in its backbone


Facts = LTCFacts | CfCFacts
FusedCall = tuple[str, Facts]  # the name of an op and what is known of a call of it
Timespans = float | mx.array  # a number >= 0, or an array [] or [B, T]


class Backend(Protocol):
    """A module that implements the fused operators.

    What `ops` guarantees: shapes and dtypes are checked; B, T, H >= 1; `inputs` is float32, float16
    or bfloat16 and the result has its dtype; `state`, `ts` (when an array) and every leaf of
    `params` are float32.
    """

    NAME: str

    MIXED_MEMORY: tuple[str, ...]
    """The functions, "ltc_sequence" and "cfc_sequence", that also take memory=[c0, input_weight,
    bias, recurrent_weight], run the LSTM of MATHS 4 in front of the cell in the same call, and
    return [states, c]. A fifth array is what the LSTM reads in place of the inputs, [B, T, M].
    """

    RESETS: tuple[str, ...]
    """Those that also take resets=[at, state], and before the steps where at [B, T] is True the
    state starts anew from `state` [B, H]; with memory resets=[at, state, c]. The others `ops` calls
    at every step.
    """

    MASKS: tuple[str, ...]
    """Those that also take held, [B, T] bool: after the steps where it is True the state is the one
    before. For the others, but for step programs of a GPU (programs/holding.py), a layer moves
    these steps to the end (rnn/masks.py).
    """

    def available(self) -> tuple[bool, str]:
        """Whether it can run in this process, and how, or else why not and the cure."""
        ...

    def unsupported(self, op: str, facts: Facts) -> str:
        """Why it can't run this call; "" when it can.

        op: "ltc_sequence" or "cfc_sequence", or "ltc_mixed_sequence" or "cfc_mixed_sequence" for a
        call with memory. For one that is not in MIXED_MEMORY the answer is that for the cell
        alone, which `ops` then calls at every step.
        """
        ...

    def ltc_sequence(
        self,
        inputs: mx.array,
        state: mx.array,
        ts: Timespans,
        params: LTCParams,
        *,
        ode_unfolds: int,
        epsilon: float,
        implicit_param_constraints: bool,
        synapses: SynapseLists | None,
        training: bool,
    ) -> mx.array:
        """LTC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves
        for the gradient. Those that run other solvers
        than semi_implicit take `ode_solver`, too.
        """
        ...

    def cfc_sequence(
        self,
        inputs: mx.array,
        state: mx.array,
        ts: Timespans,
        params: CfCParams,
        *,
        mode: str,
        activation: str,
        variant: str,
        training: bool,
    ) -> mx.array:
        """CfC over a sequence: inputs [B, T, I], state [B, H] -> states [B, T, H]; `training` saves
        for the gradient. What runs facts with `dropout` also takes it: the factors [B, T, D] of
        what the layers from `first_dropped(variant)` on give, side by side; without a gradient.
        """
        ...
