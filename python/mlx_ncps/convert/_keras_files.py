"""Weight files of Keras 3 (`.weights.h5`, `.keras`) and of tf.keras (`.h5`), as the arrays of one
layer in the order of `get_weights()`; needs h5py.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..weight_files import ZIP_ERRORS, Broken, Stored, check_is_file, check_members
from ._arrays import stored
from ._keras_search import OP, Found, choose, config_of, find_configs

MAX_DEPTH, MAX_GROUPS = 24, 10_000
MAX_CONFIG = 2**23  # bytes
_SIDES = ("forward", "backward")
_FEWEST = 4  # arrays of a CfC or LTC; an LSTM or GRU of Keras has three


def read_keras_file(
    path: str | os.PathLike[str], name: str | None = None
) -> tuple[list[tuple[list[Stored], dict]], dict]:
    """(arrays, configuration) of each direction of the layer called `name`, or of the only CfC or
    LTC of the file, and the options of the wrapper of two directions. A configuration is that of
    Keras, {} where the file has none.

    Raises ValueError for a corrupt file, for sizes that it hasn't, and when the layer is not
    there or not the only one; ImportError without h5py; FileNotFoundError.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".hdf5", ".keras"):
        raise ValueError(
            f"[{OP}] source must end in .weights.h5, .h5, .hdf5 or .keras, got {path.name!r}."
        )
    check_is_file(OP, path)
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"[{OP}] {path.name} needs h5py to be read: pip install h5py.") from error
    configs, file = [], path
    try:
        if path.suffix == ".keras":
            config, data = _open_archive(path)
            configs = find_configs(config)
            file = io.BytesIO(data)
        with h5py.File(file, "r") as opened:
            layers = list(_layers(opened))
            known = [one for one in layers if config_of(one, configs)]
            chosen = choose(known if name is None and known else layers, name, path.name)
            arrays = _read_all(path, chosen.parts)
            config = config_of(chosen, configs)
            if config is None:
                return [(part, {}) for part in arrays], chosen.told
            return list(zip(arrays, config.parts, strict=True)), config.told
    except (OSError, RuntimeError, KeyError, TypeError, *ZIP_ERRORS) as error:
        if isinstance(error, ValueError) and str(error).startswith("["):
            raise
        raise ValueError(
            f"[{OP}] {path.name}: must be a file that h5py can read ({type(error).__name__})."
        ) from error


def _open_archive(path: Path) -> tuple[dict, bytes]:
    """The configuration and the weights of a `.keras` file, which is a zip archive."""
    broken = partial(_broken, path)
    with zipfile.ZipFile(path) as archive:
        check_members(broken, archive.infolist(), path.stat().st_size)
        if archive.getinfo("config.json").file_size > MAX_CONFIG:
            raise broken(f"config.json must be at most {MAX_CONFIG} bytes, got more.")
        try:
            config = json.loads(archive.read("config.json"))
        except (ValueError, RecursionError) as error:
            raise broken("config.json must be JSON.") from error
        return config, archive.read("model.weights.h5")


def _broken(path: Path, what: str) -> ValueError:
    return ValueError(f"[{OP}] {path.name}: {what}")


def _layers(file: Any) -> Iterator[Found]:
    """The recurrent layers of a file as `Found`, whose parts are lists of (place, dataset) in the
    order of get_weights().
    """
    root = _child(file, "model_weights") or file
    return _legacy(root) if "layer_names" in root.attrs else _objects(root)


def _legacy(root: Any) -> Iterator[Found]:
    """The CfC and LTC layers of a tf.keras file, which lists its weights by name."""
    for name, group in _children(root):
        names = [_text(n) for n in group.attrs.get("weight_names", ())]
        if not any(n.rpartition("/")[2].startswith(("ff1_weight", "gleak")) for n in names):
            continue
        entries = [(n, _dataset(group, n)) for n in names]
        halves = [[e for e in entries if f"/{side}_" in e[0]] for side in _SIDES]
        if all(halves) and sum(map(len, halves)) == len(entries):
            steps = (step for half in halves for step in half[0][0].split("/"))
            of_half = [step for step in steps if step.startswith(tuple(f"{s}_" for s in _SIDES))]
            yield from Found.pair((name,), halves, of_half[:2], {})
        else:
            yield Found((name,), (entries,), {})


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _objects(root: Any) -> Iterator[Found]:
    """The recurrent layers of a Keras 3 file, where an attribute of an object is a group."""
    paired = set()
    for path, group in _groups(root):
        own = path if _name(group) else (*path, group.name)
        halves = [_child(group, f"{side}_layer") for side in _SIDES]
        if all(half is not None and _weights(half) for half in halves):
            names = [_name(half) or half.name for half in halves]
            yield from Found.pair(own, [_weights(half) for half in halves], names, {})
            paired |= {half.id for half in halves}
        elif group.id not in paired and (weights := _weights(group)):
            yield Found(own, (weights,), {})


def _weights(layer: Any) -> list:
    """The weights of a recurrent layer that may be ours, or none."""
    cell = _child(layer, "cell")
    weights = [] if cell is None else list(_cell(cell))
    return weights if len(weights) >= _FEWEST else []


def _cell(
    cell: Any, depth: int = 0, count: Iterator[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """The weights of a cell: its own, then those of its parts in their order."""
    count = itertools.count() if count is None else count
    if next(count) > MAX_GROUPS:  # a part may be a link to what it lies in
        raise ValueError(f"[{OP}] a cell must have at most {MAX_GROUPS} parts, got more.")
    yield from _vars(cell)
    parts = ["backbone_fn/layers", "_cfc_layers", "time_a", "time_b", "rnn_cell"]
    for part in parts if depth < MAX_DEPTH else ():
        group = cell
        for step in part.split("/"):
            group = group if group is None else _child(group, step)
        if group is None:
            continue
        if "/" in part or part == "_cfc_layers":
            for _, one in sorted(_children(group), key=lambda item: _number(item[0])):
                yield from _cell(one, depth + 1, count)
        else:
            yield from _cell(group, depth + 1, count)


def _vars(group: Any) -> Iterator[tuple[str, Any]]:
    variables = _child(group, "vars")
    for name in sorted(variables or (), key=_number):
        yield f"{variables.name}/{name}", _dataset(variables, name)


def _number(name: str) -> int:
    """The number that Keras appends to names: dense, dense_1, ..., or a name that is one."""
    digits = re.search(r"(?:^|_)(\d{1,6})$", name)
    return int(digits[1]) if digits else 0


def _child(group: Any, name: str) -> Any:
    """A member group, or None; links to elsewhere don't count."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    child = group[name]
    return child if isinstance(child, h5py.Group) else None


def _children(group: Any) -> Iterator[tuple[str, Any]]:
    for name in group:
        if (child := _child(group, name)) is not None:
            yield name, child


def _groups(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All groups below, level by level, with the names of the Keras objects that they are in."""
    todo: list[tuple[tuple[str, ...], Any, int]] = [((), root, 0)]
    for n, (path, group, depth) in enumerate(todo):
        if n > MAX_GROUPS or depth > MAX_DEPTH:
            raise ValueError(f"[{OP}] the file must have at most {MAX_GROUPS} groups, got more.")
        yield path, group
        for _, child in _children(group):
            name = _name(child)
            todo.append(((*path, name) if name else path, child, depth + 1))


def _name(group: Any) -> str:
    """The name of the Keras object that a group is of, or ""."""
    variables = _child(group, "vars")
    return "" if variables is None else _text(variables.attrs.get("name", ""))


def _dataset(group: Any, place: str) -> Any:
    """The dataset at `place` below the group, reached without soft or external links."""
    import h5py

    *steps, last = place.split("/")
    for step in steps:
        group = _child(group, step) if group is not None else None
    if group is None or not isinstance(group.get(last, getlink=True), h5py.HardLink):
        raise ValueError(f"[{OP}] {place} must be in the file, got no such weight.")
    return group[last]


def _read_all(path: Path, parts: tuple) -> list[list[Stored]]:
    """The datasets of each part, whose bytes must all be in the file itself, as they are."""
    datasets = [entry for part in parts for entry in part]
    for place, dataset in datasets:
        _check_dataset(partial(_broken, path), place, dataset)
    total, size = sum(dataset.nbytes for _, dataset in datasets), path.stat().st_size
    if total > size:
        raise _broken(path, f"the weights must be within {size} bytes, got {total}.")
    return [[_stored(dataset) for _, dataset in part] for part in parts]


def _stored(dataset: Any) -> Stored:
    with np.errstate(over="ignore"):
        return stored(OP, "weight", mx.array(dataset[()].astype(np.float32)))


def _check_dataset(broken: Broken, place: str, dataset: Any) -> None:
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub":
        raise broken(f"{place} must be an array of numbers, got {dataset!r:.60}.")
    if dataset.is_virtual or dataset.external or dataset.chunks is not None:
        raise broken(f"{place} must be stored in one piece, got another layout.")
    size = dataset.size * dataset.dtype.itemsize
    if dataset.id.get_storage_size() != size:
        raise broken(
            f"{place} must have {size} bytes for its shape {dataset.shape}, "
            f"got {dataset.id.get_storage_size()}."
        )
