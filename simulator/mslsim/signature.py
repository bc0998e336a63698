"""The Metal text that MLX generates around the source of a custom kernel.

A test compares it, letter by letter, with what MLX itself hands out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

METAL_TYPES = {
    "bool": "bool",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "float16": "float16_t",
    "bfloat16": "bfloat16_t",
    "float32": "float",
    "complex64": "complex64_t",
}
# Inputs with fewer elements live in the constant address space.
SMALLEST_DEVICE_INPUT = 8

# Attributes that become parameters when the source names them, in MLX's order.
ATTRIBUTES = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}
_INPUT_EXTRAS = {
    "_shape": "const constant int* ",
    "_strides": "const constant int64_t* ",
    "_ndim": "const constant int& ",
}


@dataclass(frozen=True)
class Input:
    """What the text depends on of an input."""

    name: str
    dtype: str
    ndim: int
    size: int

    @property
    def is_constant(self) -> bool:
        return self.size < SMALLEST_DEVICE_INPUT


def _template_text(value) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, int) else METAL_TYPES[value]


def _template_kind(value) -> str:
    return {bool: "bool", int: "int"}.get(type(value), "typename")


def kernel_name(name: str, inputs: Sequence[Input], outputs: Sequence[str], template) -> str:
    """The host name; `outputs` and template types are names of dtypes."""
    parts = [f"custom_kernel_{name}"]
    if template:
        values = (_template_text(value) for _, value in template)
        parts += ["", *(value.replace("-", "_") for value in values)]
    for x in inputs:
        suffix = "s" if x.ndim == 0 else "c" if x.is_constant else ""
        parts.append(METAL_TYPES[x.dtype] + suffix)
    return "_".join([*parts, *(METAL_TYPES[dtype] for dtype in outputs)])


def metal_text(
    name: str,
    inputs: Sequence[Input],
    outputs: Sequence[tuple[str, str]],
    template: Sequence[tuple[str, bool | int | str]],
    source: str,
    header: str = "",
    *,
    atomic_outputs: bool = False,
    line_marks: bool = False,
) -> tuple[str, str]:
    """(host name, text) for inputs and outputs (name, dtype).

    `line_marks` adds the #line directives that let messages tell header and source apart.
    """
    host_name = kernel_name(name, inputs, [dtype for _, dtype in outputs], template)
    parameters = _parameters(inputs, outputs, source, atomic_outputs)
    text = header
    if line_marks:
        text = f'#line 1 "{name}.header"\n{header}\n#line 1 "{name}.generated"\n'
        source = f'#line 1 "{name}.source"\n{source}\n#line 1 "{name}.generated"'
    if template:
        kinds = ", ".join(f"{_template_kind(value)} {key}" for key, value in template)
        text += f"template <{kinds}>\n"
    text += f"[[kernel]] void {host_name}(\n  " + ",\n  ".join(parameters)
    text += f") {{\n{source}\n}}\n"
    if template:
        instance = f"{host_name}<{', '.join(_template_text(value) for _, value in template)}>"
        text += (
            f'\ntemplate [[host_name("{host_name}")]] [[kernel]] decltype({instance}) {instance};\n'
        )
    return host_name, text


def _parameters(inputs, outputs, source, atomic_outputs) -> list[str]:
    found = []

    def add(declaration):
        found.append(f"{declaration} [[buffer({len(found)})]]")

    for x in inputs:
        space = "constant" if x.is_constant else "device"
        add(f"const {space} {METAL_TYPES[x.dtype]}{'*' if x.ndim else '&'} {x.name}")
        for suffix, declaration in _INPUT_EXTRAS.items():
            if x.ndim and x.name + suffix in source:
                add(f"{declaration}{x.name}{suffix}")
    for name, dtype in outputs:
        element = METAL_TYPES[dtype]
        add(f"device {f'atomic<{element}>' if atomic_outputs else element}* {name}")
    used = [f"{kind} {name} [[{name}]]" for name, kind in ATTRIBUTES.items() if name in source]
    return found + used
