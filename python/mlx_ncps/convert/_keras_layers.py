"""The layer that `from_keras` makes, and its arrays loaded, for one direction or both."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..cells import CfCCell, LTCCell, WiredCfCCell
from ..rnn import LTC, CfC, LiquidRNN
from ..weight_files import Stored
from ._arrays import stored
from ._keras_names import OP, Weights
from ._keras_sources import OF_LAYER
from ._load import load, own_arrays
from ._wirings import wiring_of_sizes
from .memory import KerasMemoryCell


class Half(NamedTuple):
    """What is known of one direction."""

    weights: Weights
    wiring: Any
    options: dict
    forget_bias: float
    follow: bool  # the masks are where erev isn't 0


def make_layer(halves: list[Half], of_pair: dict, options: dict) -> CfC | LTC | LiquidRNN:
    """The layer of one or two directions, without its weights."""
    if len(halves) == 1:
        return _make_half(halves[0])
    both = {"merge_mode": "concat", **of_pair, **options, "bidirectional": True}
    both = {key: both[key] for key in ("merge_mode", "bidirectional")}
    halves = [
        half._replace(options={key: v for key, v in half.options.items() if key not in both})
        for half in halves
    ]
    layers = [_make_half(half) for half in halves]
    cells = [layer.rnn_cell for layer in layers]
    for size in ("state_size", "output_size"):
        wanted, given = (getattr(cell, size) for cell in cells)
        if wanted != given:
            raise ValueError(
                f"[{OP}] both directions must have the same {size}, got {wanted} and {given}."
            )
    if cells[0].get_config() == cells[1].get_config():
        first = halves[0]
        return _make_half(first._replace(options={**first.options, **both}))
    of_layer = {key: getattr(layers[0], key) for key in (*OF_LAYER, "batch_first")}
    return LiquidRNN(cells[0], backward_cell=cells[1], **of_layer, **both)


def _make_half(half: Half) -> CfC | LTC | LiquidRNN:
    weights, wiring, options = half.weights, half.wiring, half.options
    inputs = weights.units if weights.mixed else weights.inputs
    if wiring is None and weights.kind == "ltc":
        wiring = wiring_of_sizes(inputs, weights.units, weights.outputs)
    if weights.kind == "cfc" and wiring is not None:
        raise ValueError(f"[{OP}] wiring must be None for a CfC without one, got a wiring.")
    if weights.kind == "wired" and wiring is None:
        raise ValueError(f"[{OP}] wiring must be given for a wired CfC, got None.")
    units = weights.units if wiring is None else wiring
    kind = LTC if weights.kind == "ltc" else CfC
    options = {"return_sequences": False, "return_state": False, **options}
    if kind is CfC:
        options.setdefault("variant", "keras")
    if not weights.mixed:
        return kind(inputs, units, **options)
    outer = (*OF_LAYER, "bidirectional", "merge_mode")
    of_layer = {key: options.pop(key) for key in outer if key in options}
    cell = kind(inputs, units, **options).rnn_cell
    return LiquidRNN(KerasMemoryCell(cell, weights.inputs), **of_layer)


def inner_cell(layer: Any) -> Any:
    """The CfC or LTC cell of a layer or cell."""
    cell = getattr(layer, "rnn_cell", layer)
    return cell.cell if isinstance(cell, KerasMemoryCell) else cell


def load_halves(layer: Any, halves: list[Half]) -> None:
    """Load the arrays of all directions, or none."""
    directions = getattr(layer, "_directions", (layer,))
    if len(directions) != len(halves):
        wanted = "bidirectional" if len(halves) == 2 else "of one direction"
        raise ValueError(f"[{OP}] layer must be {wanted}, as the source is, got another.")
    named = _named(directions[0], halves[0])
    for part, half in zip(directions[1:], halves[1:], strict=True):
        named |= {f"backward.{name}": array for name, array in _named(part, half).items()}
    load(OP, layer, named, lambda name: name)


def _named(layer: Any, half: Half) -> dict[str, Stored]:
    """The arrays of a direction by our names, with what Keras doesn't save, the masks."""
    weights = half.weights
    cell, ours = inner_cell(layer), own_arrays(OP, layer)
    _check_kind(layer, cell, weights)
    arrays = dict(weights.arrays)
    if half.forget_bias != 1.0:
        bias = arrays["lstm.input_map.bias"]
        arrays["lstm.input_map.bias"] = _shifted(bias, half.forget_bias - 1.0)
    outer = "rnn_cell." if hasattr(layer, "rnn_cell") else ""
    inner = outer + ("cell." if weights.mixed else "")
    named = {(outer if n.startswith("lstm.") else inner) + n: a for n, a in arrays.items()}
    for name, mask in ours.items():
        if name.endswith("sparsity_mask") and not name.startswith("backward."):
            named[name] = stored(OP, name, mask)
    if isinstance(cell, LTCCell):
        for side in ("", "sensory_"):
            erev = np.array(arrays[f"{side}erev"].read())
            _set_mask(named, f"{inner}{side}sparsity_mask", erev, half.follow)
    return named


def _shifted(bias: Stored, more: float) -> Stored:
    """The bias of an LSTM whose forget gate has another constant than 1 added to it."""

    def read() -> mx.array:
        quarter = bias.shape[0] // 4
        shift = mx.where(mx.arange(4 * quarter) // quarter == 2, more, 0.0)
        return bias.read() + shift

    return Stored(bias.shape, read)


def _set_mask(named: dict, name: str, erev: np.ndarray, follow: bool) -> None:
    """A mask that is 1 where erev isn't 0; or a check that the layer's is."""
    mask = mx.array((erev != 0).astype(np.float32))
    if follow:
        named[name] = stored(OP, name, mask)
        return
    given = np.array(named[name].read())
    if given.shape != erev.shape or ((given != 0) != (erev != 0)).any():
        raise ValueError(
            f"[{OP}] the wiring must have a synapse where erev isn't 0, {int(mask.sum())} in all, "
            f"got another ({name} has {int((given != 0).sum())})."
        )


def _check_kind(layer: Any, cell: Any, weights: Weights) -> None:
    wanted = {"cfc": CfCCell, "wired": WiredCfCCell, "ltc": LTCCell}[weights.kind]
    memory = isinstance(getattr(layer, "rnn_cell", layer), KerasMemoryCell)
    if type(cell) is not wanted or memory != weights.mixed or ("lstm" in layer and not memory):
        with_memory = " in a KerasMemoryCell" if weights.mixed else " without mixed memory"
        raise ValueError(
            f"[{OP}] layer must have a {wanted.__name__}{with_memory}, "
            f"got a {type(layer).__name__} of {type(cell).__name__}."
        )
    if weights.kind != "ltc" and cell.variant != "keras":
        if weights.kind == "cfc" and cell.mode == "pure":
            return  # all variants are equal there
        raise ValueError(
            f"[{OP}] layer must be of variant='keras', got {cell.variant!r}: CfC of Keras has "
            "no tanh in its heads, the opposite sign of time in its gate, and signed synapses."
        )
