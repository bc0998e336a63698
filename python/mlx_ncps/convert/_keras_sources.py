"""The sources of `from_keras`: the arrays of each direction, in the order of `get_weights()`, and
the facts that a layer of Keras, a file or its configuration tells of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from .. import wirings
from ..weight_files import Stored
from ._arrays import check_holds, stored
from ._keras_files import read_keras_file
from ._keras_names import OP, Weights
from ._keras_search import choose, find_live, parts_of
from ._torch import mapping
from ._wirings import our_wiring

MAPPINGS = ("input_mapping", "output_mapping")
OF_LAYER = ("return_sequences", "return_state", "go_backwards", "stateful")
_KINDS = {"CfCCell": "cfc", "WiredCfCCell": "wired", "LTCCell": "ltc"}


def read_source(source: Any, name: str | None) -> tuple[list[tuple[list[Stored], dict]], dict]:
    """((arrays, facts) of each direction, options of a `Bidirectional` around both)."""
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


def _live(layer: Any) -> tuple[list[Stored], dict]:
    arrays = layer.get_weights()
    if not arrays:
        raise ValueError(f"[{OP}] source must be built, got a layer without weights.")
    return _entries(arrays), _layer_facts(layer)


def _entries(arrays: Iterable[Any]) -> list[Stored]:
    return [stored(OP, f"weight {n}", array) for n, array in enumerate(arrays)]


def _layer_facts(layer: Any) -> dict:
    cell, memory = parts_of(layer)
    kind = _KINDS[type(cell).__name__]
    told = {key: getattr(layer, key) for key in OF_LAYER if hasattr(layer, key)}
    if kind == "ltc":
        told |= {key: mapping(getattr(cell, f"_{key}")) for key in MAPPINGS}
        told |= {"ode_unfolds": cell._ode_unfolds, "epsilon": cell._epsilon}
    elif kind == "cfc":
        if getattr(cell, "sparsity_mask", None) is not None:
            raise ValueError(f"[{OP}] source must have no sparsity_mask of its own, got one.")
        told["backbone_dropout"] = cell._backbone_dropout
        told["activation"] = _activation(getattr(cell._activation, "__name__", cell._activation))
    facts: dict[str, Any] = {"kind": kind, "options": told}
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
    told = {key: config[key] for key in (*OF_LAYER, *keys) if key in config}
    theirs = config.get("units")
    facts: dict[str, Any] = {"options": told}
    if isinstance(theirs, dict):
        facts["wiring"] = lambda weights: _wiring_of_config(theirs, weights)
    if config["class_name"] == "LTC":
        told |= {key: mapping(config[key]) for key in MAPPINGS if key in config}
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


def _activation(name: Any) -> str:
    name = str(name).rpartition(">")[2]
    return "silu" if name == "swish" else name


def _wiring_of_config(theirs: dict, weights: Weights) -> wirings.Wiring:
    """The wiring of a configuration, if it is as large as the weights say."""
    cls: Any = getattr(wirings, str(theirs.get("class_name")), None)
    config = theirs.get("config")
    is_wiring = isinstance(cls, type) and issubclass(cls, wirings.Wiring)
    if not is_wiring or not isinstance(config, dict) or config.get("units") != weights.units:
        raise ValueError(
            f"[{OP}] wiring= must be given: the file's {theirs.get('class_name')!r} doesn't tell "
            f"one of {weights.units} neurons."
        )
    check_holds(
        OP, weights.units**2 // 9, weights.arrays.values()
    )  # the largest of at most three layers
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
