"""Rewrites Metal tokens into text that stock clang compiles as C++ for OpenCL.

Metal and C++ for OpenCL share address spaces and most of C++. What differs is spelt anew here:
kernel qualifiers, named instantiations, vector constructors, threadgroup variables, function
constants. No line moves, so that every message keeps the kernel's own line number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from . import words
from .errors import Finding
from .scan import Declarations, end_of_statement
from .tokens import FrontEndError, Tokens

_TYPE_STARTERS = frozenset(
    (*words.VECTORS, *words.SCALARS, *words.ADDRESS_SPACES, "const", "typename", "vec")
)


@dataclass
class Rewritten:
    text: str
    threadgroup_names: dict[int, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def rewrite(tk: Tokens, declared: Declarations, constants: Mapping[int | str, object]) -> Rewritten:
    """The text for clang; `constants` gives values of function constants by index or name."""
    return _Rewriter(tk, declared).run(constants)


class _Rewriter:
    def __init__(self, tk: Tokens, declared: Declarations):
        self.tk = tk
        self.declared = declared
        self.bodies = sorted(k.body for k in declared.kernels.values())
        self.new: dict[int, str] = {}  # token index -> its replacement
        self.result = Rewritten("")
        self.parens, self.braces = self._depths()

    def run(self, constants) -> Rewritten:
        tk, i = self.tk, 0
        while i < len(tk):
            if tk[i].kind == "name" and i not in self.new:
                i = self._word(i)
            i += 1
        defined = self._function_constants(constants)
        text = "".join(self.new.get(i, token.text) for i, token in enumerate(tk))
        self.result.text = re.sub(
            r"is_function_constant_defined\s*\(\s*(\w+)\s*\)",
            lambda m: "true" if m.group(1) in defined else "false",
            text,
        )
        return self.result

    def _depths(self) -> tuple[list[int], list[int]]:
        parens, braces, paren, brace = [], [], 0, 0
        for i in range(len(self.tk)):
            parens.append(paren)
            braces.append(brace)
            op = self.tk.op(i)
            paren += (op == "(") - (op == ")")
            brace += (op == "{") - (op == "}")
        return parens, braces

    def _erase(self, start: int, end: int) -> None:
        for i in range(start, end):
            token = self.tk[i]
            if i not in self.new and token.kind != "line":
                self.new[i] = "\n" * token.text.count("\n")

    def _find(self, i: int, kind: str, text: str) -> None:
        token = self.tk[i]
        self.result.findings.append(Finding(kind, f"{token.file}:{token.line}", text))

    def _word(self, i: int) -> int:
        """Rewrite what the name at i begins; returns the last token that this dealt with."""
        tk, word, before = self.tk, self.tk.text(i), self.tk.text(self.tk.previous(i))
        if word == "kernel":
            self._kernel_qualifier(i, before)
        elif word == "template" and tk.text(tk.next(i)) == "[[":
            end = end_of_statement(tk, i)
            self._erase(i, end + 1)
            return end
        elif word in words.OPENCL_ONLY and before != "[[":
            self.new[i] = f"msl_id_{word}"
        elif word == "thread" and before in (")", "const", "noexcept"):
            self._method_qualifier(i)
        elif word == "threadgroup" and self._begins_statement(i, before):
            return self._threadgroup_variable(i)
        elif word in words.VECTORS or word == "vec":
            self._vector(i)
        return i

    def _kernel_qualifier(self, i: int, before: str) -> None:
        if before == "[[":
            opening = self.tk.previous(i)
            self._erase(opening, self.tk.close(opening) + 1)
        elif before not in (".", "->", "::"):
            self._erase(i, i + 1)

    def _method_qualifier(self, i: int) -> None:
        """`T f() const thread {`: methods are in thread space without being told."""
        tk, j = self.tk, self.tk.previous(i)
        while tk.text(j) in ("const", "noexcept", "volatile"):
            j = tk.previous(j)
        ends = ("{", ":", ";", "=", "->", "const", "noexcept")
        if tk.text(j) == ")" and tk.text(tk.next(i)) in ends:
            self.new[i] = ""

    def _begins_statement(self, i: int, before: str) -> bool:
        starts = before in (";", "{", "}", ":", "")
        return starts and self.parens[i] == 0 and self.braces[i] > 0

    # Vectors: stock clang has no constructor of several arguments for its vectors, and its
    # one-argument form reinterprets bits. V(...) becomes __msl_make<V>(...).

    def _vector(self, i: int) -> None:
        tk, last = self.tk, i
        if tk.text(i) == "vec":
            opening = tk.next(i)
            last = tk.close(opening) if tk.text(opening) == "<" else -1
            if last < 0:
                return
        first = i
        scope = tk.previous(i)
        if tk.text(scope) == "::" and tk.text(tk.previous(scope)) == "metal":
            first = tk.previous(scope)
        before, after = tk.previous(first), tk.next(last)
        if tk.text(after) == "(":
            if tk.text(before) not in ("operator", "template", "class", "struct"):
                self._constructor(first, last)
        elif tk.text(before) == "<" and tk.text(tk.previous(before)) == "static_cast":
            if tk.text(after) == ">":
                self.new[tk.previous(before)] = "__msl_make"
        elif after < len(tk) and tk[after].kind == "name" and self.braces[i] > 0:
            self._declaration(first, last, after)

    def _constructor(self, first: int, last: int) -> None:
        opened = "__msl_make<" + self.new.get(first, self.tk.text(first))
        self.new[first] = opened
        self.new[last] = (opened if first == last else self.tk.text(last)) + ">"

    def _declaration(self, first: int, last: int, name: int) -> None:
        """`float4 v(a, b);` declares a variable, unless the arguments are types."""
        tk, opening = self.tk, self.tk.next(name)
        if tk.text(opening) != "(":
            return
        closing, argument = tk.close(opening), tk.next(opening)
        is_value = closing > argument and tk.text(argument) not in _TYPE_STARTERS
        if is_value and tk.text(tk.next(closing)) in (";", ","):
            vector = tk.join(first, last + 1)
            self.new[name] = f"{tk.text(name)} = __msl_make<{vector}>"

    # Threadgroup variables: one block of memory for each declaration, given out by the runtime.

    def _threadgroup_variable(self, i: int) -> int:
        tk, end = self.tk, self._end_of_declaration(i)
        parts = tk.split(i + 1, end)
        head = re.sub(r"\[[^\]]*\]", "", re.sub(r"<[^;]*>", "", tk.join(*parts[0])))
        if re.search(r"[*&(]", head):
            return i  # a pointer, a reference or a function: the variable itself is in a thread
        self._judge_scope(i)
        declared, element = [], ""
        for start, stop in parts:
            match = re.match(
                r"(?s)(.*?)\b(\w+)\s*((?:\[.*?\]\s*)*)(=.*)?$", tk.join(start, stop).strip()
            )
            if not match:
                raise FrontEndError(f"cannot read the declaration: {tk.join(i, end)}")
            element = element or match.group(1).strip()
            name, dimensions = match.group(2), match.group(3).strip()
            if match.group(4):
                self._find(i, "tg-init", f"threadgroup variable {name} has an initialiser")
            number = len(self.result.threadgroup_names)
            self.result.threadgroup_names[number] = name
            kind = f"__msl_tgt{number}"
            declared.append(
                f"typedef {element} {kind}{dimensions}; threadgroup {kind}& {name} = "
                f"*(threadgroup {kind}*)__msl_tg_alloc({number}, sizeof({kind}), alignof({kind}))"
            )
        self._erase(i, end)
        self.new[i] = "; ".join(declared)
        return end

    def _end_of_declaration(self, i: int) -> int:
        depth, j = 0, i
        while True:
            j += 1
            op = self.tk.op(j)
            depth += op in ("(", "[", "{", "<", "[[")
            depth -= op in (")", "]", "}", ">", "]]")
            if op == ";" and depth <= 0:
                return j

    def _judge_scope(self, i: int) -> None:
        inside = next((b for b in self.bodies if b[0] < i < b[1]), None)
        if inside is None:
            self._find(i, "tg-scope", "threadgroup variable outside a kernel function")
        elif self.braces[i] != self.braces[inside[0]] + 1:
            text = "threadgroup variable not in the outermost scope of the kernel"
            self._find(i, "tg-nested", text)

    def _function_constants(self, values) -> set[str]:
        """Spell function constants as constants; returns the names that have a value."""
        defined = set()
        for name, constant in self.declared.constants.items():
            value = values.get(constant.index, values.get(name))
            start, end = constant.span
            self._erase(start, end + 1)
            first = next(i for i in range(start, end) if self.tk[i].kind not in ("space", "line"))
            literal = "" if value is None else str(value).lower()
            self.new[first] = (
                f"constexpr constant {constant.type} {name} = {constant.type}({literal})"
            ) + self.new.get(first, "")
            if value is not None:
                defined.add(name)
        return defined


def reserved_words(tk: Tokens, user_files: set[str]) -> list[Finding]:
    """Uses of Metal's reserved words as names, and words that Metal does not have."""
    found = []
    for i, token in enumerate(tk):
        if token.kind != "name" or token.file not in user_files:
            continue
        where, after = f"{token.file}:{token.line}", tk.text(tk.next(i))
        before = tk.text(tk.previous(i))
        if token.text in words.BANNED:
            found.append(Finding("banned", where, f"{token.text}: not in Metal"))
        elif token.text == "std" and after == "::":
            found.append(Finding("banned", where, "std:: is not available in Metal"))
        elif token.text in (*words.ADDRESS_SPACES, *words.FUNCTION_KINDS):
            is_qualifier = before in (")", "const", "noexcept", ".", "->", "::", "[[")
            if after in words.AFTER_A_NAME and not is_qualifier:
                text = f"{token.text} is a reserved word of Metal, not a name"
                found.append(Finding("reserved", where, text))
    return found


def not_finite_in_fast_math(tk: Tokens, user_files: Collection[str]) -> list[Finding]:
    """What asks for a NaN or an infinity: in Metal's fast mode the compiler assumes that there is
    none, and drops it.
    """
    found = []
    for i, token in enumerate(tk):
        if token.kind != "name" or token.file not in user_files:
            continue
        first, second = tk.next(i), tk.next(tk.next(i))
        other = tk.next(second)
        compared = tk.text(first) + tk.text(second) in ("!=", "==")
        alone = tk.text(tk.previous(i)) not in (".", "->")
        alone = alone and tk.text(tk.next(other)) not in (".", "->", "[", "(")
        if compared and alone and tk.text(other) == token.text:
            text = f"{token.text} is compared with itself"
        elif token.text in words.NOT_FINITE:
            text = token.text
        else:
            continue
        text += ": math_mode fast assumes that no value is NaN or infinite"
        found.append(Finding("fast-math", f"{token.file}:{token.line}", text))
    return found
