"""The parameters of the operators: arrays by name."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class CfCParams(NamedTuple):
    """The parameters of a CfC; a layer is a pair (weight [out, in], bias [out]), as in torch.

    The first layer of the backbone, or each head when the backbone is empty, reads [x, h]: I + H
    columns. K is the last width of the backbone, or I + H. Masks of a wiring are multiplied into
    the weights by the caller. A mode doesn't read the leaves of another.

    Args:
        backbone: a tuple of layers, which may be empty.
        ff1: the head f1, [H, K] and [H].
        ff2, time_a, time_b: the heads f2, a and b, of the same sizes; not in the mode pure.
        w_tau, A: [H], of the mode pure alone.

    Example:
        >>> params = CfCCell(3, 4, backbone_units=8).params()
        >>> params.backbone[0][0].shape, params.ff1[0].shape
        ((8, 7), (4, 8))
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

    Args:
        gleak, vleak, cm: [H], leak conductance, leak potential and membrane capacitance.
        w, sigma, mu, erev: [H, H], conductance, slope, midpoint and reversal potential of the
            synapses between neurons.
        sensory_w, sensory_sigma, sensory_mu, sensory_erev: [I, H], those of the inputs.
        mask, sensory_mask: [H, H] and [I, H], of which only |mask| counts; None is all ones.
        input_w, input_b: [I], the input mapping x input_w + input_b; None leaves that half out.

    Example:
        >>> params = LTCCell(4, 3).params()
        >>> params.gleak.shape, params.w.shape, params.sensory_w.shape
        ((4,), (4, 4), (3, 4))
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
    """The weights of the LSTM; the 4H rows are i, ig, fg, og.

    Args:
        input_weight: [4H, I].
        bias: [4H].
        recurrent_weight: [4H, H].

    Example:
        >>> ops.LSTMParams(mx.ones((16, 3)), mx.zeros(16), mx.ones((16, 4))).bias.shape
        (16,)
    """

    input_weight: mx.array  # [4H, I]
    bias: mx.array  # [4H]
    recurrent_weight: mx.array  # [4H, H]
