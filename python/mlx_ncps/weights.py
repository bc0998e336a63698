"""Setting the weights of a module as a whole or not at all: `load_weights` and `save_weights` of
every layer and cell, and the last step of every conversion.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from .checks import brief, flag, is_array, kind_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._types import WeightSource
    from .weight_files import Stored

__all__ = ["load_weights", "save_weights"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__


Module = TypeVar("Module", bound=nn.Module)

_MASKS = ("sparsity_mask", "source_mask")  # what a NaN would turn into synapses


class WeightFiles(nn.Module):
    """`load_weights` and `save_weights` of every layer and cell, in place of those of
    `mlx.nn.Module`.
    """

    def load_weights(self, file_or_weights: WeightSource, strict: bool = True) -> Self:
        """Load all weights, masks and wirings, or raise and leave this as it was; see
        `mlx_ncps.weights.load_weights`.
        """
        return load_weights(self, file_or_weights, strict)

    def save_weights(self, file: str | os.PathLike[str]) -> None:
        """Write all weights, masks and wirings; see `mlx_ncps.weights.save_weights`."""
        save_weights(self, file)


def load_weights(module: Module, file_or_weights: WeightSource, strict: bool = True) -> Module:
    """Load all parameters of any `mlx.nn.Module`, or raise and leave it as it was; returns it.

    Args:
        module: what to load into.
        file_or_weights: path of a `.safetensors` or `.npz` file; or a dict of `mx.array` by name,
            as `mx.load` gives, or a list of pairs (name, `mx.array`).
        strict: the names must be exactly those of the module. False: unknown names are ignored and
            missing ones keep their values; shapes must fit all the same.

    Floating arrays keep the dtype of the file (float64 becomes float32). Raises ValueError when a
    file is corrupt, truncated or claims sizes that it hasn't, when a name is missing, unknown or
    given twice, for a wrong shape and a wrong kind of dtype; FileNotFoundError.

    Example:
        >>> from mlx_ncps.weights import load_weights
        >>> arrays = {"weight": mx.ones((1, 2)), "bias": mx.zeros(1)}
        >>> load_weights(nn.Linear(2, 1), arrays)(mx.ones(2)).item()
        2.0
        >>> load_weights(nn.Linear(2, 1), {"weight": mx.ones((1, 2))})
        Traceback (most recent call last):
        ValueError: ...bias...
    """
    _check_module("load_weights", module)
    stored, strict = _entries(file_or_weights), flag("load_weights", "strict", strict)
    current: dict[str, Any] = dict(tree_flatten(module.parameters()))
    if strict:
        check_names("load_weights", set(current), set(stored))
    chosen = {name: stored[name] for name in current if name in stored}
    for name, entry in chosen.items():
        check_shape("load_weights", name, current[name].shape, entry.shape)
    values = {name: entry.read() for name, entry in chosen.items()}
    for name, value in values.items():
        check_values("load_weights", name, value, current[name])
    replace(module, values)
    return module


def save_weights(module: nn.Module, file: str | os.PathLike[str]) -> None:
    """Write all parameters of `module`, any `mlx.nn.Module`, to a `.safetensors` file, with
    checksums that `load_weights` checks, or to an `.npz` file, whose format has some.

    Example:
        >>> from mlx_ncps.weights import load_weights, save_weights
        >>> layer = CfC(3, 4)
        >>> save_weights(layer, "cfc.safetensors")
        >>> twin = load_weights(CfC(3, 4), "cfc.safetensors")
        >>> mx.array_equal(twin(mx.ones((2, 5, 3)))[0], layer(mx.ones((2, 5, 3)))[0]).item()
        True
    """
    _check_module("save_weights", module)
    from .weight_files import save_arrays  # when it is needed first: zipfile, json

    save_arrays("save_weights", file, dict(tree_flatten(module.parameters())))


def replace(module: nn.Module, values: dict[str, mx.array]) -> None:
    """Set these parameters, whose names and shapes are checked, row-contiguous; none when one is
    refused.
    """
    before = module.parameters()
    plain = [(name, mx.contiguous(value)) for name, value in values.items()]
    plain.sort(key=lambda item: _is_mask(item[0]))  # last, as wirings may follow masks and erev
    try:
        module.update(tree_unflatten(plain))
        for part in module.modules():
            if hasattr(part, "_sync_wiring"):
                part._sync_wiring()  # refuses masks and wirings that disagree
        mx.eval(module.parameters())
    except BaseException:
        module.update(before)
        raise


def check_names(op: str, wanted: set, given: set) -> None:
    """Raise ValueError with the names that are missing or unknown."""
    if missing := sorted(wanted - given):
        raise ValueError(f"[{op}] source must have {_list(missing)}, got none of them.")
    if extra := sorted(given - wanted):
        raise ValueError(f"[{op}] the layer must have {_list(extra)}, got none of them.")


def check_shape(op: str, name: str, wanted: tuple, given: tuple) -> None:
    """Raise ValueError when the shapes differ."""
    if tuple(wanted) != tuple(given):
        raise ValueError(f"[{op}] {name} must be {tuple(wanted)}, got {tuple(given)}.")


def check_values(op: str, name: str, value: mx.array, current: mx.array) -> None:
    """Raise ValueError when the dtype is of another kind, or a mask is not finite."""
    floating = mx.issubdtype(current.dtype, mx.floating)
    if mx.issubdtype(value.dtype, mx.floating) != floating:
        kind = "floating" if floating else "integer"
        raise ValueError(f"[{op}] {name} must be of a {kind} dtype, got {value.dtype}.")
    if _is_mask(name) and not mx.all(mx.isfinite(value)).item():
        raise ValueError(f"[{op}] {name} must be finite, got NaN or infinity.")


def _is_mask(name: str) -> bool:
    return name.rpartition(".")[2].removeprefix("sensory_").startswith(_MASKS)


def _entries(source: WeightSource) -> dict[str, Stored]:
    from .weight_files import Stored, open_arrays

    if isinstance(source, (str, os.PathLike)):
        return open_arrays("load_weights", source)
    entries = {}
    for name, value in _pairs(source):
        if not is_array(value):
            raise ValueError(f"[load_weights] {name} must be an mx.array, got {kind_of(value)}.")
        if name in entries:
            raise ValueError(f"[load_weights] {name} must be given once, got it twice.")
        if value.dtype == mx.float64:
            value = value.astype(mx.float32, stream=mx.cpu)
        entries[name] = Stored(value.shape, lambda value=value: value)
    return entries


def _check_module(op: str, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"[{op}] module must be an mlx.nn.Module, got {type(module).__name__}.")


def _pairs(source: Any) -> list[tuple]:
    """(name, value) of a dict or of a list of pairs."""
    wanted = "file_or_weights must be a path, a dict or a list of pairs (name, mx.array)"
    if isinstance(source, Mapping):
        source = list(source.items())
    if not isinstance(source, (list, tuple)):
        raise ValueError(f"[load_weights] {wanted}, got {type(source).__name__}.")
    for pair in source:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError(f"[load_weights] {wanted}, got {brief(pair)} in it.")
    return list(source)


def _list(names: list[str], most: int = 20) -> str:
    rest = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
