"""What a constructor refuses it calls by the name that the user gave: every argument of each."""

import re

import mlx_ncps
import pytest
from mlx_ncps import LTCRNN, CfC, CfCRNN, cells, convert, wirings
from mlx_ncps.wirings import AutoNCP

from tools.argument_fuzz.constructors import CONSTRUCTORS

BAD = [object(), "bogus", -3, 0, [1, "x"], 2.5, {}, True, float("nan"), b"x"]
HOMES = (mlx_ncps, cells, wirings, convert)
CASES = [
    pytest.param(kind, n, id=f"{kind}-{n}")
    for kind in CONSTRUCTORS
    if any(hasattr(home, kind) for home in HOMES)
    for n in range(len(CONSTRUCTORS[kind]))
]


def class_of(kind):
    return next(getattr(home, kind) for home in HOMES if hasattr(home, kind))


@pytest.mark.parametrize(("kind", "n"), CASES)
def test_an_error_names_the_argument_that_is_wrong(kind, n):
    make = CONSTRUCTORS[kind][n]
    refused = 0
    for name in make():
        wanted = "backend" if kind == "use_backend" else name
        # of CfCCell(object()) nobody knows whether it was to be a number or a wiring
        either = "hidden_size" if kind == "CfCCell" and name == "input_size" else wanted
        for bad in BAD:
            error = message(class_of(kind), make() | {name: bad})
            assert re.search(rf"\b({wanted}|{either})\b", error or wanted), (name, bad, error)
            refused += bool(error)
    assert refused or not make(), kind


def message(kind, arguments):
    """The error of a constructor; "" where it accepts its arguments."""
    try:
        kind(**arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["CfC", "CfCCell", "WiredCfCCell", "LTCCell"])
def test_an_activation_is_named_as_it_was_given(kind):
    sizes = {
        "CfC": (3, 4),
        "CfCCell": (3, 4),
        "LTCCell": (4, 3),
        "WiredCfCCell": (3, AutoNCP(8, 2)),
    }
    with pytest.raises(ValueError, match=r"\] activation must be one of lecun_tanh, "):
        class_of(kind)(*sizes[kind], activation="bogus")
    if "Cell" in kind and kind != "LTCCell":
        with pytest.raises(ValueError, match=r"\] backbone_activation must be one of lecun_tanh, "):
            class_of(kind)(*sizes[kind], backbone_activation="bogus")


@pytest.mark.parametrize("stack", [CfCRNN, LTCRNN])
@pytest.mark.parametrize("bad", [None, 0, "x", object()])
def test_a_stack_speaks_of_hidden_size(stack, bad):
    with pytest.raises(ValueError, match=r"_rnn\] hidden_size must be an integer >= 1"):
        stack(3, bad)


def test_a_layer_speaks_of_units_also_where_they_are_missing():
    with pytest.raises(ValueError, match=r"\[cfc\] units must be a number of neurons >= 1 or a W"):
        CfC(3)
