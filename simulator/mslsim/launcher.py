"""Writes the entry point through which the runtime calls a kernel."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from . import words
from .scan import MOST_THREADS, Declarations, KernelFunction, Parameter
from .tokens import FrontEndError


@dataclass(frozen=True)
class Slot:
    """A buffer or a block of threadgroup memory that a launch must bind."""

    name: str
    kind: str  # buffer, threadgroup
    index: int
    space: str  # device, constant, threadgroup
    writable: bool
    element: str = ""  # the declared type of its elements
    is_number: bool = False  # a reference: one element


def launcher(declared: Declarations, host_name: str) -> tuple[str, list[Slot]]:
    """Text of `__msl_entry` for one kernel, and the slots that its arguments come from."""
    instance = declared.instances.get(host_name, host_name)
    base = re.match(r"[\w:]+", instance).group().split("::")[-1]
    if base not in declared.kernels:
        known = sorted({*declared.kernels, *declared.instances})[:20]
        raise FrontEndError(f"no kernel {host_name!r}; there are {', '.join(known)}")
    function = declared.kernels[base]
    is_template = instance != base
    types = "" if is_template else _argument_types(function)
    arguments, slots = [], []
    for i, parameter in enumerate(function.parameters):
        kind = f"__msl_fn<decltype({instance})>::arg<{i}>" if is_template else f"__msl_arg_{i}"
        argument, slot = _argument(parameter, kind, slots)
        arguments.append(argument)
        if slot:
            slots.append(slot)
    text = (
        f'\n# 1 "launcher"\n{types}'
        'extern "C" __attribute__((no_sanitize("thread")))\n'
        "void __msl_entry(ulong b, ulong t, ulong v) {\n"
        "  const thread ulong* buffers = (const thread ulong*)b;\n"
        "  const thread ulong* blocks = (const thread ulong*)t;\n"
        "  const thread uint* builtins = (const thread uint*)v;\n"
        "  (void)buffers; (void)blocks; (void)builtins;\n"
        f"  {instance}({', '.join(arguments)});\n"
        "}\n"
    )
    return text, slots


def most_threads(declared: Declarations, host_name: str) -> int | None:
    """What a kernel's max_total_threads_per_threadgroup says; None without it.

    A product of numbers and template parameters, as kernels write it.
    """
    instance = declared.instances.get(host_name, host_name)
    name, _, arguments = instance.partition("<")
    function = declared.kernels[name.split("::")[-1]]
    if not function.most_threads:
        return None
    values = dict(zip(function.template, arguments.rstrip("> ").split(","), strict=False))
    factors = [values.get(f.strip(), f).strip() for f in function.most_threads.split("*")]
    if not all(factor.isdecimal() for factor in factors):
        raise FrontEndError(f"{MOST_THREADS}({function.most_threads}) of {name!r} is no product")
    return math.prod(map(int, factors))


def _argument_types(function: KernelFunction) -> str:
    """Typedefs of the parameters: clang refuses decltype(f) of a function that is no template."""
    text = ""
    for i, parameter in enumerate(function.parameters):
        name = re.escape(parameter.name)
        pointer = rf"\b{name}\b\s*\[[^\]]*\]"
        declaration = re.sub(pointer, f"* {parameter.name}", parameter.declaration)
        last_use = rf"\b{name}\b(?!.*\b{name}\b)"
        text += f"typedef {re.sub(last_use, f'__msl_arg_{i}', declaration)};\n"
    return text


def _argument(parameter: Parameter, kind: str, slots: list[Slot]) -> tuple[str, Slot | None]:
    attributes, declaration = parameter.attributes, parameter.declaration
    for number, builtin in enumerate(words.BUILTINS):
        if builtin in attributes:
            return f"__msl_bi<{kind}>::get(builtins + {3 * number})", None
    if "threadgroup" in attributes:
        index = int(attributes["threadgroup"] or 0)
        slot = Slot(parameter.name, "threadgroup", index, "threadgroup", True)
        return f"__msl_buf<{kind}>::get(blocks[{index}])", slot
    if not re.search(r"[*&\[]", declaration):
        raise FrontEndError(f"parameter {declaration!r} is neither a buffer nor a built-in value")
    used = [slot.index for slot in slots if slot.kind == "buffer"]
    index = int(attributes.get("buffer") or (used[-1] + 1 if used else 0))
    space = "constant" if re.search(r"\bconstant\b", declaration) else "device"
    writable = not re.search(r"\b(const|constant)\b", declaration)
    element = re.sub(r"[*&].*|\b(const|constant|device|volatile)\b", "", declaration).strip()
    slot = Slot(parameter.name, "buffer", index, space, writable, element, "&" in declaration)
    return f"__msl_buf<{kind}>::get(buffers[{index}])", slot
