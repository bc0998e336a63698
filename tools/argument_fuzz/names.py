"""Every public callable of the package, found by looking: what the fuzz has to cover."""

from __future__ import annotations

import inspect

import mlx_ncps
from mlx_ncps import cells, config, convert, export, layers, ops, rnn, weights, wirings

from . import native

MODULES = (mlx_ncps, cells, config, convert, export, layers, ops, ops.numpy, rnn, weights, wirings)

# Methods that only layers and cells of this package call, with arguments that are checked already;
# and what needs a network.
INTERNAL = frozenset(
    [
        *("build_by_layer", "call", "calls", "items", "layer_class", "mixed_sequence", "params"),
        *("readout", "stepwise", "unless_drawn_by", "weights"),
        "push_to_hub",  # would upload
    ]
)
# A subclass's own code.
USERS = frozenset(
    [
        "LiquidCell.sequence",
        "NCPLayer.compute_output_shape",
        "NCPRNNCell.sequence",
        "NCPRNNCell.synapse_weights",
    ]
)
# Tuples of parameters, whose fields the functions check that take them.
TUPLES = frozenset(["CfCParams", "LSTMParams", "LTCParams", "Seen", "Synapse"])


def public_names(only: str = "") -> list[str]:
    """`function`, `Class`, `Class.method`, `numpy.function` and `native.operator`, each once, that
    hold `only`.
    """
    names = {}
    for module in MODULES:
        prefix = "numpy." if module is ops.numpy else ""
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) and name not in TUPLES:
                names.update(dict.fromkeys([name, *_methods(thing)]))
            elif callable(thing) and not inspect.isclass(thing):
                names[prefix + name] = None
    names.update(dict.fromkeys(native.operators()))
    return [name for name in names if only in name]


def _methods(kind: type) -> list[str]:
    """The public methods that this package gives a class, and its call."""
    found = []
    for name in dir(kind):
        owner = next(base for base in kind.__mro__ if name in vars(base))
        ours = owner.__module__.startswith("mlx_ncps") and callable(getattr(kind, name))
        if ours and (name == "__call__" or not name.startswith("_")) and name not in INTERNAL:
            found.append(f"{kind.__name__}.{name}")
    return [name for name in found if name not in USERS]
