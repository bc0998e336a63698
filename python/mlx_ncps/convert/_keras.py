"""From ncps.keras and ncps.tf: layers and weights of Keras as ours."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import mlx.nn as nn

from ..cells import WiredCfCCell
from ..rnn import LTC, CfC, LiquidRNN
from ..weight_files import Stored
from ..wirings import Wiring
from ._keras_layers import Half, inner_cell, load_halves, make_layer
from ._keras_names import OP, name_weights
from ._keras_sources import MAPPINGS, read_source
from ._torch import check_no_options, mapping

Layer = TypeVar("Layer", bound=nn.Module)


@overload
def from_keras(
    source: Any,
    layer: None = None,
    *,
    wiring: Wiring | None = None,
    name: str | None = None,
    **options: Any,
) -> CfC | LTC | LiquidRNN: ...
@overload
def from_keras(source: Any, layer: Layer, *, name: str | None = None) -> Layer: ...
def from_keras(
    source: Any,
    layer: Any = None,
    *,
    wiring: Wiring | None = None,
    name: str | None = None,
    **options: Any,
) -> Any:
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

    Example:
        >>> head, backbone = [(8, 4), (4,)], [(7, 8), (8,)]  # as get_weights() of a Keras CfC
        >>> layer = convert.from_keras([np.zeros(s) for s in 2 * head + backbone + 2 * head])
        >>> layer(mx.ones((2, 5, 3))).shape
        (2, 4)
    """
    parts, of_pair = read_source(source, name)
    if layer is not None:
        check_no_options(OP, wiring, options)
    halves = [_half(entries, facts, layer, wiring, options) for entries, facts in parts]
    if layer is None:
        layer = make_layer(halves, of_pair, options)
    load_halves(layer, halves)
    return layer


def _half(
    entries: list[Stored], facts: dict, layer: Any, wiring: Wiring | None, options: dict
) -> Half:
    wired = facts.get("kind", "wired" if wiring is not None else "cfc") == "wired"
    if layer is not None:
        wired = isinstance(inner_cell(layer), WiredCfCCell)
    known = {**facts.get("options", {}), **options}
    known = {key: mapping(known[key]) for key in MAPPINGS if key in known}
    weights = name_weights(entries, wired, known)
    wiring = facts.get("wiring", lambda _: None)(weights) if wiring is None else wiring
    options = {**weights.told, **facts.get("options", {}), **options}
    follow = layer is None and weights.kind == "ltc" and wiring is None
    return Half(weights, wiring, options, facts.get("forget_bias", 1.0), follow)
