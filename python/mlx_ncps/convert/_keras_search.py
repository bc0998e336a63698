"""Which layer of a Keras model or file is meant: one rule for live objects, configurations and
weight files. A path is the names of what a layer lies in, the model itself left out, then its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

OP = "from_keras"
CELLS = ("CfCCell", "WiredCfCCell", "LTCCell")
_MEMBERS = (  # where Keras 3 and tf.keras keep the parts of a model, a wrapper or a layer
    "layers",
    "_layers",
    "_self_tracked_trackables",
    "layer",
    "forward_layer",
    "backward_layer",
    "cell",
    "cells",
)


class Found(NamedTuple):
    """A CfC or LTC somewhere in a model."""

    path: tuple[str, ...]
    parts: tuple  # what it is made of: one thing, or those of both directions
    told: dict[str, Any]  # options of the wrapper around two directions
    is_half: bool = False  # a direction of another one, which counts when it is named

    @classmethod
    def pair(
        cls, path: tuple[str, ...], parts: list, names: Iterable[str], told: dict[str, Any]
    ) -> list[Found]:
        """A bidirectional layer and its two halves, which have these names."""
        halves = zip(names, parts, strict=True)
        return [Found(path, tuple(parts), told)] + [
            Found((*path, name), (part,), {}, True) for name, part in halves
        ]


def choose(found: list[Found], name: str | None, where: str) -> Found:
    """The layer called `name`, or at the end of whose path `name` stands ("encoder/ltc"); None:
    the only one.
    """
    if not found:
        raise ValueError(f"[{OP}] source must be or have a CfC or LTC of ncps, got {where}.")
    whole = [one for one in found if not one.is_half]
    fits = whole if name is None else [one for one in found if _ends(one.path, name)]
    if len(fits) == 1:
        return fits[0]
    if name is None or fits:
        names = _names(fits, found)
        raise ValueError(
            f"[{OP}] name= must tell which layer of {where} is meant, one of {names}, got {name!r}."
        )
    raise ValueError(f"[{OP}] name must be one of {_names(found, found)}, got {name!r}.")


def _ends(path: tuple, name: str | None) -> bool:
    steps = str(name).split("/")
    return "/".join(path) == name or list(path[-len(steps) :]) == steps


def _names(chosen: list[Found], found: list[Found]) -> list[str]:
    """The last name of each, or its path where others have that name too."""
    last = [one.path[-1] for one in found]
    unique = (one.path[-1] if last.count(one.path[-1]) == 1 else one.path for one in chosen)
    return sorted(name if isinstance(name, str) else "/".join(name) for name in unique)


def parts_of(layer: Any) -> tuple:
    """(cell of CfC or LTC, memory around it or None) of a live layer, or (None, None)."""
    cell = getattr(layer, "cell", layer)
    memory = cell if type(cell).__name__ == "MixedMemoryRNN" else None
    cell = cell if memory is None else memory.rnn_cell
    return (cell, memory) if type(cell).__name__ in CELLS else (None, None)


def find_live(source: Any) -> list[Found]:
    """All CfC and LTC layers of a live layer or model, in wrappers and models inside it too."""
    found, seen = [], set()
    todo: list[tuple[tuple[str, ...], Any]] = [((), source)]
    for path, layer in todo:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        own = path or (getattr(layer, "name", type(layer).__name__),)
        halves: list[Any] = [
            getattr(layer, f"{side}_layer", None) for side in ("forward", "backward")
        ]
        if parts_of(layer)[0] is not None:
            found.append(Found(own, (layer,), {}))
        elif all(half is not None and parts_of(half)[0] is not None for half in halves):
            told = {"merge_mode": layer.merge_mode}
            found += Found.pair(own, halves, [half.name for half in halves], told)
        else:
            todo += [((*path, member.name), member) for member in _members(layer)]
    return found


def _members(layer: Any) -> Iterator[Any]:
    for attribute in _MEMBERS:
        members = getattr(layer, attribute, None)
        members = members if isinstance(members, list | tuple) else [members]
        yield from (m for m in members if hasattr(m, "get_weights") and hasattr(m, "name"))


def find_configs(config: Any) -> list[Found]:
    """All CfC and LTC layers of the configuration of a model, a JSON value."""
    found = []
    todo: list[tuple[tuple[str, ...], Any, bool]] = [((), config, True)]
    while todo:
        path, item, is_root = todo.pop()
        if isinstance(item, list):
            todo += [(path, one, False) for one in reversed(item)]
        if not isinstance(item, dict):
            continue
        inner = item.get("config")
        if not isinstance(inner, dict) or not isinstance(item.get("class_name"), str):
            todo += [(path, one, is_root) for one in reversed(item.values())]
            continue
        name = inner.get("name")
        path = (*path, name) if isinstance(name, str) and not is_root else path
        own = path or (str(name),)
        halves = [_ours(inner.get(key)) for key in ("layer", "backward_layer")]
        if _ours(item):
            found.append(Found(own, (_ours(item),), {}))
        elif item["class_name"] == "Bidirectional" and all(halves):
            told = {"merge_mode": inner.get("merge_mode", "concat")}
            found += Found.pair(own, halves, [str(half.get("name")) for half in halves], told)
        else:
            todo.append((path, inner, False))
    return found


def _ours(item: Any) -> dict:
    """The configuration of a CfC or LTC with its class, or {}."""
    inner = item.get("config") if isinstance(item, dict) else None
    if not isinstance(inner, dict) or item.get("class_name") not in ("CfC", "LTC"):
        return {}
    return inner | {"class_name": item["class_name"]}


def config_of(found: Found, configs: list[Found]) -> Found | None:
    """The configuration at the path of a layer of the weights, or the only one of its name."""
    same = [one for one in configs if one.path == found.path]
    same = same or [one for one in configs if one.path[-1] == found.path[-1]]
    fits = len(same) == 1 and len(same[0].parts) == len(found.parts)
    return same[0] if fits else None
