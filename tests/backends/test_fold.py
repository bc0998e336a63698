"""The folded parameters: plain MLX on them gives the states and gradients of the ground truth."""

import mlx.core as mx
import pytest
from mlx_ncps import dispatch
from mlx_ncps.backends import activations, reference
from mlx_ncps.backends.fold import fold_cfc, fold_ltc

from tests.support.cases import CFC_CASES, LTC_CASES, CfcCase, LtcCase, make, to_mlx
from tests.support.running import check_epsilon, check_gradients, check_states

HEADS = {name: one.function for name, one in activations.TABLE.items() if one.heads}


class Folded:
    """A backend that reads folded parameters and is otherwise plain MLX."""

    NAME = "reference"  # takes the place of the reference
    available = staticmethod(reference.available)
    unsupported = staticmethod(reference.unsupported)

    @staticmethod
    def ltc_sequence(
        inputs, state, ts, params, *, ode_unfolds, epsilon, implicit_param_constraints, **_
    ):
        p = fold_ltc(params, implicit_param_constraints, epsilon)

        def sums(v, s2, m2, w, we):
            gate = 1.0 / (1.0 + mx.power(2.0, s2 * v[..., None] + m2))
            return (gate * we).sum(-2), (gate * w).sum(-2)

        sensory = sums(inputs.astype(mx.float32), *p[7:])  # 2 x [B, T, H], from unmapped inputs
        k = mx.broadcast_to(mx.array(ts), inputs.shape[:2]) / ode_unfolds
        states = []
        for t in range(inputs.shape[1]):
            for _ in range(ode_unfolds):
                n, d = (a + b[:, t] for a, b in zip(sums(state, *p[3:7]), sensory, strict=True))
                num = p.cm * state + k[:, t, None] * (p.leak_num + n)
                state = num / (p.cm + k[:, t, None] * (p.leak_den + d))
            states.append(state)
        return mx.stack(states, axis=1).astype(inputs.dtype)

    @staticmethod
    def cfc_sequence(inputs, state, ts, params, *, mode, activation, variant, **_):
        p = fold_cfc(params, ts, mode, variant)
        x, act = inputs.astype(mx.float32), activations.ACTIVATIONS[activation]
        assert p.merged == (mode != "pure" and not isinstance(ts, mx.array))
        times = mx.broadcast_to(mx.array(ts), inputs.shape[:2])
        states = []
        for t in range(inputs.shape[1]):
            z = mx.concatenate([x[:, t], state], axis=1)
            for weight, bias in p.backbone:
                z = act(z @ weight.T + bias)
            f = [z @ weight.T + bias for weight, bias in p.heads]
            if mode == "pure":
                state = reference.cfc_update_pure(*f, *p.tail, times[:, t, None])
            else:
                head = HEADS[p.head_activation]
                F1, F2, u = head(f[0]), head(f[1]), f[2]
                g = mx.sigmoid(u if p.merged else u * times[:, t, None] + f[3])
                state = F1 + g * F2 if mode == "no_gate" else F1 + g * (F2 - F1)
            states.append(state)
        return mx.stack(states, axis=1).astype(inputs.dtype)


@pytest.fixture
def folded(monkeypatch):
    monkeypatch.setattr(dispatch, "HOMES", {Folded.NAME: "any"})
    monkeypatch.setattr(dispatch, "backend", lambda name: Folded)


@pytest.mark.parametrize("case", LTC_CASES + CFC_CASES, ids=str)
def test_fold_leaves_the_states_and_gradients(case, folded):
    check_states(case, "reference")
    check_gradients(case, "reference")


def test_fold_ltc_epsilon_counts(folded):
    check_epsilon("reference")


def test_fold_ltc_adds_no_operation_that_has_nothing_to_do():
    params = to_mlx(make(LtcCase(mapped=False))).params
    folded = fold_ltc(params, False, 0.0)
    assert folded.cm is params.cm
    assert folded.w is params.w
    assert folded.sensory_w is params.sensory_w


def test_fold_cfc_orders_the_arrays_of_the_kernels():
    for mode, ts, count in (("default", 1.0, 3), ("no_gate", mx.ones((3, 4)), 4), ("pure", 1.0, 1)):
        params = to_mlx(make(CfcCase(mode=mode, layers=2))).params
        folded = fold_cfc(params, ts, mode)
        shapes = [a.shape for a in folded.arrays]
        tail = [(8,), (8,)] if mode == "pure" else []
        assert shapes == [(9, 11), (9,), (9, 9), (9,), *[(8, 9), (8,)] * count, *tail]
        assert folded.arrays[0] is params.backbone[0][0]
