"""`targets(name)`: the valid calls of a public callable, which the fuzz spoils."""

from __future__ import annotations

import mlx.core as mx
import mlx_ncps as m
import numpy as np
from mlx_ncps import cells, config, convert, export, layers, ops, rnn, weights, wirings

from . import native
from .constructors import CONSTRUCTORS
from .functions import FUNCTIONS, OPS, RUNNERS
from .methods import method_arguments
from .objects import OBJECTS


def targets(name: str):
    """The calls of a public name, each a function that gives (callable, valid arguments).

    Raises KeyError, here or when a call is made, for a name without arguments here.
    """
    kind, _, method = name.partition(".")
    if name.startswith(native.PREFIX):
        return [_plain(native.call(method), made) for made in native.CALLS[method]]
    if kind == "numpy":
        return [_plain(getattr(ops.numpy, method), made, True) for made in OPS[method]]
    if method:
        objects = [make for make in OBJECTS[kind] if _one_way(method, make())]
        return [_bound(kind, method, made) for made in objects]
    if kind in CONSTRUCTORS:
        return [_plain(_find(kind), made) for made in CONSTRUCTORS[kind]]
    if kind in RUNNERS:
        return [_plain(RUNNERS[kind], made) for made in FUNCTIONS[kind]]
    return [_plain(_find(kind), made) for made in (OPS | FUNCTIONS)[kind]]


def _find(name: str):
    modules = (m, ops, cells, layers, rnn, wirings, convert, export, weights, config)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def _plain(function, arguments, in_numpy=False):
    def call():
        given = arguments()
        return function, _numpy(given) if in_numpy else given

    return call


def _one_way(method, made) -> bool:
    """Whether this form of an object has the method: a bidirectional layer has no `step`."""
    return method != "step" or not getattr(made, "bidirectional", False)


def _bound(kind: str, method: str, make):
    def call():
        made = make()
        arguments = method_arguments(kind, method, made)
        return getattr(made, method), arguments

    return call


def _numpy(tree):
    """The same arguments with NumPy's arrays."""
    if isinstance(tree, mx.array):
        return np.array(tree)
    if isinstance(tree, dict):
        return {key: _numpy(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        items = [_numpy(value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree
