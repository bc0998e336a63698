"""The parts of a C99 header: arrays, and the functions that all stages share."""

from __future__ import annotations

import numpy as np

# Functions that a header has where something in it calls them, in this order; P is the prefix.
FUNCTIONS = {
    "sigmoid": """\
static inline float P_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
""",
    "lecun_tanh": """\
static inline float P_lecun_tanh(float x) { return 1.7159f * tanhf(0.666f * x); }
""",
    "relu": """\
static inline float P_relu(float x) { return x < 0.0f ? 0.0f : x; }
""",
    "gelu": """\
static inline float P_gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
""",
    "silu": """\
static inline float P_silu(float x) { return x * P_sigmoid(x); }
""",
    "dot": """\
/* bias + w[0] z[0] + w[1] z[1] + ... */
static inline float P_dot(float bias, const float *w, const float *z, int count) {
  float sum = 0.0f;
  int k;
  for (k = 0; k < count; ++k) sum += w[k] * z[k];
  return bias + sum;
}
""",
    "synapses": """\
/* Adds to n and d of each target: current and conductance of its synapses, each times its gate. */
static inline void P_synapses(const P_index *first, const P_index *source,
                              const float (*synapse)[4], const float *v, int units, float *n,
                              float *d) {
  int j;
  P_index e;
  for (j = 0; j < units; ++j) {
    for (e = first[j]; e < first[j + 1]; ++e) {
      const float gate = P_sigmoid(synapse[e][0] * v[source[e]] + synapse[e][1]);
      n[j] += synapse[e][2] * gate;
      d[j] += synapse[e][3] * gate;
    }
  }
}
""",
}
NEEDS = {"silu": "sigmoid", "synapses": "sigmoid"}
IN_MATH_H = {"tanh": "tanhf", "identity": ""}


def functions(prefix: str, body: str) -> str:
    """The shared functions that a body calls."""
    used = {name for name in FUNCTIONS if f"{prefix}_{name}(" in body}
    used |= {NEEDS[name] for name in used if name in NEEDS}
    texts = [text.replace("P_", f"{prefix}_") for name, text in FUNCTIONS.items() if name in used]
    return "\n".join(texts)


def call(prefix: str, activation: str, argument: str) -> str:
    """The activation of an expression."""
    if activation == "identity":
        return argument
    return f"{IN_MATH_H.get(activation) or f'{prefix}_{activation}'}({argument})"


def number(value: object) -> str:
    """A float32 that reads back bit by bit."""
    return f"{np.float32(value)!s}f"  # pyright: ignore[reportArgumentType]


def _lines(items: list[str], width: int = 96) -> str:
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > width:
            lines.append("")
        lines[-1] += f" {item},"
    return "\n".join(f" {line}" for line in lines)


def floats(name: str, array: np.ndarray) -> str:
    """A constant array of float32, in one dimension."""
    items = _lines([number(value) for value in array.ravel()])
    return f"static const float {name}[{array.size}] = {{\n{items}\n}};\n"


def rows(name: str, array: np.ndarray) -> str:
    """A constant array [N, 4] of float32."""
    items = [f"{{{', '.join(map(number, row))}}}" for row in array]
    return f"static const float {name}[{len(array)}][4] = {{\n{_lines(items)}\n}};\n"


def indices(kind: str, name: str, array: np.ndarray) -> str:
    """A constant array of indices."""
    items = _lines([str(value) for value in array])
    return f"static const {kind} {name}[{array.size}] = {{\n{items}\n}};\n"
