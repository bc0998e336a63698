"""What a layer or cell prints: `Shown`, its repr; `summary`, the parameters of any model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .checks import integer, refused

__all__ = ["Part", "Summary", "summary"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__


class Part(NamedTuple):
    """A row of a `Summary`: a module, and its numbers of parameters, those of the modules within it
    included.

    Args:
        name: where it is in the model, "rnn_cell.wiring"; "" of the model itself.
        kind: its class.
        trainable: numbers that training changes.
        other: numbers of masks, wirings and what is frozen.
        note: what is to be said of it, as "not built".

    Example:
        >>> summary(CfC(3, 8)).parts[0]
        Part(name='', kind='CfC', trainable=5664, other=0, note='')
    """

    name: str
    kind: str
    trainable: int
    other: int
    note: str = ""


class Summary(NamedTuple):
    """The parameters of a model by part; printed, a table.

    Args:
        parts: a `Part` for the model itself, then one for each part.

    Example:
        >>> found = summary(CfC(3, 8))
        >>> found.trainable, found.other
        (5664, 0)
    """

    parts: tuple[Part, ...]

    @property
    def trainable(self) -> int:
        """Numbers that training changes."""
        return self.parts[0].trainable

    @property
    def other(self) -> int:
        """Numbers that are saved and not trained: masks, wirings, what is frozen."""
        return self.parts[0].other

    def __str__(self) -> str:
        top, *parts = self.parts
        rows = [("part", "kind", "trainable", "other", "")]
        rows += [(p.name, p.kind, f"{p.trainable:,}", f"{p.other:,}", p.note) for p in parts]
        rows += [("all", top.kind, f"{top.trainable:,}", f"{top.other:,}", top.note)]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = []
        for name, kind, trainable, other, note in rows:
            line = f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {trainable:>{widths[2]}}"
            lines.append(f"{line}  {other:>{widths[3]}}  {note}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def summary(module: nn.Module, depth: int = 2) -> Summary:
    """The parameters of a layer, a cell or any model that holds some, by part; `print` it.

    Args:
        module: any `mlx.nn.Module`.
        depth: how deep parts within parts have rows of their own, >= 0; their numbers are always
            counted.

    A layer that is built at its first call and wasn't yet has no weights: its row says so. Raises
    ValueError for what is no module, and for a bad depth.

    Example:
        >>> from mlx_ncps import LTC, summary
        >>> from mlx_ncps.wirings import AutoNCP
        >>> print(summary(LTC(3, AutoNCP(16, 4))))
        part             kind     trainable  other
        rnn_cell         LTCCell      1,278    608
        rnn_cell.wiring  AutoNCP          0    304
        all              LTC          1,278    608
    """
    if not isinstance(module, nn.Module):
        raise refused("summary", "module", "an mlx.nn.Module", module)
    depth = integer("summary", "depth", depth, 0)
    parts = [("", module), *_parts(module, depth)]
    return Summary(tuple(_row(name, part) for name, part in parts))


def _parts(module: nn.Module, depth: int, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if depth == 0:
        return
    found: Any = tree_flatten(module.children(), is_leaf=nn.Module.is_module)
    for name, part in found:
        if isinstance(part, nn.Module):
            yield prefix + name, part
            yield from _parts(part, depth - 1, f"{prefix}{name}.")


def _row(name: str, module: nn.Module) -> Part:
    trainable, all_of_them = counts(module)
    unbuilt = getattr(module, "_is_unbuilt", None)
    note = "not built: call it once, or build(input_size)" if unbuilt and unbuilt() else ""
    return Part(name, type(module).__name__, trainable, all_of_them - trainable, note)


def counts(module: nn.Module) -> tuple[int, int]:
    """(numbers that are trained, all numbers), 0 of what isn't built."""
    trees = (nn.Module.trainable_parameters(module), nn.Module.parameters(module))
    flat: Any = [tree_flatten(tree) for tree in trees]
    sizes = [sum(a.size for _, a in leaves if isinstance(a, mx.array)) for leaves in flat]
    return sizes[0], sizes[1]


class Shown:
    """A layer or cell whose repr is one line: sizes, wiring, what differs from the constructor's
    defaults, and how many parameters it has.
    """

    def _shown(self) -> dict[str, Any]:
        """What the repr tells of sizes and parts, by name; None is left out."""
        module: Any = self
        told = {"inputs": module.sensory_size, "units": module.state_size}
        outputs = module.output_size
        return told | {"outputs": None if outputs == module.state_size else outputs} | wired(module)

    def _holders(self) -> list[Any]:
        """The objects whose attributes are the arguments of the constructor."""
        return [self]

    def __repr__(self) -> str:
        module: Any = self
        try:
            told = self._shown() | unusual(type(self), *self._holders())
            trainable, all_of_them = counts(module)
        except Exception:  # half made, or with parts of a user: a repr is never an error
            return f"{type(self).__name__}(...)"
        parts = [f"{name}={value}" for name, value in told.items() if value is not None]
        if module._is_unbuilt():
            parts.append("not built")
        else:
            parts.append(f"trainable={trainable:,}, other={all_of_them - trainable:,}")
        return f"{type(self).__name__}({', '.join(parts)})"


def unusual(kind: type, *holders: Any) -> dict[str, Any]:
    """The plain options, of a class, that aren't its defaults; attributes of one of the holders."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        now = next((getattr(one, name) for one in holders if hasattr(one, name)), None)
        plain = isinstance(now, bool | int | float | str) and name not in _SIZES
        if plain and parameter.default is not parameter.empty and now != parameter.default:
            found[name] = now
    return found


_SIZES = ("input_size", "hidden_size", "units", "in_features", "return_sequences", "return_state")


def wired(cell: Any) -> dict[str, Any]:
    """What a cell's repr tells of its wiring and its backbone."""
    told: dict[str, Any] = {}
    wiring, backbone = cell.get("wiring"), getattr(cell, "backbone_options", None)
    if wiring is not None:
        told = {"wiring": type(wiring).__name__, "synapses": wiring.synapse_count}
        told["sensory_synapses"] = wiring.sensory_synapse_count if wiring.is_built() else None
    if backbone is not None and backbone.sizes:
        told["backbone"] = f"{list(backbone.sizes)} {backbone.activation}"
    return told
