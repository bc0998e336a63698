"""The ways to break a kernel: each operator yields the single edits that it can make to a text;
mutants.py draws from them.

The text is clang-format's: binary operators have white space on both sides, and `template <` and
`vf* p` do not.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .tokens import Token, partners, tokenize


class Edit(NamedTuple):
    """Replace text[start:end]."""

    operator: str
    start: int
    end: int
    new: str

    def apply(self, text: str) -> str:
        """The text with the edit made."""
        return text[: self.start] + self.new + text[self.end :]


class Source:
    """A text, its tokens and what is known of their places."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = tokenize(text)
        self.partner = partners(self.tokens)
        self.excluded = self._excluded()

    def is_symbol(self, i: int, *texts: str) -> bool:
        """Whether token i exists and is one of these symbols."""
        return 0 <= i < len(self.tokens) and self.tokens[i].text in texts

    def is_name(self, i: int, *texts: str) -> bool:
        """Whether token i is a name, and if any are given, one of them."""
        if not 0 <= i < len(self.tokens) or self.tokens[i].kind != "name":
            return False
        return not texts or self.tokens[i].text in texts

    def binary(self, i: int) -> bool:
        """Whether the symbol i stands between two operands, with white space on both sides."""
        if not 0 < i < len(self.tokens) - 1:
            return False
        before, token, after = self.tokens[i - 1 : i + 2]
        operand = before.kind in ("name", "number") or before.text in (")", "]")
        return operand and before.end < token.start and token.end < after.start

    def span(self, first: int, last: int) -> str:
        """The text from token `first` to token `last`, both included."""
        return self.text[self.tokens[first].start : self.tokens[last].end]

    def walk(self, i: int, step: int, stops: tuple[str, ...]) -> int:
        """The next token from i with one of these texts at the same depth of brackets, or the
        bracket that encloses i.
        """
        while 0 <= i < len(self.tokens):
            text = self.tokens[i].text
            if text in stops:
                return i
            opens, closes = ("([{", ")]}") if step > 0 else (")]}", "([{")
            if text in opens:
                i = self.partner[i]
            elif text in closes:
                return i
            i += step
        return i

    def statement_start(self, i: int) -> int:
        """The first token of the statement that token i belongs to, inside its brackets."""
        return self.walk(i, -1, (";", "{", "}")) + 1

    def declares(self, first: int) -> bool:
        """Whether the statement at token `first` declares something."""
        if self.is_name(first, "const", "constexpr", "static", "threadgroup", "struct", "auto"):
            return True
        if not self.is_name(first) or self.is_name(first, "return", "else", "goto", "case"):
            return False
        pointer = self.is_symbol(first + 1, "*", "&") and not self.binary(first + 1)
        return self.is_name(first + 1) or pointer

    def _excluded(self) -> set[int]:
        """Tokens whose change is no bug in a kernel: enumerators, static_assert, array sizes."""
        out = set()
        for i, token in enumerate(self.tokens):
            if self.is_name(i, "enum"):
                opening = self.walk(i, 1, ("{", ";"))
                out.update(range(i, self.partner.get(opening, opening)))
            elif self.is_name(i, "static_assert"):
                out.update(range(i, self.partner[i + 1]))
            elif token.text == "[" and self._is_array_size(i):
                out.update(range(i, self.partner[i] + 1))
        return out

    def _is_array_size(self, i: int) -> bool:
        if not (self.is_name(i - 1) or self.is_symbol(i - 1, "]")):
            return False
        if not self.declares(self.statement_start(i - 1)):
            return False
        before = self.walk(i - 1, -1, (",", "=", ";", "{", "}"))
        return not self.is_symbol(before, "=", "(", "[")


def _swap_symbol(names: dict[str, str], operator: str):
    def edits(s: Source) -> Iterator[Edit]:
        for i, token in enumerate(s.tokens):
            if token.text in names and s.binary(i):
                yield Edit(operator, token.start, token.end, names[token.text])

    return edits


def _unary(s: Source) -> Iterator[Edit]:
    """-x -> x, !x -> x."""
    for i, token in enumerate(s.tokens):
        if token.text in ("-", "!") and not s.binary(i) and i:
            if s.tokens[i - 1].kind in ("name", "number") and not s.is_name(i - 1, "return"):
                continue
            yield Edit("unary", token.start, token.end, "")


def _barrier(s: Source) -> Iterator[Edit]:
    for i, token in enumerate(s.tokens):
        if token.text in ("threadgroup_barrier", "simdgroup_barrier") and s.is_symbol(i + 1, "("):
            end = s.partner[i + 1] + 1
            if s.is_symbol(end, ";"):
                yield Edit("barrier", token.start, s.tokens[end].end, ";")


def _index(s: Source) -> Iterator[Edit]:
    """a[i] -> a[i + 1]; a pointer's offset is reached by `constant` and `term`."""
    for i, token in enumerate(s.tokens):
        subscript = token.text == "[" and (s.is_name(i - 1) or s.is_symbol(i - 1, "]", ")"))
        if subscript and s.partner[i] > i + 1:
            end = s.tokens[s.partner[i]].start
            yield Edit("index", end, end, " + 1")


def _constant(s: Source) -> Iterator[Edit]:
    """An integer grows by one, a real by a tenth; 0.0 becomes 1.0."""
    for token in s.tokens:
        if token.kind != "number":
            continue
        digits = token.text if token.text[:2] in ("0x", "0X") else token.text.rstrip("fFuUlL")
        suffix = token.text[len(digits) :]
        if digits[:2] in ("0x", "0X"):
            continue
        if "." in digits or "e" in digits.lower():
            value = float(digits)
            new = repr(value * 1.1) if value else "1.0"
        else:
            new = str(int(digits) + 1)
        yield Edit("constant", token.start, token.end, new + suffix)


def _term(s: Source) -> Iterator[Edit]:
    """A + b -> a, a * b -> a."""
    ends = {
        "+": ("+", "-", "<", ">", "<=", ">=", "==", "!=", "?", ":", ",", ";", "&&", "||", "="),
    }
    ends["-"] = ends["+"]
    ends["*"] = (*ends["+"], "*", "/", "%")
    for i, token in enumerate(s.tokens):
        if token.text in ends and s.binary(i):
            stop = i + 1
            while True:
                stop = s.walk(stop, 1, ends[token.text])
                unary = s.is_symbol(stop, "-", "+") and not s.binary(stop)
                template = s.is_symbol(stop, "<", ">") and not s.binary(stop)
                if not (unary or template):
                    break
                stop += 1
            yield Edit("term", s.tokens[i - 1].end, s.tokens[stop - 1].end, "")


def _operands(s: Source) -> Iterator[Edit]:
    """F(a, b) -> f(b, a), and a - b -> b - a for plain names."""
    symmetric = ("min_of", "min", "max", "template", "if", "for")
    for i, token in enumerate(s.tokens):
        if token.text in ("-", "/") and s.binary(i):
            simple = [s.tokens[j].kind in ("name", "number") for j in (i - 1, i + 1)]
            around = s.is_symbol(i - 2, "*", "/", ".", ">") or s.is_symbol(i + 2, "[", "(", ".")
            if all(simple) and not around:
                yield Edit(
                    "operands",
                    s.tokens[i - 1].start,
                    s.tokens[i + 1].end,
                    f"{s.tokens[i + 1].text} {token.text} {s.tokens[i - 1].text}",
                )
        if token.text == "(" and s.is_name(i - 1) and not s.is_name(i - 1, *symmetric):
            yield from _swapped_arguments(s, i)


def _swapped_arguments(s: Source, opening: int) -> Iterator[Edit]:
    closing, bounds, at = s.partner[opening], [], opening + 1
    while at < closing:
        end = min(s.walk(at, 1, (",",)), closing)
        bounds.append((at, end - 1))
        at = end + 1
    for (a, b), (c, d) in itertools.pairwise(bounds):
        left, right = s.span(a, b), s.span(c, d)
        # A parameter list has a type and a name in each place.
        if left == right or s.declares(a) or s.declares(c):
            continue
        between = s.text[s.tokens[b].end : s.tokens[c].start]
        yield Edit("operands", s.tokens[a].start, s.tokens[d].end, right + between + left)


def _statement(s: Source) -> Iterator[Edit]:
    """Drop an assignment or a call whose value nobody uses."""
    control = (
        "return",
        "if",
        "for",
        "while",
        "else",
        "break",
        "case",
        "default",
        "using",
        "switch",
    )
    for i in range(1, len(s.tokens)):
        starts = s.is_symbol(i - 1, ";", "{", "}") or (
            s.is_symbol(i - 1, ")") and s.is_name(s.partner[i - 1] - 1, "if", "for")
        )
        inside_for = s.is_symbol(s.walk(i - 1, -1, ("(",)), "(") and not s.is_symbol(i - 1, ")")
        if not starts or inside_for or not s.is_name(i) or s.is_name(i, *control):
            continue
        if s.declares(i):
            continue
        end = s.walk(i, 1, (";",))
        body = s.span(i, end - 1) if end > i else ""
        if s.is_symbol(end, ";") and ("(" in body or "=" in body) and "barrier" not in body:
            yield Edit("statement", s.tokens[i].start, s.tokens[end].end, ";")


def _guard(s: Source) -> Iterator[Edit]:
    """If (c) -> if (true), if (false); c ? a : b -> a, b."""
    for i, token in enumerate(s.tokens):
        if token.text == "if" and s.is_symbol(i + 1, "("):
            inner = s.tokens[i + 1].end, s.tokens[s.partner[i + 1]].start
            yield from (Edit("guard", *inner, value) for value in ("true", "false"))
        if token.text == "?":
            stops = ("=", ",", ";", "return", ":", "?", "+=", "&&", "||")
            first = s.walk(i - 1, -1, stops) + 1
            colon = s.walk(i + 1, 1, (":", ";"))
            end = s.walk(colon + 1, 1, (",", ";", ":")) - 1
            if s.is_symbol(colon, ":") and end > colon:
                whole = s.tokens[first].start, s.tokens[end].end
                yield Edit("guard", *whole, f"({s.span(i + 1, colon - 1)})")
                yield Edit("guard", *whole, f"({s.span(colon + 1, end)})")


def _loop(s: Source) -> Iterator[Edit]:
    """One pass of a loop less, the first or the last."""
    for i, token in enumerate(s.tokens):
        if token.text != "for" or not s.is_symbol(i + 1, "("):
            continue
        semicolon = s.walk(i + 2, 1, (";",))
        second = s.walk(semicolon + 1, 1, (";",))
        start = s.tokens[semicolon].start
        yield Edit("loop", start, start, " + 1")
        if any(s.is_symbol(j, "<", "<=") and s.binary(j) for j in range(semicolon, second)):
            end = s.tokens[second].start
            yield Edit("loop", end, end, " - 1")


# Names that are easily taken for each other.
_TWINS = (
    ("dn", "dd"), ("n", "d"), ("w", "we"), ("s2", "m2"), ("dw", "dwe"), ("ds2", "dm2"),
    ("H", "I"), ("H", "Hp"), ("T", "U"), ("F1", "F2"), ("df1", "df2"), ("v", "v_next"),
    ("num", "den"), ("n0", "d0"), ("step_dn", "step_dd"), ("source", "target"), ("t", "u"),
    ("dn_step", "dd_step"), ("cm", "k"), ("x", "h"), ("row", "rows"), ("kept", "z"),
    ("depth", "width"), ("width", "stride"), ("targets", "sources"), ("w_tau", "A"),
    ("dw_tau", "dA"), ("now", "next"), ("leak_num", "leak_den"), ("sums", "totals"),
)  # fmt: skip


def _variable(s: Source) -> Iterator[Edit]:
    known = {token.text for token in s.tokens if token.kind == "name"}
    for i, token in enumerate(s.tokens):
        if token.kind != "name" or s.is_symbol(i + 1, "(") or _declared_here(s, i):
            continue
        for a, b in _TWINS:
            new = {a: b, b: a}.get(token.text)
            if new in known:
                yield Edit("variable", token.start, token.end, new)


def _declared_here(s: Source, i: int) -> bool:
    """Whether name i is being declared: after a type, or in a list of declarators."""
    if s.is_name(i - 1) and not s.is_name(i - 1, "return", "else"):
        return True
    if not s.declares(s.statement_start(i)):
        return False
    return s.is_symbol(i - 1, "*", "&", ">") and not s.binary(i - 1)


def _simd(s: Source) -> Iterator[Edit]:
    """A reduction or a shuffle over the SIMD group left out."""
    for i, token in enumerate(s.tokens):
        over = token.text.startswith(("simd_sum", "simd_shuffle", "simd_broadcast"))
        if over and s.is_symbol(i + 1, "("):
            end = s.walk(i + 2, 1, (",",))
            close = s.tokens[s.partner[i + 1]].end
            yield Edit("simd", token.start, close, f"({s.span(i + 2, end - 1)})")


OPERATORS: dict[str, tuple[Callable[[Source], Iterator[Edit]], ...]] = {
    "barrier": (_barrier,),
    "sign": (_swap_symbol({"+": "-", "-": "+", "+=": "-=", "-=": "+="}, "sign"),),
    "unary": (_unary,),
    "arithmetic": (_swap_symbol({"*": "/", "/": "*", "%": "/"}, "arithmetic"),),
    "compare": (
        _swap_symbol(
            {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}, "compare"
        ),
    ),
    "logic": (_swap_symbol({"&&": "||", "||": "&&"}, "logic"),),
    "index": (_index,),
    "constant": (_constant,),
    "term": (_term,),
    "operands": (_operands,),
    "statement": (_statement,),
    "guard": (_guard,),
    "loop": (_loop,),
    "variable": (_variable,),
    "simd": (_simd,),
}


def edits(text: str) -> list[Edit]:
    """Every edit that any operator can make, in the order of the text, each new text once."""
    source, seen, out = Source(text), set(), []
    barred = [source.tokens[i] for i in source.excluded]
    for finders in OPERATORS.values():
        for find in finders:
            for edit in find(source):
                key = edit[1:]
                if key in seen or _touches(edit, barred):
                    continue
                seen.add(key)
                out.append(edit)
    return sorted(out, key=lambda e: (e.start, e.end, e.new))


def _touches(edit: Edit, tokens: list[Token]) -> bool:
    """Whether the edit changes, or inserts before, one of the tokens."""
    end = max(edit.end, edit.start + 1)
    return any(edit.start < t.end and t.start < end for t in tokens)
