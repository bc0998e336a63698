"""Names for the weights of an ncps.keras cell, which come as a list: the order of `get_weights()`,
equal in ncps.keras and ncps.tf; and their kernels [in, out] as our weights [out, in].
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, NamedTuple

from ..weight_files import Stored
from ._arrays import check_holds

OP = "from_keras"
_SYNAPSES = ("sigma", "mu", "w", "erev")
_LTC = ("gleak", "vleak", "cm", *_SYNAPSES, *(f"sensory_{name}" for name in _SYNAPSES))
_MAPPINGS = {None: (), "linear": ("w",), "affine": ("w", "b")}


class Weights(NamedTuple):
    """Named arrays of a cell, and what their shapes tell of it."""

    arrays: dict[str, Stored]  # in our names and orientation, "lstm." in front of the cell's
    kind: str  # "cfc", "wired" or "ltc"
    mixed: bool
    inputs: int  # of the whole layer
    units: int
    outputs: int
    told: dict  # options of our layer


def name_weights(entries: list[Stored], wired: bool, mappings: dict) -> Weights:
    """Names for the arrays of `get_weights()`.

    wired: the cell is a WiredCfCCell.  mappings: `input_mapping` and `output_mapping` of an LTC
    where known. Raises ValueError when the shapes are not those of such a cell.
    """
    mixed = len(entries) > 3 and len(entries[1].shape) == 2
    lstm, rest = ({}, entries) if not mixed else (_lstm(entries[:3]), entries[3:])
    if not rest:
        raise _unknown(entries)
    if len(rest[0].shape) == 1:
        cell = _ltc(rest, mappings)
    else:
        cell = _wired(rest) if wired else _cfc(rest)
    inputs = cell.inputs
    if mixed:
        inputs, units = entries[0].shape[0], cell.units
        for n, shape in enumerate(((inputs, 4 * units), (units, 4 * units), (4 * units,))):
            _check(f"weight {n} of the memory", entries[n], shape)
        if cell.inputs != units:
            raise ValueError(
                f"[{OP}] the cell behind the memory must have {units} inputs, got {cell.inputs}."
            )
    return cell._replace(arrays=lstm | cell.arrays, mixed=mixed, inputs=inputs)


def _lstm(entries: list[Stored]) -> dict[str, Stored]:
    return {
        "lstm.input_map.weight": transposed(entries[0]),
        "lstm.recurrent_map.weight": transposed(entries[1]),
        "lstm.input_map.bias": entries[2],
    }


def transposed(entry: Stored) -> Stored:
    """A kernel [in, out] as a weight [out, in]."""
    return Stored(entry.shape[::-1], lambda: entry.read().T)


def _ltc(entries: list[Stored], mappings: dict[str, Any]) -> Weights:
    if len(entries) < len(_LTC):
        raise _unknown(entries)
    arrays = dict(zip(_LTC, entries, strict=False))
    units = entries[0].shape[0]
    sensory = arrays["sensory_w"].shape
    inputs = sensory[0] if len(sensory) == 2 else 0
    check_holds(OP, units * (units + inputs), arrays.values())
    for n, (name, entry) in enumerate(arrays.items()):
        recurrent = inputs if name.startswith("sensory_") else units
        _check(name, entry, (units,) if n < 3 else (recurrent, units))
    maps = entries[len(_LTC) :]
    told = _mappings(maps, inputs, units, mappings)
    names = [f"{side}_{end}" for side in ("input", "output") for end in _ends(told, side)]
    arrays |= dict(zip(names, maps, strict=True))
    outputs = arrays["output_w"].shape[0] if "output_w" in arrays else units
    told["implicit_param_constraints"] = False
    return Weights(arrays, "ltc", False, inputs, units, outputs, told)


def _ends(told: dict, side: str) -> tuple:
    return _MAPPINGS[told[f"{side}_mapping"]]


def _mappings(maps: list[Stored], inputs: int, units: int, known: dict) -> dict:
    """Which of the last arrays of an LTC are input_w, input_b, output_w, output_b."""
    fits = []
    for pair in product(_MAPPINGS, repeat=2):
        told = dict(zip(("input_mapping", "output_mapping"), pair, strict=True))
        first, second = (len(_MAPPINGS[mapping]) for mapping in pair)
        if len(maps) != first + second or any(
            told[key] != known.get(key, told[key]) for key in told
        ):
            continue
        shapes = [tuple(entry.shape) for entry in maps]
        outputs = shapes[first] if second else (units,)
        in_reach = len(outputs) == 1 and outputs[0] <= units
        if in_reach and shapes == [(inputs,)] * first + [outputs] * second:
            fits.append(told)
    if len(fits) != 1:
        found = "none fits" if not fits else f"{len(fits)} fit"
        raise ValueError(
            f"[{OP}] input_mapping= and output_mapping= must tell what the last arrays of the LTC "
            f"are, got {[entry.shape for entry in maps]}, of whose possible mappings {found}."
        )
    return fits[0]


def _cfc(entries: list[Stored]) -> Weights:
    heads, pure = _heads(entries, "")
    rest = entries[4:]
    times = [] if pure else rest[-4:]
    pairs = rest[: len(rest) - len(times)]
    if len(rest) < len(times) or len(pairs) % 2:
        raise _unknown(entries)
    kernels = pairs[::2]
    if any(len(kernel.shape) != 2 for kernel in kernels):
        raise _unknown(entries)
    columns, units = entries[0].shape
    widths = [kernel.shape[1] for kernel in kernels]
    inputs = (kernels[0].shape[0] if kernels else columns) - units
    if inputs < 1 or columns != (widths[-1] if widths else columns):
        raise _unknown(entries)
    chain = (inputs + units, *widths, units)
    check_holds(OP, sum(n * m for n, m in pairwise(chain)), entries)
    arrays = heads | _times(times, "", (columns, units))
    for n, (rows, width) in enumerate(pairwise(chain[:-1])):
        _check(f"backbone{n} kernel", pairs[2 * n], (rows, width))
        _check(f"backbone{n} bias", pairs[2 * n + 1], (width,))
        arrays |= _map(f"backbone.{n}", *pairs[2 * n : 2 * n + 2])
    told = {"mode": "pure" if pure else "default", "backbone_units": widths}
    return Weights(arrays, "cfc", False, inputs, units, units, told)


def _wired(entries: list[Stored]) -> Weights:
    _, pure = _heads(entries, "")
    size = 4 if pure else 8
    if len(entries) % size:
        raise _unknown(entries)
    arrays, units = {}, 0
    for n in range(len(entries) // size):
        layer = entries[n * size : (n + 1) * size]
        prefix = f"layer_{n}."
        heads, _ = _heads(layer, prefix)
        arrays |= heads | _times(layer[4:], prefix, layer[0].shape)
        units += layer[0].shape[1]
    inputs = entries[0].shape[0] - entries[0].shape[1]
    told = {"mode": "pure" if pure else "default"}
    return Weights(arrays, "wired", False, inputs, units, units, told)


def _heads(entries: list[Stored], prefix: str) -> tuple[dict[str, Stored], bool]:
    """The first four arrays of a CfC cell, and whether it is in pure mode."""
    if len(entries) < 4 or len(entries[0].shape) != 2:
        raise _unknown(entries)
    columns, units = entries[0].shape
    pure = len(entries[3].shape) == 2
    arrays = _map(f"{prefix}ff1", *entries[:2])
    if pure:
        arrays |= {f"{prefix}w_tau": entries[2], f"{prefix}A": entries[3]}
    else:
        arrays |= _map(f"{prefix}ff2", *entries[2:4])
    shapes = (
        (columns, units),
        (units,),
        *(((1, units),) * 2 if pure else ((columns, units), (units,))),
    )
    for n, shape in enumerate(shapes):
        _check(f"{prefix}weight {n}", entries[n], shape)
    return arrays, pure


def _times(entries: list[Stored], prefix: str, shape: tuple[int, ...]) -> dict[str, Stored]:
    arrays = {}
    for n, name in enumerate(("time_a", "time_b")[: len(entries) // 2]):
        _check(f"{prefix}{name} kernel", entries[2 * n], shape)
        _check(f"{prefix}{name} bias", entries[2 * n + 1], shape[1:])
        arrays |= _map(f"{prefix}{name}", *entries[2 * n : 2 * n + 2])
    return arrays


def _map(name: str, kernel: Stored, bias: Stored) -> dict[str, Stored]:
    return {f"{name}.weight": transposed(kernel), f"{name}.bias": bias}


def _check(name: str, entry: Stored, shape: tuple[int, ...]) -> None:
    if tuple(entry.shape) != tuple(shape):
        raise ValueError(f"[{OP}] {name} must be {tuple(shape)}, got {tuple(entry.shape)}.")


def _unknown(entries: list[Stored]) -> ValueError:
    shapes = ", ".join(str(tuple(entry.shape)) for entry in entries[:12])
    return ValueError(
        f"[{OP}] source must be the weights of a CfC or LTC in the order of get_weights() (those "
        f"of a wired CfC need wiring=), got {len(entries)} arrays: {shapes}, ..."
    )
