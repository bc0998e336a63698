"""From ncps.keras and ncps.tf: layers and weights of Keras as ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .. import wirings
from ..cells import CfCCell, LTCCell, WiredCfCCell
from ..rnn import LTC, CfC, LiquidRNN
from ..weight_files import Stored
from ._arrays import check_holds, stored
from ._keras_files import read_keras_file
from ._keras_names import OP, Weights, name_weights
from ._keras_search import choose, find_live, parts_of
from ._load import load, own_arrays
from ._torch import check_no_options, mapping
from ._wirings import our_wiring, wiring_of_sizes
from .memory import KerasMemoryCell

_KINDS = {"CfCCell": "cfc", "WiredCfCCell": "wired", "LTCCell": "ltc"}
_MAPPINGS = ("input_mapping", "output_mapping")
_OF_LAYER = ("return_sequences", "return_state", "go_backwards", "stateful")


def from_keras(source, layer=None, *, wiring=None, name=None, **options):
    """The layer that equals one of ncps.keras (Keras 3) or ncps.tf (tf.keras): a `CfC` of
    variant "keras", an `LTC`, or with mixed memory a `LiquidRNN` of a `KerasMemoryCell`.

    Args:
        source: a built CfC or LTC of Keras, a recurrent layer of one of their cells, or a
            `Bidirectional`, wrapper, layer or model that has one; or what its `get_weights()`
            gives, a list of arrays, or a dict of arrays in that order; or the path of a
            `.weights.h5`, `.keras` or (of tf.keras) `.h5` file, which needs h5py.
        layer: load into this layer or cell and return it; it must be built. None: make a new layer.
        wiring: of the new layer. None: that of the Keras layer or the `.keras` file; for the
            arrays of an LTC the one that its reversal potentials tell; for the arrays of a wired
            CfC it must be given.
        name: of the layer, or the end of its path ("encoder/ltc"), in a model or file that has
            several. Those of both halves of a `Bidirectional` count too.
        options: of the new layer, over what the source tells. Arrays don't tell `activation`,
            `ode_unfolds`, `epsilon`, and not always `input_mapping` and `output_mapping`. Calls
            return what Keras returns: `return_sequences` and `return_state` are False by default.

    A `Bidirectional` becomes a bidirectional layer; `layer` must then be one. A new layer is in
    training mode: dropout acts until `eval()`.

    Raises ValueError when arrays are missing or left over, a shape is another than the layer's, a
    wiring has other synapses than the reversal potentials, a CfC to load into is of another
    variant, or a file is corrupt; the layer is then left as it was.
    """
    parts, of_pair = _read(source, name)
    if layer is not None:
        check_no_options(OP, wiring, options)
    halves = [_half(entries, facts, layer, wiring, options) for entries, facts in parts]
    if layer is None:
        layer = _make(halves, of_pair, options)
    _load(layer, halves)
    return layer


class _Half(NamedTuple):
    """What is known of one direction."""

    weights: Weights
    wiring: Any
    options: dict
    forget_bias: float
    follow: bool  # the masks are where erev isn't 0


def _half(entries: list[Stored], facts: dict, layer, wiring, options: dict) -> _Half:
    wired = facts.get("kind", "wired" if wiring is not None else "cfc") == "wired"
    if layer is not None:
        wired = isinstance(_inner_cell(layer), WiredCfCCell)
    known = {**facts.get("options", {}), **options}
    known = {key: mapping(known[key]) for key in _MAPPINGS if key in known}
    weights = name_weights(entries, wired, known)
    wiring = facts.get("wiring", lambda _: None)(weights) if wiring is None else wiring
    options = {**weights.told, **facts.get("options", {}), **options}
    follow = layer is None and weights.kind == "ltc" and wiring is None
    return _Half(weights, wiring, options, facts.get("forget_bias", 1.0), follow)


# --- sources: ((arrays in the order of get_weights(), facts) of each direction, options of both) --


def _read(source, name) -> tuple[list[tuple[list[Stored], dict]], dict]:
    if isinstance(source, (str, os.PathLike)):
        parts, told = read_keras_file(source, name)
        return [(entries, _config_facts(config)) for entries, config in parts], told
    if hasattr(source, "get_weights"):
        chosen = choose(find_live(source), name, f"a {type(source).__name__}")
        return [_live(layer) for layer in chosen.parts], chosen.told
    if isinstance(source, Mapping):
        source = list(source.values())
    if not isinstance(source, list | tuple):
        raise ValueError(
            f"[{OP}] source must be a Keras layer, a list of arrays or a path, "
            f"got {type(source).__name__}."
        )
    return [(_entries(source), {})], {}


def _live(layer) -> tuple[list[Stored], dict]:
    arrays = layer.get_weights()
    if not arrays:
        raise ValueError(f"[{OP}] source must be built, got a layer without weights.")
    return _entries(arrays), _layer_facts(layer)


def _entries(arrays) -> list[Stored]:
    return [stored(OP, f"weight {n}", array) for n, array in enumerate(arrays)]


def _layer_facts(layer) -> dict:
    cell, memory = parts_of(layer)
    kind = _KINDS[type(cell).__name__]
    told = {key: getattr(layer, key) for key in _OF_LAYER if hasattr(layer, key)}
    if kind == "ltc":
        told |= {key: mapping(getattr(cell, f"_{key}")) for key in _MAPPINGS}
        told |= {"ode_unfolds": cell._ode_unfolds, "epsilon": cell._epsilon}
    elif kind == "cfc":
        if getattr(cell, "sparsity_mask", None) is not None:
            raise ValueError(f"[{OP}] source must have no sparsity_mask of its own, got one.")
        told["backbone_dropout"] = cell._backbone_dropout
        told["activation"] = _activation(getattr(cell._activation, "__name__", cell._activation))
    facts = {"kind": kind, "options": told}
    theirs = getattr(cell, "wiring", None) or getattr(cell, "_wiring", None)
    if theirs is not None:
        facts["wiring"] = lambda weights: our_wiring(OP, theirs)
    if memory is not None:
        facts["forget_bias"] = float(memory.forget_gate_bias)
    return facts


def _config_facts(config: dict) -> dict:
    """The facts that a `.keras` file tells of a layer."""
    if not config:
        return {}
    keys = {"LTC": ("ode_unfolds", "epsilon"), "CfC": ("backbone_dropout",)}[config["class_name"]]
    told = {key: config[key] for key in (*_OF_LAYER, *keys) if key in config}
    theirs = config.get("units")
    facts = {"options": told}
    if isinstance(theirs, dict):
        facts["wiring"] = lambda weights: _wiring_of_config(theirs, weights)
    if config["class_name"] == "LTC":
        told |= {key: mapping(config[key]) for key in _MAPPINGS if key in config}
        return facts | {"kind": "ltc"}
    if "wiring" in config:
        told.pop("backbone_dropout", None)
        return facts | {"kind": "wired"}
    activation = config.get("activation")
    if isinstance(activation, dict):
        activation = activation.get("config")
    if isinstance(activation, str):
        told["activation"] = _activation(activation)
    return facts | {"kind": "cfc"}


def _activation(name) -> str:
    name = str(name).rpartition(">")[2]
    return {"swish": "silu"}.get(name, name)


def _wiring_of_config(theirs: dict, weights: Weights):
    """The wiring of a configuration, if it is as large as the weights say."""
    cls = getattr(wirings, str(theirs.get("class_name")), None)
    config = theirs.get("config")
    is_wiring = isinstance(cls, type) and issubclass(cls, wirings.Wiring)
    if not is_wiring or not isinstance(config, dict) or config.get("units") != weights.units:
        raise ValueError(
            f"[{OP}] wiring= must be given: the file's {theirs.get('class_name')!r} doesn't tell "
            f"one of {weights.units} neurons."
        )
    check_holds(OP, weights.units**2 // 9, weights.arrays)  # the largest of at most three layers
    inputs = weights.units if weights.mixed else weights.inputs
    if config.get("input_dim") not in (None, inputs):
        raise ValueError(
            f"[{OP}] wiring= must be given: the file's is for {config['input_dim']!r:.40} inputs, "
            f"not {inputs}."
        )
    try:
        wiring = cls.from_config(config)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"[{OP}] wiring= must be given: the file's can't be made.") from error
    wiring.build(inputs)
    return wiring


# --- the layer -----------------------------------------------------------------------------------


def _make(halves: list[_Half], of_pair: dict, options: dict):
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
    of_layer = {key: getattr(layers[0], key) for key in (*_OF_LAYER, "batch_first")}
    return LiquidRNN(cells[0], backward_cell=cells[1], **of_layer, **both)


def _make_half(half: _Half):
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
    outer = (*_OF_LAYER, "bidirectional", "merge_mode")
    of_layer = {key: options.pop(key) for key in outer if key in options}
    cell = kind(inputs, units, **options).rnn_cell
    return LiquidRNN(KerasMemoryCell(cell, weights.inputs), **of_layer)


def _inner_cell(layer):
    """The CfC or LTC cell of a layer or cell."""
    cell = getattr(layer, "rnn_cell", layer)
    return cell.cell if isinstance(cell, KerasMemoryCell) else cell


def _load(layer, halves: list[_Half]) -> None:
    """Load the arrays of all directions, or none."""
    directions = getattr(layer, "directions", (layer,))
    if len(directions) != len(halves):
        wanted = "bidirectional" if len(halves) == 2 else "of one direction"
        raise ValueError(f"[{OP}] layer must be {wanted}, as the source is, got another.")
    named = _named(directions[0], halves[0])
    for part, half in zip(directions[1:], halves[1:], strict=True):
        named |= {f"backward.{name}": array for name, array in _named(part, half).items()}
    load(OP, layer, named, lambda name: name)


def _named(layer, half: _Half) -> dict[str, Stored]:
    """The arrays of a direction by our names, with what Keras doesn't save, the masks."""
    weights = half.weights
    cell, ours = _inner_cell(layer), own_arrays(OP, layer)
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

    def read():
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


def _check_kind(layer, cell, weights: Weights) -> None:
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
