"""What every public class and function says of itself: a real signature, types, a docstring that
names each parameter.
"""

import ast
import inspect
import re
from pathlib import Path

import mlx_ncps
import pytest
from mlx_ncps import cells, config, convert, layers, ops, rnn, weights, wirings

PACKAGE = Path(mlx_ncps._loader.__file__).parent
MODULES = (mlx_ncps, cells, layers, rnn, wirings, convert, config, weights, ops, ops.numpy)
VARIADIC = {  # functions whose docstring says what the rest are; no class has any but these
    "export_function",
    "from_keras",
    "from_mlx_port",
    "from_torch",
    *(f"{cell}_{kind}" for cell in ("cfc", "ltc") for kind in ("step", "mixed_sequence")),
    *(f"{cell}_mixed_sequence_backward" for cell in ("cfc", "ltc")),
}
# The fields of these have comments behind them, and follow the equations by name.
OPERATORS = ("mlx_ncps.ops", "mlx_ncps.backends.reference")  # take the symbols of equations
FIELDS = {"CfCParams", "LSTMParams", "LTCParams", "Synapse"}


def public():
    found = {}
    for module in MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                found[f"{module.__name__}.{name}"] = thing
    names = dict.fromkeys(map(id, found.values()))
    for name, thing in found.items():
        names[id(thing)] = names[id(thing)] or pytest.param(thing, id=name.replace("mlx_ncps.", ""))
    return list(names.values())


everything = pytest.mark.parametrize("thing", public())


def documented(thing) -> str:
    """The docstring of a function or class, of its bases, and of the classes whose arguments it
    says to have.
    """
    texts = [inspect.getdoc(part) or "" for part in getattr(thing, "__mro__", [thing])[:2]]
    named = [getattr(mlx_ncps, name, None) for name in re.findall(r"`(\w+)`", " ".join(texts))]
    return " ".join(
        [*texts, *(inspect.getdoc(part) or "" for part in named if inspect.isclass(part))]
    )


@everything
def test_a_signature_names_every_argument(thing):
    parameters = inspect.signature(thing).parameters.values()
    rest = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert not rest or thing.__name__ in VARIADIC
    assert not rest or not inspect.isclass(thing)


@everything
def test_every_argument_and_result_has_a_type(thing):
    signature = inspect.signature(thing)
    without = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert without == []
    assert inspect.isclass(thing) or signature.return_annotation is not signature.empty


@everything
def test_every_argument_is_documented(thing):
    if thing.__name__ in FIELDS or thing.__module__.startswith(OPERATORS):
        return
    text = documented(thing)
    names = inspect.signature(thing).parameters
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def functions(tree, inside=""):
    """(qualified name, definition) of the functions of a module and of its classes' methods."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield inside + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{inside}{node.name}.")


def untyped(text: str) -> list[str]:
    """The functions that are not private, of a module's text, that lack a type."""
    found = []
    for name, node in functions(ast.parse(text)):
        words = [word for word in name.split(".") if not re.fullmatch(r"__\w+__", word)]
        if any(word.startswith("_") for word in words):
            continue
        args = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        args += [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
        args = [arg for arg in args if arg.arg not in ("self", "cls")]
        returns = node.returns is not None or node.name == "__init__"
        if not returns or any(arg.annotation is None for arg in args):
            found.append(name)
    return found


def test_every_function_of_the_package_that_is_not_private_has_types():
    found = {
        p.relative_to(PACKAGE).as_posix(): untyped(p.read_text()) for p in PACKAGE.rglob("*.py")
    }
    assert len(found) > 90
    assert {name: functions for name, functions in found.items() if functions} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("def f(x): ...", 1),
        ("def f(x: int): ...", 1),
        ("def f(*x) -> int: ...", 1),
        ("class A:\n    def __call__(self, x) -> int: ...", 1),
        ("class A:\n    def f(self, x: int) -> int: ...", 0),
        ("class _A:\n    def f(self, x): ...\ndef _g(x): ...", 0),
    ],
)
def test_a_function_without_types_is_found(text, count):
    assert len(untyped(text)) == count


def test_a_subclass_of_a_class_with_passed_options_has_its_own_signature():
    class Own(rnn.CfCRNN):
        def __init__(self, size: int):
            super().__init__(size, 4)

    assert list(inspect.signature(Own).parameters) == ["size"]
    assert "mode" in inspect.signature(rnn.CfCRNN).parameters
    assert "ode_unfolds" in inspect.signature(rnn.LTCRNN).parameters
    assert "backward_cell" in inspect.signature(rnn.MMRNN).parameters
    call = inspect.signature(rnn.CfCRNN(2, 3))  # of the object: that of its call
    assert list(call.parameters)[:3] == ["inputs", "hx", "timespans"]
