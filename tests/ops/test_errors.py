"""What the ops refuse: the message names the op, the argument, what was wanted and what came."""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import ops

from tests.support.cases import CfcCase, LtcCase, make, to_mlx

LTC = LtcCase(density=0.5)  # B = 3, T = 3, I = 3, H = 8
CFC = CfcCase()  # B = 3, T = 4, I = 3, H = 8, K = 9
LEAVES = {
    "gleak": "[H]",
    "vleak": "[H] = (8,)",
    "cm": "[H] = (8,)",
    **dict.fromkeys(("w", "sigma", "mu", "erev", "mask"), "[H, H] = (8, 8)"),
    **{f"sensory_{n}": "[I, H] = (3, 8)" for n in ("w", "sigma", "mu", "erev", "mask")},
    "input_w": "[I] = (3,)",
    "input_b": "[I] = (3,)",
}


def run(case, **changes):
    """The op of the case with some of its arguments changed; a name of params changes that leaf."""
    call = to_mlx(make(case))
    leaves = {k: changes.pop(k) for k in list(changes) if k in call.params._fields}
    names = ("inputs", "state", "ts", "params")
    arguments = dict(zip(names, call.arguments, strict=True))
    arguments["params"] = call.params._replace(**leaves)
    arguments |= {k: changes.pop(k) for k in names if k in changes}
    op = ops.ltc_sequence if isinstance(case, LtcCase) else ops.cfc_sequence
    return op(*arguments.values(), **call.keywords | changes)


def refuses(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("case", [LTC, CFC], ids=["ltc", "cfc"])
def test_op_refuses_wrong_inputs_and_state(case):
    op = "ltc" if case is LTC else "cfc"
    with refuses(f"[{op}] inputs must be [B, T, I], got (3, 3)."):
        run(case, inputs=mx.zeros((3, 3)))
    with refuses(f"[{op}] state must be [B, H] = (3, 8), got (3, 7)."):
        run(case, state=mx.zeros((3, 7)))
    with refuses(f"[{op}] state must be [B, H] = (3, 8), got (8,)."):
        run(case, state=mx.zeros((8,)))
    with refuses(
        f"[{op}] inputs must be an mx.array, got a NumPy array (3, 4, 3): wrap it in mx.array(...)."
    ):
        run(case, inputs=np.zeros((3, 4, 3)))
    for dtype in ("int32", "bool_", "complex64"):
        inputs = mx.zeros((3, case.steps, 3)).astype(getattr(mx, dtype))
        with refuses(
            f"[{op}] inputs must be float32, float16 or bfloat16, got {dtype.rstrip('_')}."
        ):
            run(case, inputs=inputs)
    with (
        mx.stream(mx.cpu),
        refuses(f"[{op}] state must be float32, float16 or bfloat16, got float64."),
    ):
        run(case, state=mx.zeros((3, 8), mx.float64))


@pytest.mark.parametrize("name", LEAVES)
def test_ltc_refuses_a_wrong_parameter(name):
    with refuses(f"[ltc] params.{name} must be {LEAVES[name]}, got (5, 2, 1)."):
        run(LTC, **{name: mx.zeros((5, 2, 1))})
    with refuses(f"[ltc] params.{name} must be an mx.array, got float."):
        run(LTC, **{name: 1.0})
    if "mask" not in name:
        shape = {"[H]": (8,), "[I]": (3,), "[H, H]": (8, 8), "[I, H]": (3, 8)}[
            LEAVES[name].split(" =")[0]
        ]
        with refuses(f"[ltc] params.{name} must be float32, float16 or bfloat16, got int32."):
            run(LTC, **{name: mx.zeros(shape, mx.int32)})


def test_ltc_refuses_inputs_of_another_width_than_the_parameters():
    with refuses("[ltc] params.sensory_w must be [I, H] = (4, 8), got (3, 8)."):
        run(LTC, inputs=mx.zeros((3, 3, 4)))


@pytest.mark.parametrize("unfolds", [0, -1, 2.0, True, "6", None])
def test_ltc_refuses_wrong_unfolds(unfolds):
    with refuses(f"[ltc] ode_unfolds must be an integer >= 1, got {unfolds!r}."):
        run(LTC, ode_unfolds=unfolds)


@pytest.mark.parametrize("epsilon", [-1e-9, float("nan"), float("inf"), "0", None])
def test_ltc_refuses_wrong_epsilon(epsilon):
    with refuses(f"[ltc] epsilon must be a number >= 0, got {epsilon!r}."):
        run(LTC, epsilon=epsilon)


def test_ltc_refuses_synapses_that_do_not_fit():
    with refuses("[ltc] synapses must be those of 3 inputs and 8 units, got 2 inputs and 8 units."):
        run(LTC, synapses=ops.SynapseLists(np.ones((8, 8)), np.ones((2, 8))))
    with refuses("[ltc] synapses must be a SynapseLists or None, got tuple."):
        run(LTC, synapses=())
    with refuses("[ltc] synapses need params.mask and params.sensory_mask, got None."):
        run(LTC, mask=None, synapses=ops.SynapseLists(np.ones((8, 8)), np.ones((3, 8))))


@pytest.mark.parametrize("name", ["ff1", "ff2", "time_a", "time_b"])
def test_cfc_refuses_a_wrong_head(name):
    for wrong in (mx.zeros((7, 9)), mx.zeros((8, 8))):
        with pytest.raises(ValueError, match=r"\[cfc\] (state|params.\w+\[\d\]) must be \["):
            run(CFC, **{name: (wrong, mx.zeros((8,)))})
    with refuses(f"[cfc] params.{name}[1] must be [H] = (8,), got (7,)."):
        run(CFC, **{name: (mx.zeros((8, 9)), mx.zeros((7,)))})
    with refuses(f"[cfc] params.{name} must be a pair (weight, bias), got NoneType."):
        run(CFC, **{name: None})


def test_cfc_refuses_a_wrong_backbone():
    with refuses("[cfc] params.backbone[0][0] must be [K, N] = (9, 11), got (9, 10)."):
        run(CFC, backbone=((mx.zeros((9, 10)), mx.zeros((9,))),))
    with refuses("[cfc] params.backbone[0][1] must be [K] = (9,), got (8,)."):
        run(CFC, backbone=((mx.zeros((9, 11)), mx.zeros((8,))),))
    layer = (mx.zeros((9, 11)), mx.zeros((9,)))
    with refuses("[cfc] params.backbone[1][0] must be [K, N] = (9, 9), got (9, 11)."):
        run(CFC, backbone=(layer, layer))
    with refuses("[cfc] params.ff1[0] must be [H, N] = (8, 11), got (8, 9)."):
        run(CFC, backbone=())


@pytest.mark.parametrize("name", ["w_tau", "A"])
def test_cfc_pure_refuses_a_wrong_parameter(name):
    with refuses(f"[cfc] params.{name} must be [H] = (8,), got (1, 8)."):
        run(CfcCase(mode="pure"), **{name: mx.zeros((1, 8))})
    with refuses(f"[cfc] params.{name} must be an mx.array, got NoneType."):
        run(CfcCase(mode="pure"), **{name: None})


def test_cfc_refuses_an_unknown_mode_or_activation():
    with refuses("[cfc] mode must be one of default, no_gate, pure, got 'fast'."):
        run(CFC, mode="fast")
    with pytest.raises(
        ValueError, match=r"activation must be one of lecun_tanh, .*, got 'none_such'\."
    ):
        run(CFC, activation="none_such")


def test_cfc_update_refuses_wrong_heads_and_modes():
    x = mx.zeros((3, 4))
    with refuses("[cfc] mode must be one of default, no_gate, got 'pure'."):
        ops.cfc_update(x, x, x, x, 1.0, mode="pure")
    with refuses("[cfc] variant must be one of torch, keras, paper, got 'jax'."):
        ops.cfc_update(x, x, x, x, 1.0, variant="jax")
    with refuses("[cfc] f2 must be [..., H] = (3, 4), got (3, 5)."):
        ops.cfc_update(x, mx.zeros((3, 5)), x, x, 1.0)
    with refuses("[cfc] w_tau must be [H] = (4,), got (1, 4)."):
        ops.cfc_update_pure(x, mx.zeros((1, 4)), mx.zeros((4,)), 1.0)


@pytest.mark.parametrize("op", ["ltc_step", "cfc_step"])
def test_step_refuses_a_sequence(op):
    with refuses(f"[{op[:3]}] inputs must be [B, I], got (3, 1, 2)."):
        getattr(ops, op)(mx.zeros((3, 1, 2)), mx.zeros((3, 8)), 1.0, None)
    with refuses(f"[{op[:3]}] timespans must be [B] = (3,), got (4,)."):
        getattr(ops, op)(mx.zeros((3, 2)), mx.zeros((3, 8)), mx.zeros((4,)), None)
