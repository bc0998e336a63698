"""The stages of a layer as C99: their arrays and the statements of one step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import c_text
from .description import CfCStage, LTCStage, Map, Memory, Synapses

SOLVERS = {
    "semi_implicit": """\
      for (j = 0; j < {H}; ++j) {{ /* in this form no time keeps the state exactly */
        const float g = d[j] + {epsilon};
        h[j] += k * (n[j] - g * h[j]) / ({p}_cm[j] + k * g);
      }}
""",
    "explicit": """\
      for (j = 0; j < {H}; ++j) h[j] += k * (n[j] - d[j] * h[j]) / {p}_cm[j];
""",
}
DRIVE = """\
{pad}for (j = 0; j < {H}; ++j) n[j] = n0[j], d[j] = d0[j];
"""
RUNGE_KUTTA = """\
      static const float at[4] = {{0.0f, 0.5f, 0.5f, 1.0f}}, part[4] = {{1.0f, 2.0f, 2.0f, 1.0f}};
      float v[{H}], slope[{H}], sum[{H}];
      int r;
      for (j = 0; j < {H}; ++j) slope[j] = sum[j] = 0.0f;
      for (r = 0; r < 4; ++r) {{
        for (j = 0; j < {H}; ++j) v[j] = h[j] + at[r] * k * slope[j];
{drive}\
        for (j = 0; j < {H}; ++j) {{
          slope[j] = (n[j] - d[j] * v[j]) / {p}_cm[j];
          sum[j] += part[r] * slope[j];
        }}
      }}
      for (j = 0; j < {H}; ++j) h[j] += k * sum[j] / 6.0f;
"""


class Code(NamedTuple):
    """Constant arrays, and a block of statements that reads `x` and changes the state `h`."""

    arrays: str
    body: str


def _index(prefix: str) -> str:
    return f"{prefix}_index"


def _map(name: str, part: Map) -> str:
    return c_text.floats(f"{name}_w", part.weight) + c_text.floats(f"{name}_b", part.bias)


def _backbone(p: str, prefix: str, stage: CfCStage | LTCStage, z: str, width: int) -> Code:
    """The hidden layers; they read `z` and leave z1, z2, ..."""
    arrays, body = "", ""
    for n, layer in enumerate(stage.backbone, 1):
        out, into = len(layer.bias), f"z{n}"
        arrays += _map(f"{p}_backbone{n}", layer)
        dot = f"{prefix}_dot({p}_backbone{n}_b[j], {p}_backbone{n}_w + j * {width}, {z}, {width})"
        body += f"""\
    float {into}[{out}];
    for (j = 0; j < {out}; ++j) {{
      {into}[j] = {dot};
      {into}[j] = {c_text.call(prefix, stage.activation, f"{into}[j]")};
    }}
"""
        z, width = into, out
    return Code(arrays, body)


def cfc(p: str, prefix: str, stage: CfCStage) -> Code:
    """One step of a CfC (MATHS 1)."""
    I, H = stage.inputs, stage.units
    width = I + H
    hidden = _backbone(p, prefix, stage, "z0", width)
    z = f"z{len(stage.backbone)}"
    width = len(stage.backbone[-1].bias) if stage.backbone else width

    def head(name: str) -> str:
        return f"{prefix}_dot({p}_{name}_b[j], {p}_{name}_w + j * {width}, {z}, {width})"

    def activated(name: str) -> str:
        return c_text.call(prefix, stage.head_activation, head(name))

    arrays = hidden.arrays + _map(f"{p}_ff1", stage.ff1)
    if stage.mode == "pure":
        arrays += c_text.floats(f"{p}_w_tau", abs(_known(stage.w_tau)))
        arrays += c_text.floats(f"{p}_A", _known(stage.A))
        update = f"""\
      const float f = {head("ff1")};
      h[j] = {p}_A[j] - {p}_A[j] * expf(-ts * ({p}_w_tau[j] + fabsf(f))) * f;
"""
    else:
        for name in ("ff2", "time_a", "time_b"):
            arrays += _map(f"{p}_{name}", getattr(stage, name))
        mixed = "f1 * (1.0f - gate) + f2 * gate" if stage.mode == "default" else "f1 + f2 * gate"
        update = f"""\
      const float f1 = {activated("ff1")};
      const float f2 = {activated("ff2")};
      const float a = {head("time_a")};
      const float b = {head("time_b")};
      const float gate = {prefix}_sigmoid(a * ts + b);
      h[j] = {mixed};
"""
    body = f"""\
    float z0[{I + H}];
    for (j = 0; j < {I}; ++j) z0[j] = x[j];
    for (j = 0; j < {H}; ++j) z0[{I} + j] = h[j];
{hidden.body}\
    for (j = 0; j < {H}; ++j) {{
{update}\
    }}
"""
    return Code(arrays, body)


def _known(array: np.ndarray | None) -> np.ndarray:
    assert array is not None  # of the mode pure, which always has both
    return array


def ltc(p: str, prefix: str, stage: LTCStage) -> Code:
    """One step of an LTC (MATHS 3)."""
    H, z = stage.units, f"z{len(stage.backbone)}" if stage.backbone else "x"
    hidden = _backbone(p, prefix, stage, "x", stage.inputs)
    if not len(stage.sensory.source):  # nobody reads the inputs
        hidden = Code("", "    (void)x;\n")
    arrays = hidden.arrays
    for name in ("cm", "leak_current", "leak"):
        arrays += c_text.floats(f"{p}_{name}", getattr(stage, name))
    arrays += _synapses(p, prefix, "sensory", stage.sensory)
    arrays += _synapses(p, prefix, "neuron", stage.recurrent)

    def sums(kind: str, synapses: Synapses, source: str, into: str) -> str:
        if not len(synapses.source):
            return ""
        lists = ", ".join(f"{p}_{kind}_{name}" for name in ("first", "source", "synapse"))
        margin = " " * len(f"      {prefix}_synapses(")
        return f"{prefix}_synapses({lists},\n{margin}{source}, {H}, {into});\n"

    def drive(pad: str, v: str) -> str:
        recurrent = sums("neuron", stage.recurrent, v, "n, d")
        return DRIVE.format(pad=pad, H=H) + (pad + recurrent if recurrent else "")

    names = {"p": p, "H": H, "epsilon": c_text.number(stage.epsilon)}
    if stage.solver == "runge_kutta":
        unfold = RUNGE_KUTTA.format(**names, drive=drive("        ", "v"))
    else:
        unfold = drive("      ", "h") + SOLVERS[stage.solver].format(**names)
    sensory = sums("sensory", stage.sensory, z, "n0, d0")
    body = f"""\
    const float k = ts / {c_text.number(stage.unfolds)};
    float n0[{H}], d0[{H}], n[{H}], d[{H}];
    int unfold;
{hidden.body}\
    for (j = 0; j < {H}; ++j) n0[j] = {p}_leak_current[j], d0[j] = {p}_leak[j];
{"    " + sensory if sensory else ""}\
    for (unfold = 0; unfold < {stage.unfolds}; ++unfold) {{
{unfold}\
    }}
"""
    return Code(arrays, body)


def _synapses(p: str, prefix: str, kind: str, synapses: Synapses) -> str:
    if not len(synapses.source):
        return ""
    values = (synapses.slope, synapses.offset, synapses.current, synapses.conductance)
    return (
        c_text.indices(_index(prefix), f"{p}_{kind}_first", synapses.first)
        + c_text.indices(_index(prefix), f"{p}_{kind}_source", synapses.source)
        + c_text.rows(f"{p}_{kind}_synapse", np.stack(values, axis=1))
    )


def memory(p: str, prefix: str, lstm: Memory) -> Code:
    """One step of the LSTM (MATHS 4): it changes `c` and leaves its output in `m`."""
    rows, I = lstm.input_weight.shape
    H = rows // 4
    arrays = c_text.floats(f"{p}_memory_x_w", lstm.input_weight)
    arrays += c_text.floats(f"{p}_memory_h_w", lstm.recurrent_weight)
    arrays += c_text.floats(f"{p}_memory_b", lstm.bias)
    body = f"""\
    for (j = 0; j < {H}; ++j) {{
      float g[4];
      int q;
      for (q = 0; q < 4; ++q) {{
        const int row = q * {H} + j;
        g[q] = {prefix}_dot({p}_memory_b[row], {p}_memory_x_w + row * {I}, x, {I});
        g[q] = {prefix}_dot(g[q], {p}_memory_h_w + row * {H}, h, {H});
      }}
      c[j] = c[j] * {prefix}_sigmoid(g[2] + 1.0f) + tanhf(g[0]) * {prefix}_sigmoid(g[1]);
      m[j] = tanhf(c[j]) * {prefix}_sigmoid(g[3]);
    }}
"""
    return Code(arrays, body)
