"""A trained cell as one C99 header: weights and a `step` function, for microcontrollers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .. import checks
from . import c_stages, c_text
from .describe import describe
from .description import CfCStage, LayerStep, LTCStage, Model, Readout

if TYPE_CHECKING:
    import os

HEAD = """\
/* {P}: one step of a trained liquid network, in C99. Include it in one source file.
 *
 *   float state[{U}_STATE];       {states}
 *   {P}_reset(state);             the state before the first step
 *   {P}_step(inputs, state, elapsed, outputs);
 *
 * inputs: {U}_INPUTS numbers; outputs: {U}_OUTPUTS numbers, written. elapsed: time since the step
 * before, in the units of training (1 where no time spans were given); where it is negative or NaN
 * the state becomes NaN. It allocates nothing and needs <math.h> alone.
 */
#ifndef {U}_H
#define {U}_H

#include <math.h>

#define {U}_INPUTS {inputs}
#define {U}_OUTPUTS {outputs}
#define {U}_STATE {state}

"""
RESET = """\
static inline void {P}_reset(float *state) {{
  int j;
  for (j = 0; j < {U}_STATE; ++j) state[j] = 0.0f;
}}

"""


def to_c(layer: Any, path: str | os.PathLike[str], *, name: str | None = None) -> None:
    """Write a layer as one C99 header with its weights and a function for one step.

    Args:
        layer: a `CfC`, `LTC`, `CfCRNN` or `LTCRNN` that reads forwards, or a `CfCCell`,
            `WiredCfCCell` or `LTCCell`; built. It is written as it computes in `eval()`.
        path: of the header.
        name: the prefix of everything in the header, a C identifier; None: the file's name without
            its ending.

    With the name "policy" the header has the sizes `POLICY_INPUTS`, `POLICY_OUTPUTS` and
    `POLICY_STATE`, and

        policy_reset(float *state)
        policy_step(const float *inputs, float *state, float elapsed, float *outputs)

    `state` is changed in place: the neurons of the layer (with mixed memory h, then c), layer after
    layer of a stack; `elapsed` is the time since the step before, in the units of training. All is
    float32. Nothing is allocated; <math.h> is all that is included. Synapses of an LTC are lists,
    so that a sparse wiring is small.

    Raises ValueError for a layer that isn't built, reads backwards, has cells, modules or weights
    that C can't have, and for a name that is no identifier.

    Example:
        >>> import tempfile, pathlib
        >>> from mlx_ncps import LTC, export
        >>> from mlx_ncps.wirings import AutoNCP
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "policy.h"
        >>> export.to_c(LTC(4, AutoNCP(19, 2)), path)
        >>> "#define POLICY_STATE 19" in path.read_text()
        True
    """
    file = checks.path_to_write("to_c", "path", path)
    prefix = re.sub(r"\W", "_", file.stem, flags=re.ASCII) if name is None else name
    if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z]\w*", prefix, re.ASCII):
        raise checks.refused("to_c", "name", "a C identifier that begins with a letter", prefix)
    file.write_text(header(describe("to_c", layer), prefix), encoding="ascii")


def header(model: Model, prefix: str) -> str:
    """The text of the header."""
    layers = [_layer(prefix, n, model) for n in range(len(model.layers))]
    body = "".join(layer.body for layer in layers)
    step = f"""\
static inline void {prefix}_step(const float *inputs, float *state, float elapsed,
                                 float *outputs) {{
  const float ts = elapsed >= 0.0f ? elapsed : NAN;
  int j;
{_buffers(model)}{body}}}
"""
    arrays = "".join(layer.arrays for layer in layers)
    names = {"P": prefix, "U": prefix.upper()}
    state = sum(size for _, size in model.states)
    sizes = {"inputs": model.inputs, "outputs": model.outputs, "state": state}
    states = ", ".join(f"{name} [{size}]" for name, size in model.states)
    index = f"typedef {_index_kind(model)} {prefix}_index;\n\n" if "_index " in arrays else ""
    return (
        HEAD.format(**names, **sizes, states=states)
        + index
        + f"{arrays}\n{c_text.functions(prefix, step)}\n"
        + RESET.format(**names)
        + f"{step}\n#endif\n"
    )


def _index_kind(model: Model) -> str:
    """The smallest type for every index of a synapse and of a neuron."""
    stages = [s for layer in model.layers for s in layer.stages if isinstance(s, LTCStage)]
    most = max(
        max(len(lists.source), stage.units, stage.sensory.source.max(initial=0))
        for stage in stages
        for lists in (stage.sensory, stage.recurrent)
    )
    return next(
        kind
        for kind, limit in (("unsigned char", 2**8), ("unsigned short", 2**16), ("unsigned", 2**32))
        if most < limit
    )


def _buffers(model: Model) -> str:
    """What the layers below the last give, which the next one reads."""
    return "".join(f"  float y{n}[{layer.outputs}];\n" for n, layer in enumerate(model.layers[:-1]))


def _layer(prefix: str, n: int, model: Model) -> c_stages.Code:
    """A layer's arrays, and its blocks in the body of the step."""
    layer, offset = model.layers[n], sum(part.units * len(part.states) for part in model.layers[:n])
    x = f"y{n - 1}" if n else "inputs"
    y = "outputs" if n == len(model.layers) - 1 else f"y{n}"
    at = {name: offset + k * layer.units for k, name in enumerate(layer.states)}
    arrays, body = "", ""
    if layer.memory is not None:
        part, text = f"{prefix}_{n}", f"layer {n}: memory"
        code = c_stages.memory(part, prefix, layer.memory)
        arrays += code.arrays
        body += f"  float m{n}[{layer.units}];\n"
        own = f"    float *h = state + {at['h']}, *c = state + {at['c']}, *m = m{n};\n"
        if not layer.memory.feeds_inputs:
            code = code._replace(
                body=code.body + f"    for (j = 0; j < {layer.units}; ++j) h[j] = m[j];\n"
            )
        else:
            own = own.replace("float *h =", "const float *h =").replace(", *c", ";\n    float *c")
        body += _block(text, f"    const float *x = {x};\n{own}", code.body)
        x = f"m{n}" if layer.memory.feeds_inputs else x
    first = at["h"]
    for s, stage in enumerate(layer.stages):
        write: Any = c_stages.cfc if isinstance(stage, CfCStage) else c_stages.ltc
        code = write(f"{prefix}_{n}_{s}", prefix, stage)
        arrays += code.arrays
        own = f"    const float *x = {x};\n    float *h = state + {first};\n"
        body += _block(f"layer {n}, stage {s}: {stage.units} neurons", own, code.body)
        x, first = f"state + {first}", first + stage.units
    code = _readout(f"{prefix}_{n}", prefix, layer, at["h"], y)
    return c_stages.Code(arrays + code.arrays, body + code.body)


def _block(comment: str, own: str, statements: str) -> str:
    return f"  {{ /* {comment} */\n{own}{statements}  }}\n"


def _readout(p: str, prefix: str, layer: LayerStep, offset: int, y: str) -> c_stages.Code:
    """From the state to the outputs `y`."""
    readout: Readout = layer.readout
    arrays, value = "", f"state[{offset + readout.first} + j]"
    for name, array, sign in (("scale", readout.scale, "*"), ("shift", readout.shift, "+")):
        if array is not None:
            arrays += c_text.floats(f"{p}_{name}", array)
            value = f"{value} {sign} {p}_{name}[j]"
    if readout.projection is None:
        return c_stages.Code(arrays, f"  for (j = 0; j < {readout.width}; ++j) {y}[j] = {value};\n")
    weight, bias = readout.projection
    arrays += c_text.floats(f"{p}_map_w", weight) + c_text.floats(f"{p}_map_b", bias)
    dot = f"{prefix}_dot({p}_map_b[j], {p}_map_w + j * {readout.width}, o, {readout.width})"
    body = f"""\
    float o[{readout.width}];
    for (j = 0; j < {readout.width}; ++j) o[j] = {value};
    for (j = 0; j < {len(bias)}; ++j) {y}[j] = {dot};
"""
    return c_stages.Code(arrays, _block("outputs", "", body))
