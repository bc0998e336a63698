"""Options of every cell, layer and op: one check and one error in the constructor, on assignment,
from a configuration, in the ops and on the packed path of a step.
"""

import inspect
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import (
    LTC,
    LTCRNN,
    MMRNN,
    CfC,
    CfCCell,
    CfCRNN,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidRNN,
    LSTMCell,
    LTCCell,
    NCPDense,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
    WiredCfCCell,
    ops,
)
from mlx_ncps.ops import numpy as truth
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import CfcCase, LtcCase, make, to_mlx

NOT_INTEGERS = [0, -1, 2.7, "6", True, math.nan]
NOT_NUMBERS = [-1, math.nan, math.inf, "1", None, True, 10**400]
NOT_FLAGS = ["no", 2, None, 0.5, []]
NOT_SOLVERS = ["rk4", None, 3, ["explicit"]]
NOT_ACTIVATIONS = ["step", 3, ["tanh"]]
BAD = {
    "ode_unfolds": [*NOT_INTEGERS, None, 2**40],
    "epsilon": NOT_NUMBERS,
    "implicit_param_constraints": NOT_FLAGS,
    "ode_solver": NOT_SOLVERS,
    "input_mapping": ["square", 1, ["affine"]],
    "output_mapping": ["square", 1, ["affine"]],
    "initialization_ranges": [
        {"nope": (0, 1)},
        *({"w": pair} for pair in [(1, 0), (0, math.nan), ("0", "1"), 1, (0, 1, 2)]),
    ],
    "mode": ["fast", None, 1, ["pure"]],
    "variant": ["tf", None, 1, ["torch"]],
    "hidden_size": [*NOT_INTEGERS, None],
    "input_size": NOT_INTEGERS,
    "backbone_units": [0, -1, 2.7, "6", True, [3, 0], [3, "4"]],
    "backbone_layers": [-1, 2.7, "6", True],
    "backbone_dropout": [-0.1, 1.0, math.nan, "0.5"],
    "backbone_activation": NOT_ACTIVATIONS,
    "activation": NOT_ACTIVATIONS,
    "fully_recurrent": NOT_FLAGS,
    "tau": [0, *NOT_NUMBERS],
    "learn_tau": NOT_FLAGS,
    "field_units": [(0,), (2.7,), ("6",)],
    "scales": [*NOT_INTEGERS, None],
    "units": [0, -1, 2.7, "6", True],
    "use_bias": NOT_FLAGS,
    "proj_size": NOT_INTEGERS,
    "num_layers": [*NOT_INTEGERS, None],
    "merge_mode": ["max", 1, ["sum"]],
    **dict.fromkeys(("batch_first", "bidirectional", "go_backwards", "stateful"), NOT_FLAGS),
    "mixed_memory": NOT_FLAGS,
    "return_sequences": ["no", 2, 0.5, []],  # None: the default of the contract
    "return_state": ["no", 2, 0.5, []],
}
# No options but objects: checked where they are read.
OBJECTS = {"self", "cell", "backward_cell", "wiring", "in_features", "sparsity_mask", "options"}

# What an error may call an option of a layer, whose cell checks it.
ALSO = {
    "units": ("hidden_size", "wiring"),
    "hidden_size": ("units", "wiring"),
    "backbone_activation": ("activation",),
    "input_size": ("input_dim",),
}

SIZES = {"input_size": 3, "hidden_size": 5}
CLASSES = {
    LTCCell: {"wiring": AutoNCP(8, 2)},
    CfCCell: SIZES,
    WiredCfCCell: {"wiring": AutoNCP(8, 2)},
    CTRNNCell: SIZES,
    NeuralODECell: SIZES,
    ELTCCell: {"wiring": 5, "in_features": 3},
    CTGRUCell: SIZES,
    ODERNNCell: SIZES,
    ODELSTMCell: SIZES,
    LSTMCell: SIZES,
    NCPDense: {"units": 4},
    CfC: {"input_size": 3, "units": 5},
    LTC: {"input_size": 3, "units": 5},
    LiquidRNN: {"cell": CTRNNCell(3, 5)},
    MMRNN: {"cell": CTRNNCell(3, 5)},
    CfCRNN: SIZES,
    LTCRNN: SIZES,
}


def options_of(cls):
    return [p for p in inspect.signature(cls.__init__).parameters if p not in OBJECTS]


def cases():
    for cls in CLASSES:
        for option in options_of(cls):
            if cls is MMRNN and option == "mixed_memory":
                continue
            for bad in BAD[option]:
                yield pytest.param(cls, option, bad, id=f"{cls.__name__}-{option}-{str(bad)[:12]}")


def error_of(function) -> str:
    with pytest.raises(ValueError, match=r"^\[") as error:
        function()
    return str(error.value)


@pytest.mark.parametrize(("cls", "option", "bad"), list(cases()))
def test_every_option_is_checked_wherever_it_is_set(cls, option, bad):
    given = CLASSES[cls] | {option: bad}
    wanted = error_of(lambda: cls(**given))
    assert any(name in wanted for name in (option, *ALSO.get(option, ()))), wanted
    made = cls(**CLASSES[cls])
    holder = made if option in vars(made) else getattr(made, "rnn_cell", made)
    if option in vars(holder) and option in holder._checked_options:
        before = getattr(holder, option)
        assert error_of(lambda: setattr(holder, option, bad)) == wanted
        assert getattr(holder, option) == before
    if cls not in (LiquidRNN, MMRNN):
        arguments = made.get_config()
        key = next((k for k in ("arguments", "config", "kwargs") if k in arguments), None)
        config = (
            arguments | {key: arguments[key] | {option: bad}} if key else arguments | {option: bad}
        )
        assert error_of(lambda: cls.from_config(config)) == wanted


def test_fixed_options_keep_the_value_that_made_the_weights():
    for cls, option, other in [
        (CfCCell, "mode", "pure"),
        (CfCCell, "hidden_size", 6),
        (WiredCfCCell, "mode", "no_gate"),
        (WiredCfCCell, "variant", "keras"),
        (WiredCfCCell, "fully_recurrent", False),
        (LTCCell, "input_mapping", "linear"),
        (CTRNNCell, "hidden_size", 6),
        (CTRNNCell, "input_size", 6),
        (CTGRUCell, "scales", 3),
        (NCPDense, "units", 3),
        (CfC, "mixed_memory", True),
        (CfC, "bidirectional", True),
    ]:
        made = cls(**CLASSES[cls])
        before = getattr(made, option)
        with pytest.raises(ValueError, match=f"{option} is fixed when the weights are made"):
            setattr(made, option, other)
        setattr(made, option, before)
        assert getattr(made, option) == before


def test_options_take_numpy_numbers_as_python_numbers():
    cell = LTCCell(4, 3, ode_unfolds=np.int64(2), epsilon=np.float32(1e-3))
    assert (type(cell.ode_unfolds), type(cell.epsilon)) == (int, float)
    cell.implicit_param_constraints = np.bool_(True)
    assert cell.implicit_param_constraints is True
    layer = CfC(3, 4, return_sequences=0, batch_first=1)
    assert (layer.return_sequences, layer.batch_first) == (False, True)


LTC_CALLS = [(o, b) for o in ("ode_unfolds", "epsilon", "ode_solver") for b in BAD[o]]


@pytest.mark.parametrize(("option", "bad"), LTC_CALLS)
def test_ltc_options_raise_the_same_on_every_path(option, bad):
    """Also where something went round the check of the assignment."""
    wanted = error_of(lambda: LTCCell(4, 3, **{option: bad}))
    call = to_mlx(make(LtcCase()))
    assert error_of(lambda: ops.ltc_sequence(*call.arguments, **{option: bad})) == wanted
    case = make(LtcCase())
    assert error_of(lambda: truth.ltc_sequence(*case.arguments, **{option: bad})) == wanted
    cell = LTCCell(4, 3)
    cell.__dict__[option] = bad
    for steps in (None, 2, 500):
        x = mx.zeros((2, 3) if steps is None else (2, steps, 3))
        layer = LTC(cell)
        call = cell if steps is None else layer
        assert error_of(lambda x=x, call=call: call(x, mx.zeros((2, 4)))) == wanted
    assert error_of(lambda: LTC(cell).step(mx.zeros((2, 3)))) == wanted


@pytest.mark.parametrize(
    ("option", "bad"), [(o, b) for o in ("mode", "variant", "activation") for b in BAD[o]]
)
def test_cfc_options_raise_the_same_in_every_op(option, bad):
    call, case = to_mlx(make(CfcCase())), make(CfcCase())
    wanted = error_of(lambda: ops.cfc_sequence(*call.arguments, **{option: bad}))
    assert option in wanted
    assert error_of(lambda: truth.cfc_sequence(*case.arguments, **{option: bad})) == wanted
