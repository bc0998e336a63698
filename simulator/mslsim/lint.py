"""Rules of Metal that compiling as C++ for OpenCL does not enforce.

They are judged on clang's syntax tree and warnings, and only in the user's own files.
"""

from __future__ import annotations

import re

from . import words
from .ast_dump import Node, nodes, skip_to
from .errors import Finding

_FUNCTIONS = ("FunctionDecl", "CXXMethodDecl", "CXXConstructorDecl", "CXXConversionDecl")
_NAMED = ("VarDecl", "ParmVarDecl", "FieldDecl", "FunctionDecl", "CXXMethodDecl")
_CASTS = frozenset(
    ("CStyleCastExpr", "CXXFunctionalCastExpr", "CXXStaticCastExpr", "CXXReinterpretCastExpr")
)
_BANNED = {
    "GotoStmt": "goto",
    "IndirectGotoStmt": "goto",
    "CXXTryStmt": "exceptions",
    "CXXThrowExpr": "exceptions",
    "CXXNewExpr": "new",
    "CXXDeleteExpr": "delete",
    "CXXDynamicCastExpr": "dynamic_cast",
    "CXXTypeidExpr": "typeid",
    "GCCAsmStmt": "inline assembly",
    "VAArgExpr": "variadic functions",
}
_FIRST_VERSION_WITH_LAMBDAS = 320
_VECTOR = re.compile(r"__attribute__\(\(ext_vector_type\(\d+\)\)\)")
_GENERIC_POINTER = re.compile(r"__generic\b[^,<>()]*[*&]")
_ADDRESS_SPACE = re.compile(r"__(private|global|local|constant)\b")
_WARNING = re.compile(r"^([^:\n]+):(\d+):\d+: warning: (.*?) \[-W([\w-]+)\]$", re.M)


def lint(dump: str, warnings: str, metal_version: int, user_files: set[str]) -> list[Finding]:
    """Findings in the text whose syntax tree and compiler warnings these are."""
    linter = _Linter(metal_version, user_files)
    for node in nodes(skip_to(dump, user_files), linter.first_declaration):
        linter.visit(node)
    linter.find_recursion()
    linter.read_warnings(warnings)
    return list(dict.fromkeys(linter.findings))


def _is_bfloat(name: str) -> bool:
    scalar = not re.search(r"[*&]|ext_vector", name)
    return scalar and bool(re.search(r"\b(__bf16|bfloat\w*)\b", name))


def _is_wider_float(name: str) -> bool:
    return bool(re.search(r"\b(float|half|double)$", name.strip()))


def _is_mutable_static(node: Node) -> bool:
    is_static = node.kind == "VarDecl" and re.search(r"\bstatic\b", node.body)
    return bool(is_static) and "constexpr" not in node.body and "__constant" not in node.type


class _Linter:
    def __init__(self, metal_version: int, user_files: set[str]):
        self.metal_version = metal_version
        self.user_files = user_files
        self.findings: list[Finding] = []
        self.stack: list[Node] = []
        self.waiting: tuple[int, str, Node] | None = None  # a cast whose operand comes next
        self.calls: dict[str, set[str]] = {}
        self.functions: dict[str, Node] = {}
        self.first_declaration: dict[str, str] = {}

    def find(self, kind: str, node: Node, text: str, severity: str = "error") -> None:
        file, line = node.place
        self.findings.append(Finding(kind, f"{file}:{line}", text, severity))

    def visit(self, node: Node) -> None:
        del self.stack[node.depth :]
        parent = self.stack[-1] if self.stack else None
        function = next((n for n in reversed(self.stack) if n.kind in _FUNCTIONS), None)
        self.stack += [node] * (node.depth + 1 - len(self.stack))
        if node.kind in _FUNCTIONS:
            self.functions[node.address] = node
        if function is not None:
            self._note_calls(function, node)
        if self.waiting:
            depth, rule, cast = self.waiting
            self.waiting = None
            if node.depth == depth + 1:
                self._judge_cast(rule, cast, node)
        if node.place[0] in self.user_files:
            self._judge(node, parent, function)

    def _judge(self, node: Node, parent: Node | None, function: Node | None) -> None:
        if node.kind in _BANNED:
            self.find("banned", node, f"{_BANNED[node.kind]}: not in Metal")
        elif node.kind == "LambdaExpr":
            old = self.metal_version < _FIRST_VERSION_WITH_LAMBDAS
            text = "lambda expressions need Metal 3.2 (macOS 15)"
            self.find("lambda", node, text, "error" if old else "warning")
        elif _is_mutable_static(node):
            self.find("static", node, "static variable outside the constant address space")
        if node.kind in _NAMED:
            self._judge_name(node)
        self._judge_address_space(node, function)
        self._await_operand(node, parent)

    def _judge_name(self, node: Node) -> None:
        name = re.search(r"(\w+) '", node.body)
        if name and name.group(1) in words.RESERVED:
            self.find("reserved", node, f"{name.group(1)} is a reserved word of Metal, not a name")

    def _judge_address_space(self, node: Node, function: Node | None) -> None:
        """Metal has no generic pointers: clang's are what a missing qualifier leaves."""
        implicit = "implicit" in node.body or (function and "implicit" in function.body[:40])
        declares = node.kind in ("ParmVarDecl", "FieldDecl", "TypedefDecl") or (
            function and node.kind in ("VarDecl", "TypeAliasDecl")
        )
        if declares and not implicit and _GENERIC_POINTER.search(node.written_type):
            self.find(
                "no-address-space",
                node,
                "pointer or reference without an address space "
                "(device, constant, threadgroup or thread)",
            )
        elif node.kind in _CASTS and _GENERIC_POINTER.search(node.type):
            text = "cast to a pointer or reference without an address space"
            self.find("no-address-space", node, text)

    def _await_operand(self, node: Node, parent: Node | None) -> None:
        """Note a conversion that is wrong for some operands: the next node is the operand."""
        body, rule = node.body, ""
        if node.kind == "ImplicitCastExpr":
            explicit = "part_of_explicit_cast" in body
            if "<FloatingCast>" in body and not explicit and _is_bfloat(node.type):
                rule = "bfloat"
            elif "<AddressSpaceConversion>" in body and parent and parent.kind == "MemberExpr":
                rule = "method"
        if node.kind == "ImplicitCastExpr" or node.kind in _CASTS:
            if "<BitCast>" in body and _VECTOR.search(node.type):
                rule = "vector"
        elif node.kind == "CompoundAssignOperator" and _is_bfloat(node.type):
            computed = re.search(r"ComputeResultTy='([^']*)'", body)
            if computed and _is_wider_float(computed.group(1)):
                self._find_bfloat(node, computed.group(1))
        if rule:
            self.waiting = (node.depth, rule, node)

    def _judge_cast(self, rule: str, cast: Node, operand: Node) -> None:
        source, target = operand.type, cast.type
        if rule == "bfloat" and _is_wider_float(source):
            self._find_bfloat(cast, source)
        elif rule == "method" and re.search(r"__(global|local|constant)\b", source):
            space = _ADDRESS_SPACE.search(source).group(1)
            names = {"global": "device", "local": "threadgroup"}
            text = f"method called on an object in {names.get(space, space)} memory without being"
            self.find("method-address-space", cast, f"{text} qualified for it")
        elif rule == "vector" and _VECTOR.search(source) and "*" not in source + target:
            plain = [" ".join(_ADDRESS_SPACE.sub(" ", t).split()) for t in (source, target)]
            if plain[0] != plain[1]:
                text = (
                    f"cast from {plain[0]} to {plain[1]} reinterprets bits here and converts in "
                    "Metal: write V(x)"
                )
                self.find("vector-cast", cast, text)

    def _find_bfloat(self, node: Node, source: str) -> None:
        text = f"implicit conversion from {source} to bfloat: Metal wants an explicit cast"
        self.find("bfloat-implicit", node, text)

    def _note_calls(self, function: Node, node: Node) -> None:
        called = re.findall(r"(?:Function|CXXMethod) 0x([0-9a-f]+)", node.body)
        if node.kind == "MemberExpr":
            called += re.findall(r" (?:->|\.)\S+ 0x([0-9a-f]+)", node.body)
        callees = self.calls.setdefault(function.address, set())
        callees.update(self.first_declaration.get(a, a) for a in called)

    def find_recursion(self) -> None:
        """A function of the user's that can reach itself."""
        for address, node in self.functions.items():
            if node.place[0] in self.user_files and self._reaches(address, address):
                name = re.search(r"(\S+) '", node.body)
                what = name.group(1) if name else "a function"
                self.find("recursion", node, f"{what} can call itself: Metal has no recursion")

    def _reaches(self, start: str, goal: str) -> bool:
        seen, todo = set(), [start]
        while todo:
            for callee in self.calls.get(todo.pop(), ()):
                if callee == goal:
                    return True
                if callee not in seen:
                    seen.add(callee)
                    todo.append(callee)
        return False

    def read_warnings(self, warnings: str) -> None:
        """Warnings of the compiler that are errors in a kernel, or worth knowing."""
        for file, line, text, name in _WARNING.findall(warnings):
            if file not in self.user_files:
                continue
            where = f"{file}:{line}"
            if name.endswith("uninitialized"):
                self.findings.append(Finding("uninit-variable", where, text))
            elif name == "float-conversion" or (
                name == "implicit-float-conversion" and re.search(r"to '[^']*half", text)
            ):
                self.findings.append(Finding("narrowing", where, text, "warning"))
