"""Finds what a Metal text declares: kernels, named instantiations, function constants."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .tokens import Tokens

MOST_THREADS = "max_total_threads_per_threadgroup"


@dataclass
class Parameter:
    declaration: str  # without attributes
    name: str
    attributes: dict[str, str | None]


@dataclass
class KernelFunction:
    name: str
    parameters: list[Parameter]
    body: tuple[int, int]  # tokens of its braces
    most_threads: str = ""  # of max_total_threads_per_threadgroup, an expression
    template: tuple[str, ...] = ()  # names of its template parameters


@dataclass
class FunctionConstant:
    index: int | str
    type: str
    span: tuple[int, int]  # tokens from the first word to the closing ]]


@dataclass
class Declarations:
    kernels: dict[str, KernelFunction] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)  # host name -> f or f<args>
    constants: dict[str, FunctionConstant] = field(default_factory=dict)


def scan(tk: Tokens) -> Declarations:
    """What the text declares."""
    found = Declarations()
    for i, token in enumerate(tk):
        if token.kind != "name":
            continue
        if token.text == "kernel":
            _kernel(tk, i, found)
        elif token.text == "template" and tk.text(tk.next(i)) == "[[":
            _instantiation(tk, i, found)
        elif token.text == "function_constant":
            _function_constant(tk, i, found)
    return found


def squeeze(text: str) -> str:
    """The text on one line."""
    return re.sub(r"\s+", " ", text).strip()


def _kernel(tk: Tokens, i: int, found: Declarations) -> None:
    """`kernel void f(...) {` or `[[kernel]] void f(...) {`, a template or not."""
    before = tk.previous(i)
    if tk.text(before) in (".", "->", "::"):
        return
    j = before if tk.text(before) == "[[" else tk.next(i)
    while tk.text(j) == "[[":
        j = tk.next(tk.close(j))
    first = before if tk.text(before) == "[[" else i
    while tk.text(tk.previous(first)) == "]]":  # [[attributes]] kernel void f(...) {
        first = tk.previous(first)
        while tk.text(first) != "[[":
            first = tk.previous(first)
    threads = re.search(rf"{MOST_THREADS}\s*\(([^()]*)\)", tk.join(first, j))
    name = tk.next(j)
    opening = tk.next(name)
    if tk.text(j) != "void" or tk.text(opening) != "(":
        return
    closing = tk.close(opening)
    body = tk.next(closing)
    while tk.text(body) == "[[":
        body = tk.next(tk.close(body))
    if tk.text(body) != "{":
        return
    parameters = [_parameter(tk, a, b) for a, b in tk.split(opening + 1, closing)]
    function = KernelFunction(
        tk.text(name),
        parameters,
        (body, tk.close(body)),
        threads.group(1) if threads else "",
        _template(tk, tk.previous(first)),
    )
    found.kernels[function.name] = function
    host_name = _host_name(tk.join(max(0, i - 60), i).rsplit(";", 1)[-1])
    if host_name:
        found.instances[host_name] = function.name


def _template(tk: Tokens, end: int) -> tuple[str, ...]:
    """Names of the parameters of a `template <...>` that ends at this token."""
    if tk.text(end) != ">":
        return ()
    opening = next((i for i in range(end, -1, -1) if tk.text(i) == "template"), end)
    opening = tk.next(opening)
    if tk.close(opening) != end:
        return ()
    parts = (tk.join(a, b).split("=")[0].split() for a, b in tk.split(opening + 1, end))
    return tuple(words[-1] for words in parts)


def _host_name(text: str) -> str:
    match = re.search(r'host_name\s*\(\s*((?:"[^"]*"\s*)+)\)', text)
    return "".join(re.findall(r'"([^"]*)"', match.group(1))) if match else ""


def _parameter(tk: Tokens, start: int, end: int) -> Parameter:
    attributes: dict[str, str | None] = {}
    declaration, i = "", start
    while i < end:
        if tk.text(i) == "[[":
            closing = tk.close(i)
            for a, b in tk.split(i + 1, closing):
                match = re.match(r"(\w+)(?:\((.*)\))?$", re.sub(r"\s+", "", tk.join(a, b)))
                if match:
                    attributes[match.group(1)] = match.group(2)
            i = closing + 1
            continue
        declaration += tk.join(i, i + 1)
        i += 1
    name = re.search(r"(\w+)\s*(?:\[[^\]]*\]\s*)*$", declaration.split("=")[0].strip())
    return Parameter(squeeze(declaration), name.group(1) if name else "", attributes)


def _instantiation(tk: Tokens, i: int, found: Declarations) -> None:
    """`template [[host_name("x")]] [[kernel]] decltype(f<int>) f<int>;` or `... void f<int>();`"""
    end = end_of_statement(tk, i)
    host_name = _host_name(tk.join(i, end))
    for j in range(i, end):
        if tk.text(j) == "decltype":
            opening = tk.next(j)
            found.instances[host_name] = squeeze(tk.join(opening + 1, tk.close(opening)))
            return
        if tk.text(j) == "void":
            first = last = tk.next(j)
            while tk.text(last) not in ("(", ";"):
                last = tk.close(last) + 1 if tk.text(last) == "<" else last + 1
            found.instances[host_name] = squeeze(tk.join(first, last))
            return


def end_of_statement(tk: Tokens, i: int) -> int:
    """Index of the next semicolon."""
    while tk.text(i) != ";" and i < len(tk):
        i += 1
    return i


def _function_constant(tk: Tokens, i: int, found: Declarations) -> None:
    """`constant int n [[function_constant(0)]];` at program scope."""
    attribute = tk.previous(i)
    if tk.text(attribute) != "[[" or tk.text(tk.next(tk.close(attribute))) != ";":
        return
    name = tk.previous(attribute)
    opening = tk.next(i)
    text = re.sub(r"\s|[uUlL]+$", "", tk.join(opening + 1, tk.close(opening)))
    start = name
    while start > 0 and tk.text(start) not in (";", "}", "{") and tk[start].kind != "line":
        start -= 1
    words = re.sub(r"\b(constant|const|static|constexpr)\b", "", tk.join(start + 1, name))
    found.constants[tk.text(name)] = FunctionConstant(
        int(text) if text.isdecimal() else text, squeeze(words), (start + 1, tk.close(attribute))
    )
