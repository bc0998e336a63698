"""The parameters of the operators: arrays by name."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class CfCParams(NamedTuple):
    """The parameters of a CfC; a layer is a pair (weight [out, in], bias [out]), as in torch.

    The first layer of the backbone, or each head when the backbone is empty, reads [x, h]: I + H
    columns. Masks of a wiring are multiplied into the weights by the caller. A mode doesn't read
    the leaves of another.
    """

    backbone: tuple  # may be empty, of pairs [K, N], [K]
    ff1: tuple  # [H, K], [H]
    ff2: tuple | None = None  # [H, K], [H] not in the mode pure
    time_a: tuple | None = None  # [H, K], [H] not in the mode pure
    time_b: tuple | None = None  # [H, K], [H] not in the mode pure
    w_tau: mx.array | None = None  # [H] the mode pure alone
    A: mx.array | None = None  # [H] the mode pure alone


class LTCParams(NamedTuple):
    """The raw parameters of an LTC, as ncps has them; synapses are indexed [source, target].

    A mask of None is all ones; of a mask only |mask| counts. input_w or input_b of None leaves that
    half of the input mapping x input_w + input_b out.
    """

    gleak: mx.array  # [H] leak conductance
    vleak: mx.array  # [H] leak potential
    cm: mx.array  # [H] membrane capacitance
    w: mx.array  # [H, H] synapses between neurons: conductance
    sigma: mx.array  # [H, H] slope
    mu: mx.array  # [H, H] midpoint
    erev: mx.array  # [H, H] reversal potential
    sensory_w: mx.array  # [I, H] the same from the inputs
    sensory_sigma: mx.array  # [I, H]
    sensory_mu: mx.array  # [I, H]
    sensory_erev: mx.array  # [I, H]
    mask: mx.array | None = None  # [H, H]
    sensory_mask: mx.array | None = None  # [I, H]
    input_w: mx.array | None = None  # [I]
    input_b: mx.array | None = None  # [I]


class LSTMParams(NamedTuple):
    """The weights of the LSTM; the 4H rows are i, ig, fg, og."""

    input_weight: mx.array  # [4H, I]
    bias: mx.array  # [4H]
    recurrent_weight: mx.array  # [4H, H]
